//! Assembly: definitions into chains, requests into answers.

pub mod reload;
pub mod listen_path;
pub mod router;
