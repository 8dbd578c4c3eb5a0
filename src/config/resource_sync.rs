//! `resource_sync`: how often loading APIs and policies is tried.

use crate::config::field::section;

section! {
    /// `resource_sync`.
    pub struct ResourceSync {
        retry_attempts: i64 => RETRYATTEMPTS,
        /// Seconds between two attempts.
        interval: i64 => INTERVAL,
    }
}
