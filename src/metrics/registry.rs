//! The shards' counters added up, beside those of the process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use crate::metrics::{Counter, Records, Shard, names, prometheus::Page};

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
        }
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
            self.shards
                .iter()
                .map(|shard| shard.connections_open.value())
                .sum::<u64>(),
        );
        page.value(names::REQUESTS, self.sum(|shard| &shard.requests));
        page.labelled(
            names::RESPONSES,
            "class",
            ["1xx", "2xx", "3xx", "4xx", "5xx"]
                .into_iter()
                .zip(self.responses()),
        );
        page.value(names::REFUSALS, self.sum(|shard| &shard.refusals));
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
        page.finish()
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
                assert!(announced.contains(name), "{line}");
            }
        }
    }
}
