//! Who is recorded, and what all records of an API have in common.
//!
//! [`Recording`] is what `tyk.conf` says; an [`ApiRecorder`] is made of it per API at load. An API
//! that is not tracked has none and pays nothing.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    analytics::{
        assemble::{CACHED, Serializer},
        hit::{Identified, Identity},
        msgpack::encode_api,
        prepared::ApiRuns,
        record::Record,
    },
    apidef::ApiDefinition,
    config::Config,
};

/// A raw request or answer beyond this is cut: a record is held in memory on its whole way.
// Tyk differs: it keeps them whole.
pub const DETAIL_BYTES_MAX: usize = 256 << 10;

/// What is recorded as the version of an API without versions.
pub(super) const NON_VERSIONED: &[u8] = b"Non Versioned";

/// What `tyk.conf` says about records.
#[derive(Debug)]
pub struct Recording {
    ignored_ips: HashSet<IpAddr>,
    /// `db_app_conf_options.tags` of a segmented node.
    node_tags: Box<[Box<[u8]>]>,
    is_detailed: bool,
    /// The organisation's flag counts instead of `is_detailed`.
    asks_organisation: bool,
    nobody: Identity,
    /// Shards write records themselves: nothing has to be looked up or searched for.
    is_short: bool,
}

impl Recording {
    /// `None` while `enable_analytics` is off. `keyless_key` is what is recorded where there is no
    /// key: the hash of an empty text while `hash_keys` is on, else nothing.
    #[must_use]
    pub fn from_config(config: &Config, keyless_key: &str) -> Option<Self> {
        if !config.enable_analytics {
            return None;
        }
        let analytics = &config.analytics_config;
        let segment = &config.db_app_conf_options;
        let node_tags = match segment.node_is_segmented {
            true => segment.tags.as_slice(),
            false => &[],
        };
        Some(Self {
            // Tyk compares texts; what is no address never matches.
            ignored_ips: analytics
                .ignored_ips
                .iter()
                .filter_map(|ip| ip.parse().ok())
                .collect(),
            node_tags: node_tags.iter().map(|tag| tag.as_bytes().into()).collect(),
            is_detailed: analytics.enable_detailed_recording,
            asks_organisation: config.enforce_org_data_detail_logging,
            nobody: Identity::new(keyless_key, "", "", [""; 0]),
            is_short: Serializer::from_config(&analytics.serializer_type)
                == Serializer::MessagePack
                && !analytics.enable_geo_ip
                && !analytics.normalise_urls.enabled,
        })
    }
}

/// One API's part in its records.
#[derive(Debug)]
pub struct ApiRecorder {
    recording: Arc<Recording>,
    /// Never given twice.
    number: u64,
    name: Box<[u8]>,
    /// `APIVersion` to `OrgID` in MessagePack, for an API without versions.
    unversioned: Box<[u8]>,
    api_id: Box<[u8]>,
    org_id: Box<[u8]>,
    /// Of the target: where requests go that name no other.
    host: Box<[u8]>,
    tags: Box<[Box<[u8]>]>,
    /// Behind the key's tag: `org-…`, `api-…`.
    closing_tags: Box<[Box<[u8]>]>,
    /// In lower case.
    tag_headers: Box<[Box<str>]>,
    expire_after_s: i64,
    is_detailed: bool,
    /// `None`: its records go the long way.
    runs: Option<ApiRuns>,
}

/// 36,500 days: what `expire_analytics_after: 0` means.
pub(super) const HUNDRED_YEARS_S: i64 = 100 * 365 * 24 * 3600;

impl ApiRecorder {
    /// `None` for an API with `do_not_track`. `target_host` is the authority of `target_url`.
    #[must_use]
    pub fn from_definition(
        recording: &Arc<Recording>,
        api: &ApiDefinition,
        target_host: &str,
    ) -> Option<Self> {
        if api.do_not_track {
            return None;
        }
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let mut closing_tags: Vec<Box<[u8]>> = Vec::new();
        if !api.org_id.is_empty() {
            closing_tags.push(format!("org-{}", api.org_id).into_bytes().into());
        }
        closing_tags.push(format!("api-{}", api.api_id).into_bytes().into());
        let mut unversioned = Vec::new();
        encode_api(
            &Record {
                api_version: NON_VERSIONED,
                api_name: api.name.as_bytes(),
                api_id: api.api_id.as_bytes(),
                org_id: api.org_id.as_bytes(),
                ..Record::default()
            },
            &mut unversioned,
        );
        let mut recorder = Self {
            unversioned: unversioned.into(),
            recording: Arc::clone(recording),
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            name: api.name.as_bytes().into(),
            api_id: api.api_id.as_bytes().into(),
            org_id: api.org_id.as_bytes().into(),
            host: target_host.as_bytes().into(),
            tags: api.tags.iter().map(|tag| tag.as_bytes().into()).collect(),
            closing_tags: closing_tags.into(),
            tag_headers: api
                .tag_headers
                .iter()
                .map(|name| name.to_ascii_lowercase().into())
                .collect(),
            expire_after_s: match api.expire_analytics_after {
                0 => HUNDRED_YEARS_S,
                seconds => seconds,
            },
            is_detailed: api.enable_detailed_recording,
            runs: None,
        };
        if recording.is_short && recorder.tag_headers.is_empty() {
            recorder.runs = ApiRuns::new(&recorder);
        }
        Some(recorder)
    }

    /// No record is written for this address.
    #[inline]
    #[must_use]
    pub fn ignores(&self, ip: &IpAddr) -> bool {
        let ignored = &self.recording.ignored_ips;
        !ignored.is_empty() && ignored.contains(ip)
    }

    /// Whether request and answer are to be recorded whole (Tyk: `recordDetail`). `session` is the
    /// key's flag, `organisation` that of the organisation's session where there is one.
    #[inline]
    #[must_use]
    pub fn wants_detail(&self, session: bool, organisation: Option<bool>) -> bool {
        if self.is_detailed || session {
            return true;
        }
        match organisation {
            Some(flag) if self.recording.asks_organisation => flag,
            _ => self.recording.is_detailed,
        }
    }

    /// Names of fields whose values become tags, in lower case.
    #[inline]
    #[must_use]
    pub fn tag_headers(&self) -> &[Box<str>] {
        &self.tag_headers
    }

    #[must_use]
    pub fn api_id(&self) -> &[u8] {
        &self.api_id
    }

    #[inline]
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    #[inline]
    pub(super) fn runs(&self) -> Option<&ApiRuns> {
        self.runs.as_ref()
    }

    pub(super) fn unversioned(&self) -> &[u8] {
        &self.unversioned
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    pub(super) fn org_id(&self) -> &[u8] {
        &self.org_id
    }

    pub(super) fn host(&self) -> &[u8] {
        &self.host
    }

    pub(super) fn expire_after_s(&self) -> i64 {
        self.expire_after_s
    }

    /// Who is recorded where there is no session.
    pub(super) fn nobody(&self) -> Identified<'_> {
        Identified::read(self.recording.nobody.bytes())
    }

    /// Tags in Tyk's order. `of_fields` are those that the request's fields add.
    pub(super) fn add_tags<'a>(
        &'a self,
        who: &Identified<'a>,
        of_fields: impl IntoIterator<Item = &'a [u8]>,
        is_cached: bool,
        tags: &mut Vec<&'a [u8]>,
    ) {
        tags.extend(who.tags.clone());
        tags.extend(of_fields);
        tags.extend(self.tags.iter().map(|tag| &**tag));
        if is_cached {
            tags.push(CACHED);
        }
        // Segments of the node, before the key's.
        tags.extend(self.recording.node_tags.iter().map(|tag| &**tag));
        if !who.key_tag.is_empty() {
            tags.push(who.key_tag);
        }
        tags.extend(self.closing_tags.iter().map(|tag| &**tag));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn config(conf: &str) -> Config {
        let file = std::path::Path::new("tyk.conf");
        Config::from_json_str(file, conf).unwrap().0
    }

    impl Recording {
        /// The same, without the short way.
        pub(crate) fn on_the_long_way(&self) -> Self {
            Self {
                ignored_ips: self.ignored_ips.clone(),
                node_tags: self.node_tags.clone(),
                is_detailed: self.is_detailed,
                asks_organisation: self.asks_organisation,
                nobody: self.nobody.clone(),
                is_short: false,
            }
        }
    }

    pub(crate) fn recording(conf: &str, keyless_key: &str) -> Arc<Recording> {
        Arc::new(Recording::from_config(&config(conf), keyless_key).unwrap())
    }

    pub(crate) fn api(recording: &Arc<Recording>, definition: &str) -> Option<Arc<ApiRecorder>> {
        let definition = ApiDefinition::from_json_slice(definition.as_bytes()).unwrap();
        ApiRecorder::from_definition(recording, &definition, "target:80").map(Arc::new)
    }

    /// A recorder of an API with that id; `tagged` takes tags from `X-Tag`.
    pub(crate) fn recorder(api_id: &str) -> Arc<ApiRecorder> {
        let headers = if api_id == "tagged" { r#""X-Tag""# } else { "" };
        api(
            &recording(r#"{"enable_analytics": true}"#, ""),
            &format!(r#"{{"api_id": "{api_id}", "org_id": "org1", "tag_headers": [{headers}]}}"#),
        )
        .unwrap()
    }

    #[test]
    fn nothing_is_recorded_where_it_is_off() {
        assert!(Recording::from_config(&config("{}"), "").is_none());
        let recording = recording(r#"{"enable_analytics": true}"#, "");
        assert!(api(&recording, r#"{"do_not_track": true}"#).is_none());
        assert!(api(&recording, "{}").is_some());
    }

    #[test]
    fn ignored_addresses_match_exactly() {
        let conf = r#"{"enable_analytics": true,
            "analytics_config": {"ignored_ips": ["10.0.0.9", "::1", "10.1.0.0/16", "x"]}}"#;
        let api = api(&recording(conf, ""), "{}").unwrap();
        for (ip, expected) in [
            ("10.0.0.9", true),
            ("::1", true),
            ("10.1.0.1", false),
            ("10.0.0.8", false),
        ] {
            assert_eq!(api.ignores(&ip.parse().unwrap()), expected, "{ip}");
        }
        assert!(!recorder("one").ignores(&"10.0.0.9".parse().unwrap()));
    }

    #[test]
    fn detail_follows_api_key_organisation_and_node_in_this_order() {
        #[track_caller]
        fn check(conf: &str, api_flag: bool, session: bool, org: Option<bool>, expected: bool) {
            let conf = format!(r#"{{"enable_analytics": true, {conf}}}"#);
            let definition = format!(r#"{{"enable_detailed_recording": {api_flag}}}"#);
            let api = api(&recording(&conf, ""), &definition).unwrap();
            assert_eq!(api.wants_detail(session, org), expected);
        }
        let off = r#""hash_keys": false"#;
        let on = r#""analytics_config": {"enable_detailed_recording": true}"#;
        let org = r#""enforce_org_data_detail_logging": true"#;
        let both = format!("{on}, {org}");
        check(off, false, false, None, false);
        check(off, true, false, None, true);
        check(off, false, true, None, true);
        check(off, false, false, Some(true), false);
        check(on, false, false, Some(false), true);
        check(org, false, false, Some(true), true);
        check(&both, false, false, Some(false), false);
        check(&both, false, false, None, true);
    }
}
