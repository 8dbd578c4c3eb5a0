//! Fields that end at this hop (RFC 9110 §7.6.1).
//!
//! The list is that of Go's `httputil.ReverseProxy`, which Tyk keeps (`reverse_proxy.go`,
//! `hopHeaders`). Fields named in Connection come on top of it: see
//! [`RequestHead::connection_options`](super::h1::RequestHead::connection_options).

use super::h1::FieldName;

const SET: u64 = FieldName::Connection.bit()
    | FieldName::ProxyConnection.bit()
    | FieldName::KeepAlive.bit()
    | FieldName::ProxyAuthenticate.bit()
    | FieldName::ProxyAuthorization.bit()
    | FieldName::Te.bit()
    | FieldName::Trailer.bit()
    | FieldName::TransferEncoding.bit()
    | FieldName::Upgrade.bit();

/// The field is never forwarded as it came. Te and Upgrade may be written anew.
#[inline]
#[must_use]
pub const fn is_hop_by_hop(id: FieldName) -> bool {
    SET & id.bit() != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_that_of_the_reference() {
        for (name, expected) in [
            ("Connection", true),
            ("Proxy-Connection", true),
            ("Keep-Alive", true),
            ("Proxy-Authenticate", true),
            ("Proxy-Authorization", true),
            ("Te", true),
            ("Trailer", true),
            ("Transfer-Encoding", true),
            ("Upgrade", true),
            ("Host", false),
            ("Content-Length", false),
            ("Cookie", false),
            ("X-Anything", false),
        ] {
            let id = FieldName::from_bytes(name.as_bytes());
            assert_eq!(is_hop_by_hop(id), expected, "{name}");
        }
    }
}
