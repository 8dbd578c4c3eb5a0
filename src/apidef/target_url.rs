//! Target URLs as Go reads them, so that an API which Tyk skips is skipped here and for the same
//! reason.
//!
//! Go: `net/url` (`Parse`). This only judges; the upstream side parses again for its own needs.

/// What a target names. Empty where the URL has no such part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// As written; compare without case.
    pub scheme: &'a str,
    /// Host and port, without user information.
    pub host: &'a str,
}

impl<'a> Target<'a> {
    /// Reads a URL.
    ///
    /// # Errors
    /// Where Go's `url.Parse` fails, its reason. An empty text is no fault.
    pub fn parse(text: &'a str) -> Result<Self, String> {
        if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return Err("invalid control character in URL".to_owned());
        }
        let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
        check_escapes(fragment)?;
        let (scheme, rest) = split_scheme(text)?;
        let (rest, _query) = rest.split_once('?').unwrap_or((rest, ""));
        if !rest.starts_with('/') {
            if !scheme.is_empty() {
                // `localhost:8080`: an opaque URL without a host.
                return Ok(Self { scheme, host: "" });
            }
            let first = rest.split('/').next().unwrap_or_default();
            if first.contains(':') {
                return Err("first path segment in URL cannot contain colon".to_owned());
            }
        }
        let has_authority =
            rest.starts_with("//") && (!scheme.is_empty() || !rest.starts_with("///"));
        let (authority, path) = match rest.get(2..) {
            Some(after) if has_authority => after.split_at(after.find('/').unwrap_or(after.len())),
            _ => ("", rest),
        };
        check_escapes(path)?;
        let host = match authority.rsplit_once('@') {
            Some((user, host)) => {
                check_user(user)?;
                host
            }
            None => authority,
        };
        check_host(host)?;
        Ok(Self { scheme, host })
    }
}

fn split_scheme(text: &str) -> Result<(&str, &str), String> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            b':' => {
                let (scheme, rest) = text.split_at(at);
                return Ok((scheme, rest.get(1..).unwrap_or_default()));
            }
            _ => break,
        }
    }
    Ok(("", text))
}

fn check_escapes(text: &str) -> Result<(), String> {
    for (at, _) in text.match_indices('%') {
        let escape = text.as_bytes().get(at + 1..at + 3).unwrap_or_default();
        if escape.len() < 2 || !escape.iter().all(u8::is_ascii_hexdigit) {
            return Err("invalid URL escape".to_owned());
        }
    }
    Ok(())
}

fn check_user(user: &str) -> Result<(), String> {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b);
    if !user.bytes().all(is_allowed) {
        return Err("invalid userinfo".to_owned());
    }
    check_escapes(user)
}

fn check_host(host: &str) -> Result<(), String> {
    let port = if host.starts_with('[') {
        let Some((_, port)) = host.rsplit_once(']') else {
            return Err("missing ']' in host".to_owned());
        };
        port
    } else {
        host.rfind(':')
            .and_then(|at| host.get(at..))
            .unwrap_or_default()
    };
    let is_port = match port.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_digit()),
        None => port.is_empty(),
    };
    if !is_port {
        return Err(format!("invalid port {port:?} after host"));
    }
    for (at, byte) in host.bytes().enumerate() {
        let is_allowed = byte >= 0x80
            || byte.is_ascii_alphanumeric()
            || b"-_.~!$&'()*+,;=:[]<>\"".contains(&byte);
        if byte == b'%' {
            // Only bytes that are no ASCII, and `%25` of an IPv6 zone, may be escaped in a host.
            let escape = host.as_bytes().get(at + 1..at + 3).unwrap_or_default();
            let is_hex = escape.len() == 2 && escape.iter().all(u8::is_ascii_hexdigit);
            let is_high = escape.first().is_some_and(|b| *b > b'7');
            if !is_hex || !(is_high || escape == b"25") {
                return Err("invalid URL escape".to_owned());
            }
        } else if !is_allowed {
            return Err(format!(
                "invalid character {:?} in host name",
                char::from(byte)
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, scheme: &str, host: &str) {
        assert_eq!(Target::parse(text), Ok(Target { scheme, host }), "{text}");
    }

    #[track_caller]
    fn refused(text: &str, reason: &str) {
        assert_eq!(Target::parse(text), Err(reason.to_owned()), "{text}");
    }

    #[test]
    fn what_go_accepts_is_accepted() {
        check("", "", "");
        check("http://127.0.0.1:8080/base?q=1", "http", "127.0.0.1:8080");
        check("https://user:pa%20ss@example.com", "https", "example.com");
        check("http://[::1]:80/x", "http", "[::1]:80");
        check("http://[fe80::1%25eth0]/", "http", "[fe80::1%25eth0]");
        check("localhost:8080", "localhost", "");
        check("example.com/path", "", "");
        check("//example.com/path", "", "example.com");
        check("///path", "", "");
        check("tyk://self/x", "tyk", "self");
        check("http://bücher.example/", "http", "bücher.example");
        check("http://host:/x", "http", "host:");
        check("http://h/a%2Fb", "http", "h");
    }

    #[test]
    fn what_go_refuses_is_refused() {
        refused("::not a url::", "missing protocol scheme");
        refused("http://a b/", "invalid character ' ' in host name");
        refused("http://h:80x/", "invalid port \":80x\" after host");
        refused("http://[::1/", "missing ']' in host");
        refused("http://h/%zz", "invalid URL escape");
        refused("http://h/%2", "invalid URL escape");
        refused("http://h%41/", "invalid URL escape");
        refused("http://h/\n", "invalid control character in URL");
        refused(
            "127.0.0.1:8080/x",
            "first path segment in URL cannot contain colon",
        );
        refused("http://a b@h/", "invalid userinfo");
        refused("http://{{.Host}}/", "invalid character '{' in host name");
    }
}
