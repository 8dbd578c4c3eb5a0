//! The leaves, lists and maps of the configuration: how each reads, prints and is overridden.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

use crate::{
    config::{
        field::{Field, Secrets, read_env_json},
        reader::Reader,
    },
    error::LoadError,
    time::{format_go_duration, parse_go_duration},
};

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

/// An object whose content Penstock does not know: handed on as it is, masked as a whole.
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

    fn print(&self, secrets: Secrets) -> Value {
        match secrets {
            Secrets::Shown => Value::Object(self.clone()),
            Secrets::Masked => self
                .keys()
                .map(|name| (name.clone(), Value::from("****")))
                .collect(),
        }
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
