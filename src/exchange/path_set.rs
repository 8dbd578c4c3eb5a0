//! Endpoint patterns of one list, compiled together: which entry of the list is first to match.
//!
//! Tyk's rules (`api_definition.go` `URLAllowedAndIgnored`): unanchored search, `{…}` stands for
//! `([^/]*)`, the rest is a regular expression; method compared exactly; list order decides.

use regex_automata::{
    Input, PatternSet,
    meta::{Config, Regex},
};

use crate::apidef::{go_regex, url_regex};

/// Up to here one regex after the other is fastest (`PERF.md`, path sets).
const ONE_BY_ONE_MAX: usize = 3;

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
        let case = if ignore_case { "(?i)" } else { "" };
        let mut methods = Vec::new();
        let mut patterns = Vec::new();
        let mut single = Vec::new();
        for (entry, (method, path)) in entries.into_iter().enumerate() {
            let fault = |reason| PathSetFault { entry, reason };
            let go = format!("{case}{}", url_regex::endpoint_pattern(path));
            single.push(url_regex::compile(&go).map_err(fault)?);
            patterns.push(go_regex::translate(&go).map_err(fault)?.pattern);
            methods.push(Box::from(method.as_bytes()));
        }
        let engine = if single.len() <= ONE_BY_ONE_MAX {
            Engine::OneByOne(single.into())
        } else {
            let bytes_max = url_regex::NFA_BYTES_MAX * patterns.len();
            let together = Regex::builder()
                .syntax(url_regex::engine_syntax())
                .configure(
                    Config::new()
                        .utf8_empty(false)
                        .nfa_size_limit(Some(bytes_max)),
                )
                .build_many(&patterns)
                .map_err(|error| PathSetFault {
                    entry: 0,
                    reason: error.to_string(),
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
        let path = &*go_regex::as_go_text(path);
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
        // As in Go, `\d` is ASCII; in Rust it is every script's digits.
        check(&[("GET", r"/v\d$")], "GET", "/v7", Some(0));
        check(&[("GET", r"/v\d$")], "GET", "/v\u{0667}", None);
    }

    #[test]
    fn a_pattern_that_does_not_compile_is_named() {
        let fault = PathSet::new([("GET", "/ok"), ("GET", "/(")], false).expect_err("refused");
        assert_eq!(fault.entry, 1);
    }
}
