//! One thread, one ring, its connections.
