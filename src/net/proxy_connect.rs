//! Upstreams behind an HTTP proxy: which proxy, how it is asked, and the CONNECT tunnel.
//!
//! An `http` target is asked for in absolute form (RFC 9112 §3.2.2), an `https` target through a
//! tunnel (RFC 9110 §9.3.6). Tyk: `proxy.transport.proxy_url`, else the environment as Go's
//! `http.ProxyFromEnvironment` reads it (golang.org/x/net/http/httpproxy).

use std::{
    fmt, io,
    net::{IpAddr, Ipv6Addr},
};

use crate::{
    http::h1::{Limits, Progress, ResponseHead},
    net::io::Transport,
};

/// Head of a proxy's answer to CONNECT.
const HEAD_LIMITS: Limits = Limits {
    request_line_bytes_max: 4 * 1024,
    head_bytes_max: 16 * 1024,
    fields_max: 64,
    trailer_bytes_max: 0,
    trailer_fields_max: 0,
    chunk_extension_bytes_max: 0,
};

/// An HTTP proxy.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HttpProxy {
    /// Name or address, without brackets.
    pub host: String,
    pub port: u16,
    /// Value of Proxy-Authorization (RFC 7617), to be sent with absolute-form requests.
    pub authorization: Option<String>,
}

/// How a request reaches its target through a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The request goes to the proxy with the whole URL as its target, and Proxy-Authorization.
    Absolute,
    /// A tunnel is opened first ([`HttpProxy::open_tunnel`]); the request is the usual one.
    Tunnel,
}

impl HttpProxy {
    /// Reads `http://user:password@host:port`; scheme, credentials and port may be missing.
    ///
    /// # Errors
    /// One line, without the credentials.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(format!(
                "a proxy of scheme `{scheme}` is not supported; use http://"
            ));
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        let (host, port) = split_port(place);
        let port = match port {
            None | Some("") => 80,
            Some(port) => port
                .parse()
                .map_err(|_| format!("`{port}` is no port of a proxy"))?,
        };
        if host.is_empty() || host.contains(|c: char| c.is_control() || c == ' ') {
            return Err(format!("`{place}` is no address of a proxy"));
        }
        let authorization = user.map(|user| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            let mut plain = decode_percent(name);
            plain.push(b':');
            plain.extend(decode_percent(password));
            format!("Basic {}", base64(&plain))
        });
        Ok(Self {
            host: host.to_owned(),
            port,
            authorization,
        })
    }

    /// How a target is asked for.
    #[must_use]
    pub fn form(is_https: bool) -> Form {
        if is_https {
            Form::Tunnel
        } else {
            Form::Absolute
        }
    }

    /// Turns a connection to this proxy into one to `host`:`port`. The caller sets a deadline by
    /// shutting the connection down.
    ///
    /// # Errors
    /// The proxy's status when it refuses, invalid data when its answer is not HTTP or has more
    /// than a head, unexpected EOF.
    pub async fn open_tunnel(
        &self,
        connection: &impl Transport,
        host: &str,
        port: u16,
    ) -> io::Result<()> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains(|c: char| c.is_control() || c == ' ') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let target = match host.parse::<Ipv6Addr>() {
            Ok(_) => format!("[{host}]:{port}"),
            Err(_) => format!("{host}:{port}"),
        };
        let authorization = match &self.authorization {
            Some(value) => format!("Proxy-Authorization: {value}\r\n"),
            None => String::new(),
        };
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n");
        connection.write_all(request.into_bytes(), 0).await.0?;

        let mut head = Vec::with_capacity(1024);
        loop {
            let result;
            (result, head) = connection.read(head).await;
            if result? == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the proxy closed the connection instead of opening a tunnel",
                ));
            }
            if let Some(answer) = tunnel_answer(&head) {
                return answer.map_err(|text| io::Error::new(io::ErrorKind::InvalidData, text));
            }
            if head.len() == head.capacity() {
                head.reserve(head.len());
            }
        }
    }
}

/// Never prints the credentials.
impl fmt::Debug for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpProxy")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// What a proxy answered to CONNECT; `None` while the head is not complete.
fn tunnel_answer(bytes: &[u8]) -> Option<Result<(), String>> {
    let mut answer = ResponseHead::default();
    match answer.parse(bytes, &mut 0, &HEAD_LIMITS, false) {
        Ok(Progress::Complete) => {}
        Ok(Progress::Partial) => return None,
        Err(_) if bytes.len() >= HEAD_LIMITS.head_bytes_max => {
            return Some(Err("the proxy's answer is too long".to_owned()));
        }
        Err(refusal) => {
            return Some(Err(format!(
                "the proxy's answer is not HTTP: {}",
                refusal.why
            )));
        }
    }
    Some(match answer.status {
        200..=299 if answer.len == bytes.len() => Ok(()),
        // Nobody was asked anything yet: bytes here are not the target's.
        200..=299 => Err("the proxy sent bytes of its own into the tunnel".to_owned()),
        status => Err(format!(
            "the proxy refused the tunnel: {status} {}",
            String::from_utf8_lossy(answer.reason.of(bytes))
        )),
    })
}

/// Proxies of the environment, read once at start.
#[derive(Debug, Clone, Default)]
pub struct ProxyEnv {
    http: Option<HttpProxy>,
    https: Option<HttpProxy>,
    exceptions: Vec<Exception>,
}

impl ProxyEnv {
    /// Reads HTTP_PROXY, HTTPS_PROXY and NO_PROXY, or their names in small letters, by `var`.
    ///
    /// # Errors
    /// One line that names the variable.
    pub fn read(var: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let either = |upper: &str, lower: &str| {
            [upper, lower]
                .into_iter()
                .find_map(|name| var(name).filter(|value| !value.is_empty()))
        };
        let proxy = |upper: &str, lower: &str| {
            either(upper, lower)
                .map(|text| HttpProxy::parse(&text).map_err(|e| format!("{upper}: {e}")))
                .transpose()
        };
        // A CGI server sets HTTP_PROXY from a client's `Proxy` header (httpoxy).
        let is_cgi = var("REQUEST_METHOD").is_some_and(|value| !value.is_empty());
        Ok(Self {
            http: if is_cgi {
                None
            } else {
                proxy("HTTP_PROXY", "http_proxy")?
            },
            https: proxy("HTTPS_PROXY", "https_proxy")?,
            exceptions: either("NO_PROXY", "no_proxy")
                .unwrap_or_default()
                .split(',')
                .filter_map(Exception::parse)
                .collect(),
        })
    }

    /// The proxy for a target; this machine itself is never asked for through one.
    #[must_use]
    pub fn find(&self, is_https: bool, host: &str, port: u16) -> Option<&HttpProxy> {
        let proxy = if is_https { &self.https } else { &self.http };
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .trim()
            .to_ascii_lowercase();
        let ip: Option<IpAddr> = host.parse().ok();
        let is_local = host == "localhost" || ip.is_some_and(|ip| ip.to_canonical().is_loopback());
        if is_local || self.exceptions.iter().any(|e| e.covers(&host, port, ip)) {
            return None;
        }
        proxy.as_ref()
    }
}

/// One entry of NO_PROXY.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    /// `*`
    All,
    /// `10.0.0.0/8`
    Net(IpAddr, u8),
    /// `10.1.2.3`, with a port or without
    Ip(IpAddr, Option<u16>),
    /// `example.com` (also below it), `.example.com` and `*.example.com` (only below it)
    Domain {
        /// With the leading dot.
        suffix: String,
        also_itself: bool,
        port: Option<u16>,
    },
}

impl Exception {
    /// `None` for an entry that says nothing, as in Go.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        if text == "*" {
            return Some(Self::All);
        }
        if let Some((net, bits)) = text.split_once('/')
            && let (Ok(net), Ok(bits)) = (net.parse::<IpAddr>(), bits.parse::<u8>())
            && bits <= if net.is_ipv4() { 32 } else { 128 }
        {
            return Some(Self::Net(net, bits));
        }
        if let Ok(ip) = text.parse() {
            return Some(Self::Ip(ip, None));
        }
        let (host, port) = split_port(&text);
        let port = match port {
            None => None,
            Some(port) => Some(port.parse().ok()?),
        };
        if let Ok(ip) = host.parse() {
            return Some(Self::Ip(ip, port));
        }
        let host = host
            .strip_prefix('*')
            .filter(|h| h.starts_with('.'))
            .unwrap_or(host);
        if host.is_empty() {
            return None;
        }
        let also_itself = !host.starts_with('.');
        let suffix = if also_itself {
            format!(".{host}")
        } else {
            host.to_owned()
        };
        Some(Self::Domain {
            suffix,
            also_itself,
            port,
        })
    }

    fn covers(&self, host: &str, port: u16, ip: Option<IpAddr>) -> bool {
        match self {
            Self::All => true,
            Self::Net(net, bits) => ip.is_some_and(|ip| is_inside(ip, *net, *bits)),
            Self::Ip(own, own_port) => {
                ip.is_some_and(|ip| ip.to_canonical() == own.to_canonical())
                    && own_port.is_none_or(|p| p == port)
            }
            Self::Domain {
                suffix,
                also_itself,
                port: own_port,
            } => {
                let same = *also_itself && suffix.strip_prefix('.') == Some(host);
                (same || host.ends_with(suffix.as_str())) && own_port.is_none_or(|p| p == port)
            }
        }
    }
}

fn is_inside(ip: IpAddr, net: IpAddr, bits: u8) -> bool {
    match (ip.to_canonical(), net) {
        (IpAddr::V4(ip), IpAddr::V4(net)) => {
            let shift = 32 - u32::from(bits);
            u64::from(ip.to_bits()) >> shift == u64::from(net.to_bits()) >> shift
        }
        (IpAddr::V6(ip), IpAddr::V6(net)) => {
            bits == 0 || (ip.to_bits() ^ net.to_bits()) >> (128 - u32::from(bits)) == 0
        }
        _ => false,
    }
}

/// `host`, `host:port`, `[v6]:port` or a bare IPv6 address, taken apart.
fn split_port(place: &str) -> (&str, Option<&str>) {
    if let Some(rest) = place.strip_prefix('[')
        && let Some((host, after)) = rest.split_once(']')
    {
        return (host, after.strip_prefix(':'));
    }
    match place.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(port)),
        _ => (place, None),
    }
}

/// RFC 3986 §2.1; a `%` that starts no code stays.
fn decode_percent(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.split_at_checked(2).and_then(|(code, after)| {
            let value = std::str::from_utf8(code)
                .ok()
                .filter(|code| code.bytes().all(|b| b.is_ascii_hexdigit()))
                .and_then(|code| u8::from_str_radix(code, 16).ok())?;
            Some((value, after))
        });
        match (first, code) {
            (b'%', Some((value, after))) => {
                out.push(value);
                rest = after;
            }
            _ => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

/// RFC 4648 §4, with padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letter = |bits: u32| {
        LETTERS
            .get((bits & 63) as usize)
            .copied()
            .map_or('=', char::from)
    };
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |i: usize| group.get(i).copied().map_or(0, u32::from);
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        out.push(letter(bits >> 18));
        out.push(letter(bits >> 12));
        out.push(if group.len() > 1 {
            letter(bits >> 6)
        } else {
            '='
        });
        out.push(if group.len() > 2 { letter(bits) } else { '=' });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{
        io::tests::{on_both_drivers, pair},
        sys::Half,
    };

    #[track_caller]
    fn check_parse(text: &str, expected: Result<(&str, u16, Option<&str>), &str>) {
        match (HttpProxy::parse(text), expected) {
            (Ok(proxy), Ok((host, port, authorization))) => {
                assert_eq!((proxy.host.as_str(), proxy.port), (host, port), "{text}");
                assert_eq!(proxy.authorization.as_deref(), authorization, "{text}");
            }
            (Err(e), Err(part)) => assert!(e.contains(part), "{text}: {e}"),
            (got, _) => panic!("{text}: {got:?}"),
        }
    }

    #[test]
    fn a_proxy_is_read_from_a_url() {
        check_parse("http://proxy:3128", Ok(("proxy", 3128, None)));
        check_parse("proxy.example", Ok(("proxy.example", 80, None)));
        check_parse("10.0.0.1:8080", Ok(("10.0.0.1", 8080, None)));
        check_parse("http://[::1]:8080/", Ok(("::1", 8080, None)));
        check_parse("HTTP://u:p@proxy:1/x", Ok(("proxy", 1, Some("Basic dTpw"))));
        check_parse("http://u@proxy", Ok(("proxy", 80, Some("Basic dTo="))));
        check_parse(
            "http://a%40b:%2f%@proxy",
            Ok(("proxy", 80, Some("Basic YUBiOi8l"))),
        );
        check_parse("https://proxy", Err("not supported"));
        check_parse("socks5://proxy", Err("not supported"));
        check_parse("http://proxy:port", Err("no port"));
        check_parse("http://u:secret@", Err("no address"));
        assert!(!format!("{:?}", HttpProxy::parse("http://u:p@h")).contains("dTpw"));
    }

    #[track_caller]
    fn check_env(no_proxy: &str, host: &str, port: u16, used: bool) {
        let env = ProxyEnv::read(|name| match name {
            "HTTP_PROXY" => Some("plain:1".into()),
            "https_proxy" => Some("secure:2".into()),
            "no_proxy" => Some(no_proxy.into()),
            _ => None,
        })
        .expect("readable");
        let plain = env.find(false, host, port).map(|p| p.host.as_str());
        let secure = env.find(true, host, port).map(|p| p.host.as_str());
        assert_eq!(plain, used.then_some("plain"), "{no_proxy:?} {host}:{port}");
        assert_eq!(
            secure,
            used.then_some("secure"),
            "{no_proxy:?} {host}:{port}"
        );
    }

    #[test]
    fn the_environment_is_read_as_go_reads_it() {
        check_env("", "example.com", 80, true);
        check_env("", "localhost", 80, false);
        check_env("", "127.9.9.9", 80, false);
        check_env("", "[::1]", 80, false);
        check_env("*", "example.com", 80, false);
        check_env("example.com", "example.com", 80, false);
        check_env("example.com", "a.EXAMPLE.com", 80, false);
        check_env("example.com", "badexample.com", 80, true);
        check_env(".example.com", "example.com", 80, true);
        check_env(".example.com", "a.example.com", 80, false);
        check_env("*.example.com", "example.com", 80, true);
        check_env("*.example.com", "a.b.example.com", 80, false);
        check_env("example.com:81", "example.com", 80, true);
        check_env("example.com:81", "example.com", 81, false);
        check_env("other, 10.0.0.0/8 ,", "10.200.3.4", 80, false);
        check_env("10.0.0.0/8", "11.0.0.1", 80, true);
        check_env("10.0.0.0/8", "::ffff:10.0.0.1", 80, false);
        check_env("2001:db8::/32", "2001:db8:1::1", 80, false);
        check_env("2001:db8::/32", "2001:db9::1", 80, true);
        check_env("0.0.0.0/0,::/0", "8.8.8.8", 80, false);
        check_env("192.168.1.1", "192.168.1.1", 443, false);
        check_env("192.168.1.1:443", "192.168.1.1", 80, true);
        check_env("[2001:db8::1]:80", "2001:db8::1", 80, false);
        check_env(":80,10.0.0.0/99", "example.com", 80, true);
    }

    #[test]
    fn a_cgi_environment_sets_no_proxy_for_plain_targets() {
        let env = ProxyEnv::read(|name| match name {
            "HTTP_PROXY" | "HTTPS_PROXY" => Some("evil:1".into()),
            "REQUEST_METHOD" => Some("GET".into()),
            _ => None,
        })
        .expect("readable");
        assert!(env.find(false, "example.com", 80).is_none());
        assert!(env.find(true, "example.com", 443).is_some());
        let error = ProxyEnv::read(|name| (name == "HTTPS_PROXY").then(|| "socks5://x".into()));
        assert!(error.expect_err("refused").starts_with("HTTPS_PROXY: "));
    }

    async fn ask(answer: &'static [&[u8]], host: &str) -> (Result<(), String>, String) {
        let (near, far) = pair().await;
        let proxy = HttpProxy::parse("http://u:p@proxy").expect("a proxy");
        let serving = monoio::spawn(async move {
            let mut buf = Vec::with_capacity(4096);
            while !buf.ends_with(b"\r\n\r\n") {
                let result;
                (result, buf) = far.read(buf).await;
                if result.expect("reads") == 0 {
                    break;
                }
            }
            for part in answer {
                far.write_all(part.to_vec(), 0).await.0.expect("writes");
                monoio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            far.shutdown(Half::Write);
            String::from_utf8(buf).expect("text")
        });
        let opened = proxy.open_tunnel(&near, host, 443).await;
        near.shutdown(Half::Write);
        (opened.map_err(|e| e.to_string()), serving.await)
    }

    #[test]
    fn a_tunnel_is_asked_for_and_opened() {
        on_both_drivers(|| async {
            let (opened, request) =
                ask(&[b"HTTP/1.1 200 OK\r\nA: b\r", b"\n\r\n"], "api.example").await;
            assert_eq!(opened, Ok(()));
            assert_eq!(
                request,
                "CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n\
                 Proxy-Authorization: Basic dTpw\r\n\r\n"
            );
            let (_, request) = ask(&[b"HTTP/1.1 200 OK\r\n\r\n"], "2001:db8::1").await;
            assert!(request.starts_with("CONNECT [2001:db8::1]:443 HTTP/1.1\r\n"));
        });
    }

    #[test]
    fn every_other_answer_is_a_refusal_that_says_why() {
        on_both_drivers(|| async {
            const REFUSALS: &[(&[&[u8]], &str)] = &[
                (
                    &[b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"],
                    "407 Proxy",
                ),
                (&[b"HTTP/1.1 200 OK\r\n\r\nmore"], "bytes of its own"),
                (&[b"SSH-2.0-x\r\n"], "not HTTP"),
                (&[b"HTTP/1.1 200"], "closed"),
                (
                    &[
                        b"HTTP/1.1 200 OK\r\nA: ",
                        &[b'a'; HEAD_LIMITS.head_bytes_max],
                    ],
                    "too long",
                ),
            ];
            for (answer, text) in REFUSALS {
                let (opened, _) = ask(answer, "api.example").await;
                let error = opened.expect_err("refused");
                assert!(error.contains(text), "{error}");
            }
        });
    }

    #[test]
    fn a_host_cannot_smuggle_a_line_into_the_request() {
        on_both_drivers(|| async {
            let (opened, request) = ask(&[], "a\r\nEvil: 1").await;
            assert!(opened.is_err() && request.is_empty());
        });
    }
}
