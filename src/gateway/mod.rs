//! Assembly: definitions into chains, requests into answers.

pub mod error_response;
pub mod listen_path;
pub mod router;
