//! Paths as Go's `net/url` and gorilla/mux see them: escaping, decoding, cleaning.
//!
//! Tyk routes on Go's decoded path, redirects to mux's cleaned one and sends Go's encoded one. The
//! rules are Go 1.22's (`net/url/url.go`: `shouldEscape`, `validEncoded`, `EscapedPath`) and
//! gorilla/mux's (`cleanPath`), measured in `tests/conformance/cases/routing/url_encoding.json`.

use std::borrow::Cow;

/// The path starts with `/`, and none of the functions below would change it.
///
/// Cost: one pass over a table; the usual path of a request is plain and needs no more.
#[inline]
#[must_use]
pub fn is_plain(path: &[u8]) -> bool {
    let Some((b'/', rest)) = path.split_first() else {
        return false;
    };
    let mut all = SAFE;
    let mut pairs = 0;
    let mut before = class(b'/');
    for &byte in rest {
        let here = class(byte);
        all &= here;
        // Set where a slash or a dot follows a slash.
        pairs |= before << 1 & here;
        before = here;
    }
    all & SAFE != 0 && (pairs & SLASH_OR_DOT == 0 || is_clean(path))
}

/// Replaces `%XX` by the byte it stands for. `None` when a `%` is not followed by two hex digits.
#[must_use]
pub fn decode_path(path: &[u8]) -> Option<Cow<'_, [u8]>> {
    let Some(first) = memchr::memchr(b'%', path) else {
        return Some(Cow::Borrowed(path));
    };
    let (head, mut rest) = path.split_at(first);
    let mut decoded = Vec::with_capacity(path.len());
    decoded.extend_from_slice(head);
    while let Some((&byte, behind)) = rest.split_first() {
        if byte == b'%' {
            let [high, low, behind @ ..] = behind else {
                return None;
            };
            decoded.push(hex_value(*high)? << 4 | hex_value(*low)?);
            rest = behind;
        } else {
            decoded.push(byte);
            rest = behind;
        }
    }
    Some(Cow::Owned(decoded))
}

/// Escapes every byte that Go's `encodePath` mode escapes, `%` included: for decoded paths.
#[must_use]
pub fn escape_path(decoded: &[u8]) -> Cow<'_, [u8]> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let unsafe_count = decoded.iter().filter(|&&b| class(b) & SAFE == 0).count();
    if unsafe_count == 0 {
        return Cow::Borrowed(decoded);
    }
    let mut escaped = Vec::with_capacity(decoded.len() + 2 * unsafe_count);
    for &byte in decoded {
        if class(byte) & SAFE != 0 {
            escaped.push(byte);
        } else {
            escaped.push(b'%');
            escaped.extend(HEX.get(usize::from(byte >> 4)));
            escaped.extend(HEX.get(usize::from(byte & 0xf)));
        }
    }
    Cow::Owned(escaped)
}

/// Go's `validEncoded`: the path could have been made by escaping, each byte may stand as it is.
/// Does not look at what follows a `%`.
#[must_use]
pub fn is_valid_encoded(path: &[u8]) -> bool {
    path.iter()
        .all(|&byte| class(byte) & SAFE != 0 || b"!'()*[]%".contains(&byte))
}

/// The path that Tyk sends to the upstream for a path that came as `raw`.
///
/// A path with escapes that is validly encoded goes out as it came, lower-case digits and needless
/// escapes included. Every other one is decoded and escaped anew, which turns `!'()*` into escapes.
/// A raw path with an invalid escape, which a request head never has, is escaped as it is.
#[must_use]
pub fn upstream_path(raw: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'%', raw).is_none() {
        return escape_path(raw);
    }
    if is_valid_encoded(raw) {
        return Cow::Borrowed(raw);
    }
    let decoded = decode_path(raw).unwrap_or(Cow::Borrowed(raw));
    Cow::Owned(escape_path(&decoded).into_owned())
}

/// gorilla/mux's `cleanPath`: no empty, `.` and `..` segments, a leading slash, and a trailing one
/// where there was one. Borrows when nothing changes.
#[must_use]
pub fn clean(path: &[u8]) -> Cow<'_, [u8]> {
    if path.starts_with(b"/") && is_clean(path) {
        return Cow::Borrowed(path);
    }
    let mut cleaned = Vec::with_capacity(path.len() + 2);
    for segment in path.split(|&byte| byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => {
                let parent = memchr::memrchr(b'/', &cleaned).unwrap_or(0);
                cleaned.truncate(parent);
            }
            _ => {
                cleaned.push(b'/');
                cleaned.extend_from_slice(segment);
            }
        }
    }
    if cleaned.is_empty() || path.ends_with(b"/") {
        cleaned.push(b'/');
    }
    Cow::Owned(cleaned)
}

/// No segment of a path that starts with `/` is empty (but the last), `.` or `..`.
fn is_clean(path: &[u8]) -> bool {
    let mut segments = path
        .get(1..)
        .unwrap_or_default()
        .split(|&byte| byte == b'/');
    let last = segments.next_back().unwrap_or_default();
    !matches!(last, b"." | b"..") && !segments.any(|s| matches!(s, b"" | b"." | b".."))
}

/// Go leaves the byte as it is in a path.
const SAFE: u8 = 1;
const SLASH: u8 = 2;
/// One above [`SLASH`], so that shifting the class of a byte meets that of the next.
const SLASH_OR_DOT: u8 = 4;

#[inline(always)]
#[expect(
    clippy::indexing_slicing,
    reason = "the table is made while compiling; a byte is within it"
)]
const fn class(byte: u8) -> u8 {
    #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
    const TABLE: [u8; 256] = {
        let mut table = [0; 256];
        let mut byte = 0u8;
        while byte < 0x80 {
            let is_safe = byte.is_ascii_alphanumeric()
                || matches!(
                    byte,
                    b'-' | b'_'
                        | b'.'
                        | b'~'
                        | b'$'
                        | b'&'
                        | b'+'
                        | b','
                        | b'/'
                        | b':'
                        | b';'
                        | b'='
                        | b'@'
                );
            table[byte as usize] = match byte {
                b'/' => SAFE | SLASH | SLASH_OR_DOT,
                b'.' => SAFE | SLASH_OR_DOT,
                _ if is_safe => SAFE,
                _ => 0,
            };
            byte += 1;
        }
        table
    };
    TABLE[byte as usize]
}

const fn hex_value(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_upstream_sees_the_path_that_tyk_sends() {
        #[track_caller]
        fn check(raw: &str, expected: &str) {
            let sent = upstream_path(raw.as_bytes());
            assert_eq!(String::from_utf8_lossy(&sent), expected, "{raw}");
        }
        // `routing/url_encoding.json` and `routing/skip_cleaning.json`.
        check("/a%20b", "/a%20b");
        check("/a%2Fb", "/a%2Fb");
        check("/a%25b", "/a%25b");
        check("/caf%C3%A9", "/caf%C3%A9");
        check("/caf%c3%a9", "/caf%c3%a9");
        check(
            "/a+b;c=d,e:f@g!h$i&j'k(l)*m",
            "/a+b;c=d,e:f@g%21h$i&j%27k%28l%29%2Am",
        );
        check("/%41%42%7e", "/%41%42%7e");
        check("/a%3Fb", "/a%3Fb");
        check("/q#frag", "/q%23frag");
        check("/café", "/caf%C3%A9");
        check("/a\"b|c{d}", "/a%22b%7Cc%7Bd%7D");
        check("/a//b", "/a//b");
        check("/http://example.com/x", "/http://example.com/x");
        // Go: a `RawPath` that is no valid encoding is dropped.
        check("/a%2fb|", "/a/b%7C");
        check("/!%20*", "/!%20*");
        check("/[%20]", "/[%20]");
        check("/[]", "/%5B%5D");
        check("/%zz", "/%zz");
        check("/%zz|", "/%25zz%7C");
        check("", "");
    }

    #[test]
    fn paths_are_cleaned_as_mux_does() {
        #[track_caller]
        fn check(path: &str, expected: &str) {
            let cleaned = clean(path.as_bytes());
            assert_eq!(String::from_utf8_lossy(&cleaned), expected, "{path}");
            let kept = matches!(cleaned, Cow::Borrowed(_));
            assert_eq!(kept, path == expected, "{path}");
        }
        check("", "/");
        check("/", "/");
        check("*", "/*");
        check("a", "/a");
        check("a/", "/a/");
        check("//", "/");
        check("/a//b", "/a/b");
        check("/a/./b/", "/a/b/");
        check("/a/.", "/a");
        check("/a/./", "/a/");
        check("/a/..", "/");
        check("/a/../", "/");
        check("/a/b/..", "/a");
        check("/a/b/../", "/a/");
        check("/../../a", "/a");
        check("/.", "/");
        check("/..", "/");
        check("/...", "/...");
        check("/a/.b/..c", "/a/.b/..c");
        check("/.well-known/x", "/.well-known/x");
        check("/a/", "/a/");
    }

    #[test]
    fn plain_paths_are_told_from_others() {
        #[track_caller]
        fn check(path: &str, expected: bool) {
            assert_eq!(is_plain(path.as_bytes()), expected, "{path}");
        }
        for path in ["/", "/a", "/a/", "/.a/..b/c.d", "/a-b_c.~$&+,:;=@9"] {
            check(path, true);
        }
        for path in [
            "", "*", "a", "//", "/a//", "/a/./b", "/a/.", "/..", "/%41", "/é", "/a b",
        ] {
            check(path, false);
        }
    }

    /// Go's `path.Clean` and mux's `cleanPath`, line by line.
    fn clean_as_go(path: &str) -> String {
        if path.is_empty() {
            return "/".to_owned();
        }
        let path = match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("/{path}"),
        };
        let bytes = path.as_bytes();
        let (mut out, mut r) = (vec![b'/'], 1);
        while r < bytes.len() {
            let ends = |at: usize| at == bytes.len() || bytes[at] == b'/';
            if bytes[r] == b'/' || (bytes[r] == b'.' && ends(r + 1)) {
                r += 1;
            } else if bytes[r] == b'.' && bytes.get(r + 1) == Some(&b'.') && ends(r + 2) {
                r += 2;
                if out.len() > 1 {
                    out.pop();
                    while out.len() > 1 && out[out.len() - 1] != b'/' {
                        out.pop();
                    }
                    if out.len() > 1 {
                        out.pop();
                    }
                }
            } else {
                if out.len() > 1 {
                    out.push(b'/');
                }
                while !ends(r) {
                    out.push(bytes[r]);
                    r += 1;
                }
            }
        }
        if path.ends_with('/') && out != b"/" {
            out.push(b'/');
        }
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn cleaning_is_what_go_does(path in "[/.ab]{0,24}") {
            let cleaned = clean(path.as_bytes()).into_owned();
            prop_assert_eq!(String::from_utf8(cleaned).unwrap(), clean_as_go(&path));
        }

        #[test]
        fn a_plain_path_is_left_alone_and_every_other_is_changed_by_something(path in "[/.a%!é ]{0,12}") {
            let bytes = path.as_bytes();
            let is_same = path.starts_with('/')
                && clean(bytes) == bytes
                && escape_path(bytes) == bytes
                && decode_path(bytes).as_deref() == Some(bytes);
            prop_assert_eq!(is_plain(bytes), is_same);
        }

        #[test]
        fn decoding_undoes_escaping(path in proptest::collection::vec(any::<u8>(), 0..40)) {
            let escaped = escape_path(&path).into_owned();
            prop_assert!(is_valid_encoded(&escaped));
            prop_assert_eq!(decode_path(&escaped).unwrap().into_owned(), path);
        }
    }
}
