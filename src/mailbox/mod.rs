//! The only way between threads.
