//! Keys that mean nothing here, and the names they were probably meant to be.
//!
//! Tyk drops them silently; a mistyped limit or switch is then simply off.

use std::{fmt, path::Path, sync::LazyLock};

use crate::config::{Config, field::Field as _, field::Key};

/// A key or variable that nothing reads. Reported once, at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKey {
    /// File it stands in, or `environment`.
    pub file: std::path::PathBuf,
    /// 1-based place of the value; 0 for a variable.
    pub line: u32,
    pub column: u32,
    /// JSON pointer (RFC 6901), or the variable's name.
    pub pointer: String,
    pub hint: Hint,
}

/// What is known about an unknown key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    None,
    /// A known name that looks alike.
    Nearest(String),
    /// A key of an earlier or later Tyk version.
    OtherVersion,
}

impl fmt::Display for UnknownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}: ", self.pointer)?;
        match &self.hint {
            Hint::None => f.write_str("unknown key, ignored"),
            Hint::Nearest(name) => write!(f, "unknown key, ignored; did you mean `{name}`?"),
            Hint::OtherVersion => {
                f.write_str("key of another Tyk version, accepted without effect")
            }
        }
    }
}

impl UnknownKey {
    pub(super) fn in_file(
        file: &Path,
        line: u32,
        column: u32,
        pointer: String,
        name: &str,
        siblings: &[&str],
    ) -> Self {
        let path = pointer.trim_start_matches('/').replace('/', ".");
        let hint = if OTHER_VERSIONS.contains(&path.to_ascii_lowercase().as_str()) {
            Hint::OtherVersion
        } else {
            nearest(name, siblings.iter().copied())
                .map(str::to_owned)
                .or_else(|| elsewhere(name))
                .map_or(Hint::None, Hint::Nearest)
        };
        Self {
            file: file.to_owned(),
            line,
            column,
            pointer,
            hint,
        }
    }

    pub(super) fn in_environment(name: &str) -> Self {
        let known = KEYS.iter().map(|key| key.env.as_str());
        Self {
            file: "environment".into(),
            line: 0,
            column: 0,
            pointer: name.to_owned(),
            hint: nearest(name, known).map_or(Hint::None, |name| Hint::Nearest(name.to_owned())),
        }
    }
}

/// Every leaf of the configuration.
pub(super) static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let mut keys = Vec::new();
    Config::keys("", "TYK_GW", &mut keys);
    keys
});

/// Keys of Tyk releases before and after 5.4.0 that are taken without a word on spelling.
const OTHER_VERSIONS: &[&str] = &[
    "allow_unsafe_policy_ids",
    "close_idle_connections",
    "coprocess_options.grpc_round_robin_load_balancing",
    "disable_auto_max_procs",
    "disable_regexp_cache_bound",
    "enable_api_segregation",
    "enable_config_inspection",
    "error_overrides",
    "external_services",
    "http_server_options.override_defaults",
    "http_server_options.use_ssl_le",
    "jwks",
    "kv.file",
    "kv.stores",
    "labs",
    "liveness_check.enabled",
    "optimisations_use_async_session_write",
    "regexp_cache_max_entries",
    "reload_wait_time",
    "security.allow_unsafe_dynamic_mtls_token",
    "security.certificate_expiry_monitor",
    "skip_verify_existing_plugin_bundle",
    "slave_options.dns_monitor",
    "slave_options.rpc_cert_fetch_initial_interval",
    "slave_options.rpc_cert_fetch_max_elapsed_time",
    "slave_options.rpc_cert_fetch_max_interval",
    "slave_options.rpc_cert_fetch_max_retries",
    "slave_options.rpc_cert_fetch_retry_enabled",
    "slave_options.sync_used_certs_only",
    "storage.compress_api_definitions",
    "storage.compress_policies",
    "storage.iam_auth",
    "storage.max_decompressed_size",
    "streaming",
];

/// The known name nearest to `name`, where it is near enough to be meant.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Names longer than any key are no slip of the pen; the distance would only cost time.
    if name.len() > 100 {
        return None;
    }
    let allowed = (name.chars().count() / 3).max(1);
    known
        .map(|known| (distance(name, known), known))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// The right name in the wrong section.
fn elsewhere(name: &str) -> Option<String> {
    KEYS.iter()
        .map(|key| key.path.as_str())
        .find(|path| {
            path.rsplit('.')
                .next()
                .is_some_and(|last| last.eq_ignore_ascii_case(name))
        })
        .map(str::to_owned)
}

/// Levenshtein distance, in characters, letters of any case alike.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().map(|c| c.to_ascii_lowercase()).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, l) in left.chars().map(|c| c.to_ascii_lowercase()).enumerate() {
        let mut diagonal = above;
        let mut before = above + 1;
        for (cell, r) in row.iter_mut().skip(1).zip(&right) {
            let change = diagonal + usize::from(l != *r);
            diagonal = *cell;
            before = change.min(diagonal + 1).min(before + 1);
            *cell = before;
        }
        if let Some(first) = row.first_mut() {
            *first = above + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}
