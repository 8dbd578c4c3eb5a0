//! The shards' counters added up, beside those of the process.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use crate::metrics::{
    ApiCounters, ApiSums, Counter, Records, Refusal, Shard, Spans, StoreCounts,
    api::Apis,
    named, names,
    prometheus::{Page, Seconds},
};

/// Everything this process counts.
#[derive(Debug)]
pub struct Registry {
    shards: Box<[Arc<Shard>]>,
    start_time_s: u64,
    api_count: AtomicU64,
    reloads: AtomicU64,
    reload_failures: AtomicU64,
    is_last_reload_successful: AtomicBool,
    last_reload_success_at_s: AtomicU64,
    refused_definitions: AtomicU64,
    compilations: AtomicU64,
    upgrades: AtomicU64,
    upgrade_failures: AtomicU64,
    /// Analytics records on their way to the store.
    pub records: Records,
    /// Spans on their way to a collector.
    pub spans: Records,
    /// Sampled requests whose spans were sent or given up.
    traces_settled: AtomicU64,
    /// Log lines that did not reach syslog or Logstash.
    lost_lines: Vec<Arc<AtomicU64>>,
    /// Questions to the store.
    pub store: StoreCounts,
    apis: Apis,
}

impl Registry {
    /// A registry with counters for `shard_count` shards.
    #[must_use]
    pub fn new(shard_count: usize) -> Self {
        Self {
            shards: (0..shard_count).map(|_| Arc::default()).collect(),
            start_time_s: now_s(),
            api_count: AtomicU64::new(0),
            reloads: AtomicU64::new(0),
            reload_failures: AtomicU64::new(0),
            is_last_reload_successful: AtomicBool::new(true),
            last_reload_success_at_s: AtomicU64::new(0),
            refused_definitions: AtomicU64::new(0),
            compilations: AtomicU64::new(0),
            upgrades: AtomicU64::new(0),
            upgrade_failures: AtomicU64::new(0),
            records: Records::default(),
            spans: Records::default(),
            traces_settled: AtomicU64::new(0),
            lost_lines: Vec::new(),
            store: StoreCounts::default(),
            apis: Apis::new(shard_count),
        }
    }

    /// The same, with what others count of log lines that they lost.
    #[must_use]
    pub fn with_lost_lines(mut self, counters: Vec<Arc<AtomicU64>>) -> Self {
        self.lost_lines = counters;
        self
    }

    /// The counters of one shard, for that shard alone to write; `None` past the shard count.
    #[must_use]
    pub fn shard(&self, index: usize) -> Option<Arc<Shard>> {
        self.shards.get(index).map(Arc::clone)
    }

    /// All shards' counters.
    #[must_use]
    pub fn shards(&self) -> &[Arc<Shard>] {
        &self.shards
    }

    /// The counters of an API, for its requests. They go on when it is loaded again, also after it
    /// was away. Found once per load, under a lock.
    #[must_use]
    pub fn api(&self, api_id: &str) -> Arc<ApiCounters> {
        self.apis.counters(api_id)
    }

    /// What was counted per API, by id.
    #[must_use]
    pub fn api_sums(&self) -> Vec<(Box<str>, ApiSums)> {
        self.apis.sums()
    }

    /// Records what is being served since the start or the last reload.
    pub fn set_api_count(&self, count: usize) {
        self.api_count.store(count as u64, Relaxed);
    }

    /// Records how many definitions the first load refused.
    pub fn set_refused_count(&self, count: usize) {
        self.refused_definitions.store(count as u64, Relaxed);
    }

    /// Definitions were compiled; those that did not change are not.
    pub fn add_compilations(&self, count: usize) {
        self.compilations.fetch_add(count as u64, Relaxed);
    }

    /// A reload took effect, `refused_count` definitions excepted.
    pub fn reload_succeeded(&self, refused_count: usize) {
        self.reloads.fetch_add(1, Relaxed);
        self.is_last_reload_successful.store(true, Relaxed);
        self.last_reload_success_at_s.store(now_s(), Relaxed);
        self.refused_definitions
            .store(refused_count as u64, Relaxed);
    }

    /// A reload left the old definitions in place.
    pub fn reload_failed(&self) {
        self.reloads.fetch_add(1, Relaxed);
        self.reload_failures.fetch_add(1, Relaxed);
        self.is_last_reload_successful.store(false, Relaxed);
    }

    /// Whether the last reload took effect; true before the first.
    #[must_use]
    pub fn is_last_reload_successful(&self) -> bool {
        self.is_last_reload_successful.load(Relaxed)
    }

    /// The spans of so many sampled requests were sent, or given up.
    pub fn traces_settled(&self, count: u64) {
        self.traces_settled.fetch_add(count, Relaxed);
    }

    #[must_use]
    pub fn traces_settled_count(&self) -> u64 {
        self.traces_settled.load(Relaxed)
    }

    /// This process began to hand over to a new binary.
    pub fn upgrade_begun(&self) {
        self.upgrades.fetch_add(1, Relaxed);
    }

    /// The new binary did not take over.
    pub fn upgrade_failed(&self) {
        self.upgrade_failures.fetch_add(1, Relaxed);
    }

    /// The Prometheus page; `Content-Type` is [`Registry::CONTENT_TYPE`].
    #[must_use]
    pub fn render(&self) -> String {
        let mut page = Page::default();
        page.labelled(
            names::BUILD_INFO,
            "version",
            [(env!("CARGO_PKG_VERSION"), 1)],
        );
        page.value(names::START_TIME, self.start_time_s);
        page.value(names::SHARDS, self.shards.len());
        page.value(names::APIS, self.api_count.load(Relaxed));
        page.value(names::CONNECTIONS, self.sum(|shard| &shard.connections));
        page.value(
            names::CONNECTIONS_OPEN,
            self.total(|shard| shard.connections_open.value()),
        );
        page.value(names::REQUESTS, self.sum(|shard| &shard.requests));
        page.labelled(
            names::RESPONSES,
            "class",
            CLASSES.into_iter().zip(self.responses()),
        );
        page.labelled(names::REFUSALS, "reason", self.refusals());
        page.histogram(
            names::GATEWAY_SECONDS,
            &self.spans(|shard| shard.gateway_time.spans()),
        );
        page.histogram(
            names::UPSTREAM_SECONDS,
            &self.spans(|shard| shard.upstream_time.spans()),
        );
        page.value(
            names::UPSTREAM_ERRORS,
            self.sum(|shard| &shard.upstream_errors),
        );
        page.value(names::PANICS, self.sum(|shard| &shard.panics));
        page.value(
            names::RECEIVED_BYTES,
            self.sum(|shard| &shard.received_bytes),
        );
        page.value(names::SENT_BYTES, self.sum(|shard| &shard.sent_bytes));
        self.render_upstreams(&mut page);
        self.render_keys(&mut page);
        self.render_store(&mut page);
        self.render_records(&mut page);
        page.value(names::RELOADS, self.reloads.load(Relaxed));
        page.value(names::RELOAD_FAILURES, self.reload_failures.load(Relaxed));
        page.value(
            names::LAST_RELOAD_SUCCESSFUL,
            u8::from(self.is_last_reload_successful()),
        );
        page.value(
            names::LAST_RELOAD_SUCCESS,
            self.last_reload_success_at_s.load(Relaxed),
        );
        page.value(
            names::REFUSED_DEFINITIONS,
            self.refused_definitions.load(Relaxed),
        );
        page.value(names::COMPILATIONS, self.compilations.load(Relaxed));
        page.value(names::UPGRADES, self.upgrades.load(Relaxed));
        page.value(names::UPGRADE_FAILURES, self.upgrade_failures.load(Relaxed));
        self.render_apis(&mut page);
        page.finish()
    }

    fn render_upstreams(&self, page: &mut Page) {
        page.value(
            names::UPSTREAM_CONNECTIONS,
            self.sum(|shard| &shard.upstream_connections),
        );
        page.value(
            names::UPSTREAM_REUSES,
            self.sum(|shard| &shard.upstream_reuses),
        );
        page.value(
            names::UPSTREAM_IDLE,
            self.total(|shard| shard.upstream_idle.value()),
        );
    }

    fn render_keys(&self, page: &mut Page) {
        page.value(names::SESSION_HITS, self.sum(|shard| &shard.session_hits));
        page.value(
            names::SESSION_MISSES,
            self.sum(|shard| &shard.session_misses),
        );
        page.labelled(
            names::LIMITED,
            "kind",
            [
                ("rate", self.sum(|shard| &shard.rate_limited)),
                ("quota", self.sum(|shard| &shard.quota_exceeded)),
                ("throttled", self.sum(|shard| &shard.throttled)),
            ],
        );
        page.value(names::LIMIT_ASKS, self.sum(|shard| &shard.limit_asks));
        page.value(
            names::LIMIT_ASKS_DIRECT,
            self.sum(|shard| &shard.limit_asks_direct),
        );
        page.value(names::LIMIT_LOCAL, self.sum(|shard| &shard.limit_local));
    }

    fn render_store(&self, page: &mut Page) {
        page.value(names::STORE_AWAY, u8::from(self.store.is_away()));
        page.value(names::STORE_ABSENCES, self.store.absence_count());
        page.value(names::STORE_ERRORS, self.store.error_count());
        page.value(names::STORE_TIMEOUTS, self.store.timeout_count());
        page.histogram(names::STORE_SECONDS, &self.store.latency());
    }

    fn render_records(&self, page: &mut Page) {
        page.value(names::RECORDS, self.sum(|shard| &shard.records));
        page.value(names::RECORDS_WRITTEN, self.records.written_count());
        page.labelled(
            names::RECORDS_DROPPED,
            "where",
            [
                ("ring", self.sum(|shard| &shard.records_dropped)),
                ("end", self.records.lost_count()),
                ("list", self.records.capped_count()),
            ],
        );
        page.value(
            names::RECORD_PUSH_FAILURES,
            self.records.push_failure_count(),
        );
        page.value(names::TRACES, self.sum(|shard| &shard.traces));
        page.value(
            names::TRACES_DROPPED,
            self.sum(|shard| &shard.traces_dropped),
        );
        page.labelled(
            names::SPANS,
            "outcome",
            [
                ("sent", self.spans.written_count()),
                ("lost", self.spans.lost_count()),
            ],
        );
        page.value(names::SPAN_EXPORT_FAILURES, self.spans.push_failure_count());
        let lost = self.lost_lines.iter();
        let lost: u64 = lost.map(|count| count.load(Relaxed)).sum();
        page.value(names::LOG_LINES_LOST, lost);
    }

    fn render_apis(&self, page: &mut Page) {
        let apis = self.apis.sums();
        let responses = apis.iter().flat_map(|(api_id, sums)| {
            let classes = CLASSES.into_iter().zip(sums.responses);
            classes
                .filter(|(_, count)| *count > 0)
                .map(move |(class, count)| (api_id, class, count))
        });
        page.twice_labelled(names::API_RESPONSES, ["api_id", "class"], responses);
        let refusals = apis.iter().flat_map(|(api_id, sums)| {
            Refusal::ALL
                .into_iter()
                .map(move |(kind, name)| (api_id, name, sums.refused(kind)))
                .filter(|(_, _, count)| *count > 0)
        });
        page.twice_labelled(names::API_REFUSALS, ["api_id", "reason"], refusals);
        let gateway = apis
            .iter()
            .map(|(api_id, sums)| (api_id, Seconds(sums.gateway_us)));
        page.labelled(names::API_GATEWAY_SECONDS, "api_id", gateway);
        let upstream = apis
            .iter()
            .map(|(api_id, sums)| (api_id, Seconds(sums.upstream_us)));
        page.labelled(names::API_UPSTREAM_SECONDS, "api_id", upstream);
    }

    fn total(&self, of: impl Fn(&Shard) -> u64) -> u64 {
        self.shards.iter().map(|shard| of(shard)).sum()
    }

    fn spans(&self, of: impl Fn(&Shard) -> Spans) -> Spans {
        self.shards.iter().map(|shard| of(shard)).sum()
    }

    /// Reasons and their counts over all shards; those without a reason last.
    fn refusals(&self) -> Vec<(&'static str, u64)> {
        let mut sums: BTreeMap<_, u64> = BTreeMap::new();
        let mut other = self.sum(|shard| &shard.refusals);
        for shard in &self.shards {
            for (reason, count, _) in shard.refused.all() {
                match reason {
                    named::OTHER => other += count,
                    reason => *sums.entry(reason).or_default() += count,
                }
            }
        }
        sums.into_iter().chain([(named::OTHER, other)]).collect()
    }

    fn sum(&self, of: impl Fn(&Shard) -> &Counter) -> u64 {
        self.shards.iter().map(|shard| of(shard).value()).sum()
    }

    fn responses(&self) -> [u64; 5] {
        let mut sums = [0; 5];
        for shard in &self.shards {
            for (sum, count) in sums.iter_mut().zip(shard.responses()) {
                *sum += count;
            }
        }
        sums
    }

    /// What `/metrics` says it sends.
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

#[allow(
    clippy::disallowed_methods,
    reason = "the time of a reload is told to people"
)]
fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[track_caller]
    fn check(page: &str, line: &str) {
        assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
    }

    #[test]
    fn shards_are_added_up() {
        let registry = Registry::new(2);
        let (one, two) = (registry.shard(0).unwrap(), registry.shard(1).unwrap());
        assert!(registry.shard(2).is_none());
        one.requests.count();
        two.requests.add(2);
        one.response(200);
        two.response(200);
        two.response(503);
        one.connections_open.up();
        let page = registry.render();
        check(&page, "penstock_requests_total 3");
        check(&page, "penstock_responses_total{class=\"2xx\"} 2");
        check(&page, "penstock_responses_total{class=\"5xx\"} 1");
        check(&page, "penstock_connections_open 1");
        check(&page, "penstock_shards 2");
    }

    #[test]
    fn apis_refusals_and_spans_are_told_apart() {
        let registry = Registry::new(2);
        for (index, status) in [(0, 200), (1, 200), (1, 429)] {
            let api = registry.api("a \"1\"");
            let counters = api.shard(index).unwrap();
            counters.response(status);
            counters.took(1_500_000, 20);
            registry.shard(index).unwrap().took(90, Some(3_000));
        }
        let _ = registry.api("quiet");
        registry.shard(0).unwrap().refused.count("quota_exceeded");
        registry.shard(1).unwrap().refused.count("quota_exceeded");
        registry.shard(1).unwrap().refused.count("key_expired");
        registry.shard(1).unwrap().refusals.count();
        let page = registry.render();
        check(
            &page,
            r#"penstock_api_responses_total{api_id="a \"1\"",class="2xx"} 2"#,
        );
        check(
            &page,
            r#"penstock_api_responses_total{api_id="a \"1\"",class="4xx"} 1"#,
        );
        check(
            &page,
            r#"penstock_api_gateway_seconds_total{api_id="a \"1\""} 4.500000"#,
        );
        check(
            &page,
            r#"penstock_api_upstream_seconds_total{api_id="a \"1\""} 0.000060"#,
        );
        assert!(!page.contains("quiet") && !page.contains(r#"class="3xx",""#));
        check(
            &page,
            r#"penstock_refusals_total{reason="quota_exceeded"} 2"#,
        );
        check(&page, r#"penstock_refusals_total{reason="key_expired"} 1"#);
        check(&page, r#"penstock_refusals_total{reason="other"} 1"#);
        check(&page, r#"penstock_gateway_seconds_bucket{le="0.0001"} 3"#);
        check(&page, r#"penstock_upstream_seconds_bucket{le="0.0025"} 0"#);
        check(&page, r#"penstock_upstream_seconds_bucket{le="0.005"} 3"#);
        check(&page, r#"penstock_upstream_seconds_bucket{le="+Inf"} 3"#);
        check(&page, "penstock_upstream_seconds_sum 0.009000");
        check(&page, "penstock_upstream_seconds_count 3");
    }

    #[test]
    fn the_store_shows_how_it_does() {
        let registry = Registry::new(1);
        registry.store.answered(300);
        registry.store.failed();
        registry.store.timed_out();
        for is_away in [true, true, false, true] {
            registry.store.set_away(is_away);
        }
        let page = registry.render();
        check(&page, "penstock_store_away 1");
        check(&page, "penstock_store_absences_total 2");
        check(&page, "penstock_store_errors_total 1");
        check(&page, "penstock_store_timeouts_total 1");
        check(&page, "penstock_store_seconds_count 1");
    }

    #[test]
    fn records_show_where_they_are_lost() {
        let registry = Registry::new(1);
        registry.shard(0).unwrap().records.add(9);
        registry.shard(0).unwrap().records_dropped.add(1);
        registry.records.written(8);
        registry.records.capped(2);
        registry.records.lost(3);
        registry.records.push_failed();
        let page = registry.render();
        check(&page, "penstock_analytics_records_total 9");
        check(&page, "penstock_analytics_records_written_total 8");
        check(
            &page,
            r#"penstock_analytics_records_dropped_total{where="ring"} 1"#,
        );
        check(
            &page,
            r#"penstock_analytics_records_dropped_total{where="list"} 2"#,
        );
        check(
            &page,
            r#"penstock_analytics_records_dropped_total{where="end"} 3"#,
        );
        check(&page, "penstock_analytics_push_failures_total 1");
    }

    #[test]
    fn a_failed_reload_shows_until_one_succeeds() {
        let registry = Registry::new(1);
        check(
            &registry.render(),
            "penstock_config_last_reload_successful 1",
        );
        registry.reload_failed();
        check(
            &registry.render(),
            "penstock_config_last_reload_successful 0",
        );
        check(
            &registry.render(),
            "penstock_config_reload_failures_total 1",
        );
        registry.reload_succeeded(3);
        let page = registry.render();
        check(&page, "penstock_config_last_reload_successful 1");
        check(&page, "penstock_config_reloads_total 2");
        check(&page, "penstock_config_refused_definitions 3");
    }

    #[test]
    fn every_sample_is_announced_once_and_carries_the_prefix() {
        let page = Registry::new(1).render();
        let mut announced = HashSet::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, _) = rest.split_once(' ').unwrap();
                assert!(name.starts_with("penstock_"), "{name}");
                assert!(announced.insert(name), "{name} twice");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                let of_histogram = ["_bucket", "_sum", "_count"].iter().any(|end| {
                    name.strip_suffix(end)
                        .is_some_and(|name| announced.contains(name))
                });
                assert!(announced.contains(name) || of_histogram, "{line}");
            }
        }
    }
}
