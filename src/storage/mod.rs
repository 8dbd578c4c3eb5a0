//! Where sessions and keys live.
