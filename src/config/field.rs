//! How one field of `tyk.conf` is read, printed and overridden.
//!
//! Every key stands once, in a [`section!`](crate::config::field::section) block: Rust field, JSON
//! name, type, Go field name (the last part of its `TYK_GW_*` variable) and, rarely, a default.
//! From that one line come the struct, the reader, the printer, the environment override and the
//! list of keys that a test compares with Tyk's.
//!
//! Reading follows Go's `encoding/json`: names match in any case, the exact one first; `null`
//! leaves a value as it is and empties a list or map; a key given twice is read twice, so the last
//! scalar wins and objects merge. Overrides follow `kelseyhightower/envconfig`.

use std::{borrow::Cow, collections::BTreeMap, fmt, path::Path};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Value, value::RawValue};

use crate::{
    config::unknown::UnknownKey,
    error::LoadError,
    time::{format_go_duration, parse_go_duration},
};

/// One leaf of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// JSON names joined by dots, such as `storage.host`.
    pub path: String,
    /// What the value must be, in words.
    pub expects: &'static str,
    /// The environment variable that overrides it.
    pub env: String,
}

/// A value that `tyk.conf` can hold: a leaf, a list, a map or a section.
pub trait Field: Default {
    /// What a reader of an error message should have written.
    const EXPECTS: &'static str;

    /// Takes the value from `raw`, one JSON value as it stands in the file.
    ///
    /// # Errors
    /// A value of another type, with its place.
    fn read(&mut self, raw: &str, reader: &mut Reader<'_>) -> Result<(), LoadError>;

    /// Prints the value so that [`Field::read`] gives the same one again.
    fn print(&self, secrets: Secrets) -> Value;

    /// Takes the value from the text of an environment variable.
    ///
    /// # Errors
    /// What was found, without the place.
    fn parse_env(&mut self, text: &str) -> Result<(), String>;

    /// Overrides from the variable `name`, or, in a section, from those that begin with it.
    ///
    /// # Errors
    /// A variable whose text does not fit.
    fn apply_env(&mut self, name: &str, vars: &BTreeMap<String, String>) -> Result<(), LoadError> {
        match vars.get(name) {
            Some(text) => self
                .parse_env(text)
                .map_err(|why| LoadError::at("environment", name, why)),
            None => Ok(()),
        }
    }

    /// Lists the leaves at or below `path`.
    fn keys(path: &str, env: &str, keys: &mut Vec<Key>) {
        keys.push(Key {
            path: path.to_owned(),
            expects: Self::EXPECTS,
            env: env.to_owned(),
        });
    }
}

/// Whether [`Field::print`] shows passwords and secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrets {
    Shown,
    /// Printed as `****`; an empty one stays empty.
    Masked,
}

/// Where in the document reading is, and what it noticed on the way.
pub struct Reader<'a> {
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
    fn object<'r>(&self, raw: &'r str) -> Result<Vec<(String, &'r str)>, LoadError> {
        if !raw.starts_with('{') {
            return Err(self.mismatch(raw, "an object"));
        }
        serde_json::from_str::<Members<'r>>(raw)
            .map(|members| members.0)
            .map_err(|why| self.syntax(raw, &why))
    }

    fn array<'r>(&self, raw: &'r str) -> Result<Vec<&'r str>, LoadError> {
        if !raw.starts_with('[') {
            return Err(self.mismatch(raw, "a list"));
        }
        serde_json::from_str::<Vec<&'r RawValue>>(raw)
            .map(|items| items.into_iter().map(RawValue::get).collect())
            .map_err(|why| self.syntax(raw, &why))
    }

    /// Runs `read` with `part` at the end of the pointer.
    fn inside<T>(
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

    fn note_unknown(&mut self, name: &str, raw: &str, siblings: &[&str]) {
        let (line, column) = self.place(raw);
        let mut pointer = self.pointer.clone();
        push_pointer(&mut pointer, name);
        self.unknown.push(UnknownKey::in_file(
            self.file, line, column, pointer, name, siblings,
        ));
    }

    fn mismatch(&self, raw: &str, expected: &str) -> LoadError {
        self.fail(raw, format!("found {}, expected {expected}", kind_of(raw)))
    }

    fn fail(&self, raw: &str, reason: impl Into<String>) -> LoadError {
        let (line, column) = self.place(raw);
        LoadError {
            line,
            column,
            ..LoadError::at(self.file, self.pointer.as_str(), reason)
        }
    }

    fn syntax(&self, raw: &str, why: &serde_json::Error) -> LoadError {
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

/// Reads the object `raw` into a section: `names` are its keys, `read` takes one of them.
pub(super) fn read_section<S>(
    section: &mut S,
    raw: &str,
    reader: &mut Reader<'_>,
    names: &[&'static str],
    read: impl Fn(&mut S, &'static str, &str, &mut Reader<'_>) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    if raw == "null" {
        return Ok(());
    }
    for (written, value) in reader.object(raw)? {
        let exact = names.iter().find(|name| **name == written);
        let known = exact.or_else(|| {
            names
                .iter()
                .find(|name| name.eq_ignore_ascii_case(&written))
        });
        match known {
            Some(name) => {
                reader.inside(&written, |reader| read(section, name, value, reader))?;
            }
            None => reader.note_unknown(&written, value, names),
        }
    }
    Ok(())
}

/// Declares a section of the configuration; see the head of this file.
///
/// `field ("json name"): Type = default => GOFIELD`; the JSON name defaults to the field's, the
/// default to the type's.
macro_rules! section {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $(
                $(#[$field_meta:meta])*
                $field:ident $(($json:literal))? : $type:ty $(= $default:expr)? => $env:ident
            ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $type, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $( $field: $crate::config::field::section!(@default $($default)?), )*
                }
            }
        }

        impl $crate::config::field::Field for $name {
            const EXPECTS: &'static str = "an object";

            fn read(
                &mut self,
                raw: &str,
                reader: &mut $crate::config::field::Reader<'_>,
            ) -> Result<(), $crate::error::LoadError> {
                const NAMES: &[&str] = &[
                    $( $crate::config::field::section!(@json $field $($json)?) ),*
                ];
                $crate::config::field::read_section(
                    self, raw, reader, NAMES,
                    |section, name, raw, reader| match name {
                        $(
                            $crate::config::field::section!(@json $field $($json)?) =>
                                $crate::config::field::Field::read(&mut section.$field, raw, reader),
                        )*
                        _ => Ok(()),
                    },
                )
            }

            fn print(&self, secrets: $crate::config::field::Secrets) -> serde_json::Value {
                let mut map = serde_json::Map::new();
                $(
                    map.insert(
                        $crate::config::field::section!(@json $field $($json)?).to_owned(),
                        $crate::config::field::Field::print(&self.$field, secrets),
                    );
                )*
                serde_json::Value::Object(map)
            }

            fn parse_env(&mut self, text: &str) -> Result<(), String> {
                $crate::config::field::read_env_json(self, text)
            }

            fn apply_env(
                &mut self,
                name: &str,
                vars: &std::collections::BTreeMap<String, String>,
            ) -> Result<(), $crate::error::LoadError> {
                $(
                    $crate::config::field::Field::apply_env(
                        &mut self.$field,
                        &format!("{name}_{}", stringify!($env)),
                        vars,
                    )?;
                )*
                Ok(())
            }

            fn keys(path: &str, env: &str, keys: &mut Vec<$crate::config::field::Key>) {
                $(
                    let json = $crate::config::field::section!(@json $field $($json)?);
                    let below = if path.is_empty() {
                        json.to_owned()
                    } else {
                        format!("{path}.{json}")
                    };
                    <$type as $crate::config::field::Field>::keys(
                        &below,
                        &format!("{env}_{}", stringify!($env)),
                        keys,
                    );
                )*
            }
        }
    };
    (@json $field:ident) => { stringify!($field) };
    (@json $field:ident $json:literal) => { $json };
    (@default) => { Default::default() };
    (@default $default:expr) => { $default.into() };
}

/// Declares a value that is one of a few words.
macro_rules! words {
    (
        $(#[$meta:meta])*
        pub enum $name:ident ($expects:literal) {
            $( $(#[$variant_meta:meta])* $variant:ident = $word:literal ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub enum $name {
            $( $(#[$variant_meta])* $variant, )*
        }

        impl $name {
            /// The word for it in the file.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $( Self::$variant => $word, )*
                }
            }
        }

        impl $crate::config::field::Word for $name {
            const WORDS: &'static str = $expects;

            fn from_word(word: &str) -> Option<Self> {
                match word {
                    $( $word => Some(Self::$variant), )*
                    _ => None,
                }
            }

            fn word(self) -> &'static str {
                self.as_str()
            }
        }
    };
}

pub(super) use {section, words};

/// A value written as one of a few words; declared by [`words!`].
pub trait Word: Default + Copy {
    /// All words, for messages.
    const WORDS: &'static str;

    fn from_word(word: &str) -> Option<Self>;

    fn word(self) -> &'static str;
}

impl<W: Word> Field for W {
    const EXPECTS: &'static str = W::WORDS;

    fn read(&mut self, raw: &str, reader: &mut Reader<'_>) -> Result<(), LoadError> {
        let mut word = String::new();
        if raw == "null" {
            return Ok(());
        }
        word.read(raw, reader)?;
        *self = W::from_word(&word)
            .ok_or_else(|| reader.fail(raw, format!("found {word:?}, expected {}", W::WORDS)))?;
        Ok(())
    }

    fn print(&self, _: Secrets) -> Value {
        self.word().into()
    }

    fn parse_env(&mut self, text: &str) -> Result<(), String> {
        *self =
            W::from_word(text).ok_or_else(|| format!("found {text:?}, expected {}", W::WORDS))?;
        Ok(())
    }
}

/// A password or key: never shown by `Debug` nor in masked prints.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "****" })
    }
}

impl Field for Secret {
    const EXPECTS: &'static str = "a string";

    fn read(&mut self, raw: &str, reader: &mut Reader<'_>) -> Result<(), LoadError> {
        self.0.read(raw, reader)
    }

    fn print(&self, secrets: Secrets) -> Value {
        match secrets {
            Secrets::Masked if !self.0.is_empty() => "****".into(),
            _ => self.0.as_str().into(),
        }
    }

    fn parse_env(&mut self, text: &str) -> Result<(), String> {
        self.0.parse_env(text)
    }
}

impl Field for String {
    const EXPECTS: &'static str = "a string";

    fn read(&mut self, raw: &str, reader: &mut Reader<'_>) -> Result<(), LoadError> {
        if raw == "null" {
            return Ok(());
        }
        if !raw.starts_with('"') {
            return Err(reader.mismatch(raw, Self::EXPECTS));
        }
        *self = serde_json::from_str(raw).map_err(|why| reader.syntax(raw, &why))?;
        Ok(())
    }

    fn print(&self, _: Secrets) -> Value {
        self.as_str().into()
    }

    fn parse_env(&mut self, text: &str) -> Result<(), String> {
        text.clone_into(self);
        Ok(())
    }
}

impl Field for bool {
    const EXPECTS: &'static str = "true or false";

    fn read(&mut self, raw: &str, reader: &mut Reader<'_>) -> Result<(), LoadError> {
        match raw {
            "null" => {}
            "true" => *self = true,
            "false" => *self = false,
            _ => return Err(reader.mismatch(raw, Self::EXPECTS)),
        }
        Ok(())
    }

    fn print(&self, _: Secrets) -> Value {
        (*self).into()
    }

    /// As Go's `strconv.ParseBool`.
    fn parse_env(&mut self, text: &str) -> Result<(), String> {
        *self = match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            _ => return Err(format!("found {text:?}, expected {}", Self::EXPECTS)),
        };
        Ok(())
    }
}

macro_rules! whole_number {
    ($($type:ty: $expects:literal),*) => { $(
        impl Field for $type {
            const EXPECTS: &'static str = $expects;

            fn read(&mut self, raw: &str, reader: &mut Reader<'_>) -> Result<(), LoadError> {
                if raw == "null" {
                    return Ok(());
                }
                // As Go: `8080.0` and `1e3` are numbers but not whole ones.
                *self = raw.parse().map_err(|_| reader.mismatch(raw, Self::EXPECTS))?;
                Ok(())
            }

            fn print(&self, _: Secrets) -> Value {
                (*self).into()
            }

            fn parse_env(&mut self, text: &str) -> Result<(), String> {
                *self = go_integer(text)
                    .and_then(|number| Self::try_from(number).ok())
                    .ok_or_else(|| format!("found {text:?}, expected {}", Self::EXPECTS))?;
                Ok(())
            }
        }
    )* };
}

whole_number! {
    i64: "a whole number",
    i32: "a whole number of 32 bits",
    u64: "a whole number, not negative",
    u32: "a whole number from 0 to 4294967295",
    u16: "a whole number from 0 to 65535"
}

/// As Go's `strconv.ParseInt(text, 0, …)`: the prefix says the base, `_` may part digits.
fn go_integer(text: &str) -> Option<i128> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, text.get(1..)?),
        b'+' => (1, text.get(1..)?),
        _ => (1, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, lower.get(2..)?),
        [b'0', b'b', ..] => (2, lower.get(2..)?),
        [b'0', b'o', ..] => (8, lower.get(2..)?),
        [b'0', _, ..] => (8, lower.get(1..)?),
        _ => (10, lower.as_str()),
    };
    let plain = digits.replace('_', "");
    let between = base != 10 || !digits.starts_with('_');
    let parted = !digits.ends_with('_') && !digits.contains("__") && between;
    if plain.is_empty() || !parted || plain.starts_with(['+', '-']) {
        return None;
    }
    i128::from_str_radix(&plain, base).ok().map(|n| sign * n)
}

impl Field for f64 {
    const EXPECTS: &'static str = "a number";

    fn read(&mut self, raw: &str, reader: &mut Reader<'_>) -> Result<(), LoadError> {
        if raw == "null" {
            return Ok(());
        }
        if !raw.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
            return Err(reader.mismatch(raw, Self::EXPECTS));
        }
        let number: Self = raw
            .parse()
            .map_err(|_| reader.mismatch(raw, Self::EXPECTS))?;
        if !number.is_finite() {
            return Err(reader.mismatch(raw, "a number within the range of 64 bits"));
        }
        *self = number;
        Ok(())
    }

    fn print(&self, _: Secrets) -> Value {
        (*self).into()
    }

    fn parse_env(&mut self, text: &str) -> Result<(), String> {
        *self = text
            .parse()
            .ok()
            .filter(|number: &Self| number.is_finite())
            .ok_or_else(|| format!("found {text:?}, expected {}", Self::EXPECTS))?;
        Ok(())
    }
}

/// A span as Go's `time.Duration`: nanoseconds in the file, or text such as `1m30s` as later Tyk
/// versions write it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration {
    pub ns: i64,
}

impl GoDuration {
    /// As a span; `None` for zero and below, which Tyk takes for "not set".
    #[must_use]
    pub fn positive(self) -> Option<std::time::Duration> {
        u64::try_from(self.ns)
            .ok()
            .filter(|ns| *ns > 0)
            .map(std::time::Duration::from_nanos)
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_go_duration(self.ns))
    }
}

impl Field for GoDuration {
    const EXPECTS: &'static str = "nanoseconds, or a span such as \"10s\"";

    fn read(&mut self, raw: &str, reader: &mut Reader<'_>) -> Result<(), LoadError> {
        if !raw.starts_with('"') {
            return match self.ns.read(raw, reader) {
                Ok(()) => Ok(()),
                Err(_) => Err(reader.mismatch(raw, Self::EXPECTS)),
            };
        }
        let mut text = String::new();
        text.read(raw, reader)?;
        self.ns = parse_go_duration(&text).ok_or_else(|| {
            reader.fail(raw, format!("found {text:?}, expected {}", Self::EXPECTS))
        })?;
        Ok(())
    }

    fn print(&self, _: Secrets) -> Value {
        self.ns.into()
    }

    fn parse_env(&mut self, text: &str) -> Result<(), String> {
        self.ns = parse_go_duration(text)
            .or_else(|| go_integer(text).and_then(|ns| i64::try_from(ns).ok()))
            .ok_or_else(|| format!("found {text:?}, expected {}", Self::EXPECTS))?;
        Ok(())
    }
}

/// Lists: replaced as a whole. In a variable the items stand between commas.
impl<T: Field> Field for Vec<T> {
    const EXPECTS: &'static str = "a list";

    fn read(&mut self, raw: &str, reader: &mut Reader<'_>) -> Result<(), LoadError> {
        self.clear();
        if raw == "null" {
            return Ok(());
        }
        for (index, raw) in reader.array(raw)?.into_iter().enumerate() {
            let mut item = T::default();
            reader.inside(&index.to_string(), |reader| item.read(raw, reader))?;
            self.push(item);
        }
        Ok(())
    }

    fn print(&self, secrets: Secrets) -> Value {
        self.iter().map(|item| item.print(secrets)).collect()
    }

    fn parse_env(&mut self, text: &str) -> Result<(), String> {
        if text.trim_start().starts_with('[') && T::EXPECTS == "an object" {
            return read_env_json(self, text);
        }
        self.clear();
        if text.trim().is_empty() {
            return Ok(());
        }
        for part in text.split(',') {
            let mut item = T::default();
            item.parse_env(part)?;
            self.push(item);
        }
        Ok(())
    }
}

/// Maps: merged key by key. In a variable `k:v,k2:v2`, or a JSON object where the values are
/// objects themselves.
impl<T: Field> Field for BTreeMap<String, T> {
    const EXPECTS: &'static str = "an object";

    fn read(&mut self, raw: &str, reader: &mut Reader<'_>) -> Result<(), LoadError> {
        if raw == "null" {
            self.clear();
            return Ok(());
        }
        for (name, raw) in reader.object(raw)? {
            let mut value = T::default();
            reader.inside(&name, |reader| value.read(raw, reader))?;
            self.insert(name, value);
        }
        Ok(())
    }

    fn print(&self, secrets: Secrets) -> Value {
        self.iter()
            .map(|(name, value)| (name.clone(), value.print(secrets)))
            .collect()
    }

    fn parse_env(&mut self, text: &str) -> Result<(), String> {
        if text.trim_start().starts_with('{') {
            self.clear();
            return read_env_json(self, text);
        }
        self.clear();
        for (name, value) in env_pairs(text)? {
            let mut item = T::default();
            item.parse_env(value)?;
            self.insert(name.to_owned(), item);
        }
        Ok(())
    }
}

/// An object whose content Penstock does not know: handed on as it is.
pub type FreeMap = serde_json::Map<String, Value>;

impl Field for FreeMap {
    const EXPECTS: &'static str = "an object";

    fn read(&mut self, raw: &str, reader: &mut Reader<'_>) -> Result<(), LoadError> {
        if raw == "null" {
            self.clear();
            return Ok(());
        }
        for (name, raw) in reader.object(raw)? {
            let value = reader.inside(&name, |reader| {
                serde_json::from_str(raw).map_err(|why| reader.syntax(raw, &why))
            })?;
            self.insert(name, value);
        }
        Ok(())
    }

    fn print(&self, _: Secrets) -> Value {
        Value::Object(self.clone())
    }

    fn parse_env(&mut self, text: &str) -> Result<(), String> {
        self.clear();
        if text.trim_start().starts_with('{') {
            return read_env_json(self, text);
        }
        for (name, value) in env_pairs(text)? {
            self.insert(name.to_owned(), value.into());
        }
        Ok(())
    }
}

/// `k:v,k2:v2`. The first colon parts name and value, so that a value may be an address.
// Tyk differs: envconfig refuses a second colon; nothing that Tyk accepts reads otherwise here.
fn env_pairs(text: &str) -> Result<Vec<(&str, &str)>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    text.split(',')
        .map(|pair| {
            pair.split_once(':')
                .ok_or_else(|| "expected name:value pairs between commas".to_owned())
        })
        .collect()
}

/// Reads a variable whose text is JSON.
pub(super) fn read_env_json<T: Field>(value: &mut T, text: &str) -> Result<(), String> {
    let mut reader = Reader::new(Path::new("environment"), text);
    let read = reader
        .document()
        .and_then(|raw| value.read(raw, &mut reader));
    read.map_err(|why| match why.pointer.is_empty() {
        true => why.reason,
        false => format!("{}: {}", why.pointer, why.reason),
    })?;
    match reader.unknown.first() {
        Some(key) => Err(format!("{}: no such key", key.pointer)),
        None => Ok(()),
    }
}
