//! `security`: certificates of the gateway's neighbours, and their keys.

use std::collections::BTreeMap;

use crate::config::{field::section, value::Secret};

section! {
    /// `security`.
    pub struct Security {
        /// Encrypts stored private keys; `secret` does where this is empty.
        private_certificate_encoding_secret: Secret => PRIVATECERTIFICATEENCODINGSECRET,
        control_api_use_mutual_tls: bool => CONTROLAPIUSEMUTUALTLS,
        /// Domain to key fingerprints or certificate ids, several between commas.
        pinned_public_keys: BTreeMap<String, String> => PINNEDPUBLICKEYS,
        certificates: SecurityCertificates => CERTIFICATES,
    }
}

section! {
    /// `security.certificates`.
    pub struct SecurityCertificates {
        apis: Vec<String> => API,
        /// Upstream host (`*` and `*.domain` too) to certificate id or path.
        upstream: BTreeMap<String, String> => UPSTREAM,
        control_api: Vec<String> => CONTROLAPI,
        dashboard_api: Vec<String> => DASHBOARD,
        mdcb_api: Vec<String> => MDCB,
    }
}
