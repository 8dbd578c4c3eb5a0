//! Key hashes and ids.
