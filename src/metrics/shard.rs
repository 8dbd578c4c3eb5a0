//! What one shard counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
    /// Requests that a step of a chain, the router or the parser turned away.
    pub refusals: Counter,
    /// Exchanges that failed on the upstream's side.
    pub upstream_errors: Counter,
    /// Panics caught; each cost one connection.
    pub panics: Counter,
    /// Analytics records handed to the writer.
    pub records: Counter,
    /// Analytics records for which there was no room on their way to the writer.
    pub records_dropped: Counter,
    /// Read from clients.
    pub received_bytes: Counter,
    /// Written to clients.
    pub sent_bytes: Counter,
}

impl Shard {
    /// Counts an answer. A status outside of 100–599 counts as 5xx.
    #[inline]
    pub fn response(&self, status: u16) {
        let class = usize::from(status / 100).wrapping_sub(1);
        if let Some(counter) = self.responses.get(class).or(self.responses.last()) {
            counter.count();
        }
    }

    /// Answers so far, 1xx first.
    #[must_use]
    pub fn responses(&self) -> [u64; 5] {
        self.responses.each_ref().map(Counter::value)
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
