//! TLS for clients: certificates by the name they ask for, tickets shared by all shards.
//!
//! Tyk: `gateway/cert.go` (`getTLSConfigForClient`), `http_server_options.{certificates,
//! ssl_certificates, min_version, max_version, ssl_ciphers, enable_http2}`.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, OnceLock},
};

use rustls::{
    Connection, ServerConfig, ServerConnection,
    crypto::aws_lc_rs::Ticketer,
    server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{
    Identity, Tls,
    names::dns_names,
    versions::{self, Range},
};
use crate::net::io::{Tcp, Transport};

/// A certificate and the further name it serves (`domain_name`), beside those that it carries.
#[derive(Debug, Clone)]
pub struct NamedIdentity {
    pub domain_name: String,
    pub identity: Identity,
}

/// What a TLS listener needs.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// The first one serves clients that name no host, or one that no certificate has.
    pub certificates: Vec<NamedIdentity>,
    /// Go's constants, 769 to 772; 0 for the default.
    pub min_version: u16,
    pub max_version: u16,
    /// Go's suite names, for TLS 1.2; empty for all.
    pub ciphers: Vec<String>,
    /// Offers `h2` before `http/1.1`.
    pub enable_http2: bool,
}

/// A server configuration. Cloning shares it.
#[derive(Clone)]
pub struct ServerTls(Arc<ServerConfig>);

impl ServerTls {
    /// # Errors
    /// One line: no certificate, a key that is not its certificate's, impossible versions.
    pub fn new(options: &ServerOptions) -> Result<Self, String> {
        let range = Range {
            min_version: options.min_version,
            max_version: options.max_version,
        };
        let versions = range.versions()?;
        let provider = versions::provider(&options.ciphers, &versions)?;
        let versions = versions::usable(versions, &provider);
        let resolver = ByName::new(&options.certificates)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(|e| e.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        // Tickets need no memory here and no lock; one per handshake is what a client uses.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = ticketer()?;
        config.send_tls13_tickets = 1;
        config.alpn_protocols = match options.enable_http2 {
            true => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            false => vec![b"http/1.1".to_vec()],
        };
        Ok(Self(Arc::new(config)))
    }

    /// Takes a client through the handshake; the caller keeps a clone of `tcp` and shuts it down
    /// when its deadline has passed. A client that speaks plain HTTP is told so, as by Go's server.
    ///
    /// # Errors
    /// See [`Tls`].
    pub async fn accept(&self, tcp: Tcp) -> io::Result<Tls> {
        let session = ServerConnection::new(self.0.clone()).map_err(super::invalid)?;
        tcp.readable().await?;
        if speaks_http(&tcp) {
            // net/http: the same words, and HTTP/1.0 because the request was not read.
            let answer = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
            tcp.write_all(answer.to_vec(), 0).await.0?;
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the client sent an HTTP request to an HTTPS server",
            ));
        }
        Tls::handshake(tcp, Connection::Server(session)).await
    }
}

/// Looks at the first bytes without taking them.
fn speaks_http(tcp: &Tcp) -> bool {
    let mut first = [0; 5];
    let Ok(count) = crate::net::sys::peek_now(tcp.fd(), &mut first) else {
        return false;
    };
    let first = first.get(..count).unwrap_or_default();
    [b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO"]
        .iter()
        .any(|start| first == start.as_slice())
}

/// One key for all listeners of the process, renewed by rustls every few hours.
fn ticketer() -> Result<Arc<dyn ProducesTickets>, String> {
    static SHARED: OnceLock<Result<Arc<dyn ProducesTickets>, String>> = OnceLock::new();
    SHARED
        .get_or_init(|| Ticketer::new().map_err(|e| format!("no key for session tickets: {e}")))
        .clone()
}

/// Certificates by host name.
#[derive(Debug)]
struct ByName {
    by_name: HashMap<String, Arc<CertifiedKey>>,
    first: Arc<CertifiedKey>,
}

impl ByName {
    fn new(certificates: &[NamedIdentity]) -> Result<Self, String> {
        let mut by_name = HashMap::new();
        let mut first = None;
        for named in certificates {
            let names = named
                .identity
                .chain
                .first()
                .map(|cert| dns_names(cert))
                .unwrap_or_default();
            let key = named.identity.clone().certified().map_err(|e| {
                match named.domain_name.as_str() {
                    "" => e,
                    domain => format!("{domain}: {e}"),
                }
            })?;
            for name in names.into_iter().chain([named.domain_name.clone()]) {
                if !name.is_empty() {
                    by_name.insert(name.to_ascii_lowercase(), key.clone());
                }
            }
            first.get_or_insert(key);
        }
        match first {
            Some(first) => Ok(Self { by_name, first }),
            None => Err(
                "TLS is on, but no certificate is configured; set `http_server_options.certificates`"
                    .to_owned(),
            ),
        }
    }

    /// The exact name, then `*` for its first label, then the first certificate (as Go).
    fn find(&self, name: &str) -> &Arc<CertifiedKey> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if let Some(exact) = self.by_name.get(&name) {
            return exact;
        }
        name.split_once('.')
            .and_then(|(_, rest)| self.by_name.get(&format!("*.{rest}")))
            .unwrap_or(&self.first)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.find(hello.server_name().unwrap_or("")).clone())
    }
}
