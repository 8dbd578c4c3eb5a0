//! `penstock`: what Tyk has no key for.
//!
//! Absent means the defaults below. Its keys have variables too: `TYK_GW_PENSTOCK_SHARDS`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use crate::config::{
    Vars,
    field::{section, words},
};

section! {
    /// `penstock`.
    pub struct Penstock {
        /// Shards; 0 means one per CPU that the process may use.
        shards: u32 => SHARDS,
        io_driver: IoDriver => IODRIVER,
        /// Folder of the embedded store; empty means the platform's state folder.
        store_path: String => STOREPATH,
        compat: Compat => COMPAT,
        /// Networks (`10.0.0.0/8`, or one address) whose `X-Real-IP` and `X-Forwarded-For` count.
        trusted_proxies: Vec<String> => TRUSTEDPROXIES,
        /// Starts with an empty or well-known `secret` although others can reach the listener.
        allow_insecure_secret: bool => ALLOWINSECURESECRET,
        access_log: AccessLog => ACCESSLOG,
        /// Name servers (`10.0.0.2:53`) to ask for upstreams instead of those of `/etc/resolv.conf`.
        dns_servers: Vec<String> => DNSSERVERS,
        /// What an API does with keys while the store does not answer, by API id; `*`: all others.
        when_store_is_away: BTreeMap<String, WhenStoreIsAway> => WHENSTOREISAWAY,
        limits: Limits => LIMITS,
    }
}

impl Penstock {
    /// What an API does with keys that have to be asked for while the store does not answer.
    #[must_use]
    pub fn when_store_is_away(&self, api_id: &str) -> WhenStoreIsAway {
        let rules = &self.when_store_is_away;
        let rule = rules.get(api_id).or_else(|| rules.get("*"));
        rule.copied().unwrap_or_default()
    }

    /// Quirks of Tyk are corrected instead of copied.
    #[must_use]
    pub fn compat_is_strict(&self) -> bool {
        self.compat == Compat::Strict
    }

    /// [`Penstock::trusted_proxies`] parsed; entries that are no network are left out, and
    /// [`crate::config::Config::check`] refuses them.
    pub fn trusted_networks(&self) -> impl Iterator<Item = (IpAddr, u8)> + '_ {
        self.trusted_proxies
            .iter()
            .filter_map(|text| parse_network(text))
    }

    /// [`Penstock::dns_servers`] parsed; entries that are no address are left out, and
    /// [`crate::config::Config::check`] refuses them.
    pub fn dns_server_addrs(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.dns_servers.iter().filter_map(|text| text.parse().ok())
    }

    /// Folder of the embedded store: `store_path`, else `$STATE_DIRECTORY` as systemd sets it, else
    /// `penstock` below `$XDG_STATE_HOME` or `~/.local/state`, else `/var/lib/penstock`.
    #[must_use]
    pub fn store_dir(&self, vars: &Vars) -> PathBuf {
        let set = |name| vars.get(name).filter(|text| !text.is_empty());
        if !self.store_path.is_empty() {
            return (&self.store_path).into();
        }
        // systemd may name several, between colons (systemd.exec, StateDirectory=).
        if let Some(first) = set("STATE_DIRECTORY").and_then(|all| all.split(':').next()) {
            return first.into();
        }
        if let Some(state) = set("XDG_STATE_HOME") {
            return PathBuf::from(state).join("penstock");
        }
        match set("HOME").filter(|home| *home != "/") {
            Some(home) => PathBuf::from(home).join(".local/state/penstock"),
            None => "/var/lib/penstock".into(),
        }
    }
}

/// Address and prefix length of `10.0.0.0/8`, `::1/128` or a single address.
#[must_use]
pub fn parse_network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        None => most,
        Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => bits.parse().ok()?,
        Some(_) => return None,
    };
    (bits <= most).then_some((address, bits))
}

words! {
    /// The kernel interface that shards use.
    pub enum IoDriver ("\"auto\", \"io_uring\" or \"epoll\"") {
        /// `io_uring` where the kernel allows it, else `epoll`.
        #[default]
        Auto = "auto",
        IoUring = "io_uring",
        Epoll = "epoll",
    }
}

words! {
    /// What happens to a request whose key has to be asked for while the store does not answer.
    pub enum WhenStoreIsAway ("\"fail_closed\", \"stale\" or \"fail_open\"") {
        /// 503 with `Retry-After`.
        #[default]
        FailClosed = "fail_closed",
        /// As `fail_closed`, but a session that was at hand before goes on.
        Stale = "stale",
        /// The request passes without a session: any key opens the API.
        FailOpen = "fail_open",
    }
}

words! {
    /// Whether quirks that clients may rely on are copied.
    pub enum Compat ("\"tyk-5.4\" or \"strict\"") {
        #[default]
        Tyk54 = "tyk-5.4",
        Strict = "strict",
    }
}

words! {
    /// One line per request.
    pub enum AccessLog ("\"\", \"json\" or \"combined\"") {
        #[default]
        Off = "",
        Json = "json",
        Combined = "combined",
    }
}

section! {
    /// `penstock.limits`: bounds of one connection or exchange.
    pub struct Limits {
        /// Past it: 414.
        request_line_bytes: u32 = 16_384_u32 => REQUESTLINEBYTES,
        /// Request line and fields together. Past it: 431.
        head_bytes: u32 = 65_536_u32 => HEADBYTES,
        /// Field lines of a head. Past it: 431.
        fields: u32 = 256_u32 => FIELDS,
        trailer_bytes: u32 = 8_192_u32 => TRAILERBYTES,
        trailer_fields: u32 = 32_u32 => TRAILERFIELDS,
        /// Chunk extensions of one message together.
        chunk_extension_bytes: u32 = 4_096_u32 => CHUNKEXTENSIONBYTES,
        /// 1xx answers of an upstream to one request.
        interim_responses: u32 = 8_u32 => INTERIMRESPONSES,
        /// Requests that a client may send ahead.
        pipelined_heads: u32 = 16_u32 => PIPELINEDHEADS,
        /// From a head's first byte to its last.
        header_deadline_s: u32 = 10_u32 => HEADERDEADLINES,
        /// The slowest body that is waited for.
        body_rate_min_bytes_per_s: u32 = 240_u32 => BODYRATEMINBYTESPERS,
        /// How long a body may be slower.
        body_rate_grace_s: u32 = 5_u32 => BODYRATEGRACES,
        /// A client connection with no request on it.
        keep_alive_idle_s: u32 = 120_u32 => KEEPALIVEIDLES,
        /// A body that a step reads as a whole.
        step_body_bytes: u64 = 10_u64 * 1024 * 1024 => STEPBODYBYTES,
        /// An upstream connection with no request on it.
        upstream_idle_s: u32 = 90_u32 => UPSTREAMIDLES,
    }
}

impl Limits {
    #[must_use]
    pub fn header_deadline(&self) -> Duration {
        Duration::from_secs(self.header_deadline_s.into())
    }

    #[must_use]
    pub fn body_rate_grace(&self) -> Duration {
        Duration::from_secs(self.body_rate_grace_s.into())
    }

    #[must_use]
    pub fn keep_alive_idle(&self) -> Duration {
        Duration::from_secs(self.keep_alive_idle_s.into())
    }

    #[must_use]
    pub fn upstream_idle(&self) -> Duration {
        Duration::from_secs(self.upstream_idle_s.into())
    }
}
