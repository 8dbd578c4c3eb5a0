//! The body of a refusal: templates and replaced messages. The only place that renders a
//! [`Reject`].
//!
//! Tyk: `gateway/handler_error.go`; keys `template_path`, `override_messages`; docs "Error
//! templates". Templates are compiled once, at start; a rendering is one allocation.

use std::{collections::HashMap, fs, io, io::Read as _, path::Path};

use crate::error::{LoadError, Reject};

/// The error templates of a gateway.
#[derive(Debug)]
pub struct Templates {
    /// `error.json`.
    json: Template,
    /// `error.xml`; without it JSON is sent instead.
    xml: Option<Template>,
    /// `error_<code>.json` and `error_<code>.xml`.
    by_status: HashMap<(u16, Format), Template>,
}

impl Templates {
    /// Reads `error.{json,xml}` and `error_<code>.{json,xml}` of `dir`; what else is there is left
    /// alone. A missing directory, or one without `error.json`, is reported in the log.
    ///
    /// # Errors
    /// Names file and line of an action other than `{{.Message}}` and `{{.StatusCode}}`, and of what
    /// cannot be read or passes [`TEMPLATE_BYTES_MAX`].
    // Tyk differs: it panics at start when there is no template; here built-in ones take their place.
    pub fn load(dir: &Path) -> Result<Self, LoadError> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(
                    template_path = %dir.display(),
                    "no error templates there; the built-in ones are used"
                );
                return Ok(Self::default());
            }
            Err(error) => return Err(LoadError::whole(dir, error.to_string())),
        };
        let (mut json, mut xml, mut by_status) = (None, None, HashMap::new());
        for entry in entries {
            let path = entry
                .map_err(|error| LoadError::whole(dir, error.to_string()))?
                .path();
            let name = path.file_name().and_then(|name| name.to_str());
            match name.and_then(role) {
                Some((None, Format::Json)) => json = Some(Template::load(&path)?),
                Some((None, Format::Xml)) => xml = Some(Template::load(&path)?),
                Some((Some(status), format)) => {
                    by_status.insert((status, format), Template::load(&path)?);
                }
                None => {}
            }
        }
        if json.is_none() {
            tracing::warn!(
                template_path = %dir.display(),
                "no error.json there; the built-in one is used"
            );
        }
        Ok(Self {
            json: json.unwrap_or_else(|| Template::built_in(STOCK_JSON)),
            xml,
            by_status,
        })
    }

    /// Content type and body for `status` with `message`, in the format of the request's own
    /// `Content-Type` (XML for XML, else JSON; `Accept` plays no part, as in Tyk).
    #[must_use]
    pub fn render(
        &self,
        status: u16,
        message: &str,
        request_content_type: Option<&[u8]>,
    ) -> (&'static str, Vec<u8>) {
        let (asked, content_type) = Format::of_request(request_content_type);
        let general = match asked {
            Format::Json => Some(&self.json),
            Format::Xml => self.xml.as_ref(),
        };
        match self.by_status.get(&(status, asked)).or(general) {
            Some(template) => (content_type, template.render(status, message, asked)),
            None => (
                APPLICATION_JSON,
                self.json.render(status, message, Format::Json),
            ),
        }
    }
}

/// The stock templates.
impl Default for Templates {
    fn default() -> Self {
        Self {
            json: Template::built_in(STOCK_JSON),
            xml: Some(Template::built_in(STOCK_XML)),
            by_status: HashMap::new(),
        }
    }
}

/// Largest template file.
pub const TEMPLATE_BYTES_MAX: u64 = 1024 * 1024;

const STOCK_JSON: &[u8] = include_bytes!("templates/error.json");
const STOCK_XML: &[u8] = include_bytes!("templates/error.xml");

const APPLICATION_JSON: &str = "application/json";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Format {
    Json,
    Xml,
}

impl Format {
    /// The format for a request with this `Content-Type`, and the content type of the answer.
    // Tyk quirk: the media type is compared as it stands, without folding case or trimming.
    fn of_request(content_type: Option<&[u8]>) -> (Self, &'static str) {
        let media_type = content_type.unwrap_or_default().split(|byte| *byte == b';');
        match media_type.into_iter().next() {
            Some(b"application/xml") => (Self::Xml, "application/xml"),
            Some(b"text/xml") => (Self::Xml, "text/xml"),
            _ => (Self::Json, APPLICATION_JSON),
        }
    }
}

/// What a file of this name is for: one status or all, and the format.
fn role(file_name: &str) -> Option<(Option<u16>, Format)> {
    let (stem, extension) = file_name.rsplit_once('.')?;
    let format = match extension {
        "json" => Format::Json,
        "xml" => Format::Xml,
        _ => return None,
    };
    match stem.strip_prefix("error")? {
        "" => Some((None, format)),
        code => {
            let status: u16 = code.strip_prefix('_')?.parse().ok()?;
            Some((Some(status), format))
        }
    }
}

/// Literal text with places for the message and the status.
#[derive(Debug)]
struct Template {
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    Literal(Box<[u8]>),
    Message,
    Status,
}

/// An action that is not understood.
#[derive(Debug)]
struct ActionFault {
    /// Of the `{{`.
    offset: usize,
    reason: String,
}

impl Template {
    fn load(path: &Path) -> Result<Self, LoadError> {
        let failed = |error: io::Error| LoadError::whole(path, error.to_string());
        let mut text = Vec::new();
        let read = fs::File::open(path)
            .and_then(|file| file.take(TEMPLATE_BYTES_MAX + 1).read_to_end(&mut text))
            .map_err(failed)?;
        if read as u64 > TEMPLATE_BYTES_MAX {
            return Err(LoadError::whole(
                path,
                format!("larger than {TEMPLATE_BYTES_MAX} bytes"),
            ));
        }
        Self::parse(&text).map_err(|fault| {
            let before = text.get(..fault.offset).unwrap_or_default();
            let line_start = memchr::memrchr(b'\n', before).map_or(0, |at| at + 1);
            LoadError {
                line: place(memchr::memchr_iter(b'\n', before).count() + 1),
                column: place(before.len() - line_start + 1),
                ..LoadError::whole(path, fault.reason)
            }
        })
    }

    /// A template of this binary; its text is under test.
    fn built_in(text: &[u8]) -> Self {
        Self::parse(text).unwrap_or(Self {
            pieces: vec![Piece::Message],
        })
    }

    fn parse(text: &[u8]) -> Result<Self, ActionFault> {
        let mut pieces = Vec::new();
        let (mut rest, mut offset) = (text, 0);
        while let Some(open) = memchr::memmem::find(rest, b"{{") {
            let (literal, action) = rest.split_at(open);
            offset += open;
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal.into()));
            }
            let fault = |reason: &str| ActionFault {
                offset,
                reason: reason.to_owned(),
            };
            let close =
                memchr::memmem::find(action, b"}}").ok_or_else(|| fault("unclosed `{{`"))?;
            let (action, after) = action.split_at(close + 2);
            let name = action
                .strip_prefix(b"{{")
                .and_then(|action| action.strip_suffix(b"}}"));
            pieces.push(match name.map(<[u8]>::trim_ascii) {
                Some(b".Message") => Piece::Message,
                Some(b".StatusCode") => Piece::Status,
                _ => {
                    return Err(fault(&format!(
                        "`{}` found; error templates know `{{{{.Message}}}}` and `{{{{.StatusCode}}}}`",
                        String::from_utf8_lossy(action)
                    )));
                }
            });
            offset += action.len();
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Literal(rest.into()));
        }
        Ok(Self { pieces })
    }

    fn render(&self, status: u16, message: &str, format: Format) -> Vec<u8> {
        let literals = self.pieces.iter().map(|piece| match piece {
            Piece::Literal(literal) => literal.len(),
            Piece::Message | Piece::Status => message.len() + 8,
        });
        let mut body = Vec::with_capacity(literals.sum());
        for piece in &self.pieces {
            match piece {
                Piece::Literal(literal) => body.extend_from_slice(literal),
                Piece::Status => body.extend_from_slice(status.to_string().as_bytes()),
                Piece::Message => match format {
                    Format::Json => push_json(&mut body, message),
                    Format::Xml => push_xml(&mut body, message),
                },
            }
        }
        body
    }
}

fn place(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// Appends `text` for the inside of a JSON string, escaped as Go's `template.JSEscape` does.
// Tyk differs: `'` stays, because `\'` is no JSON; characters beyond U+FFFF become two escapes.
fn push_json(body: &mut Vec<u8>, text: &str) {
    for ch in text.chars() {
        match ch {
            '\\' => body.extend_from_slice(br"\\"),
            '"' => body.extend_from_slice(br#"\""#),
            '<' | '>' | '&' | '=' => push_unicode_escape(body, ch),
            '\u{20}'..='\u{7f}' => body.push(ch as u8),
            // What does not print; which characters those are beyond ASCII makes no difference to
            // whoever reads the JSON.
            _ if ch.is_control() || ch.is_whitespace() => push_unicode_escape(body, ch),
            _ => push_char(body, ch),
        }
    }
}

fn push_unicode_escape(body: &mut Vec<u8>, ch: char) {
    for unit in ch.encode_utf16(&mut [0; 2]) {
        body.extend_from_slice(format!("\\u{unit:04X}").as_bytes());
    }
}

/// Appends `text` as XML character data, also right inside an attribute with double quotes.
// Tyk differs: it writes the message as it is. What XML 1.0 §2.2 does not allow becomes U+FFFD.
fn push_xml(body: &mut Vec<u8>, text: &str) {
    for ch in text.chars() {
        match ch {
            '&' => body.extend_from_slice(b"&amp;"),
            '<' => body.extend_from_slice(b"&lt;"),
            '>' => body.extend_from_slice(b"&gt;"),
            '"' => body.extend_from_slice(b"&quot;"),
            '\t' | '\n' | '\r' => push_char(body, ch),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => push_char(body, '\u{fffd}'),
            _ => push_char(body, ch),
        }
    }
}

fn push_char(body: &mut Vec<u8>, ch: char) {
    body.extend_from_slice(ch.encode_utf8(&mut [0; 4]).as_bytes());
}

/// `override_messages` of `tyk.conf`: other statuses and texts for some refusals.
///
/// Tyk: `gateway/handler_error.go`, docs "Custom error messages".
// Tyk differs: 5.4.0 forgets the setting before the first request; here it works as documented.
#[derive(Debug, Default)]
pub struct OverrideMessages {
    by_id: Vec<(&'static str, Override)>,
}

#[derive(Debug)]
struct Override {
    /// 0: the default.
    status: u16,
    /// Empty: the default.
    message: String,
}

/// The ids that `override_messages` may name.
pub const MESSAGE_IDS: [&str; 9] = [
    "auth.auth_field_missing",
    "auth.key_not_found",
    "auth.cert_not_found",
    "auth.key_is_invalid",
    "auth.cert_expired",
    "oauth.auth_field_missing",
    "oauth.auth_field_malformed",
    "oauth.key_not_found",
    "oauth.client_deleted",
];

impl OverrideMessages {
    /// From entries of id, code (0: as before) and message (empty: as before). The second value
    /// says, for people, which entries were left out and why.
    pub fn new<'a>(
        entries: impl IntoIterator<Item = (&'a str, i64, &'a str)>,
    ) -> (Self, Vec<String>) {
        let (mut by_id, mut left_out) = (Vec::new(), Vec::new());
        for (id, code, message) in entries {
            let Some(id) = MESSAGE_IDS.into_iter().find(|known| *known == id) else {
                left_out.push(format!("override_messages: unknown id `{id}`"));
                continue;
            };
            let status = match u16::try_from(code) {
                Ok(status @ (0 | 200..=599)) => status,
                _ => {
                    left_out.push(format!(
                        "override_messages: `{id}`: the code {code} is no final HTTP status"
                    ));
                    0
                }
            };
            let message = message.to_owned();
            by_id.push((id, Override { status, message }));
        }
        (Self { by_id }, left_out)
    }

    /// Status and text of a refusal.
    #[must_use]
    pub fn refusal(&self, reject: Reject) -> (u16, &str) {
        let (status, id, message) = reject.parts();
        match self.by_id.iter().find(|(known, _)| *known == id) {
            None => (status, message),
            Some((_, other)) => (
                if other.status == 0 {
                    status
                } else {
                    other.status
                },
                if other.message.is_empty() {
                    message
                } else {
                    &other.message
                },
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const MISSING: &str = "Authorization field missing";

    /// A directory of this test alone.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let dir = std::env::temp_dir().join(format!("penstock-{}-{name}", std::process::id()));
            fs::create_dir_all(&dir).expect("a temporary directory");
            for (file, text) in files {
                fs::write(dir.join(file), text).expect("a temporary file");
            }
            Self(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[track_caller]
    fn check(
        templates: &Templates,
        (status, message, request_type): (u16, &str, &str),
        (content_type, body): (&str, &str),
    ) {
        let rendered = templates.render(status, message, Some(request_type.as_bytes()));
        assert_eq!(rendered.0, content_type);
        assert_eq!(String::from_utf8_lossy(&rendered.1), body);
    }

    #[test]
    fn stock_templates_are_tyks_to_the_byte() {
        let templates = Templates::default();
        let (content_type, body) = templates.render(401, MISSING, None);
        assert_eq!(content_type, "application/json");
        assert_eq!(
            body,
            b"{\n    \"error\": \"Authorization field missing\"\n}"
        );
        assert_eq!(body.len(), 46);
        let (content_type, body) = templates.render(401, MISSING, Some(b"text/xml; charset=x"));
        assert_eq!(content_type, "text/xml");
        assert_eq!(
            body,
            b"<?xml version = \"1.0\" encoding = \"UTF-8\"?>\n<error>Authorization field missing</error>\n"
        );
        assert_eq!(body.len(), 86);
    }

    #[test]
    fn the_request_content_type_chooses_the_format() {
        for (request_type, expected) in [
            ("", "application/json"),
            ("application/json", "application/json"),
            ("application/xml", "application/xml"),
            ("application/xml;charset=utf-8", "application/xml"),
            ("text/xml", "text/xml"),
            ("Text/XML", "application/json"),
            ("text/xml ;x", "application/json"),
            ("text/html", "application/json"),
        ] {
            let rendered = Templates::default().render(500, "m", Some(request_type.as_bytes()));
            assert_eq!(rendered.0, expected, "{request_type}");
        }
    }

    #[test]
    fn a_template_for_the_status_goes_before_the_general_one() {
        let dir = Dir::new(
            "by-status",
            &[
                (
                    "error_500.json",
                    "{\"oops\": {{ .StatusCode }}, \"m\": \"{{.Message}}\"}",
                ),
                ("error_401.json", "{\"who\": \"{{ .Message }}\"}"),
                ("error_401.xml", "<who>{{.Message}}</who>"),
                ("error.json", "<{{.Message}}>"),
                ("error.xml", "<e>{{.Message}}</e>"),
                ("error_page.html", "{{ if }}"),
                ("error_x.json", "{{ if }}"),
                ("other.json", "{{ if }}"),
            ],
        );
        let templates = Templates::load(&dir.0).expect("good templates");
        let json = "application/json";
        check(
            &templates,
            (500, "a", ""),
            (json, r#"{"oops": 500, "m": "a"}"#),
        );
        check(&templates, (401, "a", ""), (json, r#"{"who": "a"}"#));
        check(
            &templates,
            (401, "a", "text/xml"),
            ("text/xml", "<who>a</who>"),
        );
        check(&templates, (403, "a", ""), (json, "<a>"));
        check(&templates, (500, "a", "text/xml"), ("text/xml", "<e>a</e>"));
    }

    #[test]
    fn without_an_xml_template_json_is_sent() {
        let dir = Dir::new("json-only", &[("error.json", "{{.Message}}")]);
        let templates = Templates::load(&dir.0).expect("good templates");
        check(
            &templates,
            (500, "<", "text/xml"),
            ("application/json", r"\u003C"),
        );
    }

    #[test]
    fn a_missing_or_empty_directory_means_the_built_in_templates() {
        let dir = Dir::new("empty", &[]);
        for path in [dir.0.clone(), dir.0.join("nowhere")] {
            let templates = Templates::load(&path).expect("built-in templates");
            let (_, body) = templates.render(401, MISSING, None);
            assert_eq!(body.len(), 46);
        }
    }

    #[track_caller]
    fn check_json(message: &str, expected: &str) {
        let mut body = Vec::new();
        push_json(&mut body, message);
        assert_eq!(String::from_utf8_lossy(&body), expected);
        let read: String = serde_json::from_str(&format!("\"{expected}\"")).expect("legal JSON");
        assert_eq!(read, message);
    }

    #[test]
    fn json_is_escaped_as_go_does_but_stays_legal() {
        check_json("plain text: 1/2", "plain text: 1/2");
        check_json("invalid character 'z'", "invalid character 'z'");
        check_json(r#"a"b\c"#, r#"a\"b\\c"#);
        check_json("<a href=x>&", r"\u003Ca href\u003Dx\u003E\u0026");
        check_json("\n\t\u{1}\u{7f}", "\\u000A\\u0009\\u0001\u{7f}");
        check_json("é\u{2028}\u{a0}😀", r"é\u2028\u00A0😀");
    }

    #[test]
    fn xml_is_escaped() {
        let mut body = Vec::new();
        push_xml(&mut body, "<a b=\"c\">&'\n\u{1}é");
        assert_eq!(
            String::from_utf8_lossy(&body),
            "&lt;a b=&quot;c&quot;&gt;&amp;'\n\u{fffd}é"
        );
    }

    #[track_caller]
    fn check_fault(text: &str, line: u32, column: u32, reason: &str) {
        let dir = Dir::new("fault", &[("error.json", text)]);
        let error = Templates::load(&dir.0).expect_err("a bad template");
        assert!(error.file.ends_with("error.json"));
        assert_eq!((error.line, error.column), (line, column));
        assert!(error.reason.contains(reason), "{}", error.reason);
    }

    #[test]
    fn an_unknown_action_is_named_with_its_place() {
        check_fault("{{ if .Message }}x{{end}}", 1, 1, "{{ if .Message }}");
        check_fault("a\nb {{.Message}} {{.Other}}", 2, 16, "{{.Other}}");
        check_fault("a\n\n  {{.Message", 3, 3, "unclosed");
        check_fault("{{}}", 1, 1, "{{}}");
        check_fault(
            &"x".repeat(TEMPLATE_BYTES_MAX as usize + 1),
            0,
            0,
            "larger than",
        );
    }

    #[test]
    fn a_template_of_the_largest_size_is_taken() {
        let text = "x".repeat(TEMPLATE_BYTES_MAX as usize);
        let dir = Dir::new("largest", &[("error.json", &text)]);
        let templates = Templates::load(&dir.0).expect("a good template");
        assert_eq!(templates.render(500, "", None).1.len(), text.len());
    }

    #[test]
    fn messages_are_replaced_by_id() {
        let (messages, left_out) = OverrideMessages::new([
            ("auth.auth_field_missing", 418, "Where is your key?"),
            ("auth.key_not_found", 0, "No."),
        ]);
        assert_eq!(left_out, Vec::<String>::new());
        let refusal = |reject| messages.refusal(reject);
        assert_eq!(
            refusal(Reject::AuthFieldMissing),
            (418, "Where is your key?")
        );
        assert_eq!(refusal(Reject::KeyNotFound), (403, "No."));
        assert_eq!(
            refusal(Reject::IpNotAllowed),
            (403, "access from this IP has been disallowed")
        );
    }

    #[test]
    fn an_override_without_message_keeps_the_text() {
        let (messages, _) = OverrideMessages::new([("auth.key_not_found", 401, "")]);
        assert_eq!(
            messages.refusal(Reject::KeyNotFound),
            (401, "Access to this API has been disallowed")
        );
    }

    #[test]
    fn overrides_that_mean_nothing_are_reported() {
        let (messages, left_out) = OverrideMessages::new([
            ("auth.unknown", 400, "x"),
            ("auth.key_not_found", 1000, "x"),
            ("auth.auth_field_missing", 100, ""),
        ]);
        assert_eq!(left_out.len(), 3);
        assert!(left_out[0].contains("auth.unknown"));
        assert_eq!(messages.refusal(Reject::KeyNotFound), (403, "x"));
        assert_eq!(messages.refusal(Reject::AuthFieldMissing).0, 401);
    }
}
