//! `uptime_tests` and `service_discovery`: what is known of upstream hosts.

use std::time::Duration;

use crate::config::{field::section, http_server::seconds_or};

section! {
    /// `uptime_tests`.
    pub struct UptimeTests {
        disable: bool => DISABLE,
        poller_group: String => POLLERGROUP,
        config: UptimeTestsConfig => CONFIG,
    }
}

section! {
    /// `uptime_tests.config`.
    pub struct UptimeTestsConfig {
        failure_trigger_sample_size: i64 => FAILURETRIGGERSAMPLESIZE,
        /// Seconds between two rounds.
        time_wait: i64 => TIMEWAIT,
        checker_pool_size: i64 => CHECKERPOOLSIZE,
        enable_uptime_analytics: bool => ENABLEUPTIMEANALYTICS,
    }
}

section! {
    /// `service_discovery`.
    pub struct ServiceDiscovery {
        /// Seconds; 0 means 120.
        default_cache_timeout: i64 => DEFAULTCACHETIMEOUT,
    }
}

impl ServiceDiscovery {
    #[must_use]
    pub fn cache_timeout_or_default(&self) -> Duration {
        seconds_or(self.default_cache_timeout, 120)
    }
}
