//! Endpoint paths as regular expressions.
//!
//! Tyk: `gateway/api_definition.go` (`generateRegex`): every `{…}` becomes `([^/]*)`, whatever
//! stands inside, and the rest is a raw RE2 expression, searched for anywhere in its subject.

use regex_automata::{meta, util::syntax};

use super::go_regex;

/// Largest compiled pattern; a counted repetition of a large class is how one gets there.
pub const NFA_BYTES_MAX: usize = 1024 * 1024;

/// The Go expression that an endpoint path stands for.
#[must_use]
pub fn endpoint_pattern(path: &str) -> String {
    let mut pattern = String::with_capacity(path.len() + 16);
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('{') {
        pattern.push_str(before);
        match after.find('}') {
            // Tyk's own pattern is `{([^}]+)}`: braces with nothing between them stay.
            Some(end) if end > 0 => {
                pattern.push_str("([^/]*)");
                rest = after.get(end + 1..).unwrap_or_default();
            }
            _ => {
                pattern.push('{');
                rest = after;
            }
        }
    }
    pattern.push_str(rest);
    pattern
}

/// Whether an endpoint path compiles. Cheap for paths without expressions.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn check_endpoint(path: &str) -> Result<(), String> {
    let is_plain =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.' | b'~');
    if path.bytes().all(is_plain) {
        return Ok(());
    }
    check(&endpoint_pattern(path))
}

/// Whether a Go expression can be read.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn check(go: &str) -> Result<(), String> {
    let translated = go_regex::translate(go)?;
    syntax::parse_with(&translated.pattern, &engine_syntax())
        .map(|_| ())
        .map_err(|why| one_line(&why.to_string()))
}

/// Compiles a Go expression for searches in bytes.
///
/// # Errors
/// What is wrong with it, in one line; also when it takes more than [`NFA_BYTES_MAX`].
pub fn compile(go: &str) -> Result<meta::Regex, String> {
    let translated = go_regex::translate(go)?;
    meta::Builder::new()
        .syntax(engine_syntax())
        .configure(
            meta::Config::new()
                .utf8_empty(false)
                .nfa_size_limit(Some(NFA_BYTES_MAX)),
        )
        .build(&translated.pattern)
        .map_err(|error| match (error.syntax_error(), error.size_limit()) {
            (Some(why), _) => one_line(&why.to_string()),
            (None, Some(limit)) => format!("it takes more than {limit} bytes compiled"),
            (None, None) => one_line(&error.to_string()),
        })
}

/// Checks a listen path or domain template of gorilla/mux: `{name}` and `{name:regex}`.
///
/// # Errors
/// Unbalanced braces, a variable without name or expression, an expression that cannot be read or
/// that captures (Tyk panics on the last).
pub fn check_template(text: &str) -> Result<(), String> {
    let mut depth = 0_u32;
    let mut start = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => {
                if depth == 0 {
                    start = at + 1;
                }
                depth += 1;
            }
            b'}' => {
                depth = depth.checked_sub(1).ok_or("unbalanced braces")?;
                if depth == 0 {
                    check_variable(text.get(start..at).unwrap_or_default())?;
                }
            }
            _ => {}
        }
    }
    if depth == 0 {
        Ok(())
    } else {
        Err("unbalanced braces".to_owned())
    }
}

fn check_variable(variable: &str) -> Result<(), String> {
    let Some((name, pattern)) = variable.split_once(':') else {
        return if variable.is_empty() {
            Err("a variable without a name".to_owned())
        } else {
            Ok(())
        };
    };
    if name.is_empty() || pattern.is_empty() {
        return Err(format!(
            "a variable without name or expression: `{{{variable}}}`"
        ));
    }
    if go_regex::translate(pattern)?.capturing_groups > 0 {
        return Err(format!(
            "a capturing group in `{{{variable}}}`; write `(?:…)`"
        ));
    }
    check(pattern)
}

pub(crate) fn engine_syntax() -> syntax::Config {
    syntax::Config::new().utf8(false)
}

/// The engine draws a picture of the fault; its last line says what it is.
fn one_line(why: &str) -> String {
    let last = why.lines().last().unwrap_or_default().trim();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_become_one_segment_whatever_they_hold() {
        for (path, expected) in [
            ("/users/{id}", "/users/([^/]*)"),
            (r"^/a/{id:\d+}/b/{x}$", "^/a/([^/]*)/b/([^/]*)$"),
            ("/a{2,3}", "/a([^/]*)"),
            ("/a{}", "/a{}"),
            ("/a{", "/a{"),
            ("/a}{b}", "/a}([^/]*)"),
            ("/plain", "/plain"),
        ] {
            assert_eq!(endpoint_pattern(path), expected);
        }
    }

    #[test]
    fn paths_are_checked_as_go_expressions() {
        for good in [
            "/get",
            "/users/{id}",
            r"^/a\d+$",
            "/a{",
            "(?i)/x",
            "[[]a",
            "/a|/b",
            "",
            "/é",
        ] {
            assert_eq!(check_endpoint(good), Ok(()), "{good}");
            assert!(compile(&endpoint_pattern(good)).is_ok(), "{good}");
        }
        for (bad, reason) in [
            ("/a(", "unclosed group"),
            ("/a)", "unopened group"),
            ("*a", "repetition operator missing expression"),
            ("/[a", "unclosed character class"),
            (r"/a(?=b)", "unknown group flag `=`"),
            (r"(a)\1", "back-reference `\\1`"),
        ] {
            assert_eq!(check_endpoint(bad), Err(reason.to_owned()), "{bad}");
            assert!(compile(&endpoint_pattern(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pattern_is_bounded_when_compiled() {
        let fits = format!("[a-z]{{{}}}", 900);
        assert!(compile(&fits).is_ok());
        let why = compile(r"(\pL{900}){900}").expect_err("far too large");
        assert!(why.contains("bytes compiled"), "{why}");
    }

    #[test]
    fn templates_are_checked_as_mux_does() {
        for good in [
            "/a/",
            "/{x}/",
            "/{x:[a-z]{2}}/{y}",
            "{s:[a-z]+}.example.com",
            "/{x:(?:a|b)}/",
        ] {
            assert_eq!(check_template(good), Ok(()), "{good}");
        }
        for (bad, reason) in [
            ("/{x:(a)}/", "a capturing group in `{x:(a)}`; write `(?:…)`"),
            ("/{x/", "unbalanced braces"),
            ("/x}/", "unbalanced braces"),
            ("/{}/", "a variable without a name"),
            ("/{x:}/", "a variable without name or expression: `{x:}`"),
            ("/{:a}/", "a variable without name or expression: `{:a}`"),
            ("/{x:[}/", "unclosed character class"),
        ] {
            assert_eq!(check_template(bad), Err(reason.to_owned()), "{bad}");
        }
    }
}
