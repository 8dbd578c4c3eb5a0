//! Events that definitions and `tyk.conf` have handlers for: a line in the log for each.
//!
//! ```text
//!   shard: a refusal ── ApiEvents::fire ──┐ bounded queue, full: counted
//!   REST: a changed key ── Handlers::fire ┴──> tell (tokio) ──> log
//! ```
//!
//! What has no handler costs nothing; what has one costs its request a place in the queue.
//!
//! Tyk: `gateway/event_system.go`, `event_handler_webhooks.go`; docs "Event Types". Handlers: the log
//! (`eh_log_handler`).

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::sync::mpsc;

use crate::{apidef::ApiDefinition, config::Config, log};

/// The handler that writes a line into the log.
pub const LOG_HANDLER: &str = "eh_log_handler";

/// Events that may wait to be told.
const QUEUE_MAX: usize = 1_024;

/// What can happen. Names are Tyk's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    AuthFailure,
    KeyExpired,
    VersionFailure,
    RateLimitExceeded,
    QuotaExceeded,
    OrgQuotaExceeded,
    OrgRateLimitExceeded,
    TokenCreated,
    TokenUpdated,
    TokenDeleted,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::AuthFailure,
        Self::KeyExpired,
        Self::VersionFailure,
        Self::RateLimitExceeded,
        Self::QuotaExceeded,
        Self::OrgQuotaExceeded,
        Self::OrgRateLimitExceeded,
        Self::TokenCreated,
        Self::TokenUpdated,
        Self::TokenDeleted,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AuthFailure => "AuthFailure",
            Self::KeyExpired => "KeyExpired",
            Self::VersionFailure => "VersionFailure",
            // Tyk's spelling.
            Self::RateLimitExceeded => "RatelimitExceeded",
            Self::QuotaExceeded => "QuotaExceeded",
            Self::OrgQuotaExceeded => "OrgQuotaExceeded",
            Self::OrgRateLimitExceeded => "OrgRateLimitExceeded",
            Self::TokenCreated => "TokenCreated",
            Self::TokenUpdated => "TokenUpdated",
            Self::TokenDeleted => "TokenDeleted",
        }
    }

    /// The event of this name, where anything fires it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The names of the refusals that are this event
    /// ([`Reject::name`](crate::error::Reject::name)).
    const fn refusals(self) -> &'static [&'static str] {
        match self {
            Self::AuthFailure => &["auth_missing", "key_not_found", "ip"],
            Self::KeyExpired => &["key_inactive", "key_expired"],
            Self::VersionFailure => &["version", "api_expired"],
            Self::RateLimitExceeded => &["rate_limit", "api_rate_limit"],
            Self::QuotaExceeded => &["quota"],
            Self::OrgQuotaExceeded => &["organisation_quota"],
            Self::OrgRateLimitExceeded => &["organisation_rate_limit"],
            Self::TokenCreated | Self::TokenUpdated | Self::TokenDeleted => &[],
        }
    }
}

/// Something that happened, on its way to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    kind: Kind,
    prefixes: Arc<[Box<str>]>,
    /// Of a request; `None` for what the REST API did.
    origin: Option<Origin>,
}

/// Whose request it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// In clear; empty: none.
    pub key: String,
    pub ip: IpAddr,
    pub path: String,
}

/// The way to the log.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    sender: Option<mpsc::Sender<Event>>,
    /// Events for which there was no room.
    lost: Arc<AtomicU64>,
}

/// The end of the way.
pub struct Teller {
    events: mpsc::Receiver<Event>,
    lost: Arc<AtomicU64>,
    /// `enable_key_logging`
    shows_keys: bool,
}

/// Both ends.
#[must_use]
pub fn queue(config: &Config) -> (Queue, Teller) {
    let (sender, events) = mpsc::channel(QUEUE_MAX);
    let lost = Arc::default();
    let teller = Teller {
        events,
        lost: Arc::clone(&lost),
        shows_keys: config.enable_key_logging,
    };
    let sender = Some(sender);
    (Queue { sender, lost }, teller)
}

impl Queue {
    fn send(&self, event: Event) {
        let is_lost = match &self.sender {
            Some(sender) => sender.try_send(event).is_err(),
            None => false,
        };
        if is_lost {
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

impl Teller {
    /// Writes lines until nobody can send any more.
    pub async fn run(mut self) {
        while let Some(event) = self.events.recv().await {
            for line in event.lines(self.shows_keys) {
                tracing::warn!(prefix = "event", "{line}");
            }
            let lost = self.lost.swap(0, Relaxed);
            if lost > 0 {
                tracing::warn!(prefix = "event", lost, "more events than can be told");
            }
        }
    }
}

impl Event {
    fn lines(&self, shows_keys: bool) -> impl Iterator<Item = String> {
        let kind = self.kind;
        let behind = match &self.origin {
            Some(origin) if kind == Kind::QuotaExceeded => {
                // Tyk differs: it writes keys in clear, whatever `enable_key_logging` says.
                let key = log::shown_key(&origin.key, shows_keys);
                format!(":{key}:{}:{}", origin.ip, origin.path)
            }
            _ => String::new(),
        };
        let name = kind.name();
        let prefixes = self.prefixes.iter();
        prefixes.map(move |prefix| format!("{prefix}:{name}{behind}"))
    }
}

/// Which events have a line in the log, and what it begins with.
#[derive(Debug)]
pub struct Handlers {
    queue: Queue,
    by_kind: Vec<(Kind, Arc<[Box<str>]>)>,
}

impl Handlers {
    /// `None` without any.
    fn new<'a>(
        queue: &Queue,
        handlers: impl Iterator<Item = (&'a str, &'a str, Option<&'a str>)>,
    ) -> Option<Self> {
        let mut prefixes: BTreeMap<&str, Vec<Box<str>>> = BTreeMap::new();
        for (event, handler, prefix) in handlers {
            if handler == LOG_HANDLER {
                let known = prefixes.entry(event).or_default();
                known.push(prefix.unwrap_or_default().into());
            }
        }
        let by_kind: Vec<_> = prefixes
            .into_iter()
            .filter_map(|(event, prefixes)| Some((Kind::from_name(event)?, prefixes.into())))
            .collect();
        (!by_kind.is_empty()).then(|| Self {
            queue: queue.clone(),
            by_kind,
        })
    }

    /// Those of `tyk.conf`, for events of the gateway itself; `None` without any.
    #[must_use]
    pub fn from_config(config: &Config, queue: &Queue) -> Option<Self> {
        let events = config.event_handlers.events.iter();
        let handlers = events.flat_map(|(event, handlers)| {
            handlers.iter().map(move |handler| {
                let prefix = handler.handler_meta.get("prefix");
                let prefix = prefix.and_then(|prefix| prefix.as_str());
                (event.as_str(), handler.handler_name.as_str(), prefix)
            })
        });
        Self::new(queue, handlers)
    }

    /// Something happened that no request did.
    pub fn fire(&self, kind: Kind) {
        self.send(kind, None);
    }

    fn send(&self, kind: Kind, origin: Option<Origin>) {
        let handled = self.by_kind.iter().find(|(known, _)| *known == kind);
        if let Some((_, prefixes)) = handled {
            self.queue.send(Event {
                kind,
                prefixes: Arc::clone(prefixes),
                origin,
            });
        }
    }
}

/// Events of one API.
#[derive(Debug)]
pub struct ApiEvents(Handlers);

impl ApiEvents {
    /// `None` for an API without handlers.
    #[must_use]
    pub fn from_definition(api: &ApiDefinition, queue: &Queue) -> Option<Self> {
        let events = api.event_handlers.events.iter();
        let handlers = events.flat_map(|(event, handlers)| {
            handlers.iter().map(move |handler| {
                let prefix = handler.handler_meta.get("prefix");
                let prefix = prefix.and_then(|prefix| prefix.as_str());
                (event.as_str(), handler.handler_name.as_str(), prefix)
            })
        });
        Handlers::new(queue, handlers).map(Self)
    }

    /// A request was turned away; `refusal` is [`Reject::name`](crate::error::Reject::name).
    #[cold]
    pub fn refused(&self, refusal: &str, origin: impl FnOnce() -> Origin) {
        let mut kinds = self.0.by_kind.iter().map(|(kind, _)| *kind);
        if let Some(kind) = kinds.find(|kind| kind.refusals().contains(&refusal)) {
            self.0.send(kind, Some(origin()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reject;

    fn config(text: &str) -> Config {
        let file = std::path::Path::new("tyk.conf");
        Config::from_json_str(file, text).unwrap().0
    }

    fn origin() -> Origin {
        Origin {
            key: "orgsecretkey".to_owned(),
            ip: "10.0.0.7".parse().unwrap(),
            path: "/w/x".to_owned(),
        }
    }

    fn told(teller: &mut Teller) -> Vec<String> {
        let shows_keys = teller.shows_keys;
        std::iter::from_fn(|| teller.events.try_recv().ok())
            .flat_map(|event| event.lines(shows_keys).collect::<Vec<_>>())
            .collect()
    }

    fn api(handlers: &str) -> ApiDefinition {
        let text = format!(r#"{{"event_handlers": {{"events": {{{handlers}}}}}}}"#);
        ApiDefinition::from_json_slice(text.as_bytes()).unwrap()
    }

    const QUOTA: &str = r#""QuotaExceeded": [
        {"handler_name": "eh_log_handler", "handler_meta": {"prefix": "one"}},
        {"handler_name": "eh_web_hook_handler", "handler_meta": {"target_path": "x"}},
        {"handler_name": "eh_log_handler"}]"#;

    #[test]
    fn a_refusal_is_told_to_each_log_handler_of_its_event() {
        for (conf, key) in [
            ("{}", "****tkey"),
            (r#"{"enable_key_logging": true}"#, "orgsecretkey"),
        ] {
            let (queue, mut teller) = queue(&config(conf));
            let api = api(&format!(
                r#"{QUOTA}, "AuthFailure": [{{"handler_name": "eh_log_handler"}}]"#
            ));
            let events = ApiEvents::from_definition(&api, &queue).unwrap();
            events.refused(Reject::RateLimitExceeded.name(), origin);
            events.refused("content", origin);
            assert!(told(&mut teller).is_empty());
            events.refused(Reject::QuotaExceeded.name(), origin);
            events.refused(Reject::KeyNotFound.name(), origin);
            let behind = format!(":QuotaExceeded:{key}:10.0.0.7:/w/x");
            let expected = [format!("one{behind}"), behind, ":AuthFailure".to_owned()];
            assert_eq!(told(&mut teller), expected);
        }
    }

    #[test]
    fn without_a_handler_that_is_there_nothing_is_kept() {
        let (queue, _teller) = queue(&config("{}"));
        for handlers in [
            "",
            r#""QuotaExceeded": []"#,
            r#""QuotaExceeded": [{"handler_name": "eh_web_hook_handler"}]"#,
            r#""HostDown": [{"handler_name": "eh_log_handler"}]"#,
        ] {
            assert!(
                ApiEvents::from_definition(&api(handlers), &queue).is_none(),
                "{handlers}"
            );
        }
        assert!(Handlers::from_config(&config("{}"), &queue).is_none());
    }

    #[test]
    fn every_refusal_named_by_an_event_is_one() {
        let names = [
            Reject::AuthFieldMissing,
            Reject::KeyNotFound,
            Reject::IpNotAllowed,
            Reject::KeyInactive,
            Reject::KeyExpired,
            Reject::VersionInfoNotFound,
            Reject::ApiExpired,
            Reject::RateLimitExceeded,
            Reject::ApiRateLimitExceeded,
            Reject::QuotaExceeded,
            Reject::OrganisationQuotaExceeded,
            Reject::OrganisationRateLimitExceeded,
        ]
        .map(Reject::name);
        let of_events: Vec<_> = Kind::ALL.iter().flat_map(|kind| kind.refusals()).collect();
        let of_apis: Vec<_> = Kind::ALL
            .iter()
            .filter(|kind| !kind.refusals().is_empty())
            .map(|kind| kind.name())
            .collect();
        assert_eq!(of_apis, crate::apidef::EVENTS);
        assert_eq!(of_events.len(), names.len());
        for name in of_events {
            assert!(names.contains(name), "{name}");
        }
        assert_eq!(
            Kind::from_name("RatelimitExceeded"),
            Some(Kind::RateLimitExceeded)
        );
        assert_eq!(Kind::from_name("RateLimitExceeded"), None);
    }

    #[test]
    fn more_than_can_wait_are_counted() {
        let text = r#"{"event_handlers": {"events": {"TokenCreated":
            [{"handler_name": "eh_log_handler", "handler_meta": {"prefix": "key"}}]}}}"#;
        let config = config(text);
        let (queue, mut teller) = queue(&config);
        let handlers = Handlers::from_config(&config, &queue).unwrap();
        for _ in 0..QUEUE_MAX + 3 {
            handlers.fire(Kind::TokenCreated);
            handlers.fire(Kind::TokenDeleted);
        }
        assert_eq!(teller.lost.load(Relaxed), 3);
        let told = told(&mut teller);
        assert_eq!(told.len(), QUEUE_MAX);
        assert!(told.iter().all(|line| line == "key:TokenCreated"));
    }
}
