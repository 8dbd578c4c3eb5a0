//! Assembly: definitions into chains, requests into answers.
