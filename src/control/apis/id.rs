//! API ids that may name a file.
//!
//! `// Tyk differs:` there any id is joined to `app_path`, so that one with `../` in it writes, and
//! deletes, wherever the gateway may.

use std::io;

/// The longest file name that Linux file systems take, less `.json`.
const ID_BYTES_MAX: usize = 255 - ".json".len();

/// An id that names a file inside of `app_path`, and one that the loader will find there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiId(String);

impl ApiId {
    /// Checks an id that a caller chose. The error is for that caller.
    pub(super) fn parse(id: &str) -> Result<Self, String> {
        let why = if id.is_empty() {
            "it is empty"
        } else if id.len() > ID_BYTES_MAX {
            "it is longer than 250 bytes"
        } else if id.starts_with('.') {
            "it begins with a dot"
        } else if id.contains(['/', '\\']) {
            "it contains a path separator"
        } else if id.contains("..") {
            "it contains two dots in a row"
        } else if id.chars().any(char::is_control) {
            "it contains a control character"
        } else if id.ends_with("-oas") {
            "names that end in -oas are those of OpenAPI documents"
        } else {
            return Ok(Self(id.to_owned()));
        };
        Err(format!("api_id cannot name a file: {why}"))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A new id: 32 hexadecimal digits, a random UUID (RFC 9562 §5.4) without its dashes.
pub(super) fn generate() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let mut number = u128::from_be_bytes(bytes);
    number = number & !(0xf << 76) | (0x4 << 76);
    number = number & !(0x3 << 62) | (0x2 << 62);
    Ok(format!("{number:032x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(id: &str, is_taken: bool) {
        assert_eq!(ApiId::parse(id).is_ok(), is_taken, "{id:?}");
    }

    #[test]
    fn usual_ids_are_taken() {
        for id in [
            "api1",
            "3dcd7ac0e5334e1f8d2a5d3e5a2d9f10",
            "a.b",
            "a-b_c",
            "é",
            "名前",
            "with space",
            "a.json",
            "%2e%2e%2f",
            "~",
            "-",
        ] {
            check(id, true);
        }
    }

    #[test]
    fn ids_that_leave_the_folder_or_hide_in_it_are_refused() {
        for id in [
            "",
            ".",
            "..",
            "../x",
            "../../etc/cron.d/x",
            "/etc/passwd",
            "a/b",
            "a/../b",
            "a/..",
            "./a",
            ".hidden",
            ".json",
            "..\\x",
            "a\\b",
            "C:\\x",
            "\\\\host\\share",
            "a\0b",
            "\0",
            "a\nb",
            "a\rb",
            "a\tb",
            "\u{7f}",
            "\u{85}",
            "a..b",
            "...",
            "x-oas",
            "-oas",
            "/",
            "\\",
            "a/",
        ] {
            check(id, false);
        }
    }

    #[test]
    fn the_length_limit_is_exact() {
        check(&"a".repeat(249), true);
        check(&"a".repeat(250), true);
        check(&"a".repeat(251), false);
        check(&"é".repeat(126), false);
    }

    #[test]
    fn generated_ids_are_random_uuids_without_dashes() {
        let id = generate().unwrap();
        assert_eq!(id.len(), 32);
        assert!(id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
        assert_eq!(id.as_bytes()[12], b'4', "version");
        assert!(matches!(id.as_bytes()[16], b'8' | b'9' | b'a' | b'b'));
        assert_ne!(id, generate().unwrap());
        check(&id, true);
    }
}
