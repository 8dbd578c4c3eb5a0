//! What a configuration may not be started with, and what its owner should know.
//!
//! A setting that protects something and does not exist here yet is refused: ignoring it would
//! open what its owner believes closed. A setting that merely adds something is reported.

use std::fmt;

use crate::{
    config::{Config, Storage, StoreKind, penstock::parse_network},
    hash::HashFn,
};

/// One remark on a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    /// JSON pointer of the key.
    pub pointer: &'static str,
    /// What is wrong and what to do.
    pub text: String,
}

/// How much a [`Finding`] matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Warning,
    /// The gateway does not start.
    Error,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.pointer, self.text)
    }
}

/// Secrets that stand in Tyk's generated file, documentation and images.
const WELL_KNOWN_SECRETS: &[&str] = &[
    "352d20ee67be67f6340b4c0605b044b7",
    "352d20ee67be67f6340b4c0605b044b8",
    "352d20ee67be67f6340b4c0605b044bc4",
    "foo",
    "changeme",
    "CHANGEME",
    "set-your-own-before-listening-elsewhere",
    "secret",
];

impl Config {
    /// Everything noteworthy; starting needs a list without [`Severity::Error`].
    #[must_use]
    pub fn check(&self) -> Vec<Finding> {
        let mut found = Findings(Vec::new());
        self.check_secret(&mut found);
        self.check_values(&mut found);
        self.check_stores(&mut found);
        self.check_penstock(&mut found);
        self.check_protection_not_there(&mut found);
        self.check_additions_not_there(&mut found);
        found.0
    }

    fn check_secret(&self, found: &mut Findings) {
        let secret = self.secret.as_str();
        let well_known = WELL_KNOWN_SECRETS.contains(&secret);
        if !secret.is_empty() && !well_known {
            return;
        }
        let what = if well_known {
            "stands in Tyk's documentation"
        } else {
            "is empty"
        };
        // Tyk differs: Tyk warns, and lets anybody call the control API.
        if self.listens_on_loopback() || self.penstock.allow_insecure_secret {
            found.warn(
                "/secret",
                format!("{what}: anybody who reaches the listener can call the control API"),
            );
        } else {
            found.refuse(
                "/secret",
                format!(
                    "{what}, so anybody could call the control API; set a secret \
                     (TYK_GW_SECRET), listen on 127.0.0.1, or allow it with \
                     penstock.allow_insecure_secret"
                ),
            );
        }
    }

    fn check_values(&self, found: &mut Findings) {
        let ports = [
            ("/listen_port", self.listen_port),
            ("/control_api_port", self.control_api_port),
        ];
        for (pointer, port) in ports {
            if !(0..=65_535).contains(&port) {
                found.refuse(pointer, format!("{port} is no port; use 1 to 65535"));
            }
        }
        if !matches!(
            self.log_level.as_str(),
            "" | "error" | "warn" | "info" | "debug"
        ) {
            found.refuse(
                "/log_level",
                format!(
                    "unknown level {:?}; use error, warn, info or debug",
                    self.log_level
                ),
            );
        }
        let functions = [
            ("/hash_key_function", &self.hash_key_function, "murmur64"),
            (
                "/basic_auth_hash_key_function",
                &self.basic_auth_hash_key_function,
                "bcrypt",
            ),
        ];
        for (pointer, name, instead) in functions {
            let is_bcrypt = pointer.starts_with("/basic") && name == "bcrypt";
            if !name.is_empty() && HashFn::parse(name).is_none() && !is_bcrypt {
                found.warn(
                    pointer,
                    format!("unknown function {name:?}; {instead} is used, as in Tyk"),
                );
            }
        }
        let options = &self.http_server_options;
        let versions = [
            (
                "/http_server_options/min_version",
                options.min_version,
                options.max_version,
            ),
            (
                "/proxy_ssl_min_version",
                self.proxy_ssl_min_version,
                self.proxy_ssl_max_version,
            ),
        ];
        for (pointer, min, max) in versions {
            if max != 0 && min > max {
                found.refuse(
                    pointer,
                    "is above the maximum: no version is left".to_owned(),
                );
            }
            for version in [min, max] {
                if !matches!(version, 0 | 0x0301..=0x0304) {
                    found.refuse(
                        pointer,
                        format!("{version} is no TLS version; use 771 (1.2) or 772 (1.3)"),
                    );
                }
            }
            if (0x0301..0x0303).contains(&max) {
                found.refuse(
                    pointer,
                    "TLS below 1.2 is not spoken; raise the maximum to 771 or more".to_owned(),
                );
            } else if (0x0301..0x0303).contains(&min) {
                found.warn(
                    pointer,
                    "TLS below 1.2 is not spoken; 1.2 is the minimum".to_owned(),
                );
            }
        }
        if options.read_timeout < 0 || options.write_timeout < 0 || self.proxy_default_timeout < 0.0
        {
            found.warn(
                "/http_server_options",
                "a negative timeout counts as not set".to_owned(),
            );
        }
    }

    fn check_stores(&self, found: &mut Findings) {
        let separate = self.enable_separate_analytics_store && self.enable_analytics;
        let stores = [
            (true, "/storage", "/storage/type", &self.storage),
            (
                self.enable_separate_cache_store,
                "/cache_storage",
                "/cache_storage/type",
                &self.cache_storage,
            ),
            (
                separate,
                "/analytics_storage",
                "/analytics_storage/type",
                &self.analytics_storage,
            ),
        ];
        for (is_used, pointer, type_pointer, store) in stores {
            match store.store_kind() {
                _ if !is_used => {}
                None => found.refuse(
                    type_pointer,
                    format!(
                        "unknown type {:?}; use redis, or embedded for the store inside the process",
                        store.kind
                    ),
                ),
                Some(StoreKind::Embedded) => {}
                Some(StoreKind::Redis) => check_redis(pointer, store, found),
            }
        }
    }

    fn check_penstock(&self, found: &mut Findings) {
        for text in &self.penstock.trusted_proxies {
            if parse_network(text).is_none() {
                found.refuse(
                    "/penstock/trusted_proxies",
                    format!("{text:?} is no network; write 10.0.0.0/8 or an address"),
                );
            }
        }
        for text in &self.penstock.dns_servers {
            let address = text.parse::<std::net::SocketAddr>();
            if !address.is_ok_and(|address| address.port() > 0) {
                found.refuse(
                    "/penstock/dns_servers",
                    format!("{text:?} is no name server; write address and port, as 10.0.0.2:53"),
                );
            }
        }
        if self.penstock.shards > 1024 {
            found.refuse("/penstock/shards", "at most 1024".to_owned());
        }
        let limits = &self.penstock.limits;
        let least = [
            (
                "/penstock/limits/request_line_bytes",
                limits.request_line_bytes,
                64,
            ),
            ("/penstock/limits/head_bytes", limits.head_bytes, 256),
            ("/penstock/limits/fields", limits.fields, 1),
            (
                "/penstock/limits/pipelined_heads",
                limits.pipelined_heads,
                1,
            ),
            (
                "/penstock/limits/header_deadline_s",
                limits.header_deadline_s,
                1,
            ),
            (
                "/penstock/limits/body_rate_grace_s",
                limits.body_rate_grace_s,
                1,
            ),
            (
                "/penstock/limits/keep_alive_idle_s",
                limits.keep_alive_idle_s,
                1,
            ),
            (
                "/penstock/limits/upstream_idle_s",
                limits.upstream_idle_s,
                1,
            ),
        ];
        for (pointer, value, least) in least {
            if value < least {
                found.refuse(pointer, format!("{value} is too small; at least {least}"));
            }
        }
        if limits.request_line_bytes > limits.head_bytes {
            found.refuse(
                "/penstock/limits/request_line_bytes",
                "is larger than head_bytes, which includes it".to_owned(),
            );
        }
    }

    fn check_protection_not_there(&self, found: &mut Findings) {
        let security = &self.security;
        let missing = [
            (
                self.use_db_app_configs,
                "/use_db_app_configs",
                "API definitions from a Dashboard",
            ),
            (self.slave_options.use_rpc, "/slave_options/use_rpc", "MDCB"),
            (
                matches!(self.policies.policy_source.as_str(), "service" | "rpc"),
                "/policies/policy_source",
                "policies from a Dashboard or MDCB",
            ),
            (
                security.control_api_use_mutual_tls,
                "/security/control_api_use_mutual_tls",
                "mutual TLS on the control API",
            ),
            (
                !security.pinned_public_keys.is_empty(),
                "/security/pinned_public_keys",
                "public key pinning",
            ),
            (
                self.auth_override.force_auth_provider || self.auth_override.force_session_provider,
                "/auth_override",
                "another provider of keys or sessions",
            ),
        ];
        for (set, pointer, what) in missing {
            if set {
                found.refuse(
                    pointer,
                    format!("{what} is not supported yet; switch it off"),
                );
            }
        }
    }

    fn check_additions_not_there(&self, found: &mut Findings) {
        let missing = [
            (self.newrelic.app_name.is_empty(), "/newrelic", "New Relic"),
            (!self.use_sentry, "/use_sentry", "Sentry"),
            (!self.use_graylog, "/use_graylog", "Graylog"),
            (!self.use_redis_log, "/use_redis_log", "logging to Redis"),
            (
                !self.tracing.enabled,
                "/tracing",
                "OpenTracing (deprecated in Tyk; opentelemetry is there)",
            ),
            (!self.enable_jsvm, "/enable_jsvm", "JavaScript"),
            (
                !self.coprocess_options.enable_coprocess,
                "/coprocess_options/enable_coprocess",
                "plugins in other processes",
            ),
            (
                !self.monitor.enable_trigger_monitors,
                "/monitor",
                "quota monitors",
            ),
            (
                self.event_handlers.events.is_empty(),
                "/event_handlers",
                "event handlers",
            ),
            (
                !self.http_server_options.enable_http2,
                "/http_server_options/enable_http2",
                "HTTP/2",
            ),
            (
                self.http_server_options.read_timeout <= 0,
                "/http_server_options/read_timeout",
                "a deadline for whole requests (penstock.limits has those that are there)",
            ),
            (!self.proxy_enable_http2, "/proxy_enable_http2", "HTTP/2"),
            (
                self.max_idle_connections <= 0,
                "/max_idle_connections",
                "a limit of idle connections per API",
            ),
            (
                self.max_conn_time <= 0,
                "/max_conn_time",
                "a greatest age of upstream connections",
            ),
            (
                !self.ssl_force_common_name_check,
                "/ssl_force_common_name_check",
                "the check of common names beside that of certificates",
            ),
            (
                self.version_header.is_empty(),
                "/version_header",
                "the version in answers",
            ),
            (!self.track_404_logs, "/track_404_logs", "a log of 404s"),
            (
                !self.access_logs.enabled,
                "/access_logs",
                "Tyk's access log (penstock.access_log is there)",
            ),
        ];
        for (fine, pointer, what) in missing {
            if !fine {
                found.warn(pointer, format!("{what}: not there yet, goes without"));
            }
        }
        if self.app_path.is_empty() {
            found.warn(
                "/app_path",
                "is empty: definitions are read from the current folder".to_owned(),
            );
        }
    }
}

/// What cannot be opened at all is refused where it is (`storage::opener`); here is what would be
/// ignored in silence.
fn check_redis(pointer: &'static str, store: &Storage, found: &mut Findings) {
    let addresses = store.addresses().len();
    let is_one = store.master_name.is_empty() && !store.enable_cluster;
    let remarks = [
        (
            is_one && addresses > 1,
            "several addresses, but neither enable_cluster nor master_name: only the first is used",
        ),
        (
            store.enable_cluster && !store.master_name.is_empty(),
            "master_name and enable_cluster: the sentinels win, as in Tyk",
        ),
        (
            store.enable_cluster && store.master_name.is_empty() && store.database != 0,
            "a cluster has one database: database is ignored",
        ),
        (
            !store.use_ssl && (!store.ca_file.is_empty() || !store.cert_file.is_empty()),
            "certificates without use_ssl: the connection is not encrypted",
        ),
        (
            store.use_ssl && store.cert_file.is_empty() != store.key_file.is_empty(),
            "cert_file and key_file go together: the one is ignored",
        ),
        (
            store.use_ssl && store.ssl_insecure_skip_verify,
            "ssl_insecure_skip_verify: whoever answers at that address is believed",
        ),
        (
            store.password.as_str().is_empty() && !store.username.is_empty(),
            "username without password: nobody logs in",
        ),
    ];
    for (_, text) in remarks.iter().filter(|(applies, _)| *applies) {
        found.warn(pointer, (*text).to_owned());
    }
    if store.use_ssl && matches!(store.tls_min_or_default(), "1.0" | "1.1") {
        let text = "TLS below 1.2 is not spoken; 1.2 is the minimum";
        found.warn(pointer, text.to_owned());
    }
}

struct Findings(Vec<Finding>);

impl Findings {
    fn refuse(&mut self, pointer: &'static str, text: String) {
        self.push(Severity::Error, pointer, text);
    }

    fn warn(&mut self, pointer: &'static str, text: String) {
        self.push(Severity::Warning, pointer, text);
    }

    fn push(&mut self, severity: Severity, pointer: &'static str, text: String) {
        self.0.push(Finding {
            severity,
            pointer,
            text,
        });
    }
}
