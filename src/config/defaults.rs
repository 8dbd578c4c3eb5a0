//! What an absent key means: Tyk's fallbacks where it reads a field (`gateway/server.go` and
//! others), beside those that stand with their section.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::config::{Config, http_server::seconds_or};

/// TLS versions that Penstock speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

impl Config {
    /// 0 means 8080; out of range too, which [`Config::check`] refuses.
    #[must_use]
    pub fn listen_port_or_default(&self) -> u16 {
        port(self.listen_port).unwrap_or(8080)
    }

    /// Where the control API has a listener of its own.
    #[must_use]
    pub fn control_port(&self) -> Option<u16> {
        port(self.control_api_port)
    }

    /// Whether only this machine reaches the listener.
    #[must_use]
    pub fn listens_on_loopback(&self) -> bool {
        let host = self.listen_address.trim_matches(['[', ']']);
        host.eq_ignore_ascii_case("localhost")
            || host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.to_canonical().is_loopback())
    }

    #[must_use]
    pub fn proxy_timeout_or_default(&self) -> Duration {
        match Duration::try_from_secs_f64(self.proxy_default_timeout) {
            Ok(timeout) if !timeout.is_zero() => timeout,
            _ => Duration::from_secs(30),
        }
    }

    #[must_use]
    pub fn health_check_endpoint_or_default(&self) -> &str {
        or_default(&self.health_check_endpoint_name, "hello")
    }

    #[must_use]
    pub fn readiness_check_endpoint_or_default(&self) -> &str {
        or_default(&self.readiness_check_endpoint_name, "ready")
    }

    #[must_use]
    pub fn template_dir(&self) -> PathBuf {
        or_default(&self.template_path, "templates").into()
    }

    /// Folder of API definitions.
    #[must_use]
    pub fn app_dir(&self) -> PathBuf {
        or_default(&self.app_path, ".").into()
    }

    #[must_use]
    pub fn pid_file(&self) -> &Path {
        Path::new(or_default(
            &self.pid_file_location,
            "/var/run/tyk/tyk-gateway.pid",
        ))
    }

    #[must_use]
    pub fn reload_interval_or_default(&self) -> Duration {
        seconds_or(self.reload_interval, 1)
    }

    #[must_use]
    pub fn shutdown_timeout_or_default(&self) -> Duration {
        seconds_or(self.graceful_shutdown_timeout_duration, 30)
    }

    /// From "not ready" to the end of accepting.
    #[must_use]
    pub fn shutdown_delay(&self) -> Duration {
        seconds_or(self.graceful_shutdown_delay_seconds, 0)
    }

    #[must_use]
    pub fn idle_per_host_or_default(&self) -> usize {
        positive(self.max_idle_connections_per_host).unwrap_or(100)
    }

    /// Idle upstream connections of one API, where there is a limit.
    #[must_use]
    pub fn idle_connections_max(&self) -> Option<usize> {
        positive(self.max_idle_connections)
    }

    /// Age past which an upstream connection is not used again.
    #[must_use]
    pub fn upstream_connection_age_max(&self) -> Option<Duration> {
        let seconds = u64::try_from(self.max_conn_time).ok();
        seconds.filter(|s| *s > 0).map(Duration::from_secs)
    }

    #[must_use]
    pub fn min_token_length_or_default(&self) -> usize {
        positive(self.min_token_length).unwrap_or(3)
    }

    #[must_use]
    pub fn hash_key_function_or_default(&self) -> &str {
        or_default(&self.hash_key_function, "murmur32")
    }

    /// Seconds.
    #[must_use]
    pub fn oauth_token_expire_or_default(&self) -> i64 {
        match self.oauth_token_expire {
            0 => 3600,
            seconds => seconds.into(),
        }
    }

    /// Seconds.
    #[must_use]
    pub fn oauth_refresh_token_expire_or_default(&self) -> i64 {
        match self.oauth_refresh_token_expire {
            0 => 14 * 24 * 3600,
            seconds => seconds,
        }
    }

    #[must_use]
    pub fn oauth_error_status_or_default(&self) -> u16 {
        let status = u16::try_from(self.oauth_error_status_code).ok();
        status.filter(|s| (100..1000).contains(s)).unwrap_or(403)
    }

    #[must_use]
    pub fn drl_notification_interval_or_default(&self) -> Duration {
        seconds_or(self.drl_notification_frequency, 2)
    }

    #[must_use]
    pub fn drl_threshold_or_default(&self) -> f64 {
        if self.drl_threshold == 0.0 {
            5.0
        } else {
            self.drl_threshold
        }
    }

    #[must_use]
    pub fn jsvm_timeout_or_default(&self) -> Duration {
        seconds_or(self.jsvm_timeout, 5)
    }

    /// Oldest and newest TLS version towards upstreams.
    #[must_use]
    pub fn proxy_tls_versions(&self) -> (TlsVersion, TlsVersion) {
        tls_versions(self.proxy_ssl_min_version, self.proxy_ssl_max_version)
    }

    /// Oldest and newest TLS version towards clients.
    #[must_use]
    pub fn server_tls_versions(&self) -> (TlsVersion, TlsVersion) {
        let options = &self.http_server_options;
        tls_versions(options.min_version, options.max_version)
    }
}

/// Go's version numbers; a limit below 1.2 counts as 1.2, the oldest that rustls speaks.
// Tyk differs: Tyk ends at 1.2 unless a maximum is set, and clamps some maxima.
fn tls_versions(min: u16, max: u16) -> (TlsVersion, TlsVersion) {
    let of = |number: u16, default| match number {
        0 => default,
        1..=0x0303 => TlsVersion::Tls12,
        _ => TlsVersion::Tls13,
    };
    (of(min, TlsVersion::Tls12), of(max, TlsVersion::Tls13))
}

fn or_default<'a>(value: &'a str, default: &'a str) -> &'a str {
    if value.is_empty() { default } else { value }
}

fn positive(value: i64) -> Option<usize> {
    usize::try_from(value).ok().filter(|value| *value > 0)
}

fn port(value: i64) -> Option<u16> {
    u16::try_from(value).ok().filter(|port| *port > 0)
}
