//! Assembly: definitions into chains, requests into answers.

pub mod listen_path;
pub mod reload;
pub mod router;
