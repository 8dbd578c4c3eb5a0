//! `storage`, `cache_storage` and `analytics_storage`: where sessions, cached answers and records
//! live.

use std::{collections::BTreeMap, time::Duration};

use crate::config::{field::section, http_server::seconds_or, value::Secret};

section! {
    /// One Redis, sentinel group or cluster; or, for the main store, the embedded one.
    pub struct Storage {
        /// `redis`; empty or `embedded` for the store inside the process.
        kind ("type"): String => TYPE,
        host: String => HOST,
        port: i64 => PORT,
        /// Deprecated form of `addrs`: host to port.
        hosts: BTreeMap<String, String> => HOSTS,
        addrs: Vec<String> => ADDRS,
        master_name: String => MASTERNAME,
        sentinel_password: Secret => SENTINELPASSWORD,
        username: String => USERNAME,
        password: Secret => PASSWORD,
        database: i64 => DATABASE,
        optimisation_max_idle: i64 => MAXIDLE,
        /// 0 means 500.
        optimisation_max_active: i64 => MAXACTIVE,
        /// Seconds; 0 means 5.
        timeout: i64 => TIMEOUT,
        enable_cluster: bool => ENABLECLUSTER,
        use_ssl: bool => USESSL,
        ssl_insecure_skip_verify: bool => SSLINSECURESKIPVERIFY,
        ca_file: String => CAFILE,
        cert_file: String => CERTFILE,
        key_file: String => KEYFILE,
        /// `1.0` to `1.3`; empty means `1.3`.
        tls_max_version: String => TLSMAXVERSION,
        /// `1.0` to `1.3`; empty means `1.2`.
        tls_min_version: String => TLSMINVERSION,
    }
}

/// What [`Storage::kind`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    Embedded,
    Redis,
}

impl Storage {
    /// `None` for a type that does not exist; [`crate::config::Config::check`] refuses it.
    // Tyk differs: an empty type stops Tyk; here it is the embedded store.
    #[must_use]
    pub fn store_kind(&self) -> Option<StoreKind> {
        match self.kind.as_str() {
            "" | "embedded" => Some(StoreKind::Embedded),
            "redis" => Some(StoreKind::Redis),
            _ => None,
        }
    }

    /// Addresses as `host:port`: `addrs`, else `hosts`, else `host` and `port`, which default to
    /// `127.0.0.1` and 6379 (`storage/redis_cluster.go` `getRedisAddrs`).
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        if !self.addrs.is_empty() {
            return self.addrs.clone();
        }
        if !self.hosts.is_empty() {
            let pair = |(host, port): (&String, &String)| format!("{host}:{port}");
            return self.hosts.iter().map(pair).collect();
        }
        let host = match self.host.as_str() {
            "" => "127.0.0.1",
            host => host,
        };
        let port = if self.port == 0 { 6379 } else { self.port };
        vec![format!("{host}:{port}")]
    }

    #[must_use]
    pub fn timeout_or_default(&self) -> Duration {
        seconds_or(self.timeout, 5)
    }

    #[must_use]
    pub fn max_active_or_default(&self) -> usize {
        let max = usize::try_from(self.optimisation_max_active);
        max.ok().filter(|max| *max > 0).unwrap_or(500)
    }

    #[must_use]
    pub fn tls_min_or_default(&self) -> &str {
        match self.tls_min_version.as_str() {
            "" => "1.2",
            version => version,
        }
    }

    #[must_use]
    pub fn tls_max_or_default(&self) -> &str {
        match self.tls_max_version.as_str() {
            "" => "1.3",
            version => version,
        }
    }
}
