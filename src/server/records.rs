//! The way of records from shards to the store.
//!
//! Tyk: `gateway/analytics.go` (`Init`, `Start`, `Stop`).

use std::{path::Path, sync::Arc, time::Duration};

use crate::{
    analytics::{Assembler, Consumer, Flusher, GeoIp, Lists, Normaliser, Producer, ring},
    config::{Config, StoreKind},
    metrics::Registry,
    storage::{self, Owner, Store, StoreError},
};

/// What one record takes on its way, about.
const RECORD_BYTES: u64 = 512;
/// Bounds of what waits per shard.
const RING_BYTES_MIN: u64 = 4 << 20;
const RING_BYTES_MAX: u64 = 64 << 20;

/// How long a stopping process waits for its last records.
const LAST_RECORDS: Duration = Duration::from_secs(3);

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

/// Ends when everything that shards have recorded so far is written or lost, or after a while.
pub async fn settle(registry: &Registry) {
    let settled = async {
        loop {
            let recorded: u64 = registry
                .shards()
                .iter()
                .map(|shard| shard.records.value())
                .sum();
            let records = &registry.records;
            let done = records.written_count() + records.capped_count() + records.lost_count();
            if done >= recorded {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(LAST_RECORDS, settled).await.is_err() {
        tracing::warn!(prefix = "analytics", "not all records were written");
    }
}
