//! Limits as requests see them.
