//! Clocks and dates.
