//! Where credentials are read.
