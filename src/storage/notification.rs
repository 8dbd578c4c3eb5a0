//! What the gateways of a cluster tell one another through Redis: its form, and its signature.
//!
//! Tyk: `gateway/redis_signals.go` (`Notification.Sign`, `isPayloadSignatureValid`).

use std::{fs, path::Path};

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{apidef::json::to_go_string, config::Config};

/// The channel of all gateways of a cluster.
pub const CHANNEL: &str = "tyk.cluster.notifications";

/// Go's `crypto.SHA256`: signed with the shared secret of the nodes.
const SHA256: i64 = 5;

/// What happened. The names are Tyk's words on the wire.
pub mod command {
    pub const GROUP_RELOAD: &str = "GroupReload";
    pub const API_UPDATED: &str = "ApiUpdated";
    pub const API_REMOVED: &str = "ApiRemoved";
    pub const API_ADDED: &str = "ApiAdded";
    pub const POLICY_CHANGED: &str = "PolicyChanged";
    pub const KEY_SPACE_UPDATE: &str = "KeySpaceUpdateNotification";
    pub const LOAD: &str = "NoticeGatewayDRLNotification";
    pub const DELETE_API_CACHE: &str = "DeleteAPICache";
    /// Carries a whole configuration and is for Dashboards; gateways pass over it unread.
    pub const CONFIG_RESPONSE: &str = "NoticeGatewayConfigResponse";
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Notification {
    pub command: String,
    pub payload: String,
    pub signature: String,
    pub algorithm: i64,
}

/// Signs and checks messages as the configuration says.
pub struct Signer {
    node_secret: String,
    allows_unsigned: bool,
    /// Subject public key info, DER.
    public_key: Option<Vec<u8>>,
}

impl Signer {
    /// # Errors
    /// `public_key_path` names a file without a readable public key.
    pub fn from_config(config: &Config) -> Result<Self, String> {
        let public_key = match config.public_key_path.as_str() {
            "" => None,
            path => Some(read_key(Path::new(path))?),
        };
        Ok(Self {
            node_secret: config.node_secret.as_str().to_owned(),
            allows_unsigned: config.allow_insecure_configs,
            public_key,
        })
    }

    /// The text of a message to the cluster.
    #[must_use]
    pub fn message(&self, command: &str, payload: &str) -> String {
        to_go_string(&Notification {
            command: command.to_owned(),
            payload: payload.to_owned(),
            signature: self.shared_signature(command, payload),
            algorithm: SHA256,
        })
    }

    /// A message as it came, when it is one that counts.
    ///
    /// # Errors
    /// One line: it is no message, or its signature is missing or wrong.
    pub fn read(&self, text: &[u8]) -> Result<Notification, String> {
        let message: Notification =
            serde_json::from_slice(text).map_err(|error| format!("no notification: {error}"))?;
        if self.allows_unsigned || message.command == command::CONFIG_RESPONSE {
            return Ok(message);
        }
        let is_right = if message.algorithm == SHA256 {
            self.shared_signature(&message.command, &message.payload) == message.signature
        } else {
            let Some(key) = &self.public_key else {
                return Err("signed by a Dashboard, and public_key_path is not set".to_owned());
            };
            STANDARD.decode(&message.signature).is_ok_and(|signature| {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key)
                    .verify(message.payload.as_bytes(), &signature)
                    .is_ok()
            })
        };
        if is_right {
            Ok(message)
        } else {
            Err(format!(
                "Payload signature is invalid! ({}; do all nodes have the same node_secret?)",
                message.command
            ))
        }
    }

    fn shared_signature(&self, command: &str, payload: &str) -> String {
        let mut digest = Sha256::new();
        for part in [command, payload, &self.node_secret] {
            digest.update(part.as_bytes());
        }
        let mut hex = String::with_capacity(64);
        for byte in digest.finalize() {
            for digit in [byte >> 4, byte & 15] {
                hex.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
            }
        }
        hex
    }
}

fn read_key(path: &Path) -> Result<Vec<u8>, String> {
    let pem = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    SubjectPublicKeyInfoDer::from_pem_slice(&pem)
        .map(|key| key.to_vec())
        .map_err(|error| format!("{}: no public key in it: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(node_secret: &str) -> Signer {
        Signer {
            node_secret: node_secret.to_owned(),
            allows_unsigned: false,
            public_key: None,
        }
    }

    #[test]
    fn a_reload_message_is_tyks_byte_for_byte() {
        let signer = signer("352d20ee67be67f6340b4c0605b044b7");
        let text = signer.message(command::GROUP_RELOAD, "");
        assert_eq!(
            text,
            r#"{"command":"GroupReload","payload":"","signature":"95984d24888960e2cb55c1358a67872b45946c1a0eeccee16d681baf2396fc02","algorithm":5}"#
        );
        let read = signer.read(text.as_bytes()).unwrap();
        assert_eq!((&*read.command, &*read.payload), ("GroupReload", ""));
    }

    #[test]
    fn a_message_with_another_signature_does_not_count() {
        let text = signer("one").message(command::KEY_SPACE_UPDATE, "a,b");
        assert!(signer("one").read(text.as_bytes()).is_ok());
        assert!(signer("two").read(text.as_bytes()).is_err());
        let other = text.replace("a,b", "a,c");
        assert!(signer("one").read(other.as_bytes()).is_err());
        let unsigned = br#"{"command":"GroupReload","payload":""}"#;
        assert!(signer("").read(unsigned).is_err());
        assert!(signer("").read(b"[]").is_err());
        let open = Signer {
            allows_unsigned: true,
            ..signer("one")
        };
        assert!(open.read(unsigned).is_ok());
    }

    #[test]
    fn a_dashboards_signature_is_checked_with_its_public_key() {
        use aws_lc_rs::{rand::SystemRandom, rsa, signature};
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let mut signed = vec![0; pair.public_modulus_len()];
        let payload = "any";
        pair.sign(
            &signature::RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            payload.as_bytes(),
            &mut signed,
        )
        .unwrap();
        use aws_lc_rs::{encoding::AsDer as _, signature::KeyPair as _};
        let public: aws_lc_rs::encoding::PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let with_key = Signer {
            public_key: Some(public.as_ref().to_vec()),
            ..signer("")
        };
        let message = |payload: &str| {
            format!(
                r#"{{"command":"ApiUpdated","payload":"{payload}","signature":"{}","algorithm":0}}"#,
                STANDARD.encode(&signed)
            )
        };
        assert!(with_key.read(message(payload).as_bytes()).is_ok());
        assert!(with_key.read(message("other").as_bytes()).is_err());
        assert!(signer("").read(message(payload).as_bytes()).is_err());
    }
}
