//! Assembly: definitions into chains, requests into answers.

pub mod reload;
