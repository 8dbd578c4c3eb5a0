//! A certificate chain with its private key, read from PEM (RFC 7468).
//!
//! Tyk keeps both in one file or store entry for client certificates, and in two files for
//! `http_server_options.certificates`; both forms are read here.

use std::{fmt, fs, path::Path, sync::Arc};

use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

/// A chain, the own certificate first, and the key of that certificate.
pub struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads a chain and a key out of one PEM text.
    ///
    /// # Errors
    /// One line: which of the two is missing or unreadable.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        Self::from_pems(pem, pem)
    }

    /// Reads a chain from one file and its key from another, or both from one.
    ///
    /// # Errors
    /// One line that names the file.
    pub fn from_files(chain: &Path, key: &Path) -> Result<Self, String> {
        let chain_pem = read(chain)?;
        let key_pem = read(key)?;
        Self::from_pems(&chain_pem, &key_pem)
            .map_err(|e| format!("{} and {}: {e}", chain.display(), key.display()))
    }

    fn from_pems(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain = certificates(chain)?;
        if chain.is_empty() {
            return Err("no certificate (`-----BEGIN CERTIFICATE-----`) found".to_owned());
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| match e {
            rustls::pki_types::pem::Error::NoItemsFound => {
                "no private key found (encrypted keys are not read)".to_owned()
            }
            other => format!("the private key is not readable: {other}"),
        })?;
        Ok(Self { chain, key })
    }

    /// The key made ready for signing.
    ///
    /// # Errors
    /// One line when the key is of an unknown kind or is not the certificate's.
    pub(super) fn certified(self) -> Result<Arc<CertifiedKey>, String> {
        CertifiedKey::from_der(
            self.chain,
            self.key,
            &rustls::crypto::aws_lc_rs::default_provider(),
        )
        .map(Arc::new)
        .map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => {
                "the private key does not belong to the certificate".to_owned()
            }
            other => format!("the private key cannot be used: {other}"),
        })
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

/// Never prints the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("certificates", &self.chain.len())
            .finish_non_exhaustive()
    }
}

/// Every certificate of a PEM file.
///
/// # Errors
/// One line that names the file; also when it holds no certificate.
pub(super) fn certificates_of_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = certificates(&read(path)?).map_err(|e| format!("{}: {e}", path.display()))?;
    if found.is_empty() {
        return Err(format!("{}: no certificate found", path.display()));
    }
    Ok(found)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| format!("a certificate is not readable: {e}"))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}
