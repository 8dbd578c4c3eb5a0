//! References in definition files: values that stand in the environment or in `secrets` of
//! `tyk.conf`.
//!
//! Two rules of Tyk's meet here (`gateway/api_definition.go` `replaceSecrets`, `gateway/server.go`
//! `kvStore`). In the text of a whole file, before it is parsed: `env://NAME` reaches to the
//! closing quote and stands for the variable `NAME`; `secrets://KEY` is replaced wherever it
//! occurs. Afterwards, in `proxy.listen_path` and `proxy.target_url` alone: `env://x` stands for
//! `TYK_SECRET_X`, and `secrets://KEY` for the whole value.
//!
//! The environment is handed in; nothing here reads it.

use std::borrow::Cow;

use memchr::memmem;

use super::{Fault, ProxyConfig, json::Document};

/// Looks a name up; `None` when there is no such name.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Longest key of `secrets` that is looked for.
const KEY_BYTES_MAX: usize = 256;

/// Replaces the references in the text of a definition file. A reference to a variable that is
/// empty or unset, or to a key that `secrets` lacks, stays as it is, as in Tyk; see [`unresolved`].
///
/// # Errors
/// A reference into Consul or Vault, with its place.
// Tyk differs: a value is written as JSON text is (quotes and line ends escaped), so it cannot add
// fields to the document; and it is not searched for further references.
pub fn substitute<'a>(
    raw: &'a str,
    env: Lookup<'_>,
    secrets: Lookup<'_>,
) -> Result<Cow<'a, str>, Fault> {
    let mut replaced = String::new();
    let mut copied = 0;
    for at in memmem::find_iter(raw.as_bytes(), "://") {
        let before = raw.get(copied..at).unwrap_or_default();
        let after = raw.get(at + 3..).unwrap_or_default();
        let (scheme_bytes, key_bytes, value) = if before.ends_with("env") {
            let name = after.split('"').next().unwrap_or_default();
            let value = env(name).filter(|value| !value.is_empty() && !name.is_empty());
            (3, name.len(), value)
        } else if before.ends_with("secrets") {
            let (key_bytes, value) = longest_key(after, secrets);
            (7, key_bytes, value)
        } else if before.ends_with("consul") || before.ends_with("vault") {
            if let Some(fault) = foreign_store(raw) {
                return Err(fault);
            }
            continue;
        } else {
            continue;
        };
        if let Some(value) = value {
            replaced.push_str(
                before
                    .get(..before.len() - scheme_bytes)
                    .unwrap_or_default(),
            );
            push_escaped(&mut replaced, &value);
            copied = at + 3 + key_bytes;
        }
    }
    if copied == 0 {
        return Ok(Cow::Borrowed(raw));
    }
    replaced.push_str(raw.get(copied..).unwrap_or_default());
    Ok(Cow::Owned(replaced))
}

/// The longest beginning of `after` that is a key, within its JSON text.
fn longest_key(after: &str, secrets: Lookup<'_>) -> (usize, Option<String>) {
    let text = after.split('"').next().unwrap_or_default();
    let mut end = text.floor_char_boundary(KEY_BYTES_MAX);
    while end > 0 {
        let key = text.get(..end).unwrap_or_default();
        if let Some(value) = secrets(key) {
            return (end, Some(value));
        }
        end = text.floor_char_boundary(end - 1);
    }
    (0, None)
}

/// Writes `value` as the inside of a JSON text.
fn push_escaped(to: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '"' => to.push_str("\\\""),
            '\\' => to.push_str("\\\\"),
            '\n' => to.push_str("\\n"),
            '\r' => to.push_str("\\r"),
            '\t' => to.push_str("\\t"),
            c if c < ' ' => to.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => to.push(c),
        }
    }
}

/// The first text that refers to Consul or Vault. None when the document cannot be parsed: the
/// parser then has more to say.
fn foreign_store(raw: &str) -> Option<Fault> {
    let document = Document::parse(raw.as_bytes()).ok()?;
    document.texts().find_map(|(offset, pointer, text)| {
        let store = ["consul", "vault"]
            .into_iter()
            .find(|store| text.contains(&format!("{store}://")))?;
        let mut fault = Fault::refuse(
            pointer,
            format!("refers to {store}://, which is not supported yet; use env:// or secrets://"),
        );
        (fault.line, fault.column) = super::json::line_and_column(raw.as_bytes(), offset);
        Some(fault)
    })
}

/// References that [`substitute`] left in the text of a file, as warnings: what stands there now is
/// the reference itself. Listen path and target are [`resolve_proxy`]'s business.
#[must_use]
pub fn unresolved(text: &str) -> Vec<Fault> {
    if memmem::find(text.as_bytes(), b"env://").is_none()
        && memmem::find(text.as_bytes(), b"secrets://").is_none()
    {
        return Vec::new();
    }
    let Ok(document) = Document::parse(text.as_bytes()) else {
        return Vec::new();
    };
    document
        .texts()
        .filter(|(_, pointer, text)| {
            !matches!(
                pointer.to_ascii_lowercase().as_str(),
                "/proxy/listen_path" | "/proxy/target_url"
            ) && (text.contains("env://") || text.contains("secrets://"))
        })
        .map(|(offset, pointer, _)| {
            let mut fault = Fault::warn(pointer, "the reference names nothing that is set");
            (fault.line, fault.column) = super::json::line_and_column(text.as_bytes(), offset);
            fault
        })
        .collect()
}

/// Resolves `listen_path` and `target_url`, in place.
///
/// # Errors
/// A variable or key that is not there, or a reference into Consul or Vault.
// Tyk differs: an unset variable gives an empty target there, found out by the first request.
pub fn resolve_proxy(
    proxy: &mut ProxyConfig,
    env: Lookup<'_>,
    secrets: Lookup<'_>,
) -> Result<(), Fault> {
    for (pointer, field) in [
        ("/proxy/listen_path", &mut proxy.listen_path),
        ("/proxy/target_url", &mut proxy.target_url),
    ] {
        let value = resolve(field, env, secrets).map_err(|why| Fault::refuse(pointer, why))?;
        if let Some(value) = value {
            *field = value;
        }
    }
    Ok(())
}

/// What a whole value refers to; `None` when it is no reference.
fn resolve(value: &str, env: Lookup<'_>, secrets: Lookup<'_>) -> Result<Option<String>, String> {
    if let Some(name) = value.strip_prefix("env://") {
        let variable = format!("TYK_SECRET_{}", name.to_uppercase());
        return env(&variable)
            .filter(|value| !value.is_empty())
            .map(Some)
            .ok_or_else(|| format!("refers to the variable `{variable}`, which is not set"));
    }
    if let Some(key) = value.strip_prefix("secrets://") {
        return secrets(key)
            .map(Some)
            .ok_or_else(|| format!("refers to `{key}`, which `secrets` does not hold"));
    }
    for store in ["consul://", "vault://"] {
        if value.starts_with(store) {
            return Err(format!(
                "refers to {store}, which is not supported yet; use env:// or secrets://"
            ));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        let value = match name {
            "HOST" => "http://up:1",
            "EMPTY" => "",
            "HOST/path" => "whole",
            "QUOTED" => "a\"b\\c\nd\u{1}",
            "NESTED" => "secrets://up",
            "TYK_SECRET_UP" => "http://secret-up",
            _ => return None,
        };
        Some(value.to_owned())
    }

    fn secrets(key: &str) -> Option<String> {
        let value = match key {
            "up" => "http://s",
            "upper" => "U",
            "empty" => "",
            _ => return None,
        };
        Some(value.to_owned())
    }

    #[track_caller]
    fn check(raw: &str, expected: &str) {
        assert_eq!(substitute(raw, &env, &secrets).as_deref(), Ok(expected));
    }

    #[test]
    fn references_are_replaced_in_the_text() {
        check(r#"{"a":"env://HOST"}"#, r#"{"a":"http://up:1"}"#);
        check(
            r#"{"a":"x env://HOST","b":"env://HOST"}"#,
            r#"{"a":"x http://up:1","b":"http://up:1"}"#,
        );
        check(r#"{"a":"env://HOST/path"}"#, r#"{"a":"whole"}"#);
        check(r#"{"a":"secrets://up/path"}"#, r#"{"a":"http://s/path"}"#);
        check(r#"{"a":"secrets://upper"}"#, r#"{"a":"U"}"#);
        check(r#"{"a":"secrets://empty!"}"#, r#"{"a":"!"}"#);
        check(
            r#"{"a":"secrets://upsecrets://up"}"#,
            r#"{"a":"http://shttp://s"}"#,
        );
        check(r#"{"a":"env://NESTED"}"#, r#"{"a":"secrets://up"}"#);
    }

    #[test]
    fn what_is_not_set_stays() {
        for raw in [
            r#"{"a":"env://MISSING"}"#,
            r#"{"a":"env://EMPTY"}"#,
            r#"{"a":"env://"}"#,
            r#"{"a":"secrets://missing"}"#,
            r#"{"a":"secrets://"}"#,
            r#"{"a":"http://x"}"#,
            "env://",
            "",
        ] {
            check(raw, raw);
        }
    }

    #[test]
    fn a_value_cannot_break_out_of_its_text() {
        let text = substitute(r#"{"name":"env://QUOTED"}"#, &env, &secrets).expect("no fault");
        let definition =
            crate::apidef::ApiDefinition::from_json_slice(text.as_bytes()).expect("still JSON");
        assert_eq!(definition.name, "a\"b\\c\nd\u{1}");
    }

    #[test]
    fn other_stores_are_refused_with_their_place() {
        let fault =
            substitute("{\n \"tags\":[\"a\",\"x vault://k\"]}", &env, &secrets).expect_err("vault");
        assert_eq!(
            (fault.line, fault.column, fault.pointer.as_str()),
            (2, 14, "/tags/1")
        );
        assert!(fault.reason.contains("vault://"), "{fault}");
        assert!(substitute(r#"{"a":"consul://k"}"#, &env, &secrets).is_err());
        // Not JSON: the parser says so.
        check("{consul://", "{consul://");
    }

    #[test]
    fn references_left_over_are_named() {
        let faults = unresolved(
            r#"{"proxy":{"target_url":"env://UP"},"request_signing":{"secret":"env://MISSING"}}"#,
        );
        let pointers: Vec<_> = faults.iter().map(|f| f.pointer.as_str()).collect();
        assert_eq!(pointers, ["/request_signing/secret"]);
    }

    #[test]
    fn listen_path_and_target_have_a_form_of_their_own() {
        let resolved = |listen_path: &str, target_url: &str| {
            let mut proxy = ProxyConfig {
                listen_path: listen_path.to_owned(),
                target_url: target_url.to_owned(),
                ..ProxyConfig::default()
            };
            resolve_proxy(&mut proxy, &env, &secrets)
                .map(|()| (proxy.listen_path, proxy.target_url))
                .map_err(|fault| fault.to_string())
        };
        assert_eq!(
            resolved("/a/", "env://up"),
            Ok(("/a/".to_owned(), "http://secret-up".to_owned()))
        );
        assert_eq!(
            resolved("secrets://upper", "http://x"),
            Ok(("U".to_owned(), "http://x".to_owned()))
        );
        assert_eq!(
            resolved("/a/", "env://MISSING"),
            Err(
                "/proxy/target_url: refers to the variable `TYK_SECRET_MISSING`, which is not set"
                    .to_owned()
            )
        );
        assert!(resolved("/a/", "secrets://missing").is_err());
        assert!(resolved("vault://x", "").is_err());
    }
}
