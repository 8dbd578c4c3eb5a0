//! Paths with their variable parts named: `/user/123` becomes `/user/{id}`.
//!
//! Tyk: `analytics_config.normalise_urls`, `NormalisePath` of `gateway/analytics.go`.

use std::borrow::Cow;

use regex_automata::meta::Regex;

use crate::{
    apidef::{go_regex::as_go_text, url_regex},
    config::NormaliseUrls,
};

/// The patterns of `normalise_urls` and what they become, in Tyk's order.
#[derive(Debug, Clone, Default)]
pub struct Normaliser {
    rules: Vec<(Regex, &'static [u8])>,
}

const UUID: &str =
    "[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}";
const ULID: &str = "[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}";
const NUMBER: &str = "/[0-9]+";

impl Normaliser {
    /// Beside it come the custom patterns that cannot be used, each with its reason; they are left
    /// out, as in Tyk.
    #[must_use]
    pub fn from_config(config: &NormaliseUrls) -> (Self, Vec<String>) {
        let mut normaliser = Self::default();
        let mut left_out = Vec::new();
        if !config.enabled {
            return (normaliser, left_out);
        }
        let mut add = |pattern: &str, name: &'static [u8]| match url_regex::compile(pattern) {
            Ok(regex) => normaliser.rules.push((regex, name)),
            Err(why) => left_out.push(format!(
                "analytics_config.normalise_urls.custom_patterns: {pattern:?} is left out: {why}"
            )),
        };
        if config.normalise_uuids {
            add(UUID, b"{uuid}");
        }
        if config.normalise_ulids {
            add(ULID, b"{ulid}");
        }
        if config.normalise_numbers {
            add(NUMBER, b"/{id}");
        }
        for pattern in &config.custom_patterns {
            add(pattern, b"{var}");
        }
        (normaliser, left_out)
    }

    /// The path with every match of every pattern replaced.
    #[must_use]
    pub fn normalise<'a>(&self, path: &'a [u8]) -> Cow<'a, [u8]> {
        let mut path = Cow::Borrowed(path);
        for (regex, name) in &self.rules {
            if regex.is_match(path.as_ref()) {
                let text = as_go_text(&path);
                path = Cow::Owned(replace_all(regex, &text, name));
            }
        }
        path
    }
}

fn replace_all(regex: &Regex, text: &[u8], name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + name.len());
    let mut copied = 0;
    for found in regex.find_iter(text) {
        out.extend_from_slice(text.get(copied..found.start()).unwrap_or_default());
        out.extend_from_slice(name);
        copied = found.end();
    }
    out.extend_from_slice(text.get(copied..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> NormaliseUrls {
        NormaliseUrls {
            enabled: true,
            normalise_uuids: true,
            normalise_ulids: true,
            normalise_numbers: true,
            custom_patterns: vec!["zz+".to_owned(), "(".to_owned(), "^/start$".to_owned()],
        }
    }

    #[track_caller]
    fn check(config: &NormaliseUrls, path: &str, expected: &str) {
        let (normaliser, _) = Normaliser::from_config(config);
        let found = normaliser.normalise(path.as_bytes());
        assert_eq!(String::from_utf8_lossy(&found), expected);
    }

    #[test]
    fn variable_parts_are_named_in_the_order_of_tyk() {
        let all = everything();
        check(&all, "/user/123/x", "/user/{id}/x");
        check(&all, "/user/123abc", "/user/{id}abc");
        check(&all, "/1/2/3", "/{id}/{id}/{id}");
        check(&all, "/v1.2", "/v1.2");
        check(&all, "/i/15873a748894492162c402d67e92283b/x", "/i/{uuid}/x");
        check(&all, "/i/15873a74-8894-4921-62c4-02d67e92283b", "/i/{uuid}");
        check(&all, "/u/01ARZ3NDEKTSV4RRFFQ69G5FAV", "/u/{ulid}");
        check(&all, "/u/01arz3ndektsv4rrffq69g5fav/1", "/u/{ulid}/{id}");
        check(
            &all,
            "/u/81ARZ3NDEKTSV4RRFFQ69G5FAV",
            "/u/{id}ARZ3NDEKTSV4RRFFQ69G5FAV",
        );
        check(&all, "/foo/zzz", "/foo/{var}");
        check(&all, "/start", "{var}");
        check(&all, "/plain", "/plain");
        check(&all, "", "");
    }

    #[test]
    fn each_switch_counts_alone() {
        let path = "/1/15873a748894492162c402d67e92283b/zz";
        let only = |uuids, numbers, custom: &[&str]| NormaliseUrls {
            enabled: true,
            normalise_uuids: uuids,
            normalise_ulids: false,
            normalise_numbers: numbers,
            custom_patterns: custom.iter().map(ToString::to_string).collect(),
        };
        check(&only(true, false, &[]), path, "/1/{uuid}/zz");
        check(
            &only(false, true, &[]),
            path,
            "/{id}/{id}a748894492162c402d67e92283b/zz",
        );
        check(
            &only(false, false, &["z"]),
            path,
            "/1/15873a748894492162c402d67e92283b/{var}{var}",
        );
        let off = NormaliseUrls {
            enabled: false,
            ..everything()
        };
        check(&off, path, path);
    }

    #[test]
    fn a_pattern_that_cannot_be_used_is_named() {
        let (_, left_out) = Normaliser::from_config(&everything());
        assert_eq!(left_out.len(), 1);
        assert!(left_out[0].contains("\"(\""), "{left_out:?}");
    }

    #[test]
    fn bytes_that_are_no_text_stay_where_nothing_matches() {
        let (normaliser, _) = Normaliser::from_config(&everything());
        assert_eq!(*normaliser.normalise(b"/\xff/a"), *b"/\xff/a");
        assert_eq!(
            *normaliser.normalise(b"/\xff/1"),
            *"/\u{fffd}/{id}".as_bytes()
        );
    }
}
