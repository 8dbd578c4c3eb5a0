//! `http_server_options` and `ports_whitelist`: the listener.

use std::time::Duration;

use crate::config::field::section;

section! {
    /// `http_server_options`.
    pub struct HttpServerOptions {
        /// Seconds; 0 means 120.
        read_timeout: i64 => READTIMEOUT,
        /// Seconds; 0 means 120.
        write_timeout: i64 => WRITETIMEOUT,
        use_ssl: bool => USESSL,
        enable_http2: bool => ENABLEHTTP2,
        enable_strict_routes: bool => ENABLESTRICTROUTES,
        ssl_insecure_skip_verify: bool => SSLINSECURESKIPVERIFY,
        enable_websockets: bool => ENABLEWEBSOCKETS,
        certificates: Vec<CertificateFile> => CERTIFICATES,
        /// Certificate ids or paths.
        ssl_certificates: Vec<String> => SSLCERTIFICATES,
        server_name: String => SERVERNAME,
        /// TLS version number of Go's `crypto/tls`, 771 for 1.2 and 772 for 1.3; 0 means 1.2.
        min_version: u16 => MINVERSION,
        /// As `min_version`; 0 means the newest.
        max_version: u16 => MAXVERSION,
        skip_client_ca_announcement: bool => SKIPCLIENTCAANNOUNCEMENT,
        flush_interval: i64 => FLUSHINTERVAL,
        skip_url_cleaning: bool => SKIPURLCLEANING,
        skip_target_path_escaping: bool => SKIPTARGETPATHESCAPING,
        ssl_ciphers: Vec<String> => CIPHERS,
        /// Bytes; 0 means no limit.
        max_request_body_size: i64 => MAXREQUESTBODYSIZE,
        /// Tyk 5.5.1 and later.
        enable_path_prefix_matching: bool => ENABLEPATHPREFIXMATCHING,
        /// Tyk 5.5.1 and later.
        enable_path_suffix_matching: bool => ENABLEPATHSUFFIXMATCHING,
        /// Tyk 5.7 and later: which entry of `X-Forwarded-For` is the client, from the right.
        xff_depth: i64 => XFFDEPTH,
        /// Tyk 5.8 and later: bytes; 0 means no limit.
        max_response_body_size: i64 => MAXRESPONSEBODYSIZE,
    }
}

impl HttpServerOptions {
    /// Tyk: `gateway/server.go` (`defaultReadTimeout`).
    #[must_use]
    pub fn read_timeout_or_default(&self) -> Duration {
        seconds_or(self.read_timeout, 120)
    }

    /// Tyk: `gateway/server.go` (`defaultWriteTimeout`).
    #[must_use]
    pub fn write_timeout_or_default(&self) -> Duration {
        seconds_or(self.write_timeout, 120)
    }

    /// `max_request_body_size` where there is a limit.
    #[must_use]
    pub fn request_body_bytes_max(&self) -> Option<u64> {
        u64::try_from(self.max_request_body_size)
            .ok()
            .filter(|bytes| *bytes > 0)
    }
}

/// `value` in seconds, or `default` when it is not positive.
pub(super) fn seconds_or(value: i64, default: u64) -> Duration {
    let seconds = u64::try_from(value).ok().filter(|value| *value > 0);
    Duration::from_secs(seconds.unwrap_or(default))
}

section! {
    /// One entry of `http_server_options.certificates`.
    pub struct CertificateFile {
        domain_name: String => DOMAINNAME,
        cert_file: String => CERTFILE,
        key_file: String => KEYFILE,
    }
}

section! {
    /// Ports that APIs of one protocol may listen on.
    pub struct PortWhitelist {
        ranges: Vec<PortRange> => RANGES,
        ports: Vec<i64> => PORTS,
    }
}

impl PortWhitelist {
    #[must_use]
    pub fn allows(&self, port: u16) -> bool {
        let port = i64::from(port);
        self.ports.contains(&port)
            || self
                .ranges
                .iter()
                .any(|range| (range.from..=range.to).contains(&port))
    }
}

section! {
    /// Ports `from` to `to`, both included.
    pub struct PortRange {
        from: i64 => FROM,
        to: i64 => TO,
    }
}
