//! TLS towards upstreams: what an API definition asks for becomes one client configuration.
//!
//! Built once at load and shared by all shards. Tyk: `gateway/reverse_proxy.go` (`tlsClientConfig`),
//! keys `proxy.transport.ssl_*`, `proxy_ssl_*`, `upstream_certificates`.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{
    Tls,
    identity::{Identity, certificates_of_file},
    versions::{self, Range},
};
use crate::net::io::Tcp;

/// What one API wants of TLS to its upstream.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// Takes any certificate; its key must still have signed the handshake.
    pub insecure_skip_verify: bool,
    /// Go's constants, 769 to 772; 0 for the default.
    pub min_version: u16,
    pub max_version: u16,
    /// Go's suite names, for TLS 1.2; empty for all.
    pub ciphers: Vec<String>,
    /// PEM files with further roots, beside those of the machine (or of SSL_CERT_FILE).
    pub ca_files: Vec<PathBuf>,
    /// Shown to an upstream that asks for a client certificate.
    pub identity: Option<Identity>,
    /// Offered protocols in order of preference (RFC 7301); empty offers none.
    pub alpn: Vec<Vec<u8>>,
}

/// A client configuration, ready to connect with. Cloning shares it and its session tickets.
#[derive(Clone)]
pub struct UpstreamTls(Arc<ClientConfig>);

impl UpstreamTls {
    /// # Errors
    /// One line: an impossible range of versions, unknown ciphers, an unreadable file.
    pub fn new(options: &TlsOptions) -> Result<Self, String> {
        Self::build(options, || roots(&options.ca_files))
    }

    /// As [`UpstreamTls::new`], but where files with roots are named, those of the machine do not
    /// count (as Go's `RootCAs`).
    ///
    /// # Errors
    /// As [`UpstreamTls::new`].
    pub fn trusting_only_files(options: &TlsOptions) -> Result<Self, String> {
        if options.ca_files.is_empty() {
            return Self::new(options);
        }
        Self::build(options, || {
            with_files(RootCertStore::empty(), &options.ca_files)
        })
    }

    fn build(
        options: &TlsOptions,
        roots: impl FnOnce() -> Result<Arc<RootCertStore>, String>,
    ) -> Result<Self, String> {
        let range = Range {
            min_version: options.min_version,
            max_version: options.max_version,
        };
        let versions = range.versions()?;
        let provider = versions::provider(&options.ciphers, &versions)?;
        let versions = versions::usable(versions, &provider);
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)
            .map_err(|e| e.to_string())?;
        let builder = if options.insecure_skip_verify {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        } else {
            builder.with_root_certificates(roots()?)
        };
        let mut config = match &options.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let identity = identity.clone();
                builder
                    .with_client_auth_cert(identity.chain, identity.key)
                    .map_err(|e| format!("the client certificate cannot be used: {e}"))?
            }
        };
        config.alpn_protocols.clone_from(&options.alpn);
        Ok(Self(Arc::new(config)))
    }

    /// For connections outside of the shards.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }

    /// Makes a connection to `host` a TLS connection. `host` is the name or address that the
    /// certificate is checked for; a name is also sent (SNI). The caller keeps a clone of `tcp`,
    /// and shuts it down when its deadline has passed.
    ///
    /// # Errors
    /// Invalid input for an impossible name; see [`Tls`] for the rest.
    pub async fn connect(&self, tcp: Tcp, host: &str) -> io::Result<Tls> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.strip_suffix('.').unwrap_or(host).to_owned())
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let session = ClientConnection::new(self.0.clone(), name).map_err(super::invalid)?;
        Tls::handshake(tcp, Connection::Client(session)).await
    }
}

/// The machine's roots, read once, and those of the files.
fn roots(ca_files: &[PathBuf]) -> Result<Arc<RootCertStore>, String> {
    static MACHINE: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let machine = MACHINE.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!("some root certificates of this machine are not readable: {error}");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            // Not an error: many gateways have no HTTPS upstream, or name their own authority.
            tracing::warn!(
                "this machine has no root certificates, so HTTPS upstreams cannot be verified; \
                 install ca-certificates or set SSL_CERT_FILE"
            );
        }
        Arc::new(roots)
    });
    if ca_files.is_empty() {
        return Ok(machine.clone());
    }
    with_files(RootCertStore::clone(machine), ca_files)
}

fn with_files(
    mut roots: RootCertStore,
    ca_files: &[PathBuf],
) -> Result<Arc<RootCertStore>, String> {
    for path in ca_files {
        for certificate in certificates_of_file(path)? {
            roots
                .add(certificate)
                .map_err(|e| format!("{}: {e}", path.display()))?;
        }
    }
    Ok(Arc::new(roots))
}

/// `ssl_insecure_skip_verify`: who the upstream is does not matter, but the key of the certificate
/// that it shows must have signed this handshake.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
