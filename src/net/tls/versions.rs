//! Protocol versions and cipher suites as Tyk's files name them, in rustls' terms.
//!
//! Versions are Go's constants: 769 is TLS 1.0, 772 is TLS 1.3, 0 leaves the default of 1.2 to 1.3.
//! rustls has 1.2 and 1.3 only; a range that contains neither is refused at load.
//! Tyk: `proxy_ssl_min_version`, `http_server_options.min_version`, `ssl_ciphers`.

use std::sync::Arc;

use rustls::{
    SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    version::{TLS12, TLS13},
};

const TLS_1_0: u16 = 769;
const TLS_1_2: u16 = 771;
const TLS_1_3: u16 = 772;

/// The range of versions that a configuration allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Range {
    pub min_version: u16,
    pub max_version: u16,
}

// Tyk differs: its default maximum is TLS 1.2, and it clamps `ssl_max_version` of an API to 1.2.
// Configured limits are honoured exactly here, and the default allows 1.3.
impl Range {
    /// The versions of rustls inside this range.
    ///
    /// # Errors
    /// One line when the range is empty or lies below TLS 1.2.
    pub(super) fn versions(self) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
        let min = match self.min_version {
            0 => TLS_1_2,
            version => known("minimum", version)?,
        };
        let max = match self.max_version {
            0 => TLS_1_3,
            version => known("maximum", version)?,
        };
        if max < TLS_1_2 {
            return Err(format!(
                "the maximum TLS version {max} is below TLS 1.2 (771), the oldest that is supported"
            ));
        }
        let found: Vec<_> = [(TLS_1_2, &TLS12), (TLS_1_3, &TLS13)]
            .into_iter()
            .filter(|(version, _)| (min..=max).contains(version))
            .map(|(_, version)| version)
            .collect();
        if found.is_empty() {
            return Err(format!(
                "the minimum TLS version {min} is above the maximum {max}"
            ));
        }
        Ok(found)
    }
}

fn known(which: &str, version: u16) -> Result<u16, String> {
    if (TLS_1_0..=TLS_1_3).contains(&version) {
        Ok(version)
    } else {
        Err(format!(
            "{version} is no {which} TLS version; use 771 (TLS 1.2) or 772 (TLS 1.3)"
        ))
    }
}

/// The provider with the suites of TLS 1.2 cut down to `names` (Go's names; empty: all). Suites of
/// TLS 1.3 are always on, as in Go.
///
/// # Errors
/// One line when TLS 1.2 is the only version left and none of its suites is.
pub(super) fn provider(
    names: &[String],
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<CryptoProvider>, String> {
    let mut provider = aws_lc_rs::default_provider();
    if !names.is_empty() {
        provider
            .cipher_suites
            .retain(|suite| is_tls13(suite) || names.iter().any(|name| is_called(suite, name)));
        let usable = versions.iter().any(|version| {
            provider
                .cipher_suites
                .iter()
                .any(|suite| suite.version() == *version)
        });
        if !usable {
            let known: Vec<String> = aws_lc_rs::ALL_CIPHER_SUITES
                .iter()
                .filter(|suite| !is_tls13(suite))
                .map(|suite| format!("{:?}", suite.suite()))
                .collect();
            return Err(format!(
                "none of the ciphers {} is supported; supported for TLS 1.2: {}",
                names.join(", "),
                known.join(", ")
            ));
        }
    }
    Ok(Arc::new(provider))
}

/// Only versions for which a suite is left.
pub(super) fn usable(
    versions: Vec<&'static SupportedProtocolVersion>,
    provider: &CryptoProvider,
) -> Vec<&'static SupportedProtocolVersion> {
    versions
        .into_iter()
        .filter(|version| {
            provider
                .cipher_suites
                .iter()
                .any(|suite| suite.version() == *version)
        })
        .collect()
}

fn is_tls13(suite: &SupportedCipherSuite) -> bool {
    suite.version() == &TLS13
}

fn is_called(suite: &SupportedCipherSuite, name: &str) -> bool {
    let own = format!("{:?}", suite.suite());
    let name = name.trim();
    // Go also knows its two ChaCha20 suites by a name without the hash.
    own.eq_ignore_ascii_case(name)
        || own
            .strip_suffix("_SHA256")
            .is_some_and(|short| short.ends_with("POLY1305") && short.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(min_version: u16, max_version: u16, expected: &str) {
        let range = Range {
            min_version,
            max_version,
        };
        let got = match range.versions() {
            Ok(versions) => versions
                .iter()
                .map(|v| u16::from(v.version).to_string())
                .collect::<Vec<_>>()
                .join(" "),
            Err(e) => e,
        };
        assert!(got.contains(expected), "{range:?}: {got}");
    }

    #[test]
    fn configured_versions_are_honoured_exactly() {
        check(0, 0, "771 772");
        check(769, 0, "771 772");
        check(771, 771, "771");
        check(0, 771, "771");
        check(772, 0, "772");
        check(772, 772, "772");
        check(772, 771, "above the maximum");
        check(0, 770, "below TLS 1.2");
        check(768, 0, "is no minimum");
        check(0, 773, "is no maximum");
    }

    #[test]
    fn cipher_names_of_go_choose_suites_of_tls_1_2_only() {
        let both = [&TLS12, &TLS13];
        let all = aws_lc_rs::default_provider().cipher_suites.len();
        let count = |names: &[&str], versions: &[&'static SupportedProtocolVersion]| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            provider(&names, versions).map(|p| p.cipher_suites.len())
        };
        assert_eq!(count(&[], &both), Ok(all));
        assert_eq!(
            count(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"], &both),
            Ok(4)
        );
        assert_eq!(
            count(&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"], &[&TLS12]),
            Ok(4)
        );
        assert_eq!(count(&["TLS_RSA_WITH_RC4_128_SHA"], &both), Ok(3));
        let refused = count(&["TLS_RSA_WITH_RC4_128_SHA"], &[&TLS12]).expect_err("none is left");
        assert!(
            refused.contains("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
            "{refused}"
        );
    }
}
