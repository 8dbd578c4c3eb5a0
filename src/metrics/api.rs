//! What is counted per API.
//!
//! An API finds its [`ApiCounters`] by its id when it is loaded, so that they go on across reloads;
//! a request then only writes to its own shard's part, which is on cache lines of its own.

#![allow(
    clippy::disallowed_types,
    reason = "locked while definitions are loaded and while somebody scrapes; requests hold their \
              API's counters already"
)]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::metrics::Counter;

/// APIs that are counted one by one. Those beyond it share counters, named [`OTHERS`].
pub(super) const APIS_MAX: usize = 10_000;

/// The label of the APIs that have no counters of their own.
pub(super) const OTHERS: &str = "(others)";

/// One API's counters, over all shards.
#[derive(Debug)]
pub struct ApiCounters {
    api_id: Box<str>,
    shards: Box<[ApiShard]>,
}

/// One API's counters on one shard, for that shard alone to write.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ApiShard {
    /// Answers by the first digit of their status: index 0 is 1xx.
    responses: [Counter; 5],
    /// Requests turned away by the gateway, by [`Refusal`]; their answers are among the responses.
    refusals: [Counter; 4],
    gateway_us: Counter,
    upstream_us: Counter,
}

/// Why the gateway turned a request away, as far as it is told apart per API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Rate,
    Quota,
    /// There is no such key, or it may not be used now.
    Key,
    Other,
}

impl Refusal {
    /// All of them, with their names.
    pub const ALL: [(Self, &str); 4] = [
        (Self::Rate, "rate"),
        (Self::Quota, "quota"),
        (Self::Key, "key"),
        (Self::Other, "other"),
    ];
}

const _: () = assert!(size_of::<ApiShard>() == 128);

/// The sums of an API's shards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ApiSums {
    pub responses: [u64; 5],
    refusals: [u64; 4],
    pub gateway_us: u64,
    pub upstream_us: u64,
}

impl ApiSums {
    /// Requests turned away for one reason.
    #[must_use]
    pub fn refused(&self, kind: Refusal) -> u64 {
        self.refusals.get(kind as usize).copied().unwrap_or(0)
    }

    /// Requests that the gateway let through, and that an upstream answered.
    #[must_use]
    pub fn passed(&self) -> u64 {
        let all: u64 = self.responses.iter().sum();
        all.saturating_sub(self.refusals.iter().sum())
    }
}

impl ApiCounters {
    fn new(api_id: &str, shard_count: usize) -> Self {
        Self {
            api_id: api_id.into(),
            shards: (0..shard_count).map(|_| ApiShard::default()).collect(),
        }
    }

    #[must_use]
    pub fn api_id(&self) -> &str {
        &self.api_id
    }

    /// The part of one shard; `None` past the shard count.
    #[inline]
    #[must_use]
    pub fn shard(&self, index: usize) -> Option<&ApiShard> {
        self.shards.get(index)
    }

    #[must_use]
    pub fn sums(&self) -> ApiSums {
        let mut sums = ApiSums::default();
        for shard in &self.shards {
            for (sum, count) in sums.responses.iter_mut().zip(&shard.responses) {
                *sum += count.value();
            }
            for (sum, count) in sums.refusals.iter_mut().zip(&shard.refusals) {
                *sum += count.value();
            }
            sums.gateway_us += shard.gateway_us.value();
            sums.upstream_us += shard.upstream_us.value();
        }
        sums
    }
}

impl ApiShard {
    /// Counts an answer; see [`Shard::response`](crate::metrics::Shard::response).
    #[inline]
    pub fn response(&self, status: u16) {
        super::shard::count_class(&self.responses, status);
    }

    /// Counts a request that the gateway turned away itself.
    #[inline]
    pub fn refusal(&self, kind: Refusal) {
        if let Some(counter) = self.refusals.get(kind as usize) {
            counter.count();
        }
    }

    /// Adds what one request took in the gateway and at the upstream, in microseconds.
    #[inline]
    pub fn took(&self, gateway_us: u64, upstream_us: u64) {
        self.gateway_us.add(gateway_us);
        self.upstream_us.add(upstream_us);
    }
}

/// The counters of all APIs, by id.
#[derive(Debug)]
pub(super) struct Apis {
    shard_count: usize,
    known: Mutex<HashMap<Box<str>, Arc<ApiCounters>>>,
    others: Arc<ApiCounters>,
}

impl Apis {
    pub(super) fn new(shard_count: usize) -> Self {
        Self {
            shard_count,
            known: Mutex::default(),
            others: Arc::new(ApiCounters::new(OTHERS, shard_count)),
        }
    }

    /// The counters of an API, also when it was away for a while.
    pub(super) fn counters(&self, api_id: &str) -> Arc<ApiCounters> {
        let mut known = self.known();
        if let Some(counters) = known.get(api_id) {
            return Arc::clone(counters);
        }
        if known.len() >= APIS_MAX {
            // Nobody serves these any more.
            known.retain(|_, counters| Arc::strong_count(counters) > 1);
        }
        if known.len() >= APIS_MAX {
            return Arc::clone(&self.others);
        }
        let counters = Arc::new(ApiCounters::new(api_id, self.shard_count));
        known.insert(api_id.into(), Arc::clone(&counters));
        counters
    }

    /// What was counted, by id, where anything was.
    pub(super) fn sums(&self) -> Vec<(Box<str>, ApiSums)> {
        let mut all: Vec<_> = self.known().values().cloned().collect();
        all.sort_by(|a, b| a.api_id.cmp(&b.api_id));
        all.push(Arc::clone(&self.others));
        all.iter()
            .map(|counters| (counters.api_id.clone(), counters.sums()))
            .filter(|(_, sums)| *sums != ApiSums::default())
            .collect()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<ApiCounters>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_go_on_when_their_api_is_loaded_again() {
        let apis = Apis::new(2);
        let before = apis.counters("a");
        before.shard(0).unwrap().response(200);
        drop(before);
        let after = apis.counters("a");
        after.shard(1).unwrap().response(204);
        after.shard(1).unwrap().response(404);
        after.shard(1).unwrap().refusal(Refusal::Quota);
        after.shard(1).unwrap().took(5, 7);
        assert!(after.shard(2).is_none());
        let sums = ApiSums {
            responses: [0, 2, 0, 1, 0],
            refusals: [0, 1, 0, 0],
            gateway_us: 5,
            upstream_us: 7,
        };
        assert_eq!((sums.refused(Refusal::Quota), sums.passed()), (1, 2));
        assert_eq!(apis.sums(), [("a".into(), sums)]);
    }

    #[test]
    fn beyond_the_bound_apis_share_counters_until_others_go() {
        let apis = Apis::new(1);
        let mut served: Vec<_> = (0..APIS_MAX)
            .map(|n| apis.counters(&n.to_string()))
            .collect();
        let one_more = apis.counters("more");
        assert_eq!(one_more.api_id(), OTHERS);
        one_more.shard(0).unwrap().response(200);
        assert_eq!(&*apis.sums()[0].0, OTHERS);
        assert_eq!(apis.counters("7").api_id(), "7");
        served.pop();
        assert_eq!(apis.counters("more").api_id(), "more");
        assert_eq!(apis.known().len(), APIS_MAX);
    }
}
