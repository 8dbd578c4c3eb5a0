//! A JSON document whose every value knows its place.
//!
//! serde_json checks the syntax and hands out slices of the text; a slice's address is its line and
//! column. Objects keep the order of their members, and doubles.

use std::{borrow::Cow, fmt, path::Path};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::{config::unknown::UnknownKey, error::LoadError};

/// More unknown keys than these are no slip of the pen and are not listed.
const UNKNOWN_MAX: usize = 100;

/// Where in the document reading is, and what it noticed on the way.
pub(crate) struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
    pointer: String,
    unknown: Vec<UnknownKey>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Self {
            file,
            text,
            pointer: String::new(),
            unknown: Vec::new(),
        }
    }

    pub(super) fn into_unknown(self) -> Vec<UnknownKey> {
        self.unknown
    }

    /// The document as one value.
    pub(super) fn document(&self) -> Result<&'a str, LoadError> {
        if self.text.starts_with('\u{feff}') {
            return Err(self.fail(
                self.text,
                "starts with a byte order mark; save the file as plain UTF-8",
            ));
        }
        serde_json::from_str::<&RawValue>(self.text)
            .map(RawValue::get)
            .map_err(|why| self.syntax(self.text, &why))
    }

    /// Members of the object `raw`, in order, doubles included.
    pub(super) fn object<'r>(&self, raw: &'r str) -> Result<Vec<(String, &'r str)>, LoadError> {
        if !raw.starts_with('{') {
            return Err(self.mismatch(raw, "an object"));
        }
        serde_json::from_str::<Members<'r>>(raw)
            .map(|members| members.0)
            .map_err(|why| self.syntax(raw, &why))
    }

    pub(super) fn array<'r>(&self, raw: &'r str) -> Result<Vec<&'r str>, LoadError> {
        if !raw.starts_with('[') {
            return Err(self.mismatch(raw, "a list"));
        }
        serde_json::from_str::<Vec<&'r RawValue>>(raw)
            .map(|items| items.into_iter().map(RawValue::get).collect())
            .map_err(|why| self.syntax(raw, &why))
    }

    /// Runs `read` with `part` at the end of the pointer.
    pub(super) fn inside<T>(
        &mut self,
        part: &str,
        read: impl FnOnce(&mut Self) -> Result<T, LoadError>,
    ) -> Result<T, LoadError> {
        let end = self.pointer.len();
        push_pointer(&mut self.pointer, part);
        let result = read(self);
        self.pointer.truncate(end);
        result
    }

    pub(super) fn note_unknown(&mut self, name: &str, raw: &str, siblings: &[&str]) {
        if self.unknown.len() >= UNKNOWN_MAX {
            return;
        }
        let (line, column) = self.place(raw);
        let mut pointer = self.pointer.clone();
        push_pointer(&mut pointer, name);
        self.unknown.push(UnknownKey::in_file(
            self.file, line, column, pointer, name, siblings,
        ));
    }

    pub(super) fn mismatch(&self, raw: &str, expected: &str) -> LoadError {
        self.fail(raw, format!("found {}, expected {expected}", kind_of(raw)))
    }

    pub(super) fn fail(&self, raw: &str, reason: impl Into<String>) -> LoadError {
        let (line, column) = self.place(raw);
        LoadError {
            line,
            column,
            ..LoadError::at(self.file, self.pointer.as_str(), reason)
        }
    }

    pub(super) fn syntax(&self, raw: &str, why: &serde_json::Error) -> LoadError {
        let (line, column) = self.place(raw);
        let below = u32::try_from(why.line().saturating_sub(1)).unwrap_or(u32::MAX);
        let across = u32::try_from(why.column()).unwrap_or(u32::MAX);
        let text = why.to_string();
        let reason = text.split(" at line ").next().unwrap_or_default();
        LoadError {
            line: line.saturating_add(below),
            column: match below {
                0 => column.saturating_add(across).saturating_sub(1).max(1),
                _ => across.max(1),
            },
            ..LoadError::at(
                self.file,
                self.pointer.as_str(),
                format!("not JSON: {reason}"),
            )
        }
    }

    /// Line and column (in bytes) of `raw`, which is a part of the document.
    fn place(&self, raw: &str) -> (u32, u32) {
        let offset = (raw.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize);
        let before = self.text.get(..offset).unwrap_or_default();
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.len() - before.rfind('\n').map_or(0, |at| at + 1) + 1;
        (
            u32::try_from(line).unwrap_or(u32::MAX),
            u32::try_from(column).unwrap_or(u32::MAX),
        )
    }
}

/// Adds one reference token (RFC 6901 §3).
pub(super) fn push_pointer(pointer: &mut String, part: &str) {
    pointer.push('/');
    pointer.push_str(&part.replace('~', "~0").replace('/', "~1"));
}

/// What a JSON value is, without quoting it: it may be a secret.
fn kind_of(raw: &str) -> Cow<'static, str> {
    match raw.as_bytes().first() {
        Some(b'{') => "an object".into(),
        Some(b'[') => "a list".into(),
        Some(b'"') => "a string".into(),
        Some(b't' | b'f') => "a boolean".into(),
        Some(b'n') => "null".into(),
        _ if raw.len() <= 40 => format!("the number {raw}").into(),
        _ => "a very long number".into(),
    }
}

struct Members<'a>(Vec<(String, &'a str)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, raw)) = map.next_entry::<String, &'de RawValue>()? {
                    members.push((name, raw.get()));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}
