//! `analytics_config`: what is recorded of a request.

use std::time::Duration;

use crate::config::{field::section, http_server::seconds_or};

section! {
    /// `analytics_config`.
    pub struct AnalyticsConfig {
        kind ("type"): String => TYPE,
        ignored_ips: Vec<String> => IGNOREDIPS,
        enable_detailed_recording: bool => ENABLEDETAILEDRECORDING,
        enable_geo_ip: bool => ENABLEGEOIP,
        geo_ip_db_path: String => GEOIPDBLOCATION,
        normalise_urls: NormaliseUrls => NORMALISEURLS,
        /// Writers; 0 means one per CPU.
        pool_size: i64 => POOLSIZE,
        /// Records, in total; at least 1000.
        records_buffer_size: u64 => RECORDSBUFFERSIZE,
        /// Seconds; 0 means 60.
        storage_expiration_time: i64 => STORAGEEXPIRATIONTIME,
        enable_multiple_analytics_keys: bool => ENABLEMULTIPLEANALYTICSKEYS,
        /// Seconds; 0 means 10. MDCB only.
        purge_interval: f64 => PURGEINTERVAL,
        /// `msgpack` or `protobuf`; empty is `msgpack`.
        serializer_type: String => SERIALIZERTYPE,
    }
}

impl AnalyticsConfig {
    #[must_use]
    pub fn storage_expiration_or_default(&self) -> Duration {
        seconds_or(self.storage_expiration_time, 60)
    }

    #[must_use]
    pub fn records_buffer_or_default(&self) -> u64 {
        self.records_buffer_size.max(1000)
    }
}

section! {
    /// `analytics_config.normalise_urls`.
    pub struct NormaliseUrls {
        enabled: bool => ENABLED,
        normalise_uuids: bool => NORMALISEUUIDS,
        normalise_ulids: bool => NORMALISEULIDS,
        normalise_numbers: bool => NORMALISENUMBERS,
        /// Regular expressions.
        custom_patterns: Vec<String> => CUSTOM,
    }
}
