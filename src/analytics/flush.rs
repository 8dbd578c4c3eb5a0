//! From the rings to the store: batches of records, a few under way at once, none lost while there
//! is room.
//!
//! A batch is kept until the store has taken it, mostly as the very blocks that the shards filled. A
//! store that does not takes nothing new meanwhile: the rings fill up to their bound, and from then on
//! the shards count what they drop. When every shard has ended, what is left is written and
//! [`Flusher::run`] returns.
//!
//! Records of a batch stand in the order of their times. Those of one shard do anyway; where they
//! came from several, or by both ways, they are sorted, at the price of a copy.
//!
//! Tyk: `recordWorker` of `gateway/analytics.go`, `gateway/analytics_purger.go`. The list's expiry
//! is set in the same script that appends, so that no list is ever without one (Tyk sweeps once a
//! second and leaves the Protocol Buffers lists out).

use std::{collections::VecDeque, io, path::Path, pin::Pin, sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    analytics::{
        assemble::{Assembler, Serializer},
        msgpack,
        ring::Consumer,
        spill::Spill,
    },
    config::{Config, StoreKind},
    log::Brake,
    metrics::Registry,
    storage::{Chunk, ListLimit, PushOutcome, Records, Store, StoreError},
};

/// What the pump reads (Tyk: `analyticsKeyName` behind the prefix `analytics-`).
const LIST: &str = "analytics-tyk-system-analytics";

/// Lists with `enable_multiple_analytics_keys`: `_0` to `_9`.
const LISTS: u64 = 10;

/// The oldest records leave a list that is longer: nobody reads it.
// Tyk differs: its lists grow until they expire, or fill Redis.
const REDIS_RECORDS_MAX: u64 = 1_000_000;
const EMBEDDED_RECORDS_MAX: u64 = 10_000;

/// Between two looks at the rings.
const LOOK: Duration = Duration::from_millis(100);

/// Shards hand over what is older than two ticks of theirs.
const GATHER: Duration = Duration::from_millis(400);

/// A batch ends with the block in which it reaches one of these.
const BATCH_RECORDS: u64 = 1000;
const BATCH_BYTES: usize = 1 << 20;

/// Batches under way.
const BATCHES_MAX: usize = 4;

/// An answer that takes longer counts as none.
const PATIENCE: Duration = Duration::from_secs(5);

/// Before a batch that failed is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// After the last shard has ended: how long a store that takes nothing is tried. Longer than one
/// answer may take.
const LAST_TRIES: Duration = Duration::from_secs(6);

/// Between two looks at the files of a spill.
const SPILL_LOOK: Duration = Duration::from_secs(5);

/// Between two lines about a store that takes no records.
const COMPLAINTS_MS: u64 = 10_000;

/// Appends records to a list.
pub trait Sink: Send + Sync + 'static {
    /// As [`Store::push`].
    fn push(
        &self,
        list: String,
        records: Records,
        limit: ListLimit,
    ) -> Pin<Box<dyn Future<Output = Result<PushOutcome, StoreError>> + Send + '_>>;
}

/// A way to the store that this process has now.
impl<F> Sink for F
where
    F: Fn() -> Result<Arc<dyn Store>, StoreError> + Send + Sync + 'static,
{
    fn push(
        &self,
        list: String,
        records: Records,
        limit: ListLimit,
    ) -> Pin<Box<dyn Future<Output = Result<PushOutcome, StoreError>> + Send + '_>> {
        let store = self();
        Box::pin(async move { store?.push(&list, records, limit).await })
    }
}

/// Where records go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lists {
    pub serializer: Serializer,
    /// `enable_multiple_analytics_keys`.
    pub is_spread: bool,
    pub limit: ListLimit,
}

impl Lists {
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        let analytics = &config.analytics_config;
        let storage = match config.enable_separate_analytics_store {
            true => &config.analytics_storage,
            false => &config.storage,
        };
        let records_max = match storage.store_kind() {
            Some(StoreKind::Embedded) => EMBEDDED_RECORDS_MAX,
            _ => REDIS_RECORDS_MAX,
        };
        Self {
            serializer: Serializer::from_config(&analytics.serializer_type),
            is_spread: analytics.enable_multiple_analytics_keys,
            limit: ListLimit {
                records_max: Some(records_max),
                // -1 means for ever, 0 means 60.
                ttl: (analytics.storage_expiration_time >= 0)
                    .then(|| analytics.storage_expiration_or_default()),
            },
        }
    }

    /// The list of the `n`th batch.
    fn name(&self, n: u64) -> String {
        let suffix = self.serializer.suffix();
        match self.is_spread {
            true => format!("{LIST}_{}{suffix}", n % LISTS),
            false => format!("{LIST}{suffix}"),
        }
    }
}

/// Records that go to the store together.
#[derive(Default)]
struct Batch {
    records: Records,
    /// The rings that its chunks came from, in order.
    rings: Vec<usize>,
    count: u64,
}

/// A batch in the making.
#[derive(Default)]
struct Gathered {
    chunks: Vec<Chunk>,
    rings: Vec<usize>,
    /// Of the records of each chunk; none for one that a shard has written itself.
    times: Vec<Vec<u64>>,
    count: u64,
    bytes: usize,
}

impl Gathered {
    /// From several shards, or by both ways.
    fn is_mixed(&self) -> bool {
        let is_long = |times: &Vec<u64>| !times.is_empty();
        let of_one_ring = self
            .rings
            .windows(2)
            .all(|pair| pair.first() == pair.last());
        let long_count = self.times.iter().filter(|times| is_long(times)).count();
        !(of_one_ring && (long_count == 0 || long_count == self.times.len()))
    }

    fn is_large(&self) -> bool {
        self.count >= BATCH_RECORDS || self.bytes >= BATCH_BYTES
    }

    fn add(&mut self, ring: usize, chunk: Chunk, times: Vec<u64>, count: u64) {
        self.times.push(times);
        self.count += count;
        self.bytes += chunk.len();
        self.chunks.push(chunk);
        self.rings.push(ring);
    }
}

/// Writes what the shards record.
pub struct Flusher<S> {
    rings: Vec<Consumer>,
    assembler: Assembler,
    lists: Lists,
    sink: Arc<S>,
    registry: Arc<Registry>,
    under_way: JoinSet<(Batch, Result<PushOutcome, StoreError>)>,
    failed: VecDeque<Batch>,
    /// Not sent yet, and since when.
    gathered: Gathered,
    gathered_since: Option<Instant>,
    /// Nothing is tried before.
    pause_until: Option<Instant>,
    /// Records of the batches in `under_way`.
    count_under_way: u64,
    batch_count: u64,
    next_ring: usize,
    started_at: Instant,
    complaints: Brake,
    spill: Option<Spill>,
    /// When the files of the spill are looked at next.
    spill_look_at: Instant,
}

impl<S: Sink> Flusher<S> {
    #[must_use]
    pub fn new(
        rings: Vec<Consumer>,
        assembler: Assembler,
        lists: Lists,
        sink: S,
        registry: Arc<Registry>,
    ) -> Self {
        Self {
            rings,
            assembler,
            lists,
            sink: Arc::new(sink),
            registry,
            under_way: JoinSet::new(),
            failed: VecDeque::new(),
            gathered: Gathered::default(),
            gathered_since: None,
            pause_until: None,
            count_under_way: 0,
            batch_count: 0,
            next_ring: 0,
            started_at: Instant::now(),
            complaints: Brake::new(COMPLAINTS_MS),
            spill: None,
            spill_look_at: Instant::now(),
        }
    }

    /// While this process does not have the store, records go to files in `dir`; the process that
    /// has it takes them in. For a store that only one process can have.
    #[must_use]
    pub fn with_spill(mut self, dir: &Path) -> Self {
        self.spill = Some(Spill::new(dir));
        self
    }

    /// Writes until every shard has ended and its records are written, or the store has taken
    /// nothing for 6 seconds after that.
    pub async fn run(mut self) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut give_up_at = None;
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                Some(done) = self.under_way.join_next() => {
                    // A store that is slow and takes one batch after the other is not given up.
                    if self.settle(done).await {
                        give_up_at = None;
                    }
                }
            }
            self.start_batches().await;
            self.take_spilled_in().await;
            if !self.rings.iter().all(Consumer::is_done) {
                continue;
            }
            if self.under_way.is_empty() && self.failed.is_empty() && self.gathered.count == 0 {
                return;
            }
            let now = Instant::now();
            if now >= *give_up_at.get_or_insert(now + LAST_TRIES) {
                return self.give_up();
            }
        }
    }

    /// Sends batches while there are any and the store takes them.
    async fn start_batches(&mut self) {
        if self.pause_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        self.pause_until = None;
        while self.under_way.len() < BATCHES_MAX {
            let batch = match self.failed.pop_front() {
                Some(batch) => batch,
                None => self.gather(),
            };
            if batch.count == 0 {
                return;
            }
            self.send(batch);
            // Assembling may have taken a while: others have their turn.
            tokio::task::yield_now().await;
        }
    }

    /// A batch, once it is large or old enough that every shard has handed over what belongs to the
    /// same moment.
    fn gather(&mut self) -> Batch {
        self.collect();
        if self.gathered.count == 0 {
            return Batch::default();
        }
        let now = Instant::now();
        let since = *self.gathered_since.get_or_insert(now);
        let is_due = self.gathered.is_large()
            || now >= since + GATHER
            || self.rings.iter().all(Consumer::is_done);
        if !is_due {
            return Batch::default();
        }
        self.gathered_since = None;
        let gathered = std::mem::take(&mut self.gathered);
        if gathered.is_mixed() {
            return self.in_order(gathered);
        }
        Batch {
            records: Records::new(gathered.chunks, gathered.count),
            rings: gathered.rings,
            count: gathered.count,
        }
    }

    /// A batch in the order of its records' times. The blocks go back at once.
    fn in_order(&self, gathered: Gathered) -> Batch {
        let mut all: Vec<(u64, &[u8])> = Vec::with_capacity(gathered.count as usize);
        for (chunk, times) in gathered.chunks.iter().zip(&gathered.times) {
            let mut times = times.iter().copied();
            for record in chunk.records() {
                let at_ms = times.next().unwrap_or_else(|| msgpack::time_of(record));
                all.push((at_ms, record));
            }
        }
        all.sort_by_key(|(at_ms, _)| *at_ms);
        let records = all.iter().map(|(_, record)| record).collect();
        for (at, chunk) in gathered.rings.into_iter().zip(gathered.chunks) {
            if let Some(ring) = self.rings.get(at) {
                ring.give_records(chunk.into_bytes());
            }
        }
        Batch {
            records,
            rings: Vec::new(),
            count: gathered.count,
        }
    }

    /// Adds what waits in the rings, from each in turn, up to a batch.
    fn collect(&mut self) {
        let mut empty_count = 0;
        while !self.gathered.is_large() && empty_count < self.rings.len() {
            let at = self.next_ring % self.rings.len();
            self.next_ring = at + 1;
            empty_count += 1;
            let Some(ring) = self.rings.get(at) else {
                continue;
            };
            if let Some(block) = ring.take_records() {
                empty_count = 0;
                let count = block.entry_count();
                let (bytes, filled) = block.into_bytes();
                let chunk = Chunk::new(bytes, filled);
                self.gathered.add(at, chunk, Vec::new(), count);
            }
            if let Some(block) = ring.take_hits() {
                empty_count = 0;
                let mut chunk = Vec::new();
                let times = self.assembler.assemble(&block, &mut chunk);
                let count = block.entry_count();
                self.gathered.add(at, chunk.into(), times, count);
                ring.give_hits(block);
            }
        }
    }

    fn send(&mut self, batch: Batch) {
        let list = self.lists.name(self.batch_count);
        self.batch_count += 1;
        self.count_under_way += batch.count;
        let (sink, limit) = (Arc::clone(&self.sink), self.lists.limit);
        self.under_way.spawn(async move {
            let records = batch.records.clone();
            let push = tokio::time::timeout(PATIENCE, sink.push(list, records, limit));
            let outcome = push
                .await
                .unwrap_or_else(|_| Err(StoreError::Away("no answer in 5 s".to_owned())));
            (batch, outcome)
        });
    }

    /// Whether the batch was written.
    async fn settle(
        &mut self,
        done: Result<(Batch, Result<PushOutcome, StoreError>), tokio::task::JoinError>,
    ) -> bool {
        let (batch, outcome) = match done {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(prefix = "analytics", "a batch broke off: {error}");
                return false;
            }
        };
        self.count_under_way -= batch.count;
        match outcome {
            Ok(outcome) => {
                self.registry.records.capped(outcome.dropped);
                self.taken(batch);
                true
            }
            Err(StoreError::Closed) if self.spill.is_some() => self.spill(batch).await,
            // Whether the store had taken it before it went is not known: rather twice than never.
            Err(error) => {
                self.put_off(batch, &error);
                false
            }
        }
    }

    fn put_off(&mut self, batch: Batch, error: &dyn std::fmt::Display) {
        self.registry.records.push_failed();
        let now_ms = self.started_at.elapsed().as_millis() as u64;
        if let Some(held) = self.complaints.admit(now_ms) {
            tracing::warn!(
                prefix = "analytics",
                held,
                "records cannot be written and wait: {error}"
            );
        }
        self.failed.push_back(batch);
        self.pause_until = Some(Instant::now() + PAUSE);
    }

    /// Writes a batch to a file for the process that has the store; whether that was done.
    async fn spill(&mut self, batch: Batch) -> bool {
        let Some(spill) = self.spill.clone() else {
            return false;
        };
        let records = batch.records.clone();
        let number = self.batch_count;
        self.batch_count += 1;
        let written = tokio::task::spawn_blocking(move || spill.write(number, &records)).await;
        match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(()) => {
                self.taken(batch);
                true
            }
            Err(error) => {
                self.put_off(batch, &error);
                false
            }
        }
    }

    /// Writes what an earlier owner of the store has left in files.
    async fn take_spilled_in(&mut self) {
        let (Some(spill), true) = (&self.spill, Instant::now() >= self.spill_look_at) else {
            return;
        };
        self.spill_look_at = Instant::now() + SPILL_LOOK;
        loop {
            let reader = spill.clone();
            let read = tokio::task::spawn_blocking(move || reader.read()).await;
            let (path, records) = match read.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(Some(found)) => found,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(prefix = "analytics", %error, "records of another process");
                    return;
                }
            };
            let list = self.lists.name(self.batch_count);
            let push = self.sink.push(list, records, self.lists.limit);
            match tokio::time::timeout(PATIENCE, push).await {
                Ok(Ok(outcome)) => self.registry.records.capped(outcome.dropped),
                // Not ours to write now.
                _ => return,
            }
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(prefix = "analytics", %error, "records may be written twice");
                return;
            }
        }
    }

    /// Counts a batch as written and gives its blocks back.
    fn taken(&self, batch: Batch) {
        self.registry.records.written(batch.count);
        let chunks = batch.records.into_chunks().unwrap_or_default();
        for (at, chunk) in batch.rings.into_iter().zip(chunks) {
            if let Some(ring) = self.rings.get(at) {
                ring.give_records(chunk.into_bytes());
            }
        }
    }

    fn give_up(mut self) {
        let waiting: u64 = self.failed.drain(..).map(|batch| batch.count).sum();
        let lost = waiting + self.count_under_way + self.gathered.count;
        self.registry.records.lost(lost);
        tracing::error!(
            prefix = "analytics",
            lost,
            "the store takes no records; what was left is lost"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::{
            Mutex,
            atomic::{AtomicBool, Ordering::SeqCst},
        },
    };

    use super::*;
    use crate::analytics::{
        Hit, Normaliser, Producer, hit::tests::hit, recorder::tests::recorder, ring::ring,
    };

    /// A store in memory that fails or hangs on command.
    #[derive(Clone, Default)]
    struct Stub(Arc<Inner>);

    #[derive(Default)]
    struct Inner {
        lists: Mutex<BTreeMap<String, Vec<Vec<u8>>>>,
        answers_after: Mutex<Duration>,
        limits: Mutex<Vec<ListLimit>>,
        is_away: AtomicBool,
        is_closed: AtomicBool,
        is_hanging: AtomicBool,
    }

    impl Sink for Stub {
        fn push(
            &self,
            list: String,
            records: Records,
            limit: ListLimit,
        ) -> Pin<Box<dyn Future<Output = Result<PushOutcome, StoreError>> + Send + '_>> {
            Box::pin(async move {
                if self.0.is_hanging.load(SeqCst) {
                    std::future::pending::<()>().await;
                }
                let delay = *self.0.answers_after.lock().unwrap();
                tokio::time::sleep(delay).await;
                if self.0.is_closed.load(SeqCst) {
                    return Err(StoreError::Closed);
                }
                if self.0.is_away.load(SeqCst) {
                    return Err(StoreError::Away("gone".to_owned()));
                }
                self.0.limits.lock().unwrap().push(limit);
                let mut lists = self.0.lists.lock().unwrap();
                let list = lists.entry(list).or_default();
                list.extend(records.iter().map(<[u8]>::to_vec));
                Ok(PushOutcome {
                    len: list.len() as u64,
                    dropped: 2,
                })
            })
        }
    }

    impl Stub {
        /// Records by list.
        fn counts(&self) -> Vec<(String, usize)> {
            let lists = self.0.lists.lock().unwrap();
            lists
                .iter()
                .map(|(name, list)| (name.clone(), list.len()))
                .collect()
        }

        fn count(&self) -> usize {
            self.counts().iter().map(|(_, count)| count).sum()
        }
    }

    const LISTS: Lists = Lists {
        serializer: Serializer::MessagePack,
        is_spread: false,
        limit: ListLimit {
            records_max: Some(7),
            ttl: Some(Duration::from_secs(60)),
        },
    };

    struct Setup {
        stub: Stub,
        registry: Arc<Registry>,
        producers: Vec<Producer>,
        flusher: Flusher<Stub>,
    }

    fn setup(shards: usize, lists: Lists) -> Setup {
        let registry = Arc::new(Registry::new(shards));
        let (producers, rings) = (0..shards)
            .map(|at| ring(1 << 23, registry.shard(at).unwrap()))
            .unzip();
        let stub = Stub::default();
        let flusher = Flusher::new(
            rings,
            Assembler::new(lists.serializer, Normaliser::default(), None),
            lists,
            stub.clone(),
            Arc::clone(&registry),
        );
        Setup {
            stub,
            registry,
            producers,
            flusher,
        }
    }

    fn record(producer: &Producer, count: usize) {
        let api = recorder("one");
        for _ in 0..count {
            producer.record(&api, &hit());
        }
    }

    /// On a clock of its own that stands while anything can be done.
    fn paused(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(test);
    }

    /// Lets the flusher look so often.
    async fn looks(count: u32) {
        tokio::time::sleep(LOOK * count).await;
    }

    #[test]
    fn what_is_recorded_is_written_within_half_a_second() {
        paused(async {
            let Setup {
                stub,
                registry,
                producers,
                flusher,
            } = setup(2, LISTS);
            let task = tokio::spawn(flusher.run());
            record(&producers[0], 3);
            record(&producers[1], 2);
            looks(3).await;
            assert_eq!(stub.count(), 0, "nothing was handed over");
            for _ in 0..2 {
                producers.iter().for_each(Producer::tick);
            }
            looks(6).await;
            assert_eq!(stub.counts(), [(LIST.to_owned(), 5)]);
            assert_eq!(*stub.0.limits.lock().unwrap(), [LISTS.limit]);
            assert_eq!(registry.records.written_count(), 5);
            assert_eq!(registry.records.capped_count(), 2);
            assert!(!task.is_finished());
        });
    }

    #[test]
    fn records_of_several_shards_and_ways_stand_in_the_order_of_their_times() {
        paused(async {
            let Setup {
                stub,
                producers,
                flusher,
                ..
            } = setup(2, LISTS);
            let api = recorder("one");
            for n in 0..40_u64 {
                let told = Hit {
                    timestamp_ms: hit().timestamp_ms + n,
                    is_cached: n % 3 == 0,
                    ..hit()
                };
                producers[(n % 2) as usize].record(&api, &told);
            }
            drop(producers);
            flusher.run().await;
            let lists = stub.0.lists.lock().unwrap();
            let times: Vec<_> = lists[LIST].iter().map(|r| msgpack::time_of(r)).collect();
            let expected: Vec<_> = (0..40).map(|n| hit().timestamp_ms + n).collect();
            assert_eq!(times, expected);
        });
    }

    #[test]
    fn when_the_shards_end_everything_is_written_first() {
        paused(async {
            let Setup {
                stub,
                registry,
                producers,
                flusher,
            } = setup(2, LISTS);
            let task = tokio::spawn(flusher.run());
            record(&producers[0], 2500);
            record(&producers[1], 1);
            drop(producers);
            task.await.unwrap();
            assert_eq!(stub.count(), 2501);
            assert_eq!(registry.records.written_count(), 2501);
            let lists = stub.0.lists.lock().unwrap();
            assert!(
                lists[LIST]
                    .iter()
                    .all(|record| record.starts_with(b"\xde\x00\x20\xa6Method"))
            );
        });
    }

    #[test]
    fn a_store_that_is_away_costs_nothing_while_there_is_room() {
        paused(async {
            let Setup {
                stub,
                registry,
                producers,
                flusher,
            } = setup(1, LISTS);
            stub.0.is_away.store(true, SeqCst);
            tokio::spawn(flusher.run());
            let shard = registry.shard(0).unwrap();
            for _ in 0..100 {
                record(&producers[0], 500);
                producers[0].tick();
                looks(1).await;
            }
            assert!(shard.records_dropped.value() > 0, "the bound was reached");
            assert!(registry.records.push_failure_count() > 5);
            assert_eq!(registry.records.written_count(), 0);
            stub.0.is_away.store(false, SeqCst);
            looks(30).await;
            (0..2).for_each(|_| producers[0].tick());
            looks(30).await;
            assert_eq!(stub.count() as u64, shard.records.value());
            assert_eq!(registry.records.written_count(), shard.records.value());
        });
    }

    #[test]
    fn a_store_that_hangs_is_tried_again() {
        paused(async {
            let Setup {
                stub,
                producers,
                flusher,
                ..
            } = setup(1, LISTS);
            stub.0.is_hanging.store(true, SeqCst);
            let task = tokio::spawn(flusher.run());
            record(&producers[0], 3);
            (0..2).for_each(|_| producers[0].tick());
            tokio::time::sleep(PATIENCE).await;
            stub.0.is_hanging.store(false, SeqCst);
            tokio::time::sleep(PATIENCE).await;
            assert_eq!(stub.count(), 3);
            drop(producers);
            task.await.unwrap();
        });
    }

    #[test]
    fn at_the_end_a_store_that_stays_away_is_given_up_and_what_is_lost_is_counted() {
        for is_hanging in [false, true] {
            paused(async {
                let Setup {
                    stub,
                    registry,
                    producers,
                    flusher,
                } = setup(1, LISTS);
                stub.0.is_away.store(true, SeqCst);
                stub.0.is_hanging.store(is_hanging, SeqCst);
                let task = tokio::spawn(flusher.run());
                record(&producers[0], 9);
                drop(producers);
                task.await.unwrap();
                assert_eq!(registry.records.lost_count(), 9, "{is_hanging}");
            });
        }
    }

    #[test]
    fn at_the_end_a_slow_store_is_waited_for_while_it_takes_records() {
        for (delay, is_detailed) in [(2, false), (4, false), (2, true)] {
            paused(async {
                let Setup {
                    stub,
                    registry,
                    producers,
                    flusher,
                } = setup(1, LISTS);
                *stub.0.answers_after.lock().unwrap() = Duration::from_secs(delay);
                let task = tokio::spawn(flusher.run());
                let api = recorder("one");
                let raw = [b'r'; 4000];
                for _ in 0..10_000 {
                    // The long way as well.
                    let raw_request = if is_detailed { &raw[..] } else { b"" };
                    producers[0].record(
                        &api,
                        &Hit {
                            raw_request,
                            ..hit()
                        },
                    );
                }
                let shard = registry.shard(0).unwrap();
                let recorded = shard.records.value();
                assert_eq!(recorded + shard.records_dropped.value(), 10_000);
                drop(producers);
                task.await.unwrap();
                assert_eq!(registry.records.lost_count(), 0, "{delay} s");
                assert_eq!(stub.count() as u64, recorded, "{delay} s");
            });
        }
    }

    #[test]
    fn batches_are_spread_over_ten_lists() {
        paused(async {
            let lists = Lists {
                serializer: Serializer::Protobuf,
                is_spread: true,
                ..LISTS
            };
            let Setup {
                stub,
                producers,
                flusher,
                ..
            } = setup(1, lists);
            let task = tokio::spawn(flusher.run());
            for _ in 0..20 {
                record(&producers[0], 1);
                (0..2).for_each(|_| producers[0].tick());
                looks(6).await;
            }
            drop(producers);
            task.await.unwrap();
            let expected: Vec<_> = (0..10)
                .map(|n| (format!("analytics-tyk-system-analytics_{n}_protobuf"), 2))
                .collect();
            assert_eq!(stub.counts(), expected);
        });
    }

    #[test]
    fn lists_follow_the_configuration() {
        #[track_caller]
        fn check(conf: &str, records_max: u64, ttl_s: Option<u64>, name: &str) {
            let file = std::path::Path::new("tyk.conf");
            let (config, _) = Config::from_json_str(file, conf).unwrap();
            let lists = Lists::from_config(&config);
            assert_eq!(lists.limit.records_max, Some(records_max));
            assert_eq!(lists.limit.ttl, ttl_s.map(Duration::from_secs));
            assert_eq!(lists.name(13), name);
        }
        check(
            "{}",
            EMBEDDED_RECORDS_MAX,
            Some(60),
            "analytics-tyk-system-analytics",
        );
        check(
            r#"{"storage": {"type": "redis"}, "analytics_config": {
                "storage_expiration_time": -1, "serializer_type": "protobuf"}}"#,
            REDIS_RECORDS_MAX,
            None,
            "analytics-tyk-system-analytics_protobuf",
        );
        check(
            r#"{"enable_separate_analytics_store": true, "analytics_storage": {"type": "redis"},
                "analytics_config": {"storage_expiration_time": 5, "enable_multiple_analytics_keys": true}}"#,
            REDIS_RECORDS_MAX,
            Some(5),
            "analytics-tyk-system-analytics_3",
        );
    }

    #[test]
    fn what_is_recorded_while_another_process_has_the_store_is_written_by_its_owner() {
        let dir = crate::analytics::spill::tests::folder("flush");
        paused(async {
            let Setup {
                stub: old_store,
                registry,
                producers,
                flusher,
            } = setup(1, LISTS);
            old_store.0.is_closed.store(true, SeqCst);
            let task = tokio::spawn(flusher.with_spill(&dir).run());
            record(&producers[0], 2000);
            drop(producers);
            task.await.unwrap();
            assert_eq!(registry.records.written_count(), 2000);
            assert_eq!(old_store.count(), 0);
            let Setup {
                stub: new_store,
                producers,
                flusher,
                ..
            } = setup(1, LISTS);
            drop(producers);
            flusher.with_spill(&dir).run().await;
            assert_eq!(new_store.count(), 2000);
            assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        });
        std::fs::remove_dir_all(dir).unwrap();
    }
}
