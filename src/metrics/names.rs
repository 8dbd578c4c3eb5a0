//! Every metric name, once, with its help text.

/// How a metric behaves, in Prometheus' words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
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

const fn histogram(name: &'static str, help: &'static str) -> Name {
    let kind = Kind::Histogram;
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
    "Requests that the gateway itself turned away, by reason.",
);
pub(super) const GATEWAY_SECONDS: Name = histogram(
    "penstock_gateway_seconds",
    "Time of a request inside the gateway, without the upstream's.",
);
pub(super) const UPSTREAM_SECONDS: Name = histogram(
    "penstock_upstream_seconds",
    "Time from the first byte sent to an upstream until the head of its answer.",
);
pub(super) const API_RESPONSES: Name = counter(
    "penstock_api_responses_total",
    "Answers by API and class of status; APIs beyond 10,000 are counted together.",
);
pub(super) const API_REFUSALS: Name = counter(
    "penstock_api_refusals_total",
    "Requests of an API that the gateway itself turned away, by reason.",
);
pub(super) const API_GATEWAY_SECONDS: Name = counter(
    "penstock_api_gateway_seconds_total",
    "Time of an API's requests inside the gateway, added up.",
);
pub(super) const API_UPSTREAM_SECONDS: Name = counter(
    "penstock_api_upstream_seconds_total",
    "Time of an API's requests at its upstreams, added up.",
);
pub(super) const UPSTREAM_CONNECTIONS: Name = counter(
    "penstock_upstream_connections_total",
    "Connections opened to upstreams.",
);
pub(super) const UPSTREAM_REUSES: Name = counter(
    "penstock_upstream_reuses_total",
    "Requests that found an open connection to their upstream.",
);
pub(super) const UPSTREAM_IDLE: Name = gauge(
    "penstock_upstream_connections_idle",
    "Open connections to upstreams with no request on them.",
);
pub(super) const SESSION_HITS: Name = counter(
    "penstock_session_cache_hits_total",
    "Sessions found in a shard's memory.",
);
pub(super) const SESSION_MISSES: Name = counter(
    "penstock_session_cache_misses_total",
    "Sessions that the store was asked for.",
);
pub(super) const LIMITED: Name = counter(
    "penstock_limit_refusals_total",
    "Requests that met a limit, by its kind.",
);
pub(super) const LIMIT_ASKS: Name = counter(
    "penstock_limit_asks_total",
    "Requests whose limit was asked from the store.",
);
pub(super) const LIMIT_ASKS_DIRECT: Name = counter(
    "penstock_limit_asks_direct_total",
    "Those of them that went over a shard's own connection.",
);
pub(super) const LIMIT_LOCAL: Name = counter(
    "penstock_limit_local_total",
    "Requests whose limit was decided by the local share because the store gave no answer.",
);
pub(super) const STORE_AWAY: Name = gauge(
    "penstock_store_away",
    "1 while nothing waits for the store, 0 while it answers.",
);
pub(super) const STORE_ABSENCES: Name = counter(
    "penstock_store_absences_total",
    "How often the store went away.",
);
pub(super) const STORE_ERRORS: Name = counter(
    "penstock_store_errors_total",
    "Questions that the store answered with an error or not at all.",
);
pub(super) const STORE_TIMEOUTS: Name = counter(
    "penstock_store_timeouts_total",
    "Questions to the store given up at their deadline.",
);
pub(super) const STORE_SECONDS: Name =
    histogram("penstock_store_seconds", "Time until the store answered.");
pub(super) const RECORDS: Name = counter(
    "penstock_analytics_records_total",
    "Analytics records made.",
);
pub(super) const RECORDS_WRITTEN: Name = counter(
    "penstock_analytics_records_written_total",
    "Analytics records that the store has taken.",
);
pub(super) const RECORDS_DROPPED: Name = counter(
    "penstock_analytics_records_dropped_total",
    "Analytics records lost: on their way for want of room, at the end for want of a store, or in \
     their list before anybody read them.",
);
pub(super) const RECORD_PUSH_FAILURES: Name = counter(
    "penstock_analytics_push_failures_total",
    "Batches of analytics records that the store did not take; they are tried again.",
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
pub(super) const TRACES: Name = counter(
    "penstock_traces_total",
    "Sampled requests left for the exporter of spans.",
);
pub(super) const TRACES_DROPPED: Name = counter(
    "penstock_traces_dropped_total",
    "Sampled requests for which there was no room on their way to the exporter.",
);
pub(super) const SPANS: Name = counter(
    "penstock_trace_spans_total",
    "Spans made, by what became of them.",
);
pub(super) const SPAN_EXPORT_FAILURES: Name = counter(
    "penstock_trace_export_failures_total",
    "Batches of spans that the collector did not take; most are tried again.",
);
pub(super) const LOG_LINES_LOST: Name = counter(
    "penstock_log_lines_lost_total",
    "Log lines that did not reach syslog or Logstash.",
);
