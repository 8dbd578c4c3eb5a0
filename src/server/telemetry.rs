//! What the process tells others of its traffic: spans and StatsD, started and brought to an end.
//!
//! Tyk: `gateway/server.go` (`afterConfSetup`, `Start`), `gateway/instrumentation_handlers.go`.

use std::{sync::Arc, time::Duration};

use crate::{
    config::Config,
    metrics::Registry,
    server::fleet,
    telemetry::{Endpoint, Exporter, Hurry, Resource, StatsD, Tracer, Tracing},
};

/// What waits per shard for the exporter of spans.
const RING_BYTES: usize = 4 << 20;

/// How long a stopping process waits for its last spans, and for its last figures.
const LAST_SPANS: Duration = Duration::from_secs(3);
const LAST_FIGURES: Duration = Duration::from_millis(500);

/// How spans are made, and where they go. `None` while OpenTelemetry is off, and, as in Tyk, where
/// it cannot be used: the traffic is worth more than its traces.
pub fn plan(config: &Config) -> Option<(Tracing, Endpoint)> {
    let planned = Tracing::from_config(config).and_then(|tracing| {
        let Some(tracing) = tracing else {
            return Ok(None);
        };
        Ok(Some((
            tracing,
            Endpoint::from_config(&config.opentelemetry)?,
        )))
    });
    planned.unwrap_or_else(|why| {
        tracing::error!(prefix = "otel", "{why}; goes without traces");
        None
    })
}

/// One end per shard. The exporter runs until the shards are gone; it is told when to hurry.
pub fn export(
    config: &Config,
    (tracing, endpoint): (Tracing, Endpoint),
    registry: &Arc<Registry>,
) -> (Vec<Tracer>, Hurry) {
    let (tracers, rings) = registry
        .shards()
        .iter()
        .map(|shard| Tracer::new(tracing, RING_BYTES, Arc::clone(shard)))
        .unzip();
    let resource = Resource::from_config(config, fleet::node_id(), &host());
    let is_simple = config.opentelemetry.span_processor_type == "simple";
    let registry = Arc::clone(registry);
    let (exporter, hurry) = Exporter::new(rings, endpoint, resource, tracing, is_simple, registry);
    tokio::spawn(exporter.run());
    (tracers, hurry)
}

/// StatsD, where `TYK_INSTRUMENTATION` or the command line asks for it.
pub fn statsd(config: &Config, is_instrumented: bool, registry: &Arc<Registry>) -> Option<StatsD> {
    let address = &config.statsd_connection_string;
    match (is_instrumented, address.is_empty()) {
        (true, false) => {
            let prefix = &config.statsd_prefix;
            tracing::info!(
                prefix = "main",
                "Sending stats to: {address} with prefix: {prefix}"
            );
            let (statsd, sender) = StatsD::new(address, prefix, Arc::clone(registry));
            tokio::spawn(sender.run());
            Some(statsd)
        }
        (true, true) => {
            tracing::error!(
                prefix = "main",
                "Instrumentation is enabled, but no connectionstring set for statsd"
            );
            None
        }
        (false, false) => {
            tracing::warn!(
                prefix = "main",
                "statsd_connection_string is set, but nothing is sent without TYK_INSTRUMENTATION=1 \
                 or --log-instrumentation, as in Tyk"
            );
            None
        }
        (false, true) => None,
    }
}

/// What has to be sent before the process ends.
#[derive(Default)]
pub struct Ending {
    pub hurry: Option<Hurry>,
    pub statsd: Option<StatsD>,
}

impl Ending {
    /// Ends when everything that requests have left so far is sent or lost, or after a while.
    pub async fn settle(&self, registry: &Registry) {
        if let Some(hurry) = &self.hurry {
            hurry.up();
            let settled = async {
                loop {
                    let shards = registry.shards().iter();
                    let left: u64 = shards.map(|shard| shard.traces.value()).sum();
                    if registry.traces_settled_count() >= left {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            if tokio::time::timeout(LAST_SPANS, settled).await.is_err() {
                tracing::warn!(prefix = "otel", "not all spans were sent");
            }
        }
        if let Some(statsd) = &self.statsd {
            statsd.finish(LAST_FIGURES).await;
        }
    }
}

/// This machine's name.
pub fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
