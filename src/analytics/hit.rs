//! What a shard tells of one request, and the bytes in which it travels to the tokio thread.
//!
//! The form is private to this process: numbers in the machine's order at fixed places, then the
//! texts one behind the other. What every record of a key carries is an [`Identity`], put into
//! bytes when its session is loaded and copied as one run.

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv6Addr},
};

use crate::analytics::{
    prepared::{KeyRuns, Tail},
    record::Latency,
};

/// One request as it ends.
#[derive(Clone, Copy)]
pub struct Hit<'a> {
    pub method: &'a [u8],
    /// Where the request went; `None` where that is the API's first target, or where it never left.
    pub host: Option<&'a [u8]>,
    /// As Tyk records it: the upstream's path for a proxied request, the inbound one without its
    /// listen path for a refusal. A leading `/` is added where there is none.
    pub path: &'a [u8],
    /// The pattern of the tracked endpoint that the request belongs to.
    pub tracked_path: Option<&'a [u8]>,
    /// Of the request; -1 when it was not told.
    pub content_length: i64,
    pub user_agent: &'a [u8],
    pub status: u16,
    /// When the record is written, in milliseconds since 1970.
    pub timestamp_ms: u64,
    /// Zero for a refusal.
    pub latency: Latency,
    pub ip: IpAddr,
    /// No field told it: it is that of all requests of the connection.
    pub is_peers_ip: bool,
    /// Empty for an API without versions.
    pub version: &'a [u8],
    /// Whose request it was; `None` for keyless ones and those that showed no good key.
    pub identity: Option<&'a Identity>,
    /// The identity at this API, put into bytes; without them the record goes the long way.
    pub key: Option<&'a KeyRuns>,
    /// What the connection's last record ended in.
    pub tail: Option<&'a RefCell<Tail>>,
    /// The request's fields, for the API's `tag_headers`.
    pub fields: &'a dyn FieldValues,
    /// The answer came from the cache.
    pub is_cached: bool,
    /// Seconds, where the organisation decides instead of the API.
    pub expire_after_s: Option<i64>,
    /// The request as it was sent upstream, where [`ApiRecorder::wants_detail`] asks for it.
    ///
    /// [`ApiRecorder::wants_detail`]: crate::analytics::ApiRecorder::wants_detail
    pub raw_request: &'a [u8],
    /// The answer with its content decoded, where there is one.
    pub raw_response: &'a [u8],
}

/// Finds values of a request's fields.
pub trait FieldValues {
    /// Calls `found` with each value of the fields called `name`, which is in lower case.
    fn each(&self, name: &str, found: &mut dyn FnMut(&[u8]));
}

/// A request whose fields nobody asks for.
#[derive(Debug, Clone, Copy)]
pub struct NoFields;

impl FieldValues for NoFields {
    fn each(&self, _: &str, _: &mut dyn FnMut(&[u8])) {}
}

/// What all records of one key have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity(Box<[u8]>);

impl Identity {
    /// `key` as it is recorded: hashed where keys are. `tags` in Tyk's order: `pol-<id>` for each
    /// policy, `dev-<id>`, then the session's own (Tyk: `getSessionTags`). Texts longer than
    /// 65,535 bytes are cut.
    #[must_use]
    pub fn new<T: AsRef<str>>(
        key: &str,
        alias: &str,
        oauth_id: &str,
        tags: impl IntoIterator<Item = T>,
    ) -> Self {
        let mut out = Vec::new();
        let key_tag = if key.is_empty() {
            String::new()
        } else {
            format!("{KEY_TAG}{key}")
        };
        put_short(&mut out, key_tag.as_bytes());
        put_short(&mut out, alias.as_bytes());
        put_short(&mut out, oauth_id.as_bytes());
        for tag in tags {
            put_short(&mut out, tag.as_ref().as_bytes());
        }
        Self(out.into())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The tag of a key is this and the key.
const KEY_TAG: &str = "key-";

/// An identity read back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identified<'a> {
    pub(crate) key: &'a [u8],
    /// Empty where there is no key.
    pub(super) key_tag: &'a [u8],
    pub(crate) alias: &'a [u8],
    pub(crate) oauth_id: &'a [u8],
    pub(super) tags: Texts<'a>,
}

impl<'a> Identified<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Self {
        let mut texts = Texts(bytes);
        let mut next = || texts.next().unwrap_or_default();
        let (key_tag, alias, oauth_id) = (next(), next(), next());
        Self {
            key: key_tag.get(KEY_TAG.len()..).unwrap_or_default(),
            key_tag,
            alias,
            oauth_id,
            tags: texts,
        }
    }
}

/// Texts with two bytes of length before each.
#[derive(Debug, Clone, Default)]
pub(super) struct Texts<'a>(&'a [u8]);

impl<'a> Iterator for Texts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk()?;
        let (text, rest) = rest.split_at_checked(u16::from_ne_bytes(*length).into())?;
        self.0 = rest;
        Some(text)
    }
}

/// Appends one of [`Texts`], cut where it is too long.
pub(super) fn put_short(out: &mut Vec<u8>, text: &[u8]) {
    let text = text.get(..usize::from(u16::MAX)).unwrap_or(text);
    out.extend_from_slice(&(text.len() as u16).to_ne_bytes());
    out.extend_from_slice(text);
}

/// Texts that travel with a hit.
const TEXTS: usize = 10;

/// Bytes that a hit takes beside its texts.
pub(super) const HEAD_BYTES: usize = 56 + 4 * TEXTS;

const IS_CACHED: u16 = 1;
const IS_TRACKED: u16 = 2;
const HAS_HOST: u16 = 4;
const HAS_IDENTITY: u16 = 8;
const EXPIRES: u16 = 16;
const IS_V4: u16 = 32;

impl Hit<'_> {
    /// Bytes that [`Hit::write`] appends.
    #[inline]
    pub(super) fn encoded_bytes(&self, header_tags: &[u8]) -> usize {
        HEAD_BYTES
            + self
                .texts(header_tags)
                .iter()
                .map(|text| text.len())
                .sum::<usize>()
    }

    #[inline]
    fn texts<'a>(&'a self, header_tags: &'a [u8]) -> [&'a [u8]; TEXTS] {
        [
            self.method,
            self.host.unwrap_or_default(),
            self.path,
            self.tracked_path.unwrap_or_default(),
            self.user_agent,
            self.version,
            self.identity.map_or(&[], Identity::bytes),
            header_tags,
            self.raw_request,
            self.raw_response,
        ]
    }

    /// Appends the hit. `api` is its API's place in the block; `header_tags` are [`Texts`].
    #[inline]
    pub(super) fn write(&self, api: u32, header_tags: &[u8], out: &mut Vec<u8>) {
        let texts = self.texts(header_tags);
        let (ip, v4) = match self.ip {
            IpAddr::V4(ip) => (ip.to_ipv6_mapped().octets(), IS_V4),
            IpAddr::V6(ip) => (ip.octets(), 0),
        };
        let flag = |is_set: bool, bit: u16| if is_set { bit } else { 0 };
        let flags = v4
            | flag(self.is_cached, IS_CACHED)
            | flag(self.tracked_path.is_some(), IS_TRACKED)
            | flag(self.host.is_some(), HAS_HOST)
            | flag(self.identity.is_some(), HAS_IDENTITY)
            | flag(self.expire_after_s.is_some(), EXPIRES);
        let mut head = Head::default();
        head.put(api.to_ne_bytes());
        head.put(self.status.to_ne_bytes());
        head.put(flags.to_ne_bytes());
        head.put(self.timestamp_ms.to_ne_bytes());
        head.put(self.content_length.to_ne_bytes());
        head.put(self.latency.total.to_ne_bytes());
        head.put(self.latency.upstream.to_ne_bytes());
        head.put(self.expire_after_s.unwrap_or(0).to_ne_bytes());
        head.put(ip);
        for text in texts {
            head.put((text.len() as u32).to_ne_bytes());
        }
        debug_assert_eq!(head.at, HEAD_BYTES);
        out.extend_from_slice(&head.bytes);
        for text in texts {
            // Most are empty: a branch costs less than a copy of nothing.
            if !text.is_empty() {
                out.extend_from_slice(text);
            }
        }
    }
}

/// The numbers of a hit in the making. Places are known to the compiler once all is inlined.
struct Head {
    bytes: [u8; HEAD_BYTES],
    at: usize,
}

impl Default for Head {
    #[inline]
    fn default() -> Self {
        let bytes = [0; HEAD_BYTES];
        Self { bytes, at: 0 }
    }
}

impl Head {
    #[inline(always)]
    fn put<const N: usize>(&mut self, number: [u8; N]) {
        if let Some(place) = self.bytes.get_mut(self.at..self.at + N) {
            place.copy_from_slice(&number);
        }
        self.at += N;
    }
}

/// A hit read back.
#[derive(Debug, Clone)]
pub(super) struct Told<'a> {
    pub(super) api: u32,
    pub(super) status: u16,
    pub(super) timestamp_ms: u64,
    pub(super) content_length: i64,
    pub(super) latency: Latency,
    pub(super) expire_after_s: Option<i64>,
    pub(super) ip: IpAddr,
    pub(super) is_cached: bool,
    pub(super) method: &'a [u8],
    pub(super) host: Option<&'a [u8]>,
    pub(super) path: &'a [u8],
    pub(super) tracked_path: Option<&'a [u8]>,
    pub(super) user_agent: &'a [u8],
    pub(super) version: &'a [u8],
    pub(super) who: Option<Identified<'a>>,
    pub(super) header_tags: Texts<'a>,
    pub(super) raw_request: &'a [u8],
    pub(super) raw_response: &'a [u8],
}

impl<'a> Told<'a> {
    /// Takes the first hit off `bytes`. `None` at the end.
    pub(super) fn read(bytes: &mut &'a [u8]) -> Option<Self> {
        let mut unread = *bytes;
        let rest = &mut unread;
        let api = u32::from_ne_bytes(take(rest)?);
        let status = u16::from_ne_bytes(take(rest)?);
        let flags = u16::from_ne_bytes(take(rest)?);
        let timestamp_ms = u64::from_ne_bytes(take(rest)?);
        let content_length = i64::from_ne_bytes(take(rest)?);
        let total = u32::from_ne_bytes(take(rest)?);
        let upstream = u32::from_ne_bytes(take(rest)?);
        let expire_after_s = i64::from_ne_bytes(take(rest)?);
        let ip = Ipv6Addr::from(take::<16>(rest)?);
        let (lengths, mut behind) = rest.split_at_checked(4 * TEXTS)?;
        let mut lengths = lengths.chunks_exact(4);
        let mut text = || {
            let length = u32::from_ne_bytes(lengths.next()?.try_into().ok()?);
            let (text, after) = behind.split_at_checked(length as usize)?;
            behind = after;
            Some(text)
        };
        let has = |bit: u16| flags & bit != 0;
        let told = Self {
            api,
            status,
            timestamp_ms,
            content_length,
            latency: Latency { total, upstream },
            expire_after_s: has(EXPIRES).then_some(expire_after_s),
            ip: match ip.to_ipv4_mapped().filter(|_| has(IS_V4)) {
                Some(ip) => IpAddr::V4(ip),
                None => IpAddr::V6(ip),
            },
            is_cached: has(IS_CACHED),
            method: text()?,
            host: Some(text()?).filter(|_| has(HAS_HOST)),
            path: text()?,
            tracked_path: Some(text()?).filter(|_| has(IS_TRACKED)),
            user_agent: text()?,
            version: text()?,
            who: Some(text()?)
                .filter(|_| has(HAS_IDENTITY))
                .map(Identified::read),
            header_tags: Texts(text()?),
            raw_request: text()?,
            raw_response: text()?,
        };
        *bytes = behind;
        Some(told)
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, behind) = bytes.split_first_chunk()?;
    *bytes = behind;
    Some(*taken)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn hit() -> Hit<'static> {
        Hit {
            method: b"GET",
            host: None,
            path: b"/x",
            tracked_path: None,
            content_length: 0,
            user_agent: b"probe/1",
            status: 200,
            timestamp_ms: 1_795_377_342_123,
            latency: Latency::default(),
            ip: IpAddr::from([127, 0, 0, 1]),
            is_peers_ip: false,
            version: b"",
            identity: None,
            key: None,
            tail: None,
            fields: &NoFields,
            is_cached: false,
            expire_after_s: None,
            raw_request: b"",
            raw_response: b"",
        }
    }

    #[track_caller]
    fn check(hit: &Hit<'_>) {
        let tags = b"\x01\x00a".map(|b| b);
        let mut out = Vec::new();
        hit.write(7, &tags, &mut out);
        assert_eq!(out.len(), hit.encoded_bytes(&tags));
        hit.write(8, &[], &mut out);
        let mut rest = out.as_slice();
        let told = Told::read(&mut rest).unwrap();
        assert_eq!(told.api, 7);
        assert_eq!(told.status, hit.status);
        assert_eq!(told.timestamp_ms, hit.timestamp_ms);
        assert_eq!(told.content_length, hit.content_length);
        assert_eq!(told.latency, hit.latency);
        assert_eq!(told.expire_after_s, hit.expire_after_s);
        assert_eq!(told.ip, hit.ip);
        assert_eq!(told.is_cached, hit.is_cached);
        assert_eq!(told.method, hit.method);
        assert_eq!(told.host, hit.host);
        assert_eq!(told.path, hit.path);
        assert_eq!(told.tracked_path, hit.tracked_path);
        assert_eq!(told.user_agent, hit.user_agent);
        assert_eq!(told.version, hit.version);
        assert_eq!(told.who.is_some(), hit.identity.is_some());
        assert_eq!(told.raw_request, hit.raw_request);
        assert_eq!(told.raw_response, hit.raw_response);
        assert_eq!(told.header_tags.collect::<Vec<_>>(), [b"a"]);
        assert_eq!(Told::read(&mut rest).unwrap().api, 8);
        assert!(rest.is_empty());
        assert!(Told::read(&mut rest).is_none());
        for end in 0..out.len() / 2 {
            assert!(Told::read(&mut &out[..end]).is_none());
        }
    }

    #[test]
    fn what_is_told_is_read_back() {
        check(&hit());
        let identity = Identity::new("k", "bob", "", ["t"]);
        check(&Hit {
            host: Some(b""),
            tracked_path: Some(b"/{id}"),
            content_length: -1,
            latency: Latency {
                total: u32::MAX,
                upstream: 1,
            },
            ip: "2001:db8::1".parse().unwrap(),
            version: b"v1",
            identity: Some(&identity),
            is_cached: true,
            expire_after_s: Some(-1),
            raw_request: &vec![1; 70_000],
            raw_response: b"r",
            ..hit()
        });
        let mapped = "::ffff:1.2.3.4".parse().unwrap();
        check(&Hit {
            ip: mapped,
            ..hit()
        });
    }

    #[test]
    fn an_identity_holds_what_it_was_made_of() {
        #[track_caller]
        fn check(key: &str, key_tag: &str, tags: &[&str]) {
            let identity = Identity::new(key, "al", "cl", tags);
            let who = Identified::read(identity.bytes());
            assert_eq!(who.key, key.as_bytes());
            assert_eq!(who.key_tag, key_tag.as_bytes());
            assert_eq!((who.alias, who.oauth_id), (&b"al"[..], &b"cl"[..]));
            let found: Vec<_> = who.tags.collect();
            assert_eq!(found, tags.iter().map(|t| t.as_bytes()).collect::<Vec<_>>());
        }
        check("abc", "key-abc", &["pol-1", "", "t"]);
        check("", "", &[]);
        let long = Identity::new("", &"a".repeat(70_000), "", ["t"]);
        let who = Identified::read(long.bytes());
        assert_eq!(who.alias.len(), 65_535);
        assert_eq!(who.tags.count(), 1);
    }
}
