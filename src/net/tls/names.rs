//! The host names that a certificate is for: its subject's common name and its DNS names.
//!
//! rustls checks names but does not list them, and Tyk chooses certificates by this list
//! (`gateway/cert.go`). Only the few DER fields on the way are read (RFC 5280 §4.1); whatever is
//! not understood ends the search without an error, because rustls judges the certificate itself.

/// Lists CN and SAN DNS names, as written.
pub(super) fn dns_names(certificate: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let _ = collect(certificate, &mut names);
    names.dedup();
    names
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
/// `[0]` explicit: the version of a certificate.
const VERSION: u8 = 0xa0;
/// `[3]` explicit: its extensions.
const EXTENSIONS: u8 = 0xa3;
/// `[2]` implicit in a GeneralName: a DNS name.
const DNS_NAME: u8 = 0x82;

const ID_COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ID_SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

fn collect(certificate: &[u8], names: &mut Vec<String>) -> Option<()> {
    let (tag, certificate, _) = element(certificate)?;
    let (inner_tag, mut rest, _) = element(certificate)?;
    if (tag, inner_tag) != (SEQUENCE, SEQUENCE) {
        return None;
    }
    if element(rest)?.0 == VERSION {
        rest = element(rest)?.2;
    }
    // serialNumber, signature, issuer, validity
    for _ in 0..4 {
        rest = element(rest)?.2;
    }
    let (_, subject, after) = element(rest)?;
    for (tag, relative_name) in elements(subject) {
        if tag == SET {
            for (_, attribute) in elements(relative_name) {
                let (_, id, value) = element(attribute)?;
                if id == ID_COMMON_NAME {
                    names.extend(text(element(value)?.1));
                }
            }
        }
    }
    let (_, extensions) = elements(after).find(|(tag, _)| *tag == EXTENSIONS)?;
    for (_, extension) in elements(element(extensions)?.1) {
        let (tag, id, _) = element(extension)?;
        if (tag, id) != (OBJECT_ID, ID_SUBJECT_ALT_NAME) {
            continue;
        }
        let (_, octets) = elements(extension).find(|(tag, _)| *tag == OCTET_STRING)?;
        for (tag, name) in elements(element(octets)?.1) {
            if tag == DNS_NAME {
                names.extend(text(name));
            }
        }
    }
    Some(())
}

/// Tag, content and what follows, of the first element. Lengths up to four bytes.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, short], mut rest) = bytes.split_first_chunk::<2>()?;
    let mut length = usize::from(short);
    if short >= 0x80 {
        let count = usize::from(short & 0x7f);
        if !(1..=4).contains(&count) {
            return None;
        }
        let (digits, after) = rest.split_at_checked(count)?;
        length = digits
            .iter()
            .fold(0, |sum, digit| (sum << 8) | usize::from(*digit));
        rest = after;
    }
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// Tag and content of each element in turn.
fn elements(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (tag, content, rest) = element(bytes)?;
        bytes = rest;
        Some((tag, content))
    })
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec())
        .ok()
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{CertificateDer, pem::PemObject};

    use super::*;

    fn fixture(name: &str) -> Vec<u8> {
        let path = format!(
            "{}/tests/conformance/fixtures/{name}",
            env!("CARGO_MANIFEST_DIR")
        );
        CertificateDer::from_pem_file(path)
            .expect("a certificate")
            .to_vec()
    }

    #[test]
    fn common_name_and_dns_names_are_listed() {
        assert_eq!(
            dns_names(&fixture("client1.crt")),
            ["client1", "localhost", "client1"]
        );
        assert_eq!(dns_names(&fixture("server.crt")), ["localhost"]);
        assert_eq!(dns_names(&fixture("ca.crt")), ["conformance-ca"]);
    }

    #[test]
    fn no_damaged_certificate_is_read_beyond_its_end() {
        let whole = fixture("client1.crt");
        for end in 0..whole.len() {
            dns_names(&whole[..end]);
        }
        for at in 0..whole.len() {
            for value in [0x00, 0x7f, 0x80, 0x84, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                dns_names(&damaged);
            }
        }
    }
}
