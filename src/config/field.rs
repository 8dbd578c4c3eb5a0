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

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

use crate::{config::reader::Reader, error::LoadError};

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
pub(crate) trait Field: Default {
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

/// Whether printing a configuration shows passwords and secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrets {
    Shown,
    /// Printed as `****`; an empty one stays empty.
    Masked,
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
                reader: &mut $crate::config::reader::Reader<'_>,
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
pub(crate) trait Word: Default + Copy {
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
        *self = known_word(&word)
            .ok_or_else(|| reader.fail(raw, format!("found {word:?}, expected {}", W::WORDS)))?;
        Ok(())
    }

    fn print(&self, _: Secrets) -> Value {
        self.word().into()
    }

    fn parse_env(&mut self, text: &str) -> Result<(), String> {
        *self = known_word(text).ok_or_else(|| format!("found {text:?}, expected {}", W::WORDS))?;
        Ok(())
    }
}

/// The empty word is the default one, as an absent key.
fn known_word<W: Word>(word: &str) -> Option<W> {
    W::from_word(word).or_else(|| word.is_empty().then(W::default))
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
    match reader.into_unknown().first() {
        Some(key) => Err(format!("{}: no such key", key.pointer)),
        None => Ok(()),
    }
}
