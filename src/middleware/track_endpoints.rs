//! Tracked endpoints: a record's path is the endpoint's pattern, or there is no record at all.
//!
//! Tyk: `mw_track_endpoints.go` (`TrackEndpointMiddleware`); keys `extended_paths.track_endpoints`,
//! `extended_paths.do_not_track_endpoints`. Order: before authentication, behind IP lists and
//! organisation, whose refusals are recorded as everywhere. Patterns are searched in the path
//! without its listen path.
//! Cost when absent, or when nothing is recorded: none (no step). When present: a search of two
//! path tables.

use std::sync::Arc;

use crate::{
    apidef::{ApiDefinition, TrackEndpointMeta, VersionInfo},
    config::Config,
    exchange::{
        Ctx, Tracking,
        path_set::{PathSet, PathSetFault},
    },
};

/// Compiled form of both lists.
#[derive(Debug)]
pub struct TrackEndpoints {
    tracked: Option<List>,
    untracked: Option<List>,
}

#[derive(Debug)]
struct List {
    paths: PathSet,
    /// As written.
    patterns: Box<[Arc<[u8]>]>,
}

impl TrackEndpoints {
    /// `None` when no entry is on, or nothing of the API is recorded.
    ///
    /// # Errors
    /// Pointer below `extended_paths` of the entry whose pattern is none, and why.
    pub fn from_spec(
        api: &ApiDefinition,
        version: &VersionInfo,
        config: &Config,
    ) -> Result<Option<Self>, (String, String)> {
        if !config.enable_analytics || api.do_not_track || !version.use_extended_paths {
            return Ok(None);
        }
        let lists = &version.extended_paths;
        let ignore_case = config.ignore_endpoint_case;
        let tracked = List::new("track_endpoints", &lists.track_endpoints, ignore_case)?;
        let untracked = List::new(
            "do_not_track_endpoints",
            &lists.do_not_track_endpoints,
            ignore_case,
        )?;
        let is_used = tracked.is_some() || untracked.is_some();
        Ok(is_used.then_some(Self { tracked, untracked }))
    }

    /// Notes what becomes of the request's record. `path` is without the listen path.
    pub fn apply(&self, path: &[u8], cx: &mut Ctx) {
        let method = cx.part(cx.head.method_span);
        let find = |list: &Option<List>| list.as_ref()?.find(method, path);
        let tracking = if find(&self.untracked).is_some() {
            Tracking::Off
        } else if let Some(pattern) = find(&self.tracked) {
            Tracking::Pattern(pattern)
        } else {
            return;
        };
        cx.course.tracking = tracking;
    }
}

impl List {
    fn new(
        name: &str,
        list: &[TrackEndpointMeta],
        ignore_case: bool,
    ) -> Result<Option<Self>, (String, String)> {
        let on: Vec<_> = list
            .iter()
            .enumerate()
            .filter(|(_, entry)| !entry.disabled)
            .collect();
        if on.is_empty() {
            return Ok(None);
        }
        let entries = on
            .iter()
            .map(|(_, entry)| (entry.method.as_str(), entry.path.as_str()));
        let paths =
            PathSet::new(entries, ignore_case).map_err(|PathSetFault { entry, reason }| {
                let index = on.get(entry).map_or(0, |(index, _)| *index);
                (format!("{name}/{index}/path"), reason)
            })?;
        let patterns = on
            .iter()
            .map(|(_, entry)| Arc::from(entry.path.as_bytes()))
            .collect();
        Ok(Some(Self { paths, patterns }))
    }

    fn find(&self, method: &[u8], path: &[u8]) -> Option<Arc<[u8]>> {
        let entry = self.paths.find(method, path)?;
        self.patterns.get(entry).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::h1::{Limits, Progress};

    fn step(conf: &str, lists: &str) -> Result<Option<TrackEndpoints>, (String, String)> {
        let file = std::path::Path::new("tyk.conf");
        let config = Config::from_json_str(file, conf).unwrap().0;
        let version = format!(r#"{{"use_extended_paths": true, "extended_paths": {{{lists}}}}}"#);
        let version = serde_json::from_str(&version).unwrap();
        TrackEndpoints::from_spec(&ApiDefinition::default(), &version, &config)
    }

    const ON: &str = r#"{"enable_analytics": true}"#;

    #[track_caller]
    fn check(lists: &str, request: &str, expected: &str) {
        let mut cx = Ctx {
            inb: format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes(),
            ..Ctx::default()
        };
        let inb = cx.inb.clone();
        let parsed = cx.head.parse(&inb, &mut 0, &Limits::default());
        assert!(matches!(parsed, Ok(Progress::Complete)));
        let path = cx.path().to_vec();
        step(ON, lists).unwrap().unwrap().apply(&path, &mut cx);
        let found = match &cx.course.tracking {
            Tracking::Plain => "plain",
            Tracking::Off => "off",
            Tracking::Pattern(pattern) => std::str::from_utf8(pattern).unwrap(),
        };
        assert_eq!(found, expected, "{request}");
    }

    #[test]
    fn the_first_pattern_names_the_path_and_do_not_track_wins() {
        let lists = r#"
            "track_endpoints": [
                {"path": "/users/{id}", "method": "GET", "disabled": true},
                {"path": "/users/{id}/x", "method": "GET"},
                {"path": "/users", "method": "GET"},
                {"path": "/users", "method": "POST"}],
            "do_not_track_endpoints": [{"path": "/private", "method": "GET"}]"#;
        check(lists, "GET /users/7/x", "/users/{id}/x");
        check(lists, "GET /users/7", "/users");
        check(lists, "PUT /users/7", "plain");
        check(lists, "GET /other", "plain");
        check(lists, "GET /users/private", "off");
        check(lists, "POST /users/private", "/users");
    }

    #[test]
    fn without_entries_or_records_there_is_no_step() {
        let entry = r#""track_endpoints": [{"path": "/a", "method": "GET"}]"#;
        assert!(step("{}", entry).unwrap().is_none());
        assert!(step(ON, "").unwrap().is_none());
        let off =
            r#""do_not_track_endpoints": [{"path": "/a", "method": "GET", "disabled": true}]"#;
        assert!(step(ON, off).unwrap().is_none());
        let broken = r#""do_not_track_endpoints": [{"path": "/ok"}, {"path": "("}]"#;
        let (pointer, _) = step(ON, broken).unwrap_err();
        assert_eq!(pointer, "do_not_track_endpoints/1/path");
    }
}
