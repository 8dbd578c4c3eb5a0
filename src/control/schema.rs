//! `GET /tyk/schema`: the form of what this gateway reads.
//!
//! `// Tyk differs:` there it is that of OpenAPI documents with Tyk's extension; here, until these are
//! read, that of classic definitions, sessions and policies, made from the types that read them.
//!
//! Tyk: `gateway/schema.go` (`schemaHandler`), `apidef/oas/schema.go`.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};

use crate::{
    apidef::{
        ApiDefinition,
        json::{SchemaError, Schemas},
    },
    policy::Policy,
    session::Session,
};

/// The one version that Tyk 5.4.0 has a schema of; of its patch versions, too.
const OAS_VERSION: &str = "3.0";

/// The schema for `oasVersion`, which may be left out.
pub(super) fn schema(asked: &[(String, String)]) -> Response {
    let version = asked.iter().find(|(key, _)| key == "oasVersion");
    let version = version.map_or("", |(_, value)| value.as_str());
    if !is_known(version) {
        let message = format!("Schema not found for version {version:?}");
        let body = Json(json!({"status": "Failed", "message": message}));
        return (StatusCode::NOT_FOUND, body).into_response();
    }
    match document() {
        Ok(schema) => {
            Json(json!({"status": "Success", "message": "", "schema": schema})).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn is_known(version: &str) -> bool {
    let patch = version.strip_prefix(OAS_VERSION);
    version.is_empty()
        || patch.is_some_and(|patch| {
            let digits = patch.strip_prefix('.');
            patch.is_empty()
                || digits.is_some_and(|digits| {
                    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
                })
        })
}

fn document() -> Result<Value, SchemaError> {
    let mut schemas = Schemas::default();
    schemas.add::<ApiDefinition>()?;
    schemas.add::<Session>()?;
    schemas.add::<Policy>()?;
    let one_of = ["ApiDefinition", "Session", "Policy"]
        .map(|name| json!({"$ref": format!("#/definitions/{name}")}));
    Ok(json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Classic API definitions, sessions and policies",
        "anyOf": one_of,
        "definitions": schemas.into_definitions(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart_as_in_tyk() {
        for version in ["", "3.0", "3.0.3", "3.0.10"] {
            assert!(is_known(version), "{version}");
        }
        for version in ["3", "3.1", "3.1.0", "3.0.", "3.0.x", "3.00", "latest"] {
            assert!(!is_known(version), "{version}");
        }
    }

    #[test]
    fn sessions_and_policies_that_are_printed_fit() {
        let document = document().unwrap();
        let fits = |name: &str, text: String| {
            let mut schema = json!({"$ref": format!("#/definitions/{name}")});
            schema["definitions"] = document["definitions"].clone();
            let value = serde_json::from_str(&text).unwrap();
            jsonschema::validator_for(&schema).unwrap().is_valid(&value)
        };
        let session =
            br#"{"access_rights":{"a":{"limit":{"smoothing":{}}}},"meta_data":{"x":[1]}}"#;
        let session = Session::from_json_slice(session).unwrap();
        assert!(fits("Session", session.to_json_string()));
        assert!(!fits("Session", r#"{"rate":"1"}"#.to_owned()));
        assert!(fits("Policy", Policy::default().to_json_string()));
        assert!(!fits("Policy", r#"{"partitions":[]}"#.to_owned()));
    }
}
