//! Go regular expressions (RE2 syntax), read by Rust's linear-time engine.
//!
//! Definitions carry patterns written for Go's `regexp`. The two languages are cousins; where they
//! differ, [`translate`] rewrites the pattern so that it means here what it means in Go:
//! `\d \w \s \b` are ASCII, `[` is a plain character inside a class, `&&`, `--` and `~~` are no set
//! operators, `{` is literal unless it is a repetition, `\Q…\E` quotes, `\012` is octal.
//! Input: Go's engine reads a byte that is not UTF-8 as U+FFFD; [`as_go_text`] does the same.

use std::borrow::Cow;

/// A pattern for the engine, made from one in Go's syntax.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translated {
    pub pattern: String,
    /// Capturing groups, named ones included (`NumSubexp` in Go).
    pub capturing_groups: usize,
}

/// Rewrites `go` for the engine.
///
/// # Errors
/// Names the construct that Go refuses, or that has no equal here. Other mistakes, such as
/// unbalanced parentheses, are left for the engine to report.
pub fn translate(go: &str) -> Result<Translated, String> {
    let mut reader = Reader {
        rest: go.chars().peekable(),
        out: String::with_capacity(go.len() + 8),
        capturing_groups: 0,
    };
    reader.pattern()?;
    Ok(Translated {
        pattern: reader.out,
        capturing_groups: reader.capturing_groups,
    })
}

/// Quotes `text` so that it matches itself.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    text.chars().for_each(|ch| push_literal(&mut out, ch));
    out
}

/// `bytes` as Go's engine sees them: each byte that is not part of valid UTF-8 becomes U+FFFD.
/// Allocates only when there is such a byte.
#[must_use]
pub fn as_go_text(bytes: &[u8]) -> Cow<'_, [u8]> {
    if std::str::from_utf8(bytes).is_ok() {
        return Cow::Borrowed(bytes);
    }
    let mut text = Vec::with_capacity(bytes.len() * 3);
    for chunk in bytes.utf8_chunks() {
        text.extend_from_slice(chunk.valid().as_bytes());
        for _ in chunk.invalid() {
            text.extend_from_slice(REPLACEMENT);
        }
    }
    Cow::Owned(text)
}

/// The offset in `bytes` that `offset` in [`as_go_text`] of them stands for.
#[must_use]
pub fn offset_in_bytes(bytes: &[u8], offset: usize) -> usize {
    let (mut seen, mut at) = (0, 0);
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid().len();
        if offset <= seen + valid {
            return at + (offset - seen);
        }
        (seen, at) = (seen + valid, at + valid);
        for _ in chunk.invalid() {
            if offset <= seen {
                return at;
            }
            (seen, at) = (seen + REPLACEMENT.len(), at + 1);
        }
    }
    at
}

/// U+FFFD.
const REPLACEMENT: &[u8] = "\u{FFFD}".as_bytes();

struct Reader<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    out: String,
    capturing_groups: usize,
}

impl Reader<'_> {
    fn pattern(&mut self) -> Result<(), String> {
        while let Some(ch) = self.rest.next() {
            match ch {
                '\\' => self.escape(false)?,
                '[' => self.class()?,
                '(' => self.group()?,
                '{' if !self.is_repetition() => self.out.push_str("\\{"),
                _ => self.out.push(ch),
            }
        }
        Ok(())
    }

    /// After `(`: counts capturing groups and refuses flags that Go does not have.
    fn group(&mut self) -> Result<(), String> {
        self.out.push('(');
        let mut ahead = self.rest.clone();
        if ahead.next() != Some('?') {
            self.capturing_groups += 1;
            return Ok(());
        }
        match ahead.next() {
            Some('<') => self.capturing_groups += 1,
            Some('P') if ahead.next() == Some('<') => self.capturing_groups += 1,
            Some('P') => return Err("unknown group `(?P`".to_owned()),
            Some(mut flag) => {
                while !matches!(flag, ':' | ')') {
                    if !matches!(flag, 'i' | 'm' | 's' | 'U' | '-') {
                        return Err(format!("unknown group flag `{flag}`"));
                    }
                    flag = ahead.next().ok_or("unclosed group flags")?;
                }
            }
            None => return Err("pattern ends with `(?`".to_owned()),
        }
        Ok(())
    }

    /// Whether what follows a `{` makes it a repetition: `n}`, `n,}` or `n,m}`.
    fn is_repetition(&self) -> bool {
        let body: String = self
            .rest
            .clone()
            .take(12)
            .take_while(|ch| *ch != '}')
            .collect();
        let closed = self.rest.clone().nth(body.chars().count()) == Some('}');
        let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        closed
            && match body.split_once(',') {
                None => number(&body),
                Some((least, most)) => number(least) && (most.is_empty() || number(most)),
            }
    }

    /// After `[`: copies a class item by item, so that nothing in it becomes a set operator.
    fn class(&mut self) -> Result<(), String> {
        const UNCLOSED: &str = "unclosed character class";
        self.out.push('[');
        if self.rest.next_if_eq(&'^').is_some() {
            self.out.push('^');
        }
        let mut is_first = true;
        loop {
            let ch = self.rest.next().ok_or(UNCLOSED)?;
            if ch == ']' && !is_first {
                self.out.push(']');
                return Ok(());
            }
            is_first = false;
            if ch == '[' && self.rest.peek() == Some(&':') && self.posix_class() {
                continue;
            }
            self.class_item(ch)?;
            let mut ahead = self.rest.clone();
            if ahead.next() == Some('-') && ahead.next().is_some_and(|end| end != ']') {
                self.rest.next();
                self.out.push('-');
                let end = self.rest.next().ok_or(UNCLOSED)?;
                self.class_item(end)?;
            }
        }
    }

    fn class_item(&mut self, ch: char) -> Result<(), String> {
        if ch == '\\' {
            return self.escape(true);
        }
        push_literal(&mut self.out, ch);
        Ok(())
    }

    /// At `[` with `:` next: copies `[:name:]`; false, and nothing read, when it is none.
    fn posix_class(&mut self) -> bool {
        let mut name = String::from("[");
        for ch in self.rest.clone().take(14) {
            name.push(ch);
            if ch == ']' {
                break;
            }
        }
        let is_class = name.ends_with(":]") && name.len() > 4;
        if is_class {
            self.rest.nth(name.chars().count() - 2);
            self.out.push_str(&name);
        }
        is_class
    }

    /// After `\`.
    fn escape(&mut self, in_class: bool) -> Result<(), String> {
        let ch = self.rest.next().ok_or("pattern ends with `\\`")?;
        match ch {
            'd' => self.out.push_str("[0-9]"),
            'D' => self.out.push_str("[^0-9]"),
            'w' => self.out.push_str("[0-9A-Za-z_]"),
            'W' => self.out.push_str("[^0-9A-Za-z_]"),
            's' => self.out.push_str("[\\t\\n\\f\\r ]"),
            'S' => self.out.push_str("[^\\t\\n\\f\\r ]"),
            'b' | 'B' if !in_class => {
                self.out.push_str("(?-u:\\");
                self.out.push(ch);
                self.out.push(')');
            }
            'Q' if !in_class => self.quoted(),
            'E' if !in_class => {}
            '0'..='7' => return self.octal(ch),
            'A' | 'z' if !in_class => self.plain_escape(ch),
            'a' | 'f' | 'n' | 'r' | 't' | 'v' | 'x' | 'p' | 'P' => self.plain_escape(ch),
            _ if ch.is_ascii_punctuation() => push_literal(&mut self.out, ch),
            _ => return Err(format!("unknown escape `\\{ch}`")),
        }
        Ok(())
    }

    fn plain_escape(&mut self, ch: char) {
        self.out.push('\\');
        self.out.push(ch);
        // The braces of `\x{10FFFF}` and `\p{Greek}` are no repetition.
        if matches!(ch, 'x' | 'p' | 'P') && self.rest.peek() == Some(&'{') {
            for ch in self.rest.by_ref() {
                self.out.push(ch);
                if ch == '}' {
                    break;
                }
            }
        }
    }

    /// After `\Q`: literal up to `\E` or the end.
    fn quoted(&mut self) {
        while let Some(ch) = self.rest.next() {
            if ch == '\\' && self.rest.next_if_eq(&'E').is_some() {
                return;
            }
            push_literal(&mut self.out, ch);
        }
    }

    /// After `\` and `first`: `\0`, `\07`, `\123`. A single digit above 0 would be a
    /// back-reference, which neither engine has.
    fn octal(&mut self, first: char) -> Result<(), String> {
        let mut value = first.to_digit(8).unwrap_or(0);
        let digits_max = 2;
        let mut digits = 0;
        while digits < digits_max
            && let Some(digit) = self.rest.peek().and_then(|ch| ch.to_digit(8))
        {
            value = value * 8 + digit;
            self.rest.next();
            digits += 1;
        }
        if first != '0' && digits == 0 {
            return Err(format!("back-reference `\\{first}`"));
        }
        self.out.push_str(&format!("\\x{{{value:X}}}"));
        Ok(())
    }
}

/// Appends `ch` so that it stands for itself, inside a class too.
fn push_literal(out: &mut String, ch: char) {
    if ch.is_ascii_punctuation() && !matches!(ch, '<' | '>' | '_' | '/') {
        out.push('\\');
    }
    out.push(ch);
}

#[cfg(test)]
mod tests {
    use regex_automata::{
        Input,
        nfa::thompson::{self, pikevm::PikeVM},
        util::syntax,
    };

    use super::*;

    /// Whether the translation of `go` is found in `text`.
    #[track_caller]
    fn check(go: &str, text: &str, expected: bool) {
        let translated = translate(go).expect("Go takes this pattern");
        let vm = PikeVM::builder()
            .syntax(syntax::Config::new().utf8(false))
            .thompson(thompson::Config::new().utf8(false))
            .build(&translated.pattern)
            .expect("so does the engine");
        let found = vm.is_match(&mut vm.create_cache(), Input::new(text));
        assert_eq!(found, expected, "{go:?} → {:?}", translated.pattern);
    }

    #[test]
    fn shorthand_classes_are_ascii() {
        check(r"^\d+$", "42", true);
        check(r"^\d+$", "٤٢", false);
        check(r"^\w+$", "é", false);
        check(r"^[\w.-]+$", "a_b.c-d", true);
        check(r"^[^\d]+$", "abc", true);
        check(r"^[\D]$", "4", false);
        check(r"\bword\b", "éword", true);
        check(r"^\s$", "\u{a0}", false);
        check(r"^\S+$", "\u{a0}", true);
    }

    #[test]
    fn classes_have_no_set_operators() {
        check(r"^[a&&b]+$", "a&b", true);
        check(r"^[a~~b]+$", "~", true);
        check(r"^[[a]+$", "[a", true);
        check(r"^[+--]+$", "+,-", true);
        check(r"^[--/]+$", "-./", true);
        check(r"^[]a]+$", "]a", true);
        check(r"^[^]a]+$", "]", false);
        check(r"^[a-]+$", "a-", true);
        check(r"^[[:alpha:]_]+$", "ab_", true);
        check(r"^[[:alpha:]]+$", "1", false);
        check(r"^[\-\]]+$", "-]", true);
    }

    #[test]
    fn braces_are_literal_unless_they_repeat() {
        check(r"^a{2}$", "aa", true);
        check(r"^a{2,}$", "aaaa", true);
        check(r"^a{1,2}$", "aaa", false);
        check(r"^a{,2}$", "a{,2}", true);
        check(r"^{x}$", "{x}", true);
        check(r"^\x{41}\p{Greek}$", "Aα", true);
    }

    #[test]
    fn quoting_and_octal() {
        check(r"^\Qa.b\E.$", "a.bc", true);
        check(r"^\Qa.b\E.$", "axbc", false);
        check(r"^\Q[(", "[(", true);
        check(r"^\101\0$", "A\0", true);
        check(r"^\<a\>\_$", "<a>_", true);
        check(
            &format!("^{}$", quote("a.b/{c}<d>&-~")),
            "a.b/{c}<d>&-~",
            true,
        );
    }

    #[test]
    fn capturing_groups_are_counted() {
        for (go, expected) in [
            ("a(b)(?:c)", 1),
            ("(?P<x>a)(?<y>b)(?i:c)(?i)", 2),
            (r"\([(]", 0),
        ] {
            assert_eq!(
                translate(go).expect("valid").capturing_groups,
                expected,
                "{go}"
            );
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for go in [
            r"\1", r"(?x)a", r"(?=a)", r"(?!a)", r"(?P=a)", r"\Z", r"\h", "[a", "a\\", "(?",
        ] {
            assert!(translate(go).is_err(), "{go}");
        }
    }

    #[test]
    fn bytes_outside_utf8_are_replaced_one_by_one() {
        let bytes = b"a\xe2\x82b\xffc";
        let text = as_go_text(bytes);
        assert_eq!(&*text, "a\u{FFFD}\u{FFFD}b\u{FFFD}c".as_bytes());
        for (offset, expected) in [(0, 0), (1, 1), (4, 2), (7, 3), (8, 4), (11, 5), (12, 6)] {
            assert_eq!(offset_in_bytes(bytes, offset), expected, "{offset}");
        }
        assert!(matches!(as_go_text("é".as_bytes()), Cow::Borrowed(_)));
    }
}
