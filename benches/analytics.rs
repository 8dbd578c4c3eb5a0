//! An analytics record's ways: the short one, all of it on the shard; the long one, with what the
//! store's thread does.

use std::{cell::RefCell, hint::black_box, net::IpAddr, path::Path, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use penstock::{
    analytics::{
        ApiRecorder, Assembler, Hit, Identity, KeyRuns, Latency, NoFields, Normaliser, Recording,
        Serializer, ring,
    },
    apidef::ApiDefinition,
    config::Config,
    metrics::Shard,
};

fn recorder(definition: &str) -> Arc<ApiRecorder> {
    let (config, _) = Config::from_json_str(Path::new("tyk.conf"), r#"{"enable_analytics": true}"#)
        .expect("a configuration");
    let recording = Arc::new(Recording::from_config(&config, "").expect("analytics are on"));
    let definition = ApiDefinition::from_json_slice(definition.as_bytes()).expect("a definition");
    let recorder = ApiRecorder::from_definition(&recording, &definition, "10.0.0.1:8080");
    Arc::new(recorder.expect("it is tracked"))
}

fn hit<'a>(identity: Option<&'a Identity>, key: Option<&'a KeyRuns>, path: &'a [u8]) -> Hit<'a> {
    Hit {
        method: b"GET",
        host: None,
        path,
        tracked_path: None,
        content_length: 0,
        user_agent: b"bench/1.0",
        status: 200,
        timestamp_ms: 1_795_377_342_123,
        latency: Latency {
            total: 3,
            upstream: 2,
        },
        ip: IpAddr::from([192, 168, 100, 200]),
        is_peers_ip: true,
        version: b"",
        identity,
        key,
        tail: None,
        fields: &NoFields,
        is_cached: false,
        expire_after_s: None,
        raw_request: b"",
        raw_response: b"",
    }
}

fn records(c: &mut Criterion) {
    let mut group = c.benchmark_group("analytics");
    group.throughput(Throughput::Elements(1));
    let api =
        recorder(r#"{"api_id": "b1a2", "name": "things", "org_id": "5e9d9544a1dcd60001d0ed20"}"#);
    let identity = Identity::new("0a1b2c3d", "someone", "", ["pol-gold", "team-a"]);
    for (name, identity) in [("keyless", None), ("with a key", Some(&identity))] {
        let key = identity.and_then(|identity| KeyRuns::new(&api, identity));
        let short = hit(identity, key.as_ref(), b"/things/17");
        let long = Hit {
            is_cached: true,
            ..short
        };
        let tail = RefCell::default();
        let again = Hit {
            tail: Some(&tail),
            ..short
        };
        for (way, hit) in [
            ("short way", &short),
            ("short way of one connection", &again),
            ("long way", &long),
        ] {
            let (producer, consumer) = ring(1 << 20, Arc::new(Shard::default()));
            group.bench_function(format!("shard, {way}, {name}"), |b| {
                b.iter(|| {
                    producer.record(black_box(&api), black_box(hit));
                    if let Some(block) = consumer.take_records() {
                        consumer.give_records(block.into_bytes().0);
                    }
                    if let Some(block) = consumer.take_hits() {
                        consumer.give_hits(block);
                    }
                });
            });
        }
        for serializer in [Serializer::MessagePack, Serializer::Protobuf] {
            let (producer, consumer) = ring(1 << 20, Arc::new(Shard::default()));
            (0..100).for_each(|_| producer.record(&api, &long));
            drop(producer);
            let block = consumer.take_hits().expect("a hundred hits");
            let mut assembler = Assembler::new(serializer, Normaliser::default(), None);
            let mut records = Vec::new();
            group.throughput(Throughput::Elements(100));
            group.bench_function(format!("100 to {serializer:?}, {name}"), |b| {
                b.iter(|| {
                    records.clear();
                    assembler.assemble(&block, &mut records);
                    black_box(&records);
                });
            });
            group.throughput(Throughput::Elements(1));
        }
    }
    group.finish();
}

criterion_group!(benches, records);
criterion_main!(benches);
