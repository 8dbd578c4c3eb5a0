//! Where an API's requests go, compiled: one target or a list taken in turn.
//!
//! Tyk: `reverse_proxy.go` (`TykNewSingleHostReverseProxy`, `urlFromLB`); dataplane facts: joining
//! of paths, order of query parts, Host.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::net::{dns, proxy_connect::HttpProxy, tls::UpstreamTls};

/// The upstream of one API.
pub struct Upstream {
    /// Never empty.
    targets: Box<[Arc<Target>]>,
    turn: AtomicUsize,
    /// The client's Host goes on instead of the target's.
    pub preserve_host: bool,
    /// `proxy_close_connections`.
    pub close_connections: bool,
    /// Until the first byte of an answer, ms; 0 is for ever.
    pub header_timeout_ms: u64,
    pub connect_timeout_ms: u64,
}

/// One origin server with a base path.
pub struct Target {
    /// `host[:port]` as the definition has it: the Host field.
    pub authority: Vec<u8>,
    pub address: Address,
    /// Name or address without port, and the port: what a CONNECT asks for.
    pub host: String,
    pub port: u16,
    /// Base path without its trailing slashes.
    path: Vec<u8>,
    /// Base path as written.
    path_as_written: Vec<u8>,
    /// `disable_strip_slash`.
    keep_target_slash: bool,
    query: Vec<u8>,
    pub tls: Option<Tls>,
    pub proxy: Option<Via>,
    /// Connections to targets with equal keys are interchangeable.
    pub pool_key: u64,
}

/// TLS towards a target.
pub struct Tls {
    pub config: UpstreamTls,
    /// The name or address that the certificate is checked for.
    pub host: String,
}

/// An HTTP proxy on the way to a target.
pub struct Via {
    pub proxy: HttpProxy,
    pub address: Address,
}

/// How the target's addresses are found.
pub enum Address {
    Literal(SocketAddr),
    Name { name: Arc<dns::Name>, port: u16 },
}

/// The parts that a [`Target`] is made of.
pub struct TargetParts {
    pub authority: Vec<u8>,
    pub address: Address,
    pub host: String,
    pub port: u16,
    pub path: Vec<u8>,
    pub query: Vec<u8>,
    pub keep_target_slash: bool,
    pub tls: Option<Tls>,
    pub proxy: Option<Via>,
    pub pool_key: u64,
}

impl Target {
    #[must_use]
    pub fn new(parts: TargetParts) -> Self {
        let end = parts
            .path
            .iter()
            .rposition(|byte| *byte != b'/')
            .map_or(0, |last| last + 1);
        Self {
            path: parts.path.get(..end).unwrap_or_default().to_vec(),
            path_as_written: parts.path,
            keep_target_slash: parts.keep_target_slash,
            authority: parts.authority,
            address: parts.address,
            host: parts.host,
            port: parts.port,
            query: parts.query,
            tls: parts.tls,
            proxy: parts.proxy,
            pool_key: parts.pool_key,
        }
    }

    /// Whether [`Target::write_path`] writes this path as it is, without a query.
    #[inline(always)]
    #[must_use]
    pub fn keeps_path(&self, path: &[u8]) -> bool {
        let is_bare = self.path.is_empty() && self.query.is_empty();
        is_bare
            && match path {
                [b'/'] => self.path_as_written.len() < 2,
                [b'/', second, ..] => *second != b'/',
                _ => false,
            }
    }

    /// Appends the request target: base path and `path` (encoded, with or without a leading slash)
    /// joined, then the target's own query and `query` (Tyk: `singleJoiningSlash`).
    pub fn write_path(&self, out: &mut Vec<u8>, path: &[u8], query: Option<&[u8]>) {
        let before = out.len();
        let start = path
            .iter()
            .position(|byte| *byte != b'/')
            .unwrap_or(path.len());
        let path = path.get(start..).unwrap_or_default();
        if path.is_empty() && self.keep_target_slash {
            out.extend_from_slice(&self.path_as_written);
        } else {
            out.extend_from_slice(&self.path);
            if !path.is_empty() {
                out.push(b'/');
                out.extend_from_slice(path);
            }
        }
        if out.len() == before {
            out.push(b'/');
        }
        let query = query.unwrap_or_default();
        for (index, part) in [self.query.as_slice(), query]
            .into_iter()
            .filter(|part| !part.is_empty())
            .enumerate()
        {
            out.push(if index == 0 { b'?' } else { b'&' });
            out.extend_from_slice(part);
        }
    }
}

impl Upstream {
    /// `None` for an empty list.
    #[must_use]
    pub fn new(targets: Vec<Arc<Target>>) -> Option<Self> {
        (!targets.is_empty()).then(|| Self {
            targets: targets.into(),
            turn: AtomicUsize::new(0),
            preserve_host: false,
            close_connections: false,
            header_timeout_ms: 30_000,
            connect_timeout_ms: 30_000,
        })
    }

    /// The next target in turn. One counter for all shards, so that few requests are spread as
    /// evenly as many.
    #[must_use]
    pub fn is_first(&self, target: &Target) -> bool {
        let first = self.targets().first();
        first.is_some_and(|first| std::ptr::eq(&raw const **first, target))
    }

    /// The target of the next request.
    pub fn next_target(&self) -> &Arc<Target> {
        let [only] = &*self.targets else {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let index = turn % self.targets.len().max(1);
            return self
                .targets
                .get(index)
                .unwrap_or_else(|| unreachable!("index is in range"));
        };
        only
    }

    #[must_use]
    pub fn targets(&self) -> &[Arc<Target>] {
        &self.targets
    }
}

/// The path to send upstream for the raw path of a request, listen path stripped or not.
#[must_use]
pub fn encoded_path(raw: &[u8], escape: bool) -> Cow<'_, [u8]> {
    if escape {
        crate::http::uri::upstream_path(raw)
    } else {
        Cow::Borrowed(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str, query: &str, keep: bool) -> Target {
        Target::new(TargetParts {
            authority: b"origin:80".to_vec(),
            address: Address::Literal(SocketAddr::from(([127, 0, 0, 1], 80))),
            host: "origin".to_owned(),
            port: 80,
            path: path.into(),
            query: query.into(),
            keep_target_slash: keep,
            tls: None,
            proxy: None,
            pool_key: 0,
        })
    }

    #[test]
    fn a_path_is_kept_where_nothing_is_joined_to_it() {
        for base in ["", "/", "//"] {
            for keep in [false, true] {
                let target = target(base, "", keep);
                for path in ["/", "/a", "/a/", "//a", "a", ""] {
                    let mut out = Vec::new();
                    target.write_path(&mut out, path.as_bytes(), None);
                    if target.keeps_path(path.as_bytes()) {
                        assert_eq!(out, path.as_bytes(), "{base:?}");
                    }
                }
                assert!(target.keeps_path(b"/a"));
                assert_eq!(target.keeps_path(b"/"), base != "//");
            }
        }
        assert!(!target("/v1", "", false).keeps_path(b"/a"));
        assert!(!target("", "k=1", false).keeps_path(b"/a"));
    }

    #[track_caller]
    fn check(target: &Target, path: &str, query: Option<&str>, expected: &str) {
        let mut out = Vec::new();
        target.write_path(&mut out, path.as_bytes(), query.map(str::as_bytes));
        assert_eq!(String::from_utf8_lossy(&out), expected);
        if query.is_none() && target.keeps_path(path.as_bytes()) {
            assert_eq!(path, expected);
        }
    }

    #[test]
    fn paths_join_as_in_tyk() {
        for base in ["/base/v1", "/base/v1/"] {
            let target = target(base, "", false);
            check(&target, "/a", None, "/base/v1/a");
            check(&target, "/", None, "/base/v1");
            check(&target, "", None, "/base/v1");
            check(&target, "/a/", Some("x=1"), "/base/v1/a/?x=1");
        }
        check(&target("/base/", "", true), "/", None, "/base/");
        check(&target("", "", false), "/", None, "/");
        check(&target("/", "", false), "/a//b", None, "/a//b");
        check(&target("", "k=1", false), "/a", Some("x=2"), "/a?k=1&x=2");
        check(&target("", "k=1", false), "/a", None, "/a?k=1");
        check(&target("", "", false), "/a", Some(""), "/a");
    }

    #[test]
    fn targets_take_turns() {
        let targets = ["/a", "/b", "/a"].map(|path| Arc::new(target(path, "", false)));
        let upstream = Upstream::new(targets.to_vec()).expect("not empty");
        let seen: Vec<_> = (0..6)
            .map(|_| upstream.next_target().path.clone())
            .collect();
        assert_eq!(
            seen,
            [b"/a", b"/b", b"/a", b"/a", b"/b", b"/a"].map(|path| path.to_vec())
        );
        assert!(Upstream::new(Vec::new()).is_none());
    }
}
