//! JSON Schema of what a serde type reads by Go's rules.
//!
//! The type itself is asked: a deserializer that has no document notes what is asked of it, field by
//! field, and answers with any value of that kind. So the schema cannot say anything else than what
//! `decode` reads.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor, value::StrDeserializer},
    forward_to_deserialize_any,
};
use serde_json::{Map, Value, json};

/// A text that every type which reads texts takes.
const SAMPLE: &str = "2006-01-02T15:04:05Z";

/// Named schemas that refer to one another as `#/definitions/<name>`.
#[derive(Debug, Default)]
pub struct Schemas {
    definitions: Map<String, Value>,
}

impl Schemas {
    /// Adds a struct and all structs in it.
    ///
    /// # Errors
    /// The type reads what this module does not know, such as an enum.
    pub fn add<'de, T: Deserialize<'de>>(&mut self) -> Result<(), SchemaError> {
        let mut schema = Value::Null;
        T::deserialize(Tracer {
            schema: &mut schema,
            definitions: &mut self.definitions,
        })?;
        Ok(())
    }

    /// The schemas by the names of their types.
    #[must_use]
    pub fn into_definitions(self) -> Map<String, Value> {
        self.definitions
    }
}

/// A type that has no schema.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SchemaError(String);

impl de::Error for SchemaError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// Takes the place of one value.
struct Tracer<'t> {
    schema: &'t mut Value,
    definitions: &'t mut Map<String, Value>,
}

macro_rules! plain {
    ($($method:ident $visit:ident $value:expr, $schema:tt;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SchemaError> {
            *self.schema = json!($schema);
            visitor.$visit($value)
        }
    )*};
}

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = SchemaError;

    // `null` is the zero value of everything.
    plain! {
        deserialize_bool visit_bool false, {"type": ["boolean", "null"]};
        deserialize_i8 visit_i8 0, {"type": ["integer", "null"]};
        deserialize_i16 visit_i16 0, {"type": ["integer", "null"]};
        deserialize_i32 visit_i32 0, {"type": ["integer", "null"]};
        deserialize_i64 visit_i64 0, {"type": ["integer", "null"]};
        deserialize_u8 visit_u8 0, {"type": ["integer", "null"], "minimum": 0};
        deserialize_u16 visit_u16 0, {"type": ["integer", "null"], "minimum": 0};
        deserialize_u32 visit_u32 0, {"type": ["integer", "null"], "minimum": 0};
        deserialize_u64 visit_u64 0, {"type": ["integer", "null"], "minimum": 0};
        deserialize_f32 visit_f64 0.0, {"type": ["number", "null"]};
        deserialize_f64 visit_f64 0.0, {"type": ["number", "null"]};
        deserialize_str visit_str SAMPLE, {"type": ["string", "null"]};
        deserialize_string visit_str SAMPLE, {"type": ["string", "null"]};
    }

    /// Free data.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SchemaError> {
        *self.schema = json!({});
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SchemaError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, SchemaError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SchemaError> {
        let mut items = Value::Null;
        let value = visitor.visit_seq(Once(Some(Tracer {
            schema: &mut items,
            definitions: self.definitions,
        })))?;
        *self.schema = json!({"type": ["array", "null"], "items": items});
        Ok(value)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SchemaError> {
        let mut values = Value::Null;
        let value = visitor.visit_map(Once(Some(Tracer {
            schema: &mut values,
            definitions: self.definitions,
        })))?;
        *self.schema = json!({"type": ["object", "null"], "additionalProperties": values});
        Ok(value)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, SchemaError> {
        *self.schema = json!({ "$ref": format!("#/definitions/{name}") });
        let mut walk = Fields {
            left: fields,
            properties: Map::new(),
            definitions: self.definitions,
        };
        if let Some(known) = walk.definitions.get(name) {
            let same = known.get("properties").and_then(Value::as_object);
            if !same.is_some_and(|same| same.keys().eq(fields.iter())) {
                return Err(SchemaError(format!("two types are called {name}")));
            }
            // Every field has a default.
            walk.left = &[];
            return visitor.visit_map(walk);
        }
        // Stands there before its fields do, in case one of them refers to it.
        let placeholder: Map<_, _> = fields
            .iter()
            .map(|field| ((*field).to_owned(), Value::Null))
            .collect();
        let definition = |properties| json!({"type": ["object", "null"], "properties": properties});
        let early = definition(placeholder);
        walk.definitions.insert(name.to_owned(), early);
        let value = visitor.visit_map(&mut walk)?;
        let properties = walk.properties;
        walk.definitions
            .insert(name.to_owned(), definition(properties));
        Ok(value)
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier ignored_any
    }
}

/// One element, or one entry.
struct Once<'t>(Option<Tracer<'t>>);

impl<'de> SeqAccess<'de> for Once<'_> {
    type Error = SchemaError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, SchemaError> {
        self.0
            .take()
            .map(|tracer| seed.deserialize(tracer))
            .transpose()
    }
}

impl<'de> MapAccess<'de> for Once<'_> {
    type Error = SchemaError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, SchemaError> {
        match self.0 {
            Some(_) => seed.deserialize(StrDeserializer::new("key")).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, SchemaError> {
        match self.0.take() {
            Some(tracer) => seed.deserialize(tracer),
            None => Err(SchemaError("a value without a key".to_owned())),
        }
    }
}

/// The fields of a struct, one after the other.
struct Fields<'t> {
    left: &'static [&'static str],
    properties: Map<String, Value>,
    definitions: &'t mut Map<String, Value>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = SchemaError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, SchemaError> {
        self.left
            .first()
            .map(|field| seed.deserialize(StrDeserializer::new(field)))
            .transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, SchemaError> {
        let Some((field, left)) = self.left.split_first() else {
            return Err(SchemaError("a value without a key".to_owned()));
        };
        self.left = left;
        let mut schema = Value::Null;
        let value = seed.deserialize(Tracer {
            schema: &mut schema,
            definitions: self.definitions,
        })?;
        self.properties.insert((*field).to_owned(), schema);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::apidef::ApiDefinition;

    #[derive(Default, Deserialize)]
    #[serde(default)]
    #[allow(dead_code, reason = "only its shape is looked at")]
    struct Tree {
        name: String,
        size: Option<f64>,
        count: u16,
        leaves: Vec<Leaf>,
        by_name: BTreeMap<String, Leaf>,
        free: Value,
    }

    #[derive(Default, Deserialize)]
    #[serde(default)]
    #[allow(dead_code, reason = "only its shape is looked at")]
    struct Leaf {
        is_green: bool,
    }

    #[test]
    fn a_schema_is_what_the_type_asks_for() {
        let mut schemas = Schemas::default();
        schemas.add::<Tree>().unwrap();
        let leaf = json!({"$ref": "#/definitions/Leaf"});
        assert_eq!(
            Value::Object(schemas.into_definitions()),
            json!({
                "Tree": {"type": ["object", "null"], "properties": {
                    "name": {"type": ["string", "null"]},
                    "size": {"type": ["number", "null"]},
                    "count": {"type": ["integer", "null"], "minimum": 0},
                    "leaves": {"type": ["array", "null"], "items": leaf},
                    "by_name": {"type": ["object", "null"], "additionalProperties": leaf},
                    "free": {}}},
                "Leaf": {"type": ["object", "null"], "properties": {
                    "is_green": {"type": ["boolean", "null"]}}}
            })
        );
    }

    #[test]
    fn a_definition_that_is_printed_fits_its_schema() {
        let mut schemas = Schemas::default();
        schemas.add::<ApiDefinition>().unwrap();
        let definitions = schemas.into_definitions();
        let schema = json!({"$ref": "#/definitions/ApiDefinition", "definitions": definitions});
        let schema = jsonschema::validator_for(&schema).unwrap();
        let api = ApiDefinition::default().to_json_string();
        let mut api: Value = serde_json::from_str(&api).unwrap();
        assert!(schema.is_valid(&api));
        api["proxy"]["listen_path"] = json!(5);
        assert!(!schema.is_valid(&api));
    }
}
