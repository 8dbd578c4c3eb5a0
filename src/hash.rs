//! Key ids and their hashes: how a presented key becomes the name its session is stored under.
//!
//! A key is either *legacy*, the organisation's id followed by an id, or a token: the base64 of
//! `{"org":"…","id":"…","h":"…"}`, whose `h` names the function that hashes it. Names must be Tyk's
//! byte for byte, because gateways of both kinds read the same store.
//!
//! Tyk: `storage/storage.go` (`GenerateToken`, `TokenOrg`, `TokenHashAlgo`, `HashStr`, `HashKey`),
//! `gateway/auth_manager.go` (`SessionDetail`, `generateToken`).

use std::{borrow::Cow, io};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};

/// A hash function for keys and for passwords of basic authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashFn {
    Murmur32,
    Murmur64,
    Murmur128,
    Sha256,
}

impl HashFn {
    /// The function of a name in `tyk.conf` or in a token. The empty name is none.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "murmur32" => Self::Murmur32,
            "murmur64" => Self::Murmur64,
            "murmur128" => Self::Murmur128,
            "sha256" => Self::Sha256,
            _ => return None,
        })
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Murmur32 => "murmur32",
            Self::Murmur64 => "murmur64",
            Self::Murmur128 => "murmur128",
            Self::Sha256 => "sha256",
        }
    }

    /// Lower-case hexadecimal digits of the hash: 8, 16, 32 or 64.
    #[must_use]
    pub fn hex(self, text: &str) -> String {
        match self {
            Self::Murmur32 => format!("{:08x}", murmur32(text.as_bytes())),
            Self::Murmur64 => format!("{:016x}", murmur128(text.as_bytes()).0),
            Self::Murmur128 => {
                let (high, low) = murmur128(text.as_bytes());
                format!("{high:016x}{low:016x}")
            }
            Self::Sha256 => format!("{:x}", Sha256::digest(text.as_bytes())),
        }
    }
}

/// The name that a key's session and counters bear: its hash, or the key itself while `hash_keys`
/// is off. A token says how it is hashed; all else takes murmur32.
#[must_use]
pub fn hash_key(key: &str, is_hashed: bool) -> Cow<'_, str> {
    if is_hashed {
        let function = token_hash_fn(key).unwrap_or(HashFn::Murmur32);
        Cow::Owned(function.hex(key))
    } else {
        Cow::Borrowed(key)
    }
}

/// The key of an id in an organisation: a token where there is a function, else a legacy key.
///
/// Org and id stand in the token as they are, without JSON's escapes, as in Tyk.
#[must_use]
pub fn generate_token(org: &str, id: &str, function: Option<HashFn>) -> String {
    match function {
        Some(function) => {
            let h = function.name();
            STANDARD.encode(format!(r#"{{"org":"{org}","id":"{id}","h":"{h}"}}"#))
        }
        None => format!("{org}{id}"),
    }
}

/// A new id: 32 hexadecimal digits, a random UUID (RFC 9562 §5.4) without its dashes.
///
/// # Errors
/// The kernel has no random bytes to give.
pub fn random_id() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let mut number = u128::from_be_bytes(bytes);
    number = number & !(0xf << 76) | (0x4 << 76);
    number = number & !(0x3 << 62) | (0x2 << 62);
    Ok(format!("{number:032x}"))
}

/// The organisation that a key names: that of a token, or the 24 hexadecimal digits in front of a
/// longer legacy key. Any other legacy key names none.
#[must_use]
pub fn token_org(key: &str) -> Option<String> {
    if let Some(org) = token_member(key, Member::Org) {
        return Some(org);
    }
    const OBJECT_ID_LEN: usize = 24;
    let (id, rest) = key.split_at_checked(OBJECT_ID_LEN)?;
    (!rest.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id.to_owned())
}

/// The id inside a token; `None` for a legacy key.
#[must_use]
pub fn token_id(key: &str) -> Option<String> {
    token_member(key, Member::Id)
}

/// The function that a token names; `None` for a legacy key and for a name that is not known.
#[must_use]
pub fn token_hash_fn(key: &str) -> Option<HashFn> {
    HashFn::parse(&token_member(key, Member::Hash)?)
}

#[derive(Clone, Copy)]
enum Member {
    Org,
    Id,
    Hash,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Token {
    org: Option<String>,
    id: Option<String>,
    h: Option<String>,
}

fn token_member(key: &str, member: Member) -> Option<String> {
    // Base64 of `{"`.
    if !key.starts_with("ey") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(key).ok()?).ok()?;
    if let Ok(token) = serde_json::from_str::<Token>(&text) {
        return match member {
            Member::Org => token.org,
            Member::Id => token.id,
            Member::Hash => token.h,
        };
    }
    // An org or id with a quote in it: no JSON, but still of the one form that is written.
    let inner = text.strip_prefix(r#"{"org":""#)?.strip_suffix(r#""}"#)?;
    let (org, rest) = inner.split_once(r#"","id":""#)?;
    let (id, hash) = rest.rsplit_once(r#"","h":""#)?;
    Some(match member {
        Member::Org => org.to_owned(),
        Member::Id => id.to_owned(),
        Member::Hash => hash.to_owned(),
    })
}

/// How this gateway forms and finds keys: the keys of `tyk.conf` that say so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyNaming {
    /// `hash_keys`.
    pub is_hashed: bool,
    /// `hash_key_function`; `None`: legacy keys.
    pub function: Option<HashFn>,
    /// `hash_key_function_fallback`.
    pub fallbacks: Vec<Option<HashFn>>,
    /// `disable_key_actions_by_username`: an id alone does not find a key.
    pub is_by_key_only: bool,
}

/// A key that may be meant, and what its session is stored under (behind `apikey-`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub key: String,
    pub name: String,
}

impl KeyNaming {
    /// A function as `tyk.conf` names it: none where the name is empty, murmur64 where it is not
    /// known.
    #[must_use]
    pub fn function(name: &str) -> Option<HashFn> {
        (!name.is_empty()).then(|| HashFn::parse(name).unwrap_or(HashFn::Murmur64))
    }

    /// The name of a key; see [`hash_key`].
    #[must_use]
    pub fn name<'a>(&self, key: &'a str) -> Cow<'a, str> {
        hash_key(key, self.is_hashed)
    }

    /// The key of an id, which may have the organisation in front. `None` when nothing else is
    /// in it; see [`KeyNaming::new_key`].
    #[must_use]
    pub fn key(&self, org: &str, id: &str) -> Option<String> {
        key_in_org(org, id, self.function)
    }

    /// A key with a random id.
    ///
    /// # Errors
    /// The kernel has no random bytes to give.
    pub fn new_key(&self, org: &str) -> io::Result<String> {
        // An id may begin with a short org's letters.
        let id = random_id()?;
        Ok(generate_token(org, &id, self.function))
    }

    /// Every key that `presented` may mean to an API of `org`, in the order of preference: the first
    /// that has a session is the one.
    #[must_use]
    pub fn candidates(&self, presented: &str, org: &str) -> Vec<Candidate> {
        let candidate = |key: String| Candidate {
            name: self.name(&key).into_owned(),
            key,
        };
        if token_org(presented).unwrap_or_default() == org {
            return vec![candidate(presented.to_owned())];
        }
        let in_org = |function| {
            (!self.is_by_key_only)
                .then(|| key_in_org(org, presented, function))
                .flatten()
                .map(candidate)
        };
        let mut found = Vec::with_capacity(2 + self.fallbacks.len());
        found.extend(in_org(self.function));
        found.push(candidate(presented.to_owned()));
        found.extend(self.fallbacks.iter().copied().filter_map(in_org));
        found
    }
}

fn key_in_org(org: &str, id: &str, function: Option<HashFn>) -> Option<String> {
    let id = id.strip_prefix(org).unwrap_or(id);
    (!id.is_empty()).then(|| generate_token(org, id, function))
}

/// Tyk's murmur32: the state of MurmurHash3 x86_32 (seed 0) after the last whole block. The rest of
/// the text, its length and the final mixing are left out, so that texts of fewer than four bytes
/// give 0.
fn murmur32(text: &[u8]) -> u32 {
    let (blocks, _) = text.as_chunks::<4>();
    blocks.iter().fold(0, |state: u32, block| {
        let k = u32::from_le_bytes(*block)
            .wrapping_mul(0xcc9e_2d51)
            .rotate_left(15)
            .wrapping_mul(0x1b87_3593);
        (state ^ k)
            .rotate_left(13)
            .wrapping_mul(5)
            .wrapping_add(0xe654_6b64)
    })
}

/// MurmurHash3 x64_128 with seed 0, both halves.
fn murmur128(text: &[u8]) -> (u64, u64) {
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    let mix_1 = |k: u64| k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    let mix_2 = |k: u64| k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
    let halves = |block: u128| (block as u64, (block >> 64) as u64);
    let (mut h1, mut h2) = (0u64, 0u64);
    let (blocks, tail) = text.as_chunks::<16>();
    for block in blocks {
        let (k1, k2) = halves(u128::from_le_bytes(*block));
        h1 = (h1 ^ mix_1(k1))
            .rotate_left(27)
            .wrapping_add(h2)
            .wrapping_mul(5)
            .wrapping_add(0x52dc_e729);
        h2 = (h2 ^ mix_2(k2))
            .rotate_left(31)
            .wrapping_add(h1)
            .wrapping_mul(5)
            .wrapping_add(0x3849_5ab5);
    }
    let mut last = [0; 16];
    for (to, from) in last.iter_mut().zip(tail) {
        *to = *from;
    }
    // A half without a byte in it is 0, which mixes to 0.
    let (k1, k2) = halves(u128::from_le_bytes(last));
    let len = text.len() as u64;
    h1 ^= mix_1(k1) ^ len;
    h2 ^= mix_2(k2) ^ len;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    h1 = finish(h1);
    h2 = finish(h2);
    h1 = h1.wrapping_add(h2);
    (h1, h2.wrapping_add(h1))
}

const fn finish(mut k: u64) -> u64 {
    k ^= k >> 33;
    k = k.wrapping_mul(0xff51_afd7_ed55_8ccd);
    k ^= k >> 33;
    k = k.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ (k >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORG: &str = "53ac07777cbb8c2d53000002";
    const ID: &str = "0123456789abcdef0123456789abcdef";

    #[track_caller]
    fn check(function: Option<HashFn>, org: &str, id: &str, key: &str, name: &str) {
        assert_eq!(generate_token(org, id, function), key);
        assert_eq!(hash_key(key, true), name);
        assert_eq!(hash_key(key, false), key);
        assert_eq!(token_hash_fn(key), function);
        if function.is_some() {
            assert_eq!(token_org(key).as_deref(), Some(org));
            assert_eq!(token_id(key).as_deref(), Some(id));
        } else {
            assert_eq!(token_id(key), None);
        }
    }

    #[test]
    fn keys_and_hashes_are_tyks() {
        check(
            None,
            ORG,
            ID,
            "53ac07777cbb8c2d530000020123456789abcdef0123456789abcdef",
            "5e8047ba",
        );
        check(
            Some(HashFn::Murmur64),
            ORG,
            ID,
            "eyJvcmciOiI1M2FjMDc3NzdjYmI4YzJkNTMwMDAwMDIiLCJpZCI6IjAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmIiwiaCI6Im11cm11cjY0In0=",
            "702fb9df2fe613a7",
        );
        check(
            Some(HashFn::Murmur128),
            ORG,
            ID,
            "eyJvcmciOiI1M2FjMDc3NzdjYmI4YzJkNTMwMDAwMDIiLCJpZCI6IjAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmIiwiaCI6Im11cm11cjEyOCJ9",
            "6c4b4096c09188ee08eaafbb8014a11d",
        );
        check(
            Some(HashFn::Sha256),
            ORG,
            ID,
            "eyJvcmciOiI1M2FjMDc3NzdjYmI4YzJkNTMwMDAwMDIiLCJpZCI6IjAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmIiwiaCI6InNoYTI1NiJ9",
            "13cf7403b0529ced7f5e23745c24f77d6a70afcdfce7f69be02b6ac4cd3476f7",
        );
        check(
            Some(HashFn::Murmur32),
            ORG,
            ID,
            "eyJvcmciOiI1M2FjMDc3NzdjYmI4YzJkNTMwMDAwMDIiLCJpZCI6IjAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmIiwiaCI6Im11cm11cjMyIn0=",
            "70a35b9d",
        );
        check(
            Some(HashFn::Murmur64),
            "default",
            "my-custom-key",
            "eyJvcmciOiJkZWZhdWx0IiwiaWQiOiJteS1jdXN0b20ta2V5IiwiaCI6Im11cm11cjY0In0=",
            "96ec98ff6d9e2683",
        );
        check(
            None,
            "default",
            "my-custom-key",
            "defaultmy-custom-key",
            "b0752f75",
        );
        check(
            Some(HashFn::Murmur64),
            "default",
            "alice",
            "eyJvcmciOiJkZWZhdWx0IiwiaWQiOiJhbGljZSIsImgiOiJtdXJtdXI2NCJ9",
            "92ac0f0f241412ec",
        );
        check(None, "default", "alice", "defaultalice", "c3f12984");
        // From the recorded suites.
        check(None, "org1", "fixedkey", "org1fixedkey", "9c5b9688");
        check(
            Some(HashFn::Sha256),
            "org1",
            "fixedkey",
            "eyJvcmciOiJvcmcxIiwiaWQiOiJmaXhlZGtleSIsImgiOiJzaGEyNTYifQ==",
            "3a6871385b5911b92b36769e79e6ff5c73f4734dbdfcb09b84f2edd8928921a5",
        );
        check(
            Some(HashFn::Murmur128),
            "org1",
            "fixedkey",
            "eyJvcmciOiJvcmcxIiwiaWQiOiJmaXhlZGtleSIsImgiOiJtdXJtdXIxMjgifQ==",
            "ee81f5acb3c34b88ab102b1b5658c87d",
        );
    }

    #[test]
    fn raw_texts_hash_as_in_tyk() {
        for (function, text, hash) in [
            (HashFn::Murmur32, "hello", "ef13efcd"),
            (HashFn::Murmur64, "hello", "cbd8a7b341bd9b02"),
            (
                HashFn::Murmur128,
                "hello",
                "cbd8a7b341bd9b025b1e906a48ae1d19",
            ),
            (HashFn::Murmur32, "a", "00000000"),
            (HashFn::Murmur32, "tyk", "00000000"),
            (HashFn::Murmur32, "", "00000000"),
            (HashFn::Murmur128, "", "00000000000000000000000000000000"),
            // Of the reference implementation: whole blocks, and one byte past one.
            (
                HashFn::Murmur128,
                "The quick brown fox jumps over the lazy dog",
                "e34bbc7bbc071b6c7a433ca9c49a9347",
            ),
            (
                HashFn::Sha256,
                "",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
        ] {
            assert_eq!(function.hex(text), hash, "{function:?} {text:?}");
        }
    }

    #[test]
    fn the_last_bytes_do_not_matter_to_murmur32() {
        // Tyk quirk: the tail is not hashed, and cannot be while stores are shared.
        assert_eq!(
            HashFn::Murmur32.hex("abcdx"),
            HashFn::Murmur32.hex("abcdyz")
        );
        assert_ne!(
            HashFn::Murmur32.hex("abcd"),
            HashFn::Murmur32.hex("abcdabcd")
        );
    }

    #[test]
    fn the_organisation_of_a_key_is_found_where_it_can_be() {
        let of = |key: &str| token_org(key);
        assert_eq!(of("53ac07777cbb8c2d53000002x").as_deref(), Some(ORG));
        assert_eq!(
            of("53AC07777CBB8C2D53000002x").as_deref(),
            Some("53AC07777CBB8C2D53000002")
        );
        for none in [
            "",
            "ey",
            "53ac07777cbb8c2d53000002",
            "53ac07777cbb8c2d5300000gx",
            "defaultalice",
            "eyNotBase64!",
            // A text in base64 that is no object.
            "eyJhIg==",
            "ééééééééééééééééé",
        ] {
            assert_eq!(of(none), None, "{none:?}");
        }
        // A quote in an id makes no JSON, and is still read.
        let odd = generate_token("o", r#"a"b"#, Some(HashFn::Sha256));
        assert_eq!(of(&odd).as_deref(), Some("o"));
        assert_eq!(token_id(&odd).as_deref(), Some(r#"a"b"#));
        assert_eq!(token_hash_fn(&odd), Some(HashFn::Sha256));
        let unknown = STANDARD.encode(r#"{"org":"o","id":"i","h":"md5"}"#);
        assert_eq!(token_hash_fn(&unknown), None);
        assert_eq!(hash_key(&unknown, true), HashFn::Murmur32.hex(&unknown));
    }

    #[test]
    fn names_of_functions_are_read_as_tyk_reads_them() {
        assert_eq!(KeyNaming::function(""), None);
        assert_eq!(KeyNaming::function("sha256"), Some(HashFn::Sha256));
        assert_eq!(KeyNaming::function("bcrypt"), Some(HashFn::Murmur64));
    }

    #[track_caller]
    fn looks_up(naming: &KeyNaming, presented: &str, org: &str, expected: &[&str]) {
        let found = naming.candidates(presented, org);
        let keys: Vec<_> = found.iter().map(|c| c.key.as_str()).collect();
        assert_eq!(keys, expected);
        for candidate in &found {
            assert_eq!(candidate.name, hash_key(&candidate.key, naming.is_hashed));
        }
    }

    #[test]
    fn keys_are_looked_up_in_tyks_order() {
        let legacy = KeyNaming::default();
        looks_up(&legacy, "my-key", "org1", &["org1my-key", "my-key"]);
        looks_up(&legacy, "org1my-key", "org1", &["org1my-key", "org1my-key"]);
        let own = format!("{ORG}{ID}");
        looks_up(&legacy, &own, ORG, &[&own]);
        let foreign = generate_token(ORG, &own, None);
        looks_up(&legacy, &own, "o", &[&format!("o{own}"), &own]);
        assert_eq!(foreign, format!("{ORG}{own}"));
        // Nothing but the org in it: there is no such key.
        looks_up(&legacy, "org1", "org1", &["org1"]);
        // A gateway that names no organisation looks once.
        looks_up(&legacy, "my-key", "", &["my-key"]);
        let hashed = KeyNaming {
            is_hashed: true,
            function: Some(HashFn::Murmur128),
            fallbacks: vec![Some(HashFn::Murmur64), None],
            is_by_key_only: false,
        };
        let token = |function| generate_token("org1", "k", Some(function));
        looks_up(
            &hashed,
            "k",
            "org1",
            &[
                &token(HashFn::Murmur128),
                "k",
                &token(HashFn::Murmur64),
                "org1k",
            ],
        );
        looks_up(
            &hashed,
            &token(HashFn::Murmur64),
            "org1",
            &[&token(HashFn::Murmur64)],
        );
        let by_key_only = KeyNaming {
            is_by_key_only: true,
            ..hashed
        };
        looks_up(&by_key_only, "k", "org1", &["k"]);
    }

    #[test]
    fn an_id_may_have_its_organisation_in_front() {
        let naming = KeyNaming::default();
        assert_eq!(naming.key("org1", "org1k").as_deref(), Some("org1k"));
        assert_eq!(naming.key("org1", "k").as_deref(), Some("org1k"));
        assert_eq!(naming.key("org1", "org1"), None);
        assert_eq!(naming.key("org1", ""), None);
        let key = naming.new_key("org1").unwrap();
        assert_eq!(key.len(), 36);
        assert_ne!(key, naming.new_key("org1").unwrap());
    }

    #[test]
    fn ids_are_random_uuids_without_dashes() {
        let id = random_id().unwrap();
        assert_eq!(id.len(), 32);
        assert!(id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
        assert_eq!(id.as_bytes()[12], b'4', "version");
        assert!(matches!(id.as_bytes()[16], b'8' | b'9' | b'a' | b'b'));
        assert_ne!(id, random_id().unwrap());
    }
}
