//! What a process that has handed its store over asks the next one to write when it has drained.
//!
//! Quotas only: requests that were admitted meanwhile without a unit of the counter, less the units
//! that were reserved and not used.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    limit::{self, Cells},
    storage::Add,
};

/// Counters in one message.
const COUNTERS_MAX: usize = 1000;

/// A change of a counter, as one process tells the other.
#[derive(Debug, Serialize, Deserialize)]
struct Unsettled {
    key: String,
    by: i64,
    /// Absent for a counter that does not end.
    ttl_ms: Option<u64>,
}

/// Takes out everything that counters have not heard of, as records for [`adds`].
pub fn take(cells: &Cells, now_ms: u64) -> impl Iterator<Item = Value> {
    let ms = |ttl: Duration| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    let unsettled = limit::take_unsettled(cells, now_ms);
    let unsettled: Vec<_> = unsettled
        .into_iter()
        .map(|add| Unsettled {
            key: add.key,
            by: add.by,
            ttl_ms: add.ttl.map(ms),
        })
        .collect();
    let records: Vec<_> = unsettled
        .chunks(COUNTERS_MAX)
        .filter_map(|some| serde_json::to_value(some).ok())
        .collect();
    records.into_iter()
}

/// Reads a record.
///
/// # Errors
/// It is of another form; says what is wrong.
pub fn adds(record: Value) -> Result<Vec<Add>, String> {
    let unsettled: Vec<Unsettled> =
        serde_json::from_value(record).map_err(|error| error.to_string())?;
    let add = |unsettled: Unsettled| Add {
        key: unsettled.key,
        by: unsettled.by,
        ttl: unsettled.ttl_ms.map(Duration::from_millis),
    };
    Ok(unsettled.into_iter().map(add).collect())
}
