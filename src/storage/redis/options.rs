//! How to reach Redis, as the configuration says it.
//!
//! Tyk: `storage/connection_handler.go`; library `storage`: `connector/redis`. `master_name` asks
//! sentinels, else `enable_cluster` means a cluster, else the first address is the server.

use std::{
    fmt,
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use crate::{
    config::Storage,
    net::tls::{Identity, TlsOptions, UpstreamTls},
    storage::{Endpoint, StoreError, redis::dial},
};

/// Connections per server, beside those of shards: one for what requests wait for, one for what is
/// large or slow.
pub const CONNECTIONS: usize = 2;

/// How to reach a Redis.
#[derive(Clone)]
pub struct Options {
    pub(super) kind: Kind,
    /// At least one: the server, or those to ask first.
    pub(super) addresses: Vec<Address>,
    pub(super) username: String,
    pub(super) password: String,
    pub(super) database: i64,
    /// For connecting, and for an answer.
    pub(super) timeout: Duration,
    pub(super) lanes: usize,
    pub(super) tls: Option<UpstreamTls>,
}

/// What the addresses are.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Single,
    /// Sentinels, which know the address of this master.
    Sentinel {
        master_name: String,
        password: String,
    },
    Cluster,
}

/// A server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address {
    /// A name or an address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse().ok().filter(|port| *port > 0)?;
        (!host.is_empty()).then(|| Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<Ipv6Addr>() {
            Ok(host) => write!(f, "[{host}]:{}", self.port),
            Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Options {
    /// Reads a section such as `storage`, and the certificates that it names.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] for an address that is none, for TLS that cannot be.
    pub fn from_config(section: &str, storage: &Storage) -> Result<Self, StoreError> {
        let unusable =
            |key: &str, why: String| StoreError::Unusable(format!("{section}.{key}: {why}"));
        let mut addresses = Vec::new();
        for text in storage.addresses() {
            let Some(address) = Address::parse(&text) else {
                let why = format!("{text:?} is no address; write host:port");
                return Err(unusable("addrs", why));
            };
            addresses.push(address);
        }
        let kind = match (storage.master_name.as_str(), storage.enable_cluster) {
            ("", false) => Kind::Single,
            ("", true) => Kind::Cluster,
            (master_name, _) => Kind::Sentinel {
                master_name: master_name.to_owned(),
                password: storage.sentinel_password.as_str().to_owned(),
            },
        };
        let tls = match storage.use_ssl {
            false => None,
            true => Some(tls(storage).map_err(|why| unusable("use_ssl", why))?),
        };
        Ok(Self {
            // A cluster has one database.
            database: if kind == Kind::Cluster {
                0
            } else {
                storage.database
            },
            kind,
            addresses,
            username: storage.username.clone(),
            password: storage.password.as_str().to_owned(),
            timeout: storage.timeout_or_default(),
            lanes: storage.max_active_or_default().min(CONNECTIONS),
            tls,
        })
    }

    /// The server called `host`, found at `address`, for others.
    pub(super) fn endpoint(&self, host: &Address, address: SocketAddr) -> Endpoint {
        Endpoint {
            address,
            tls: self.tls.clone().map(|tls| (tls, host.host.clone())),
            greeting: dial::written(&dial::greeting(self)),
        }
    }
}

fn tls(storage: &Storage) -> Result<UpstreamTls, String> {
    let file = |path: &String| (!path.is_empty()).then(|| PathBuf::from(path));
    let identity = match (file(&storage.cert_file), file(&storage.key_file)) {
        (Some(chain), Some(key)) => Some(Identity::from_files(&chain, &key)?),
        // As Tyk: one alone does nothing.
        _ => None,
    };
    let options = TlsOptions {
        insecure_skip_verify: storage.ssl_insecure_skip_verify,
        min_version: version(storage.tls_min_or_default())?,
        max_version: version(storage.tls_max_or_default())?,
        ca_files: file(&storage.ca_file).into_iter().collect(),
        identity,
        ..TlsOptions::default()
    };
    UpstreamTls::trusting_only_files(&options)
}

/// Go's constant of a version as `tls_min_version` writes it.
fn version(text: &str) -> Result<u16, String> {
    match text {
        "1.0" => Ok(0x0301),
        "1.1" => Ok(0x0302),
        "1.2" => Ok(0x0303),
        "1.3" => Ok(0x0304),
        other => Err(format!("{other:?} is no TLS version; use 1.2 or 1.3")),
    }
}
