//! The way of records from shards to the store.
//!
//! Tyk: `gateway/analytics.go` (`Init`, `Start`, `Stop`).

use std::{path::Path, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    analytics::{Assembler, Consumer, Flusher, GeoIp, Lists, Normaliser, Producer, ring},
    config::{Config, StoreKind},
    metrics::Registry,
    storage::{self, Owner, Store, StoreError},
};

/// What one record takes on its way, about.
const RECORD_BYTES: u64 = 1024;
/// Bounds of what waits per shard.
const RING_BYTES_MIN: u64 = 16 << 20;
const RING_BYTES_MAX: u64 = 128 << 20;

/// A stopping process waits at least so long for its last records, whatever time its drain took.
const LAST_RECORDS: Duration = Duration::from_secs(3);

/// And no longer than this for a store that takes none. Longer than one answer may take.
const NO_PROGRESS_MAX: Duration = Duration::from_secs(6);

/// One end per shard; empty while analytics are off. The writer runs until the shards are gone.
///
/// # Errors
/// One line: the store for records, or the GeoIP file, cannot be used.
pub fn start(
    config: &Config,
    state_dir: &Path,
    owner: &Arc<Owner>,
    registry: &Arc<Registry>,
) -> Result<Vec<Producer>, String> {
    if !config.enable_analytics {
        return Ok(Vec::new());
    }
    let analytics = &config.analytics_config;
    let bytes_max = analytics.records_buffer_size.saturating_mul(RECORD_BYTES);
    let bytes_max = bytes_max.clamp(RING_BYTES_MIN, RING_BYTES_MAX) as usize;
    let (producers, consumers): (Vec<_>, Vec<Consumer>) = registry
        .shards()
        .iter()
        .map(|shard| ring(bytes_max, Arc::clone(shard)))
        .unzip();
    let (normaliser, left_out) = Normaliser::from_config(&analytics.normalise_urls);
    for why in left_out {
        tracing::warn!(prefix = "analytics", "{why}");
    }
    let geo_ip = if analytics.enable_geo_ip {
        Some(GeoIp::open(Path::new(&analytics.geo_ip_db_path))?)
    } else {
        None
    };
    let lists = Lists::from_config(config);
    let assembler = Assembler::new(lists.serializer, normaliser, geo_ip);
    let sink = sink(config, state_dir, owner).map_err(|error| error.to_string())?;
    let flusher = Flusher::new(consumers, assembler, lists, sink, Arc::clone(registry));
    tokio::spawn(flusher.run());
    Ok(producers)
}

type Sink = Box<dyn Fn() -> Result<Arc<dyn Store>, StoreError> + Send + Sync>;

/// A Redis is reached by a connection of its own, so that a process that has handed the store over
/// still writes what it records while it drains.
fn sink(config: &Config, state_dir: &Path, owner: &Arc<Owner>) -> Result<Sink, StoreError> {
    let open = match storage::analytics_opener(config, state_dir)? {
        Some(open) => open,
        None if config.storage.store_kind() == Some(StoreKind::Redis) => {
            storage::opener(config, state_dir)?
        }
        None => {
            let owner = Arc::clone(owner);
            return Ok(Box::new(move || owner.store()));
        }
    };
    let store = open()?;
    Ok(Box::new(move || Ok(Arc::clone(&store))))
}

/// Ends when everything that shards have recorded so far is written or lost, or when `until` has come,
/// or the store takes nothing.
pub async fn settle(registry: &Registry, until: Instant) {
    let until = until.max(Instant::now() + LAST_RECORDS);
    let (mut done_before, mut since) = (0, Instant::now());
    loop {
        let recorded: u64 = registry
            .shards()
            .iter()
            .map(|shard| shard.records.value())
            .sum();
        let done = registry.records.written_count() + registry.records.lost_count();
        if done >= recorded {
            return;
        }
        let now = Instant::now();
        if done > done_before {
            (done_before, since) = (done, now);
        }
        if now >= until || now >= since + NO_PROGRESS_MAX {
            tracing::warn!(prefix = "analytics", "not all records were written");
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long it waits for three records, of which one is written every `pace_s` seconds; in
    /// seconds. The drain ends at `bound_s`.
    #[track_caller]
    fn check(pace_s: u64, bound_s: u64, expected_s: std::ops::RangeInclusive<u64>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let registry = Arc::new(Registry::new(1));
            let shard = registry.shard(0).unwrap();
            (0..3).for_each(|_| shard.records.count());
            // What left a full list was written before.
            registry.records.capped(100);
            let writer = Arc::clone(&registry);
            tokio::spawn(async move {
                for _ in 0..3 {
                    tokio::time::sleep(Duration::from_secs(pace_s)).await;
                    writer.records.written(1);
                }
            });
            let began = Instant::now();
            settle(&registry, began + Duration::from_secs(bound_s)).await;
            let took_s = began.elapsed().as_secs();
            assert!(expected_s.contains(&took_s), "{took_s} s");
        });
    }

    #[test]
    fn the_last_records_have_the_time_of_the_drain() {
        check(0, 30, 0..=0);
        check(2, 30, 6..=6);
        check(4, 30, 12..=12);
        check(4, 10, 10..=10);
    }

    #[test]
    fn a_store_that_takes_nothing_is_not_waited_for() {
        check(60, 30, 6..=6);
        check(60, 0, 3..=3);
    }
}
