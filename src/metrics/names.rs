//! Every metric name, once, with its help text.

/// How a metric behaves, in Prometheus' words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// A metric as it is announced.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
}

const fn counter(name: &'static str, help: &'static str) -> Name {
    let kind = Kind::Counter;
    Name { name, kind, help }
}

const fn gauge(name: &'static str, help: &'static str) -> Name {
    let kind = Kind::Gauge;
    Name { name, kind, help }
}

pub(super) const BUILD_INFO: Name = gauge(
    "penstock_build_info",
    "Always 1; the label is the version of this process.",
);
pub(super) const START_TIME: Name = gauge(
    "penstock_start_time_seconds",
    "When this process started, in seconds since 1970.",
);
pub(super) const SHARDS: Name = gauge("penstock_shards", "Threads that serve requests.");
pub(super) const APIS: Name = gauge("penstock_apis", "API definitions being served.");
pub(super) const CONNECTIONS: Name = counter(
    "penstock_connections_total",
    "Connections accepted from clients.",
);
pub(super) const CONNECTIONS_OPEN: Name = gauge(
    "penstock_connections_open",
    "Connections from clients open now.",
);
pub(super) const REQUESTS: Name = counter("penstock_requests_total", "Request heads read.");
pub(super) const RESPONSES: Name = counter(
    "penstock_responses_total",
    "Answers sent, by the class of their status.",
);
pub(super) const REFUSALS: Name = counter(
    "penstock_refusals_total",
    "Requests that the gateway itself turned away.",
);
pub(super) const UPSTREAM_ERRORS: Name = counter(
    "penstock_upstream_errors_total",
    "Exchanges that failed on the upstream's side.",
);
pub(super) const PANICS: Name = counter(
    "penstock_panics_total",
    "Panics caught; each cost one connection.",
);
pub(super) const RECEIVED_BYTES: Name =
    counter("penstock_received_bytes_total", "Bytes read from clients.");
pub(super) const SENT_BYTES: Name =
    counter("penstock_sent_bytes_total", "Bytes written to clients.");
pub(super) const RELOADS: Name = counter("penstock_config_reloads_total", "Reloads tried.");
pub(super) const RELOAD_FAILURES: Name = counter(
    "penstock_config_reload_failures_total",
    "Reloads that left the old definitions in place.",
);
pub(super) const LAST_RELOAD_SUCCESSFUL: Name = gauge(
    "penstock_config_last_reload_successful",
    "1 when the last reload took effect, 0 when the old definitions stayed.",
);
pub(super) const LAST_RELOAD_SUCCESS: Name = gauge(
    "penstock_config_last_reload_success_timestamp_seconds",
    "When a reload last took effect, in seconds since 1970; 0 before the first.",
);
pub(super) const REFUSED_DEFINITIONS: Name = gauge(
    "penstock_config_refused_definitions",
    "Definitions that the last reload refused.",
);
pub(super) const COMPILATIONS: Name = counter(
    "penstock_api_compilations_total",
    "API definitions compiled; those that did not change are not compiled again.",
);
pub(super) const UPGRADES: Name = counter(
    "penstock_upgrades_total",
    "Upgrades of the running binary begun by this process.",
);
pub(super) const UPGRADE_FAILURES: Name = counter(
    "penstock_upgrade_failures_total",
    "Upgrades after which this process went on.",
);
