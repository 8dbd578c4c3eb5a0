//! Where credentials are read, and what they open.

pub mod access;
pub mod directory;
pub mod keyspace;
pub mod limits;
pub mod password;
pub mod token;
pub mod write_back;
