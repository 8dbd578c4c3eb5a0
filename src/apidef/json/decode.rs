//! Nodes to serde types by Go's rules (`encoding/json`, `Unmarshal`).
//!
//! What differs from serde_json: keys fold case, `null` leaves the zero value, unknown keys are
//! passed over, an array is no struct, a repeated key wins over the earlier one or is merged with
//! it when both are objects, and a finding knows its place.

use std::{borrow::Cow, fmt, rc::Rc};

use serde::{
    Deserialize, Deserializer,
    de::{
        self, DeserializeSeed, Error as _, MapAccess, SeqAccess, Unexpected, Visitor,
        value::{BorrowedStrDeserializer, StringDeserializer},
    },
    forward_to_deserialize_any,
};

use super::{
    Document, JsonError,
    parse::{Kind, Node},
};

impl<'a> Document<'a> {
    /// Reads the whole document as a `T`, which must be a struct.
    ///
    /// # Errors
    /// The first value of a wrong type, with its place.
    pub fn decode<T: Deserialize<'a>>(&self) -> Result<T, JsonError> {
        let root = Cursor::new(self, 0);
        // Tyk differs: Go takes the document `null` for an empty definition.
        if root.node().kind != Kind::Object {
            return Err(root.mismatch("an object"));
        }
        T::deserialize(root).map_err(|e| e.or_at(0))
    }

    /// Reads each member of the document, which must be an object, as a `T` of its own: one that
    /// cannot be read takes no other with it. In document order, also a key's repetitions.
    ///
    /// # Errors
    /// The document is no object.
    pub fn decode_members<T: Deserialize<'a>>(&self) -> Result<Vec<Member<'a, T>>, JsonError> {
        let root = Cursor::new(self, 0);
        if root.node().kind != Kind::Object {
            return Err(root.mismatch("an object"));
        }
        let members = root.entries().map(|(key, value)| {
            let key = self.content(self.node(key));
            let value = Cursor::new(self, value);
            let start = value.node().start as usize;
            let value = T::deserialize(value).map_err(|e| e.or_at(start).within(&*key));
            (key, value)
        });
        Ok(members.collect())
    }
}

/// A key of an object, and its value or why that could not be read.
pub type Member<'a, T> = (Cow<'a, str>, Result<T, JsonError>);

/// A value in a document.
struct Cursor<'d, 'a> {
    document: &'d Document<'a>,
    index: u32,
    /// Objects that an earlier repetition of the same key brought, in order.
    earlier: Option<Rc<[u32]>>,
}

impl<'d, 'a> Cursor<'d, 'a> {
    const fn new(document: &'d Document<'a>, index: u32) -> Self {
        Self {
            document,
            index,
            earlier: None,
        }
    }

    fn node(&self) -> Node {
        self.document.node(self.index)
    }

    fn mismatch(&self, expected: &str) -> JsonError {
        let node = self.node();
        let found = match node.kind {
            Kind::Number => format!("the number {:.40}", self.document.raw(node)),
            kind => kind.name().to_owned(),
        };
        JsonError::new(
            Some(node.start as usize),
            format!("found {found}, expected {expected}"),
        )
    }

    /// Text of a number, `None` for null.
    fn number(&self, expected: &str) -> Result<Option<&'a str>, JsonError> {
        let node = self.node();
        match node.kind {
            Kind::Number => Ok(Some(self.document.raw(node))),
            Kind::Null => Ok(None),
            _ => Err(self.mismatch(expected)),
        }
    }

    fn float(&self) -> Result<f64, JsonError> {
        let Some(text) = self.number("a number")? else {
            return Ok(0.0);
        };
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(value),
            _ => Err(self.mismatch("a number that fits into 64 bits")),
        }
    }

    /// Keys and values of the object here, together with those of its earlier repetitions.
    fn entries(&self) -> Entries<'d, 'a> {
        Entries {
            document: self.document,
            earlier: self.earlier.clone(),
            position: 0,
            last: Some(self.index),
            at: 0,
            end: 0,
        }
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty, $expected:literal;)*) => {$(
        fn $method<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, JsonError> {
            match self.number($expected)? {
                None => visitor.$visit(0),
                Some(text) => match text.parse::<$type>() {
                    Ok(value) => visitor.$visit(value),
                    Err(_) => Err(self.mismatch($expected)),
                },
            }
        }
    )*};
}

impl<'a> Deserializer<'a> for Cursor<'_, 'a> {
    type Error = JsonError;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, JsonError> {
        let node = self.node();
        match node.kind {
            Kind::Null => visitor.visit_unit(),
            Kind::False => visitor.visit_bool(false),
            Kind::True => visitor.visit_bool(true),
            Kind::Number => {
                let text = self.document.raw(node);
                if let Ok(value) = text.parse::<i64>()
                    && text != "-0"
                {
                    visitor.visit_i64(value)
                } else if let Ok(value) = text.parse::<u64>() {
                    visitor.visit_u64(value)
                } else {
                    visitor.visit_f64(self.float()?)
                }
            }
            Kind::Text | Kind::Escaped => self.deserialize_str(visitor),
            Kind::Array => self.deserialize_seq(visitor),
            Kind::Object => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.node().kind {
            Kind::True => visitor.visit_bool(true),
            Kind::False | Kind::Null => visitor.visit_bool(false),
            _ => Err(self.mismatch("true or false")),
        }
    }

    integers! {
        deserialize_i8 visit_i8 i8, "a whole number from -128 to 127";
        deserialize_i16 visit_i16 i16, "a whole number of 16 bits";
        deserialize_i32 visit_i32 i32, "a whole number of 32 bits";
        deserialize_i64 visit_i64 i64, "a whole number";
        deserialize_u8 visit_u8 u8, "a whole number from 0 to 255";
        deserialize_u16 visit_u16 u16, "a whole number from 0 to 65535";
        deserialize_u32 visit_u32 u32, "a whole number of 32 bits, not negative";
        deserialize_u64 visit_u64 u64, "a whole number, not negative";
    }

    fn deserialize_f32<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, JsonError> {
        visitor.visit_f64(self.float()?)
    }

    fn deserialize_str<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, JsonError> {
        let node = self.node();
        match node.kind {
            Kind::Null => visitor.visit_borrowed_str(""),
            Kind::Text | Kind::Escaped => match self.document.content(node) {
                Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
                Cow::Owned(text) => visitor.visit_string(text),
            },
            _ => Err(self.mismatch("a string")),
        }
    }

    fn deserialize_string<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, JsonError> {
        if self.node().kind == Kind::Null {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, JsonError> {
        let node = self.node();
        let end = match node.kind {
            Kind::Array => node.next,
            Kind::Null => 0,
            _ => return Err(self.mismatch("an array")),
        };
        visitor.visit_seq(Elements {
            document: self.document,
            at: self.index + 1,
            end,
            position: 0,
        })
    }

    fn deserialize_map<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.node().kind {
            Kind::Object | Kind::Null => visitor.visit_map(MapEntries {
                entries: self.entries(),
                value: None,
            }),
            _ => Err(self.mismatch("an object")),
        }
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        match self.node().kind {
            Kind::Object | Kind::Null => visitor.visit_map(Fields::resolve(&self, fields)),
            _ => Err(self.mismatch("an object")),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, JsonError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        <V: Visitor<'a>>
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
    }
}

/// Walks the keys and values of one object, or of several as if they were one.
struct Entries<'d, 'a> {
    document: &'d Document<'a>,
    /// Objects that come before `last`, from `position` on.
    earlier: Option<Rc<[u32]>>,
    position: usize,
    last: Option<u32>,
    at: u32,
    end: u32,
}

impl Iterator for Entries<'_, '_> {
    /// Indices of key and value.
    type Item = (u32, u32);

    fn next(&mut self) -> Option<(u32, u32)> {
        while self.at >= self.end {
            let earlier = self.earlier.as_deref().unwrap_or_default();
            let object = match earlier.get(self.position) {
                Some(object) => *object,
                None => self.last.take()?,
            };
            self.position += 1;
            let node = self.document.node(object);
            if node.kind == Kind::Object {
                self.at = object + 1;
                self.end = node.next;
            }
        }
        let (key, value) = (self.at, self.at + 1);
        self.at = self.document.node(value).next;
        Some((key, value))
    }
}

struct Elements<'d, 'a> {
    document: &'d Document<'a>,
    at: u32,
    end: u32,
    position: usize,
}

impl<'a> SeqAccess<'a> for Elements<'_, 'a> {
    type Error = JsonError;

    fn next_element_seed<T: DeserializeSeed<'a>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, JsonError> {
        if self.at >= self.end {
            return Ok(None);
        }
        let cursor = Cursor::new(self.document, self.at);
        let node = cursor.node();
        self.at = node.next;
        let position = self.position;
        self.position += 1;
        seed.deserialize(cursor)
            .map(Some)
            .map_err(|e| e.or_at(node.start as usize).within(position.to_string()))
    }
}

struct MapEntries<'d, 'a> {
    entries: Entries<'d, 'a>,
    value: Option<(u32, u32)>,
}

impl<'a> MapAccess<'a> for MapEntries<'_, 'a> {
    type Error = JsonError;

    fn next_key_seed<K: DeserializeSeed<'a>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, JsonError> {
        self.value = self.entries.next();
        let Some((key, _)) = self.value else {
            return Ok(None);
        };
        let document = self.entries.document;
        let node = document.node(key);
        let parsed = match document.content(node) {
            Cow::Borrowed(text) => seed.deserialize(BorrowedStrDeserializer::new(text)),
            Cow::Owned(text) => seed.deserialize(StringDeserializer::new(text)),
        };
        parsed
            .map(Some)
            .map_err(|e: JsonError| e.or_at(node.start as usize))
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, JsonError> {
        let Some((key, value)) = self.value.take() else {
            return Err(JsonError::custom("a value without a key"));
        };
        let document = self.entries.document;
        let cursor = Cursor::new(document, value);
        let start = cursor.node().start as usize;
        seed.deserialize(cursor)
            .map_err(|e| e.or_at(start).within(document.content(document.node(key))))
    }
}

/// The fields of a struct that a document sets, each once.
struct Fields<'d, 'a> {
    names: &'static [&'static str],
    found: std::vec::IntoIter<(usize, Cursor<'d, 'a>)>,
    value: Option<(usize, Cursor<'d, 'a>)>,
}

impl<'d, 'a> Fields<'d, 'a> {
    fn resolve(object: &Cursor<'d, 'a>, names: &'static [&'static str]) -> Self {
        let document = object.document;
        let mut found: Vec<(usize, Cursor<'d, 'a>)> = Vec::with_capacity(8);
        let mut seen = Seen::default();
        let mut expected = 0;
        for (key, value) in object.entries() {
            let key = document.content(document.node(key));
            let Some(field) = field_of(names, &key, expected) else {
                continue;
            };
            expected = field + 1;
            let cursor = Cursor::new(document, value);
            if !seen.insert(field) {
                found.push((field, cursor));
            } else if let Some((_, earlier)) = found.iter_mut().find(|(f, _)| *f == field) {
                repeat(earlier, cursor);
            }
        }
        Self {
            names,
            found: found.into_iter(),
            value: None,
        }
    }
}

/// Go decodes a repeated key into the same field: `null` changes nothing, objects are merged,
/// anything else replaces what was there.
fn repeat<'d, 'a>(earlier: &mut Cursor<'d, 'a>, mut later: Cursor<'d, 'a>) {
    match (earlier.node().kind, later.node().kind) {
        (_, Kind::Null) => {}
        (Kind::Object, Kind::Object) => {
            let mut objects = earlier.earlier.as_deref().unwrap_or_default().to_vec();
            objects.push(earlier.index);
            later.earlier = Some(objects.into());
            *earlier = later;
        }
        _ => *earlier = later,
    }
}

/// Index of the field that a key names: letter by letter, else with case folded.
/// `expected` is where a search that follows the document's order begins.
fn field_of(names: &[&str], key: &str, expected: usize) -> Option<usize> {
    let (before, from) = names.split_at_checked(expected).unwrap_or((names, &[]));
    let exact = from
        .iter()
        .position(|name| *name == key)
        .map(|at| at + before.len())
        .or_else(|| before.iter().position(|name| *name == key));
    exact.or_else(|| names.iter().position(|name| folds_to(key, name)))
}

/// Equal when case is folded as Go does: also U+017F (long s) is an `s` and U+212A (Kelvin) a `k`.
fn folds_to(key: &str, name: &str) -> bool {
    if key.is_ascii() {
        return key.eq_ignore_ascii_case(name);
    }
    key.chars()
        .map(|c| match c {
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            c => c.to_ascii_lowercase(),
        })
        .eq(name.chars().map(|c| c.to_ascii_lowercase()))
}

/// A set of field indices.
#[derive(Default)]
struct Seen {
    low: [u64; 4],
    high: Vec<usize>,
}

impl Seen {
    /// True when it was there already.
    fn insert(&mut self, field: usize) -> bool {
        let Some(word) = self.low.get_mut(field / 64) else {
            let there = self.high.contains(&field);
            self.high.push(field);
            return there;
        };
        let bit = 1 << (field % 64);
        let there = *word & bit != 0;
        *word |= bit;
        there
    }
}

impl<'a> MapAccess<'a> for Fields<'_, 'a> {
    type Error = JsonError;

    fn next_key_seed<K: DeserializeSeed<'a>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, JsonError> {
        self.value = self.found.next();
        let Some((field, _)) = &self.value else {
            return Ok(None);
        };
        let name = self.names.get(*field).copied().unwrap_or_default();
        seed.deserialize(FieldName {
            index: *field,
            name,
        })
        .map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, JsonError> {
        let Some((field, cursor)) = self.value.take() else {
            return Err(JsonError::custom("a value without a key"));
        };
        let start = cursor.node().start as usize;
        let name = self.names.get(field).copied().unwrap_or_default();
        seed.deserialize(cursor)
            .map_err(|e| e.or_at(start).within(name))
    }
}

/// A field by its index, which derived visitors find without comparing names.
struct FieldName {
    index: usize,
    name: &'static str,
}

impl<'a> Deserializer<'a> for FieldName {
    type Error = JsonError;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, JsonError> {
        visitor.visit_borrowed_str(self.name)
    }

    fn deserialize_identifier<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, JsonError> {
        visitor.visit_u64(self.index as u64)
    }

    forward_to_deserialize_any! {
        <V: Visitor<'a>>
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum ignored_any
    }
}

impl de::Error for JsonError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(None, message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format_args!(
            "found {}, expected {expected}",
            kind_of(&found)
        ))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(found, expected)
    }
}

/// Names what was found without quoting it.
const fn kind_of(found: &Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "true or false",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number",
        Unexpected::Str(_) | Unexpected::Char(_) | Unexpected::Bytes(_) => "a string",
        Unexpected::Unit | Unexpected::Option => "null",
        Unexpected::Seq => "an array",
        _ => "an object",
    }
}
