//! Listen paths and domains: templates compiled once, when their definition is.
//!
//! Tyk hands both to gorilla/mux 1.8.1: a listen path is a byte prefix of the decoded path, a domain
//! the whole host; `{name}` stands for one segment or label and `{name:regex}` for a pattern
//! (`regexp.go`). Stripping is `StripListenPath` (`gateway/api_definition.go`), the strict check is
//! `explicitRouteHandler` (`gateway/api_loader.go`). Matching neither allocates nor locks, except on
//! input that is not UTF-8 (allocates) and for a pattern whose table would pass
//! [`TABLE_BYTES_MAX`] (borrows a cache from a pool).

use std::{borrow::Cow, sync::Arc};

use regex_automata::{
    Anchored, Input,
    dfa::{Automaton, StartKind, dense},
    meta,
    nfa::thompson,
    util::syntax,
};

use crate::apidef::go_regex;

/// A listen path as written and, when it has variables, its compiled form. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ListenPath {
    text: Arc<str>,
    template: Option<Arc<Template>>,
}

/// Why a listen path is refused.
#[derive(Debug, Clone)]
pub struct PathFault {
    pub reason: String,
    /// What can still be matched. The loader routes it to a `404`, so that the traffic of a refused
    /// definition never falls through to a shorter, weaker listen path.
    pub still_matches: Option<ListenPath>,
}

impl ListenPath {
    /// Compiles a listen path.
    ///
    /// # Errors
    /// Empty, with a space, or not starting with `/` (Tyk skips such a definition); unbalanced
    /// braces, a variable without name or pattern, a pattern that does not compile or is larger than
    /// [`NFA_BYTES_MAX`].
    // Tyk differs: a capturing group inside a variable makes gorilla panic and leaves a route behind
    // that answers for every API after it; here the definition is refused and its route kept.
    pub fn parse(text: &str) -> Result<Self, PathFault> {
        let fault = |reason: String| PathFault {
            reason,
            still_matches: None,
        };
        if text.is_empty() {
            return Err(fault("the listen path is empty".to_owned()));
        }
        if text.contains(' ') {
            return Err(fault(format!("the listen path `{text}` has a space")));
        }
        if !text.starts_with('/') {
            return Err(fault(format!(
                "the listen path `{text}` does not start with `/`"
            )));
        }
        if !text.contains(['{', '}']) {
            return Ok(Self::literal(text));
        }
        let template = Template::compile(text, PATH_VARIABLE, "").map_err(fault)?;
        let capturing_groups = template.capturing_groups;
        let path = Self {
            text: text.into(),
            template: Some(Arc::new(template)),
        };
        if capturing_groups > 0 {
            return Err(PathFault {
                reason: format!(
                    "the listen path `{text}` has a capturing group; write `(?:…)` for `(…)`"
                ),
                still_matches: Some(path),
            });
        }
        Ok(path)
    }

    /// `/<api_id>/`, the prefix under which every API is reachable besides its listen path.
    #[must_use]
    pub fn of_api_id(api_id: &str) -> Self {
        Self::literal(&format!("/{api_id}/"))
    }

    fn literal(text: &str) -> Self {
        Self {
            text: text.into(),
            template: None,
        }
    }

    /// The listen path as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it has variables.
    #[must_use]
    pub fn has_variables(&self) -> bool {
        self.template.is_some()
    }

    /// Whether it is a prefix of `path`, the decoded path of a request.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        match &self.template {
            None => path.starts_with(self.text.as_bytes()),
            Some(template) => template.matches(path),
        }
    }

    /// Whether `enable_strict_routes` lets `path` pass: a listen path that neither ends in `/` nor
    /// has variables takes only itself and what is below it. A path that does not pass is answered
    /// 404; no shorter listen path is tried.
    #[must_use]
    pub fn matches_strictly(&self, path: &[u8]) -> bool {
        if self.text.ends_with('/') || (self.text.contains('{') && self.text.contains('}')) {
            return true;
        }
        path.strip_prefix(self.text.as_bytes())
            .is_some_and(|below| below.is_empty() || below.starts_with(b"/"))
    }

    /// `path` without the listen path, always with a leading `/`. What it does not match, such as
    /// the path of a request that came in under `/<api_id>/`, keeps its text. Serves the decoded path
    /// and the raw path alike. Allocates only when the `/` has to be added.
    #[must_use]
    pub fn strip<'p>(&self, path: &'p [u8]) -> Cow<'p, [u8]> {
        let end = if path.starts_with(self.text.as_bytes()) {
            self.text.len()
        } else {
            self.template
                .as_ref()
                .and_then(|template| template.match_end(path))
                .unwrap_or(0)
        };
        let (before, rest) = path.split_at_checked(end).unwrap_or((b"", path));
        if rest.starts_with(b"/") {
            return Cow::Borrowed(rest);
        }
        if before.ends_with(b"/") {
            // The slash that ends the listen path is the one the rest needs.
            return Cow::Borrowed(path.get(end - 1..).unwrap_or(rest));
        }
        let mut stripped = Vec::with_capacity(rest.len() + 1);
        stripped.push(b'/');
        stripped.extend_from_slice(rest);
        Cow::Owned(stripped)
    }
}

/// Which `Host` values an API answers to. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub enum HostRule {
    /// No domain: every host.
    #[default]
    Any,
    /// A domain without variables. Compared byte by byte.
    // Tyk quirk: the comparison is case-sensitive, although hosts are not (RFC 9110 §4.2.3).
    Exact(Arc<str>),
    Pattern(Arc<HostTemplate>),
}

impl HostRule {
    /// Compiles a domain; an empty one is [`HostRule::Any`].
    ///
    /// # Errors
    /// As [`ListenPath::parse`] for the variables in it; a domain with a capturing group is refused.
    pub fn parse(domain: &str) -> Result<Self, String> {
        if domain.is_empty() {
            return Ok(Self::Any);
        }
        if !domain.contains(['{', '}']) {
            return Ok(Self::Exact(domain.into()));
        }
        let template = Template::compile(domain, HOST_VARIABLE, r"\z")?;
        if template.capturing_groups > 0 {
            return Err(format!(
                "the domain `{domain}` has a capturing group; write `(?:…)` for `(…)`"
            ));
        }
        Ok(Self::Pattern(Arc::new(HostTemplate {
            text: domain.into(),
            template,
        })))
    }

    /// Whether a request with this `Host` value (port included) is meant.
    #[must_use]
    pub fn matches(&self, host: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(domain) => domain.as_bytes() == host_for(domain, host),
            Self::Pattern(template) => template.matches(host),
        }
    }
}

/// A domain with variables.
#[derive(Debug)]
pub struct HostTemplate {
    text: Box<str>,
    template: Template,
}

impl HostTemplate {
    /// The domain as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a request with this `Host` value (port included) is meant.
    #[must_use]
    pub fn matches(&self, host: &[u8]) -> bool {
        self.template.matches(host_for(&self.text, host))
    }
}

/// The part of a `Host` value that is compared with `domain`.
// Tyk quirk: the port counts as soon as the domain has a `:`, be it the one of `{name:regex}`.
fn host_for<'h>(domain: &str, host: &'h [u8]) -> &'h [u8] {
    if domain.contains(':') {
        host
    } else {
        without_port(host)
    }
}

/// `host` up to its first `:`.
#[must_use]
pub fn without_port(host: &[u8]) -> &[u8] {
    let end = memchr::memchr(b':', host).unwrap_or(host.len());
    host.get(..end).unwrap_or(host)
}

/// Largest table of one pattern; about eight bytes for each pair of state and class of bytes.
pub const TABLE_BYTES_MAX: usize = 128 * 1024;

/// Largest compiled pattern; a counted repetition of a large class is how one gets there.
pub const NFA_BYTES_MAX: usize = 1024 * 1024;

/// What `{name}` stands for in a path and in a domain. Bytes, so that text that is not UTF-8 is
/// matched as Go does without a conversion.
const PATH_VARIABLE: &str = "(?-u:[^/])+";
const HOST_VARIABLE: &str = "(?-u:[^.])+";

/// Literal text and variables, matched from the start.
#[derive(Debug)]
struct Template {
    /// Literal text before the first variable: most requests differ there already.
    head: Box<[u8]>,
    engine: Engine,
    capturing_groups: usize,
}

#[derive(Debug)]
enum Engine {
    Table(Box<dense::DFA<Vec<u32>>>),
    /// Patterns whose table would be too large.
    General(Box<meta::Regex>),
}

impl Template {
    /// `variable` is the pattern of a bare `{name}`, `end` what stands behind the whole.
    fn compile(text: &str, variable: &str, end: &str) -> Result<Self, String> {
        let mut pattern = String::new();
        let mut head = None;
        let mut capturing_groups = 0;
        for part in parts(text)? {
            match part {
                Part::Literal(literal) => {
                    head.get_or_insert(literal);
                    pattern.push_str(&go_regex::quote(literal));
                }
                Part::Variable { name, regex } => {
                    head.get_or_insert("");
                    if name.is_empty() || regex == Some("") {
                        return Err(format!("a variable of `{text}` has no name or no pattern"));
                    }
                    let Some(regex) = regex else {
                        pattern.push_str(variable);
                        continue;
                    };
                    let faulty = |why: String| format!("the pattern `{regex}` of `{text}`: {why}");
                    let translated = go_regex::translate(regex).map_err(faulty)?;
                    // On its own first: `a)|(?:b` would only be right inside the group.
                    syntax::parse_with(&translated.pattern, &engine_syntax())
                        .map_err(|error| faulty(error.to_string()))?;
                    capturing_groups += translated.capturing_groups;
                    pattern.push_str("(?:");
                    pattern.push_str(&translated.pattern);
                    pattern.push(')');
                }
            }
        }
        pattern.push_str(end);
        Ok(Self {
            head: head.unwrap_or("").as_bytes().into(),
            engine: Engine::compile(&pattern)
                .map_err(|why| format!("`{text}` does not compile: {why}"))?,
            capturing_groups,
        })
    }

    fn matches(&self, text: &[u8]) -> bool {
        text.starts_with(&self.head)
            && match &self.engine {
                // A table reads bytes; only Unicode classes care about what is not UTF-8.
                Engine::Table(table) => table
                    .try_search_fwd(
                        &Input::new(&*go_regex::as_go_text(text))
                            .anchored(Anchored::Yes)
                            .earliest(true),
                    )
                    .is_ok_and(|end| end.is_some()),
                Engine::General(regex) => {
                    regex.is_match(Input::new(&*go_regex::as_go_text(text)).anchored(Anchored::Yes))
                }
            }
    }

    /// Where the leftmost-first match that starts at the first byte ends.
    fn match_end(&self, text: &[u8]) -> Option<usize> {
        if !text.starts_with(&self.head) {
            return None;
        }
        let as_go = go_regex::as_go_text(text);
        let input = Input::new(&*as_go).anchored(Anchored::Yes);
        let end = match &self.engine {
            Engine::Table(table) => table.try_search_fwd(&input).ok()??.offset(),
            Engine::General(regex) => regex.find(input)?.end(),
        };
        Some(match as_go {
            Cow::Borrowed(_) => end,
            Cow::Owned(_) => go_regex::offset_in_bytes(text, end),
        })
    }
}

/// Patterns are read over bytes.
fn engine_syntax() -> syntax::Config {
    syntax::Config::new().utf8(false)
}

impl Engine {
    fn compile(pattern: &str) -> Result<Self, String> {
        let table = dense::Builder::new()
            .syntax(engine_syntax())
            .thompson(
                thompson::Config::new()
                    .utf8(false)
                    .nfa_size_limit(Some(NFA_BYTES_MAX)),
            )
            .configure(
                dense::Config::new()
                    .start_kind(StartKind::Anchored)
                    .dfa_size_limit(Some(TABLE_BYTES_MAX))
                    .determinize_size_limit(Some(4 * TABLE_BYTES_MAX)),
            )
            .build(pattern);
        if let Ok(table) = table {
            return Ok(Self::Table(Box::new(table)));
        }
        meta::Builder::new()
            .syntax(engine_syntax())
            .configure(
                meta::Config::new()
                    .utf8_empty(false)
                    .nfa_size_limit(Some(NFA_BYTES_MAX)),
            )
            .build(pattern)
            .map(|regex| Self::General(Box::new(regex)))
            .map_err(|error| match (error.syntax_error(), error.size_limit()) {
                (Some(why), _) => why.to_string(),
                (None, Some(limit)) => format!("it takes more than {limit} bytes compiled"),
                (None, None) => error.to_string(),
            })
    }
}

enum Part<'a> {
    Literal(&'a str),
    Variable {
        name: &'a str,
        /// `None`: the bare `{name}`.
        regex: Option<&'a str>,
    },
}

/// Splits at the outermost braces; the braces of `{name:[0-9]{2}}` belong to its pattern.
fn parts(text: &str) -> Result<Vec<Part<'_>>, String> {
    let unbalanced = || format!("unbalanced braces in `{text}`");
    let mut parts = Vec::new();
    let (mut depth, mut from) = (0_u32, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => {
                depth += 1;
                if depth == 1 {
                    if at > from {
                        parts.push(Part::Literal(text.get(from..at).unwrap_or_default()));
                    }
                    from = at + 1;
                }
            }
            b'}' => {
                depth = depth.checked_sub(1).ok_or_else(unbalanced)?;
                if depth == 0 {
                    let body = text.get(from..at).unwrap_or_default();
                    parts.push(match body.split_once(':') {
                        None => Part::Variable {
                            name: body,
                            regex: None,
                        },
                        Some((name, regex)) => Part::Variable {
                            name,
                            regex: Some(regex),
                        },
                    });
                    from = at + 1;
                }
            }
            _ => {}
        }
    }
    if depth > 0 {
        return Err(unbalanced());
    }
    if from < text.len() {
        parts.push(Part::Literal(text.get(from..).unwrap_or_default()));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn path(text: &str) -> ListenPath {
        ListenPath::parse(text).expect("a good listen path")
    }

    #[track_caller]
    fn check_match(listen_path: &str, request: &[u8], expected: bool) {
        assert_eq!(path(listen_path).matches(request), expected);
    }

    #[test]
    fn a_listen_path_is_a_byte_prefix() {
        check_match("/foo", b"/foo", true);
        check_match("/foo", b"/foo/x", true);
        check_match("/foo", b"/foobar", true);
        check_match("/foo/", b"/foo", false);
        check_match("/foo/", b"/FOO/", false);
    }

    #[test]
    fn a_variable_stands_for_one_segment() {
        check_match("/v/{id}/", b"/v/7/x", true);
        check_match("/v/{id}/", b"/v//x", false);
        check_match("/v/{id}/", b"/v/7", false);
        check_match("/v/{id}", b"/v/7/x", true);
        check_match("/v/{id}/", b"/v/\xff/x", true);
        check_match("/{a}/m/{b}", b"/1/m/2", true);
    }

    #[test]
    fn a_variable_may_have_a_pattern() {
        check_match("/v/{id:[a-z]+}/", b"/v/abc/x", true);
        check_match("/v/{id:[a-z]+}/", b"/v/123/x", false);
        check_match("/v/{id:[0-9]{2}}/", b"/v/12/x", true);
        check_match("/v/{id:[0-9]{2}}/", b"/v/1/x", false);
        check_match("/v/{id:(?:a|b)}/", b"/v/b/", true);
        check_match("/v/{rest:.*}/end", b"/v/a/b/end", true);
        // Go reads the odd byte as U+FFFD, which is no `/`.
        check_match("/v/{id:[^/]+}/", b"/v/\xff/", true);
        check_match("/v/{id:\\w+}/", "/v/é/".as_bytes(), false);
        // Larger than a table may be.
        check_match("/{id:[ab]*a[ab]{14}}/", b"/babbbbbbbbbbbbbb/", true);
        check_match("/{id:[ab]*a[ab]{14}}/", b"/bbbbbbbbbbbbbbbbb/", false);
    }

    #[track_caller]
    fn check_fault(text: &str, reason: &str) {
        let fault = ListenPath::parse(text).expect_err("a bad listen path");
        assert!(fault.reason.contains(reason), "{}", fault.reason);
    }

    #[test]
    fn a_bad_listen_path_says_why() {
        check_fault("", "empty");
        check_fault("/a b/", "space");
        check_fault("a/", "does not start with `/`");
        check_fault("/{a", "unbalanced");
        check_fault("/a}", "unbalanced");
        check_fault("/}{", "unbalanced");
        check_fault("/{}/", "no name");
        check_fault("/{:a}/", "no name");
        check_fault("/{a:}/", "no pattern");
        check_fault("/{a:[}/", "unclosed");
        check_fault("/{a:x)|(?:y}/", "unopened");
        check_fault("/{a:(?=x)}/", "unknown group flag");
        check_fault("/{a:(?:\\pL{500}){500}}/", "more than 1048576 bytes");
        check_fault("/{a:(x)}/", "capturing group");
    }

    #[test]
    fn a_capturing_group_is_refused_but_still_matches() {
        let fault = ListenPath::parse("/c/{a:(x)}/").expect_err("refused");
        let still = fault.still_matches.expect("matches");
        assert!(still.matches(b"/c/x/1"));
        assert!(!still.matches(b"/c/y/1"));
    }

    #[track_caller]
    fn check_strip(listen_path: &str, request: &[u8], expected: &[u8]) {
        assert_eq!(&*path(listen_path).strip(request), expected);
    }

    #[test]
    fn stripping_leaves_a_leading_slash() {
        check_strip("/api1/", b"/api1/get", b"/get");
        check_strip("/api1/", b"/api1/", b"/");
        check_strip("/api1/", b"/api1//x", b"/x");
        check_strip("/api1", b"/api1", b"/");
        check_strip("/api1", b"/api1/x", b"/x");
        check_strip("/noslash", b"/noslashabc", b"/abc");
        check_strip("/", b"/x", b"/x");
        check_strip("/", b"/", b"/");
        check_strip("/api1/", b"/id/api1/x", b"/id/api1/x");
        check_strip("/api1/", b"*", b"/*");
        check_strip("/api1/", b"", b"/");
    }

    #[test]
    fn stripping_a_template_removes_what_it_matches() {
        check_strip("/v/{id:[a-z]+}/", b"/v/abc/x", b"/x");
        check_strip("/v/{id:[a-z]+}/", b"/v/123/x", b"/v/123/x");
        check_strip("/v/{id}", b"/v/abc/x", b"/x");
        check_strip("/v/{id}", b"/v/abc", b"/");
        check_strip("/v/{id:a|ab}", b"/v/abc", b"/bc");
        check_strip("/v/{id:ab|a}", b"/v/abc", b"/c");
        check_strip("/v/{id:.*}", b"/v/a/b/c", b"/");
        check_strip("/v/{id}/", b"/v/\xff\xe2\x82/x\xff", b"/x\xff");
        check_strip("/v/{id}/", b"/v/{id}/x", b"/x");
    }

    #[test]
    fn stripping_does_not_allocate_in_the_usual_case() {
        let listen_path = path("/api1/");
        assert!(matches!(listen_path.strip(b"/api1/get"), Cow::Borrowed(_)));
    }

    #[track_caller]
    fn check_strict(listen_path: &str, request: &[u8], expected: bool) {
        assert_eq!(path(listen_path).matches_strictly(request), expected);
    }

    #[test]
    fn strict_routes_take_whole_segments() {
        check_strict("/strict", b"/strict", true);
        check_strict("/strict", b"/strict/a", true);
        check_strict("/strict", b"/strictx", false);
        check_strict("/slash/", b"/slash/a", true);
        check_strict("/{v}", b"/anything", true);
    }

    #[track_caller]
    fn check_host(domain: &str, host: &str, expected: bool) {
        let rule = HostRule::parse(domain).expect("a good domain");
        assert_eq!(
            rule.matches(host.as_bytes()),
            expected,
            "{domain:?} {host:?}"
        );
    }

    #[test]
    fn the_port_counts_only_when_the_domain_has_a_colon() {
        check_host("", "any.example", true);
        check_host("one.example", "one.example", true);
        check_host("one.example", "one.example:8080", true);
        check_host("one.example", "ONE.example", false);
        check_host("one.example", "xone.example", false);
        check_host("one.example:81", "one.example:81", true);
        check_host("one.example:81", "one.example:82", false);
        check_host("one.example:81", "one.example", false);
        check_host("{sub}.example", "a.example:81", true);
        check_host("{sub}.example", "a.b.example", false);
        check_host("{sub:[a-z]+}.example", "abc.example", true);
        check_host("{sub:[a-z]+}.example", "abc.example:81", false);
        check_host("{sub:[a-z]+}.example", "abc.examples", false);
        check_host("{sub:[a-z]+}.example:{port:[0-9]+}", "abc.example:81", true);
        check_host("{sub:[a-z]+}.wild.example", "wild.example", false);
    }

    #[test]
    fn a_bad_domain_says_why() {
        for domain in ["{a", "a}.b", "{}.b", "{a:(b)}.c", "{a:[}.c"] {
            assert!(HostRule::parse(domain).is_err(), "{domain}");
        }
    }
}
