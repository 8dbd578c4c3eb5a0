//! From the rings to the collector: spans in batches, tried again while they may still be taken.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    log::Brake,
    metrics::Registry,
    telemetry::{
        Endpoint, Resource, Tracing,
        otlp::Spans,
        tracer::{Taken, Told},
        transport::{Channel, Failure},
    },
};

/// Between two looks at the rings.
const LOOK: Duration = Duration::from_millis(200);

/// A batch is sent when it is so large, or its first span so old.
const BATCH_SPANS: usize = 512;
const BATCH_AGE: Duration = Duration::from_secs(1);

/// A batch that was refused so often is given up.
const TRIES_MAX: u32 = 5;

/// Before a batch is tried again, times the number of tries.
const PAUSE: Duration = Duration::from_secs(1);

/// After the last shard has ended, or the process is about to.
const LAST_TRIES: Duration = Duration::from_secs(3);

/// Between two lines about a collector that takes no spans.
const COMPLAINTS_MS: u64 = 10_000;

/// Tells an [`Exporter`] that the process is about to end: nothing waits for company any more.
#[derive(Debug)]
pub struct Hurry(watch::Sender<bool>);

impl Hurry {
    /// Takes effect at once, also where a batch waits to be tried again.
    pub fn up(&self) {
        self.0.send_replace(true);
    }
}

/// Makes spans of what the shards left, and sends them.
pub struct Exporter {
    rings: Vec<Taken>,
    channel: Channel,
    resource: Resource,
    shows_keys: bool,
    /// `span_processor_type: simple`: nothing waits to be more.
    is_simple: bool,
    registry: Arc<Registry>,
    hurry: watch::Receiver<bool>,
    spans: Spans,
    /// Requests whose spans these are.
    requests: u64,
    /// When the first of `spans` was made.
    since: Instant,
    complaints: Brake,
    started_at: Instant,
}

impl Exporter {
    /// `is_simple` is `opentelemetry.span_processor_type: "simple"`. Dropping the [`Hurry`] leaves the
    /// exporter at its pace.
    #[must_use]
    pub fn new(
        rings: Vec<Taken>,
        endpoint: Endpoint,
        resource: Resource,
        tracing: Tracing,
        is_simple: bool,
        registry: Arc<Registry>,
    ) -> (Self, Hurry) {
        let (hurry, hurried) = watch::channel(false);
        let exporter = Self {
            rings,
            channel: Channel::new(endpoint),
            resource,
            shows_keys: tracing.shows_keys,
            is_simple,
            registry,
            hurry: hurried,
            spans: Spans::default(),
            requests: 0,
            since: Instant::now(),
            complaints: Brake::new(COMPLAINTS_MS),
            started_at: Instant::now(),
        };
        (exporter, Hurry(hurry))
    }

    /// Sends until every shard has ended and its spans are sent, or the collector has not taken
    /// them for 3 seconds after that.
    pub async fn run(mut self) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let is_done = loop {
                let is_full = self.collect();
                let is_done = !is_full && self.rings.iter().all(Taken::is_done);
                let is_old = self.since.elapsed() >= BATCH_AGE;
                let is_last = is_done || *self.hurry.borrow();
                if self.spans.len() > 0 && (is_full || is_old || is_last || self.is_simple) {
                    let patience = is_last.then_some(LAST_TRIES);
                    self.send(patience).await;
                }
                if !is_full {
                    break is_done;
                }
            };
            if is_done {
                return;
            }
        }
    }

    /// Adds what waits in the rings. True when there are enough spans for a batch.
    fn collect(&mut self) -> bool {
        if self.spans.len() == 0 {
            self.since = Instant::now();
        }
        for ring in &self.rings {
            while self.spans.len() < BATCH_SPANS {
                let Some(block) = ring.take() else {
                    break;
                };
                self.requests += block.entry_count();
                let mut rest = block.bytes();
                while let Some(told) = Told::read(&mut rest) {
                    if let Some(api) = block.party(told.api) {
                        self.spans.add(&told, api, self.shows_keys);
                    }
                }
                ring.give(block);
            }
        }
        self.spans.len() >= BATCH_SPANS
    }

    /// Sends the batch, or gives it up after some tries, or when `patience` is over.
    async fn send(&mut self, patience: Option<Duration>) {
        let spans = std::mem::take(&mut self.spans);
        let count = spans.len() as u64;
        let message = spans.request(&self.resource);
        drop(spans);
        match self.is_sent(&message, patience).await {
            true => self.registry.spans.written(count),
            false => self.registry.spans.lost(count),
        }
        self.registry
            .traces_settled(std::mem::take(&mut self.requests));
    }

    async fn is_sent(&mut self, message: &[u8], mut patience: Option<Duration>) -> bool {
        let mut began_at = Instant::now();
        for tries in 1..=TRIES_MAX {
            match self.channel.send(message).await {
                Ok(()) => return true,
                Err(Failure::Again(why)) => self.complain(&why),
                Err(Failure::Never(why)) => {
                    self.complain(&why);
                    return false;
                }
            }
            let pause = PAUSE * tries;
            if tries == TRIES_MAX
                || patience.is_some_and(|patience| began_at.elapsed() + pause > patience)
            {
                return false;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = self.hurry.changed() => {
                    (patience, began_at) = (Some(LAST_TRIES), Instant::now());
                }
            }
        }
        false
    }

    fn complain(&self, why: &str) {
        self.registry.spans.push_failed();
        let now_ms = self.started_at.elapsed().as_millis() as u64;
        if let Some(held) = self.complaints.admit(now_ms) {
            tracing::warn!(prefix = "otel", held, "the collector takes no spans: {why}");
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, Response};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        sync::mpsc,
    };

    use super::*;
    use crate::telemetry::{
        Tracer,
        otlp::tests::request,
        tracer::tests::{api, config, facts, tracer},
        transport::tests::endpoint,
    };

    /// What a collector got: path, the header `x-token`, the message.
    type Got = (String, String, Vec<u8>);

    fn with_runtime(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test);
    }

    /// A gRPC collector that answers each call with the next status, and 0 when they are used up.
    async fn grpc_collector(statuses: Vec<&'static str>) -> (String, mpsc::UnboundedReceiver<Got>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (got, received) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut statuses = statuses.into_iter();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let (parts, mut body) = request.into_parts();
                    assert_eq!(parts.headers["content-type"], "application/grpc");
                    let status = statuses.next().unwrap_or("0");
                    let got = got.clone();
                    tokio::spawn(async move {
                        let mut message = Vec::new();
                        while let Some(data) = body.data().await {
                            let data = data.unwrap();
                            body.flow_control().release_capacity(data.len()).unwrap();
                            message.extend_from_slice(&data);
                        }
                        let length = u32::from_be_bytes(message[1..5].try_into().unwrap());
                        assert_eq!((message[0], length as usize), (0, message.len() - 5));
                        let token = parts
                            .headers
                            .get("x-token")
                            .map_or("", |v| v.to_str().unwrap());
                        let path = parts.uri.path().to_owned();
                        got.send((path, token.to_owned(), message[5..].to_vec()))
                            .unwrap();
                        let response = Response::builder()
                            .header("content-type", "application/grpc")
                            .body(())
                            .unwrap();
                        let mut stream = respond.send_response(response, false).unwrap();
                        stream
                            .send_data(Bytes::from_static(&[0; 5]), false)
                            .unwrap();
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", HeaderValue::from_static(status));
                        stream.send_trailers(trailers).unwrap();
                    });
                }
            }
        });
        (address, received)
    }

    /// An HTTP collector that answers with the next status, and 200 when they are used up.
    async fn http_collector(statuses: Vec<u16>) -> (String, mpsc::UnboundedReceiver<Got>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (got, received) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut statuses = statuses.into_iter();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut all = Vec::new();
                let (head, length) = loop {
                    stream.read_buf(&mut all).await.unwrap();
                    if let Some(at) = all.windows(4).position(|w| w == b"\r\n\r\n") {
                        let head = String::from_utf8(all[..at].to_vec()).unwrap();
                        all.drain(..at + 4);
                        let value = |name: &str| {
                            let line = head.lines().find_map(|line| line.strip_prefix(name));
                            line.unwrap_or_default().to_owned()
                        };
                        let length: usize = value("Content-Length: ").parse().unwrap();
                        let path = head.split(' ').nth(1).unwrap().to_owned();
                        break ((path, value("x-token: ")), length);
                    }
                };
                while all.len() < length {
                    stream.read_buf(&mut all).await.unwrap();
                }
                got.send((head.0, head.1, all)).unwrap();
                let status = statuses.next().unwrap_or(200);
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (address, received)
    }

    fn exporter(otel: &str, registry: &Arc<Registry>) -> (Tracer, Exporter, Hurry) {
        let (tracer, taken) = tracer(otel, 1 << 20, registry.shard(0).unwrap());
        let config = config(otel);
        let (exporter, hurry) = Exporter::new(
            vec![taken],
            endpoint(otel).unwrap(),
            Resource::from_config(&config, "node", "host"),
            tracer.tracing(),
            false,
            Arc::clone(registry),
        );
        (tracer, exporter, hurry)
    }

    fn record(tracer: &Tracer, count: usize) {
        let api = api("{}");
        for _ in 0..count {
            tracer.end(&api, &tracer.begin(1, None), &facts());
        }
    }

    #[test]
    fn spans_reach_a_collector_by_grpc_in_batches() {
        with_runtime(async {
            let (address, mut received) = grpc_collector(Vec::new()).await;
            let otel = format!(r#", "endpoint": "{address}", "headers": {{"x-token": "t"}}"#);
            let registry = Arc::new(Registry::new(1));
            let (tracer, exporter, _) = exporter(&otel, &registry);
            let task = tokio::spawn(exporter.run());
            record(&tracer, 3000);
            drop(tracer);
            task.await.unwrap();
            let mut count = 0;
            while let Ok((path, token, message)) = received.try_recv() {
                assert_eq!(
                    path,
                    "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
                );
                assert_eq!(token, "t");
                count += request(&message).0.len();
            }
            assert_eq!(count, 3000);
            assert_eq!(registry.spans.written_count(), 3000);
            assert_eq!(registry.shard(0).unwrap().traces.value(), 3000);
            assert_eq!(registry.traces_settled_count(), 3000);
        });
    }

    #[test]
    fn who_is_in_a_hurry_waits_for_no_company() {
        with_runtime(async {
            let (address, mut received) = grpc_collector(vec!["14"]).await;
            let otel = format!(r#", "endpoint": "{address}""#);
            let registry = Arc::new(Registry::new(1));
            let (tracer, exporter, hurry) = exporter(&otel, &registry);
            let task = tokio::spawn(exporter.run());
            record(&tracer, 1);
            hurry.up();
            for _ in 0..2 {
                tracer.tick();
            }
            // Refused once, and taken after a pause; the shard is still there.
            for _ in 0..2 {
                received.recv().await.unwrap();
            }
            drop(tracer);
            task.await.unwrap();
            assert_eq!(registry.traces_settled_count(), 1);
            assert_eq!(registry.spans.written_count(), 1);
        });
    }

    #[test]
    fn spans_reach_a_collector_by_http() {
        with_runtime(async {
            let (address, mut received) = http_collector(vec![503]).await;
            let otel = format!(
                r#", "exporter": "http", "endpoint": "http://{address}", "headers": {{"x-token": "t"}}"#
            );
            let registry = Arc::new(Registry::new(1));
            let (tracer, exporter, _) = exporter(&otel, &registry);
            record(&tracer, 2);
            drop(tracer);
            exporter.run().await;
            let (first, second) = (
                received.recv().await.unwrap(),
                received.recv().await.unwrap(),
            );
            assert_eq!(first, second, "503 is tried again");
            assert_eq!((first.0.as_str(), first.1.as_str()), ("/v1/traces", "t"));
            assert_eq!(request(&first.2).0.len(), 2);
            assert_eq!(registry.spans.written_count(), 2);
            assert_eq!(registry.spans.push_failure_count(), 1);
        });
    }

    #[test]
    fn what_may_be_taken_later_is_tried_again_and_the_rest_is_not() {
        #[track_caller]
        fn check(statuses: Vec<&'static str>, sent: u64, lost: u64, failures: u64) {
            with_runtime(async {
                let (address, _received) = grpc_collector(statuses).await;
                let otel = format!(r#", "endpoint": "{address}""#);
                let registry = Arc::new(Registry::new(1));
                let (tracer, exporter, _) = exporter(&otel, &registry);
                record(&tracer, 4);
                drop(tracer);
                exporter.run().await;
                let spans = &registry.spans;
                let counts = (
                    spans.written_count(),
                    spans.lost_count(),
                    spans.push_failure_count(),
                );
                assert_eq!(counts, (sent, lost, failures));
            });
        }
        check(vec!["14"], 4, 0, 1);
        check(vec!["3"], 0, 4, 1);
    }

    #[test]
    fn a_collector_that_is_not_there_costs_no_more_than_the_last_tries() {
        with_runtime(async {
            let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = closed.local_addr().unwrap();
            drop(closed);
            let otel = format!(r#", "endpoint": "{address}""#);
            let registry = Arc::new(Registry::new(1));
            let (tracer, exporter, _) = exporter(&otel, &registry);
            record(&tracer, 5);
            drop(tracer);
            exporter.run().await;
            assert_eq!(registry.spans.lost_count(), 5);
        });
    }
}
