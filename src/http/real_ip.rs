//! The client's address as Tyk sees it (`request/real_ip.go`): X-Real-IP if it is an address, else
//! the first element of X-Forwarded-For if it is one, else the peer of the connection.
//!
//! Both fields are taken from anybody. Whether a peer may be believed is decided by the caller,
//! who does not ask for a peer that may not.

use std::net::IpAddr;

use super::h1::{FieldName, Fields, Span};

/// The address of the client, and where its text stands when a field gave it.
///
/// The text is not trimmed (Tyk quirk: ` 1.2.3.4` in X-Forwarded-For does not count), and only the
/// first field of a name is looked at. IPv4 in IPv6 form comes back as IPv4, as in Go.
#[must_use]
pub fn real_ip(fields: &Fields, buf: &[u8], peer: IpAddr) -> (IpAddr, Option<Span>) {
    if let Some(value) = fields.value(FieldName::XRealIp)
        && let Some(ip) = parse(value.of(buf))
    {
        return (ip, Some(value));
    }
    if let Some(value) = fields.value(FieldName::XForwardedFor) {
        let list = value.of(buf);
        let len = memchr::memchr(b',', list).unwrap_or(list.len());
        if let Some(ip) = parse(list.get(..len).unwrap_or_default()) {
            let len = len as u32;
            return (ip, Some(Span { len, ..value }));
        }
    }
    (peer.to_canonical(), None)
}

fn parse(text: &[u8]) -> Option<IpAddr> {
    let ip: IpAddr = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::h1::{Limits, RequestHead};

    #[test]
    fn the_fields_count_in_tyks_order() {
        #[track_caller]
        fn check(fields: &str, ip: &str, text: Option<&str>) {
            let buf = format!("GET / HTTP/1.0\r\n{fields}\r\n").into_bytes();
            let mut head = RequestHead::default();
            head.parse(&buf, &mut 0, &Limits::default()).unwrap();
            let peer = "::ffff:9.9.9.9".parse().unwrap();
            let (found, span) = real_ip(&head.fields, &buf, peer);
            assert_eq!(found, ip.parse::<IpAddr>().unwrap(), "{fields}");
            assert_eq!(
                span.map(|s| s.of(&buf)),
                text.map(str::as_bytes),
                "{fields}"
            );
        }
        check("", "9.9.9.9", None);
        check(
            "X-Real-IP: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\n",
            "1.2.3.4",
            Some("1.2.3.4"),
        );
        check(
            "X-Real-IP: x\r\nX-Forwarded-For: 5.6.7.8\r\n",
            "5.6.7.8",
            Some("5.6.7.8"),
        );
        check(
            "X-Real-IP:\r\nX-Forwarded-For: 5.6.7.8, 1.1.1.1\r\n",
            "5.6.7.8",
            Some("5.6.7.8"),
        );
        check("X-Forwarded-For: 5.6.7.8 , 1.1.1.1\r\n", "9.9.9.9", None);
        check("X-Forwarded-For: a, 1.1.1.1\r\n", "9.9.9.9", None);
        check(
            "X-Forwarded-For: 2001:DB8::1\r\n",
            "2001:db8::1",
            Some("2001:DB8::1"),
        );
        check(
            "X-Real-IP: ::ffff:1.2.3.4\r\n",
            "1.2.3.4",
            Some("::ffff:1.2.3.4"),
        );
        check("X-Real-IP: 01.2.3.4\r\n", "9.9.9.9", None);
        check(
            "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\n",
            "1.1.1.1",
            Some("1.1.1.1"),
        );
    }
}
