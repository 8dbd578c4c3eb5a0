//! Ids that may name a file.
//!
//! `// Tyk differs:` there any id is joined to the folder, so that one with `../` in it writes, and
//! deletes, wherever the gateway may.

/// The longest file name that Linux file systems take, less `.json`.
const ID_BYTES_MAX: usize = 255 - ".json".len();

/// An id that names a file inside of its folder, and one that a loader will find there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileId(String);

impl FileId {
    /// Of the file `.json`.
    pub const NAMELESS: Self = Self(String::new());

    /// Checks an id that a caller chose.
    ///
    /// # Errors
    /// Why it can name no file, for that caller.
    pub fn parse(id: &str) -> Result<Self, &'static str> {
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
        } else {
            return Ok(Self(id.to_owned()));
        };
        Err(why)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(id: &str, is_taken: bool) {
        assert_eq!(FileId::parse(id).is_ok(), is_taken, "{id:?}");
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
}
