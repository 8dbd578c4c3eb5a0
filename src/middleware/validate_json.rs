//! Request content checked against a JSON schema.
//!
//! Tyk: `mw_validate_json.go` (`ValidateJSON`); key `extended_paths.validate_json`. Decided on the
//! path without its listen path. Order: after the limits, before transforms.
//! Cost when absent: none. When present: the content of matching requests is read, once and bounded.
//! Tyk differs: the content goes on to the upstream whatever its framing was.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use crate::{
    apidef::{ValidatePathMeta, VersionInfo},
    exchange::{
        Ctx,
        path_set::{PathSet, PathSetFault},
    },
};

/// More faults than these are not told: their text would outgrow the content.
const FAULTS_MAX: usize = 100;

const DRAFT_4: &str = "http://json-schema.org/draft-04/schema#";

/// Compiled form of `validate_json`.
#[derive(Debug)]
pub struct ValidateJson {
    paths: PathSet,
    rules: Box<[Rule]>,
}

/// One endpoint's schema.
#[derive(Debug)]
pub struct Rule {
    schema: Validator,
    status: u16,
}

/// A refusal whose text is made for the request.
pub struct Invalid {
    pub status: u16,
    pub message: String,
}

impl ValidateJson {
    /// `None` when no entry is on.
    ///
    /// # Errors
    /// The JSON pointer below `extended_paths` and what is wrong there.
    pub fn from_spec(
        version: &VersionInfo,
        ignore_case: bool,
    ) -> Result<Option<Self>, (String, String)> {
        let on: Vec<_> = version
            .extended_paths
            .validate_json
            .iter()
            .enumerate()
            .filter(|(_, entry)| version.use_extended_paths && !entry.disabled)
            .collect();
        if on.is_empty() {
            return Ok(None);
        }
        let mut rules = Vec::with_capacity(on.len());
        for (index, entry) in &on {
            let at = format!("validate_json/{index}/schema");
            let schema = document(entry).map_err(|reason| (at.clone(), reason))?;
            if let Some(dialect) = schema.get("$schema").filter(|dialect| *dialect != DRAFT_4) {
                return Err((
                    at + "/$schema",
                    format!("{dialect} is not draft 4 (`{DRAFT_4}`)"),
                ));
            }
            // The engine that takes linear time; Go's has the same syntax and the same bounds.
            let schema = jsonschema::draft4::options()
                .with_pattern_options(PatternOptions::regex())
                .build(&schema)
                .map_err(|error| (at, format!("not a schema: {error}")))?;
            let status = match u16::try_from(entry.error_response_code) {
                Ok(0) | Err(_) => 422,
                Ok(status) => status,
            };
            rules.push(Rule { schema, status });
        }
        let entries = on
            .iter()
            .map(|(_, entry)| (entry.method.as_str(), entry.path.as_str()));
        let paths =
            PathSet::new(entries, ignore_case).map_err(|PathSetFault { entry, reason }| {
                let index = on.get(entry).map_or(0, |(index, _)| *index);
                (format!("validate_json/{index}/path"), reason)
            })?;
        Ok(Some(Self {
            paths,
            rules: rules.into(),
        }))
    }

    /// The rule for this request; `None` leaves its content unread.
    #[must_use]
    pub fn rule(&self, stripped_path: &[u8], cx: &Ctx) -> Option<&Rule> {
        let entry = self
            .paths
            .find(cx.part(cx.head.method_span), stripped_path)?;
        self.rules.get(entry)
    }
}

/// The schema, written out or in base64.
fn document(entry: &ValidatePathMeta) -> Result<Value, String> {
    if entry.schema_b64.is_empty() {
        let schema = entry
            .schema
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()));
        return Ok(Value::Object(schema.collect()));
    }
    let bytes = BASE64_STANDARD
        .decode(&entry.schema_b64)
        .map_err(|error| format!("`schema_b64` is not base64: {error}"))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("`schema_b64` holds no JSON: {error}"))
}

impl Rule {
    /// Refuses content that is no JSON with 400 and content that breaks the schema with the rule's
    /// status.
    ///
    /// # Errors
    /// [`Invalid`], with Tyk's text.
    pub fn check(&self, cx: &Ctx) -> Result<(), Invalid> {
        let content = cx.content.as_deref().unwrap_or_default();
        let instance: Value = if content.is_empty() {
            return Err(Invalid {
                status: 400,
                message: "JSON parsing error: EOF".to_owned(),
            });
        } else {
            serde_json::from_slice(content).map_err(|error| Invalid {
                status: 400,
                message: format!("JSON parsing error: {error}"),
            })?
        };
        let faults: Vec<_> = self
            .schema
            .iter_errors(&instance)
            .take(FAULTS_MAX)
            .map(|error| describe(&error))
            .collect();
        if faults.is_empty() {
            return Ok(());
        }
        Err(Invalid {
            status: self.status,
            message: faults.join("; "),
        })
    }
}

/// `field: description` in the words of Tyk's validator where it has them.
fn describe(error: &jsonschema::ValidationError<'_>) -> String {
    use jsonschema::error::ValidationErrorKind as Kind;
    let path = error
        .instance_path()
        .as_str()
        .trim_start_matches('/')
        .replace('/', ".");
    let field = if path.is_empty() {
        "(root)".to_owned()
    } else {
        path
    };
    match error.kind() {
        Kind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            format!("{name}: {name} is required")
        }
        Kind::Type { kind } => {
            let expected = match kind {
                jsonschema::error::TypeKind::Single(kind) => kind.to_string(),
                jsonschema::error::TypeKind::Multiple(kinds) => kinds
                    .iter()
                    .map(|kind| kind.to_string())
                    .collect::<Vec<_>>()
                    .join("/"),
            };
            let given = kind_of(error.instance());
            format!("{field}: Invalid type. Expected: {expected}, given: {given}")
        }
        Kind::AdditionalProperties { unexpected } => {
            let name = unexpected.first().map_or("", String::as_str);
            format!("{field}: Additional property {name} is not allowed")
        }
        Kind::MinLength { limit } => {
            format!("{field}: String length must be greater than or equal to {limit}")
        }
        Kind::MaxLength { limit } => {
            format!("{field}: String length must be less than or equal to {limit}")
        }
        Kind::Minimum { limit } => format!("{field}: Must be greater than or equal to {limit}"),
        Kind::Maximum { limit } => format!("{field}: Must be less than or equal to {limit}"),
        Kind::Pattern { pattern } => format!("{field}: Does not match pattern '{pattern}'"),
        _ => format!("{field}: {error}"),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
