//! Endpoint patterns of one list, compiled together: which entry of the list is first to match.
//!
//! Tyk's rules (`api_definition.go` `URLAllowedAndIgnored`): unanchored search, `{…}` stands for
//! `([^/]*)`, the rest is a regular expression; method compared exactly; list order decides.

use regex_automata::{
    Input, PatternSet,
    meta::{Config, Regex},
    util::syntax,
};

/// Up to here one regex after the other is fastest (`PERF.md`, path sets).
const ONE_BY_ONE_MAX: usize = 3;
/// Bytes of compiled program that one pattern may need.
const NFA_BYTES_MAX: usize = 1 << 20;

/// A list of (method, pattern) entries.
#[derive(Debug)]
pub struct PathSet {
    methods: Box<[Box<[u8]>]>,
    engine: Engine,
}

#[derive(Debug)]
enum Engine {
    OneByOne(Box<[Regex]>),
    Together(Box<Regex>),
}

/// An entry whose pattern cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathSetFault {
    pub entry: usize,
    pub reason: String,
}

impl PathSet {
    /// Compiles (method, pattern) entries in list order.
    ///
    /// # Errors
    /// [`PathSetFault`] for the first pattern that does not compile or grows too large.
    pub fn new<'a>(
        entries: impl IntoIterator<Item = (&'a str, &'a str)>,
        ignore_case: bool,
    ) -> Result<Self, PathSetFault> {
        let (methods, patterns): (Vec<_>, Vec<_>) = entries
            .into_iter()
            .map(|(method, path)| (Box::from(method.as_bytes()), expression(path)))
            .unzip();
        #[allow(clippy::result_large_err, reason = "looked at where it comes up")]
        let build = |patterns: &[String]| {
            Regex::builder()
                .configure(Config::new().nfa_size_limit(Some(NFA_BYTES_MAX * patterns.len())))
                .syntax(
                    syntax::Config::new()
                        .case_insensitive(ignore_case)
                        .utf8(false),
                )
                .build_many(patterns)
        };
        let single: Result<Vec<_>, _> = patterns
            .iter()
            .enumerate()
            .map(|(entry, pattern)| {
                build(std::slice::from_ref(pattern)).map_err(|error| PathSetFault {
                    entry,
                    reason: format!("the pattern does not compile: {}", full_text(&error)),
                })
            })
            .collect();
        let single = single?;
        let engine = if single.len() <= ONE_BY_ONE_MAX {
            Engine::OneByOne(single.into())
        } else {
            let together = build(&patterns).map_err(|error| PathSetFault {
                entry: 0,
                reason: full_text(&error),
            })?;
            Engine::Together(Box::new(together))
        };
        Ok(Self {
            methods: methods.into(),
            engine,
        })
    }

    /// The first entry that has this method and matches somewhere in `path`.
    #[must_use]
    pub fn find(&self, method: &[u8], path: &[u8]) -> Option<usize> {
        let has_method = |entry: &usize| {
            self.methods
                .get(*entry)
                .is_some_and(|wanted| wanted.as_ref() == method)
        };
        match &self.engine {
            Engine::OneByOne(list) => list
                .iter()
                .enumerate()
                .filter(|(entry, _)| has_method(entry))
                .find(|(_, regex)| regex.is_match(path))
                .map(|(entry, _)| entry),
            Engine::Together(regex) => {
                let mut matching = PatternSet::new(regex.pattern_len());
                regex.which_overlapping_matches(&Input::new(path), &mut matching);
                matching
                    .iter()
                    .map(|pattern| pattern.as_usize())
                    .find(has_method)
            }
        }
    }
}

/// Replaces every `{…}` as Tyk does.
fn expression(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 16);
    let mut rest = path;
    while let Some((before, behind)) = rest.split_once('{') {
        let Some((_, after)) = behind.split_once('}') else {
            break;
        };
        out.push_str(before);
        out.push_str("([^/]*)");
        rest = after;
    }
    out.push_str(rest);
    out
}

fn full_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(entries: &[(&str, &str)], method: &str, path: &str, expected: Option<usize>) {
        let set = PathSet::new(entries.iter().copied(), false).expect("compiles");
        assert_eq!(
            set.find(method.as_bytes(), path.as_bytes()),
            expected,
            "{method} {path}"
        );
    }

    #[test]
    fn the_first_entry_that_matches_wins() {
        let few = [("GET", "/get"), ("GET", "^/users/{id}$"), ("POST", "/get")];
        check(&few, "GET", "/x/get-more", Some(0));
        check(&few, "POST", "/get", Some(2));
        check(&few, "GET", "/users/12", Some(1));
        check(&few, "GET", "/users/", Some(1));
        check(&few, "GET", "/users/1/2", None);
        check(&few, "PUT", "/get", None);
        let many: Vec<_> = ["/a", "/b", "/ab", "/{x}/z", "/b"]
            .map(|path| ("GET", path))
            .into();
        check(&many, "GET", "/ab", Some(0));
        check(&many, "GET", "/b", Some(1));
        check(&many, "GET", "/q/z", Some(3));
        check(&many, "GET", "/nothing", None);
        check(&many, "POST", "/ab", None);
    }

    #[test]
    fn a_pattern_that_does_not_compile_is_named() {
        let fault = PathSet::new([("GET", "/ok"), ("GET", "/(")], false).expect_err("refused");
        assert_eq!(fault.entry, 1);
    }
}
