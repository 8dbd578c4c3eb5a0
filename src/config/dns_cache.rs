//! `dns_cache`: how upstream names are resolved and kept.

use crate::config::field::section;

section! {
    /// `dns_cache`.
    pub struct DnsCache {
        enabled: bool => ENABLED,
        /// Seconds; 0 and below mean 3600.
        ttl: i64 => TTL,
        /// `pick_first`, `random` or `no_cache`; empty is `no_cache`.
        multiple_ips_handle_strategy: String => MULTIPLEIPSHANDLESTRATEGY,
    }
}
