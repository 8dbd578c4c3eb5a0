//! What one shard counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::metrics::{Histogram, Named};

/// A number that only goes up. One thread writes, any may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one. For the writing thread alone: two writers would lose counts.
    #[inline]
    pub fn count(&self) {
        self.add(1);
    }

    /// Adds `n`. For the writing thread alone.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down. One thread writes, any may read.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it. For the writing thread alone.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// One more.
    #[inline]
    pub fn up(&self) {
        self.set(self.value().wrapping_add(1));
    }

    /// One less; stays at zero.
    #[inline]
    pub fn down(&self) {
        self.set(self.value().saturating_sub(1));
    }

    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One shard's counters, on cache lines of their own (two at a time are fetched on x86).
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Shard {
    /// Connections accepted.
    pub connections: Counter,
    /// Connections open now.
    pub connections_open: Gauge,
    /// Request heads read, well formed or not.
    pub requests: Counter,
    /// Answers by the first digit of their status: index 0 is 1xx.
    responses: [Counter; 5],
    /// Requests that a step of a chain, the router or the parser turned away, and that are not
    /// counted by reason.
    pub refusals: Counter,
    /// Requests turned away, by reason.
    pub refused: Named,
    /// Steps of chains with the time they took, while StatsD is on.
    pub steps: Named,
    /// Time inside the gateway.
    pub gateway_time: Histogram,
    /// Time until the head of an upstream's answer.
    pub upstream_time: Histogram,
    /// Connections opened to upstreams.
    pub upstream_connections: Counter,
    /// Requests that found an open connection to their upstream.
    pub upstream_reuses: Counter,
    /// Open connections to upstreams with no request on them.
    pub upstream_idle: Gauge,
    /// Sessions found in this shard's memory.
    pub session_hits: Counter,
    /// Sessions that the store was asked for.
    pub session_misses: Counter,
    /// Requests beyond a rate limit.
    pub rate_limited: Counter,
    /// Requests beyond a quota.
    pub quota_exceeded: Counter,
    /// Requests that were held back before they went on.
    pub throttled: Counter,
    /// Requests whose limit was asked from the store.
    pub limit_asks: Counter,
    /// Of them, over the shard's own connection.
    pub limit_asks_direct: Counter,
    /// Requests whose limit the local share decided, for want of an answer.
    pub limit_local: Counter,
    /// Exchanges that failed on the upstream's side.
    pub upstream_errors: Counter,
    /// Panics caught; each cost one connection.
    pub panics: Counter,
    /// Analytics records handed to the writer.
    pub records: Counter,
    /// Analytics records for which there was no room on their way to the writer.
    pub records_dropped: Counter,
    /// Sampled requests handed to the exporter of spans.
    pub traces: Counter,
    /// Sampled requests for which there was no room on their way to the exporter.
    pub traces_dropped: Counter,
    /// Read from clients.
    pub received_bytes: Counter,
    /// Written to clients.
    pub sent_bytes: Counter,
}

impl Shard {
    /// Counts an answer. A status outside of 100–599 counts as 5xx.
    #[inline]
    pub fn response(&self, status: u16) {
        count_class(&self.responses, status);
    }

    /// Counts what one request took in the gateway, and at the upstream if it went there, in
    /// microseconds.
    #[inline]
    pub fn took(&self, gateway_us: u64, upstream_us: Option<u64>) {
        self.gateway_time.observe(gateway_us);
        if let Some(us) = upstream_us {
            self.upstream_time.observe(us);
        }
    }

    /// Answers so far, 1xx first.
    #[must_use]
    pub fn responses(&self) -> [u64; 5] {
        self.responses.each_ref().map(Counter::value)
    }
}

/// Counts an answer by the first digit of its status. One outside of 100–599 counts as 5xx.
#[inline]
pub(super) fn count_class(classes: &[Counter; 5], status: u16) {
    let class = usize::from(status / 100).wrapping_sub(1);
    if let Some(counter) = classes.get(class).or(classes.last()) {
        counter.count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_class() {
        let shard = Shard::default();
        for status in [101, 200, 204, 302, 404, 499, 500, 599, 0, 99, 600, u16::MAX] {
            shard.response(status);
        }
        assert_eq!(shard.responses(), [1, 2, 1, 2, 6]);
    }

    #[test]
    fn a_gauge_does_not_fall_below_zero() {
        let gauge = Gauge::default();
        gauge.down();
        gauge.up();
        assert_eq!(gauge.value(), 1);
    }
}
