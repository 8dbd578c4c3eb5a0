//! `rate_limit_pattern`: counters that a key shares with others, named by data of the session and
//! of the request.
//!
//! Tyk: `gateway/mw_rate_limiting.go` (`ProcessRequest`), `gateway/mw_url_rewrite.go`
//! (`replaceTykVariables`, `valToStr`).

use std::borrow::Cow;

use serde_json::Value;

use crate::{
    apidef::{Map, json::go_number},
    session::Session,
};

const META: &str = "$tyk_meta";
const CONTEXT: &str = "$tyk_context";

impl Session {
    /// The pattern that names this key's counters; `None`: the key itself does.
    #[must_use]
    pub fn rate_limit_pattern(&self) -> Option<&str> {
        match self.meta_data.get("rate_limit_pattern") {
            Some(Value::String(pattern)) if !pattern.is_empty() => Some(pattern),
            _ => None,
        }
    }

    /// What the pattern gives for a request; `None`: no pattern, or it gives nothing, and the key
    /// itself names the counters. `context` answers `$tyk_context.<name>`, also for an API without
    /// context variables, where it has nothing to say.
    ///
    /// A value is never expanded again: what a client sends cannot name the session's data. What
    /// has no value expands to nothing. `// Tyk differs:` there it is.
    #[must_use]
    pub fn custom_rate_key<'a>(
        &self,
        context: impl Fn(&str) -> Option<Cow<'a, str>>,
    ) -> Option<String> {
        let pattern = self.rate_limit_pattern()?;
        let mut key = String::with_capacity(pattern.len() + 32);
        let mut rest = pattern;
        while let Some(at) = rest.find('$') {
            let (before, from) = rest.split_at(at);
            key.push_str(before);
            let Some((value, after)) = variable(from, &self.meta_data, &context) else {
                key.push('$');
                rest = from.get(1..).unwrap_or_default();
                continue;
            };
            key.push_str(&value);
            rest = after;
        }
        key.push_str(rest);
        (!key.is_empty()).then_some(key)
    }
}

/// The value of the variable that `text` begins with, and what comes after it.
fn variable<'t, 'a>(
    text: &'t str,
    meta: &Map<Value>,
    context: impl Fn(&str) -> Option<Cow<'a, str>>,
) -> Option<(Cow<'a, str>, &'t str)> {
    let is_meta = text.starts_with(META);
    let rest = text.strip_prefix(if is_meta { META } else { CONTEXT })?;
    let rest = rest.strip_prefix('.')?;
    let end = rest
        .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')))
        .unwrap_or(rest.len());
    let (name, after) = rest.split_at_checked(end)?;
    if name.is_empty() {
        return None;
    }
    let value = if is_meta {
        meta.get(name).map(|value| Cow::Owned(value_text(value)))
    } else {
        context(name)
    };
    Some((value.unwrap_or_default(), after))
}

/// A value of `meta_data` as text: a list is joined by commas, its elements escaped as in a query;
/// what is neither text, number nor list gives nothing (Tyk: `valToStr`).
#[must_use]
pub fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap_or_default();
            // Never with an exponent here, unlike in JSON.
            if number.abs() < 1e21 {
                number.to_string()
            } else {
                go_number(number)
            }
        }
        Value::Number(number) => number.to_string(),
        Value::Array(values) => values
            .iter()
            .map(value_text)
            .filter(|text| !text.is_empty())
            .map(|text| query_escape(&text))
            .collect::<Vec<_>>()
            .join(","),
        _ => String::new(),
    }
}

/// As Go's `url.QueryEscape`.
fn query_escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' => escaped.push('+'),
            byte if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) => {
                escaped.push(char::from(byte));
            }
            byte => escaped += &format!("%{byte:02X}"),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(pattern: Value, expected: Option<&str>) {
        let mut session = Session::default();
        for (name, value) in [
            ("developer_id", json!("dev-1")),
            ("number", json!(12)),
            ("float", json!(1.5)),
            ("list", json!(["a b", "c&", 1, null])),
            ("object", json!({"a": 1})),
            ("empty", json!("")),
            ("evil", json!("$tyk_meta.number")),
            ("a.b", json!("dotted")),
            ("rate_limit_pattern", pattern),
        ] {
            session.meta_data.insert(name.to_owned(), value);
        }
        let context = |name: &str| match name {
            "remote_addr" => Some(Cow::Borrowed("10.0.0.1")),
            "headers_X-Evil" => Some(Cow::Borrowed("$tyk_meta.developer_id")),
            _ => None,
        };
        let found = session.custom_rate_key(context);
        assert_eq!(found.as_deref(), expected);
    }

    #[test]
    fn patterns_name_counters_by_data() {
        check(json!("$tyk_meta.developer_id"), Some("dev-1"));
        check(
            json!("p-$tyk_meta.number|$tyk_meta.float"),
            Some("p-12|1.5"),
        );
        check(json!("$tyk_meta.a.b"), Some("dotted"));
        check(json!("$tyk_meta.list"), Some("a+b,c%26,1"));
        check(
            json!("$tyk_context.remote_addr/$tyk_meta.developer_id"),
            Some("10.0.0.1/dev-1"),
        );
        check(json!("fixed"), Some("fixed"));
        check(json!("a$b$$tyk_meta.number"), Some("a$b$12"));
        check(json!("$tyk_meta. $tyk_met"), Some("$tyk_meta. $tyk_met"));
    }

    #[test]
    fn a_pattern_that_gives_nothing_is_none() {
        check(json!(""), None);
        check(json!(12), None);
        check(json!("$tyk_meta.unknown"), None);
        check(json!("$tyk_meta.empty$tyk_context.unknown"), None);
        check(json!("$tyk_meta.object"), None);
    }

    #[test]
    fn values_are_not_expanded_again() {
        check(json!("$tyk_meta.evil"), Some("$tyk_meta.number"));
        check(
            json!("$tyk_context.headers_X-Evil"),
            Some("$tyk_meta.developer_id"),
        );
    }
}
