//! `local_session_cache`: sessions kept in memory.

use crate::config::field::section;

section! {
    /// `local_session_cache`.
    pub struct LocalSessionCache {
        disable_cached_session_state: bool => DISABLECACHESESSIONSTATE,
        /// Tyk 5.4 reads neither of these two: sessions stay 10 s.
        cached_session_timeout: i64 => CACHEDSESSIONTIMEOUT,
        cached_session_eviction: i64 => CACHESESSIONEVICTION,
    }
}
