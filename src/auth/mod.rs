//! Where credentials are read.

pub mod token;
