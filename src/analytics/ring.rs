//! From a shard to the tokio thread: blocks of hits, bounded, without a lock or a wait.
//!
//! A shard fills a block and hands it over when it is full, or has been open for a tick. Beside
//! that the two threads share nothing, so a record costs the shard its copy and no atomic. Blocks go
//! back to be filled again. When the other side is slower, up to the ring's bound is kept and what
//! comes beyond it is counted and dropped.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use crossbeam_queue::ArrayQueue;

use crate::{
    analytics::{
        hit::{Hit, put_short},
        recorder::ApiRecorder,
    },
    metrics::Shard,
};

/// A block is handed over when the next hit would not fit. A larger hit gets a block of its own.
const BLOCK_BYTES: usize = 64 << 10;

/// Empty blocks that wait to be filled again.
const SPARE_MAX: usize = 4;

/// A way for up to `bytes_max` bytes of hits; at least one block. Counts on the shard's own counters.
#[must_use]
pub fn ring(bytes_max: usize, metrics: Arc<Shard>) -> (Producer, Consumer) {
    let bytes_max = bytes_max.max(BLOCK_BYTES);
    // Blocks that hold few hits, because ticks came between, count too.
    let blocks_max = 2 * bytes_max / BLOCK_BYTES + 16;
    let shared = Arc::new(Shared {
        full: ArrayQueue::new(blocks_max + 1),
        spare: ArrayQueue::new(SPARE_MAX),
        waiting_bytes: AtomicUsize::new(0),
        is_closed: AtomicBool::new(false),
        bytes_max,
        blocks_max,
    });
    let producer = Producer {
        open: RefCell::default(),
        shared: Arc::clone(&shared),
        metrics,
    };
    (producer, Consumer { shared })
}

/// Hits of one shard, one behind the other.
#[derive(Debug, Default)]
pub struct Block {
    pub(super) bytes: Vec<u8>,
    /// The APIs that the hits name by their place here.
    pub(super) apis: Vec<Arc<ApiRecorder>>,
    pub(super) hits: u64,
}

impl Block {
    /// How many hits it holds.
    #[must_use]
    pub fn hit_count(&self) -> u64 {
        self.hits
    }
}

/// The shard's end. Dropping it hands over what is left.
pub struct Producer {
    open: RefCell<Open>,
    shared: Arc<Shared>,
    metrics: Arc<Shard>,
}

/// The block that is being filled.
#[derive(Debug, Default)]
struct Open {
    block: Block,
    /// Bytes that the block still takes; 0 while there is none.
    room: usize,
    /// A tick has passed since its first hit.
    has_aged: bool,
    /// The API of the hit before, and its place.
    last: Option<(u64, u32)>,
    /// Places of the others.
    places: ahash::AHashMap<u64, u32>,
    header_tags: Vec<u8>,
}

struct Shared {
    full: ArrayQueue<Block>,
    spare: ArrayQueue<Block>,
    /// In handed-over blocks that nobody has taken.
    waiting_bytes: AtomicUsize,
    is_closed: AtomicBool,
    bytes_max: usize,
    /// One less than the queue takes: the last block always finds its place.
    blocks_max: usize,
}

impl Producer {
    /// Keeps a hit, or counts it as dropped. Never waits.
    #[inline]
    pub fn record(&self, api: &Arc<ApiRecorder>, hit: &Hit<'_>) {
        let mut open = self.open.borrow_mut();
        let open = &mut *open;
        if !api.tag_headers().is_empty() {
            open.header_tags.clear();
            header_tags(api, hit, &mut open.header_tags);
        } else if !open.header_tags.is_empty() {
            open.header_tags.clear();
        }
        let bytes = hit.encoded_bytes(&open.header_tags);
        if bytes > open.room && !self.turn(open, bytes) {
            self.metrics.records_dropped.count();
            return;
        }
        let place = open.place(api);
        hit.write(place, &open.header_tags, &mut open.block.bytes);
        open.block.hits += 1;
        open.room -= bytes;
        self.metrics.records.count();
    }

    /// To be called once per tick of the shard's clock: hands over a block that the tick before has
    /// seen already.
    pub fn tick(&self) {
        let mut open = self.open.borrow_mut();
        if open.block.bytes.is_empty() {
            return;
        }
        if open.has_aged {
            self.hand_over(&mut open);
        }
        open.has_aged = !open.block.bytes.is_empty();
    }

    /// Makes room for `bytes` more. False when there is none.
    #[cold]
    fn turn(&self, open: &mut Open, bytes: usize) -> bool {
        if !open.block.bytes.is_empty() && !self.hand_over(open) {
            return false;
        }
        let waiting = self.shared.waiting_bytes.load(Ordering::Relaxed);
        if waiting.saturating_add(bytes) > self.shared.bytes_max {
            return false;
        }
        if let Some(spare) = self.shared.spare.pop() {
            open.block = spare;
        }
        open.room = bytes.max(BLOCK_BYTES);
        open.block.bytes.reserve(open.room);
        true
    }

    /// False when there is no room: the block stays open.
    fn hand_over(&self, open: &mut Open) -> bool {
        let bytes = open.block.bytes.len();
        let waiting = self.shared.waiting_bytes.load(Ordering::Relaxed);
        if waiting.saturating_add(bytes) > self.shared.bytes_max
            || self.shared.full.len() >= self.shared.blocks_max
        {
            return false;
        }
        self.shared.push(std::mem::take(&mut open.block));
        open.room = 0;
        open.has_aged = false;
        open.last = None;
        open.places.clear();
        true
    }
}

impl Shared {
    /// Only the producer pushes, and it has looked that there is room.
    fn push(&self, block: Block) {
        self.waiting_bytes
            .fetch_add(block.bytes.len(), Ordering::Relaxed);
        let pushed = self.full.push(block);
        debug_assert!(pushed.is_ok(), "the queue has a place more than is used");
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        let block = std::mem::take(&mut self.open.get_mut().block);
        if block.hits > 0 {
            self.shared.push(block);
        }
        self.shared.is_closed.store(true, Ordering::Release);
    }
}

impl Open {
    #[inline]
    fn place(&mut self, api: &Arc<ApiRecorder>) -> u32 {
        let number = api.number();
        match self.last {
            Some((last, place)) if last == number => place,
            _ => self.place_of_another(number, api),
        }
    }

    fn place_of_another(&mut self, number: u64, api: &Arc<ApiRecorder>) -> u32 {
        let apis = &mut self.block.apis;
        let place = *self.places.entry(number).or_insert_with(|| {
            apis.push(Arc::clone(api));
            (apis.len() - 1) as u32
        });
        self.last = Some((number, place));
        place
    }
}

/// `<name>-<value>` for each value of the fields that the API names (Tyk: `tagHeaders`).
#[cold]
fn header_tags(api: &ApiRecorder, hit: &Hit<'_>, out: &mut Vec<u8>) {
    let mut tag = Vec::new();
    for name in api.tag_headers() {
        hit.fields.each(name, &mut |value| {
            tag.clear();
            tag.extend_from_slice(name.as_bytes());
            tag.push(b'-');
            tag.extend_from_slice(value);
            put_short(out, &tag);
        });
    }
}

/// The tokio thread's end.
pub struct Consumer {
    shared: Arc<Shared>,
}

impl Consumer {
    /// The oldest block that was handed over.
    #[must_use]
    pub fn take(&self) -> Option<Block> {
        let block = self.shared.full.pop()?;
        self.shared
            .waiting_bytes
            .fetch_sub(block.bytes.len(), Ordering::Relaxed);
        Some(block)
    }

    /// Gives a block back to be filled again.
    pub fn give(&self, mut block: Block) {
        if block.bytes.capacity() > 2 * BLOCK_BYTES {
            return;
        }
        block.bytes.clear();
        block.apis.clear();
        block.hits = 0;
        // Where enough are waiting already, this one is let go.
        let _ = self.shared.spare.push(block);
    }

    /// Nothing more will come: the shard has ended and its blocks have been taken.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.shared.is_closed.load(Ordering::Acquire) && self.shared.full.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analytics::{
        hit::{FieldValues, HEAD_BYTES, Told, tests::hit},
        recorder::tests::recorder,
    };

    fn told(block: &Block) -> Vec<(String, Vec<u8>)> {
        let mut rest = block.bytes.as_slice();
        let mut found = Vec::new();
        while let Some(told) = Told::read(&mut rest) {
            let api = &block.apis[told.api as usize];
            found.push((
                String::from_utf8(api.api_id().to_vec()).unwrap(),
                told.path.to_vec(),
            ));
        }
        assert!(rest.is_empty());
        assert_eq!(found.len() as u64, block.hit_count());
        found
    }

    #[test]
    fn hits_of_several_apis_arrive_in_order() {
        let (producer, consumer) = ring(0, Arc::default());
        let (one, two) = (recorder("one"), recorder("two"));
        for (api, path) in [(&one, "/1"), (&one, "/2"), (&two, "/3"), (&one, "/4")] {
            producer.record(
                api,
                &Hit {
                    path: path.as_bytes(),
                    ..hit()
                },
            );
        }
        assert!(consumer.take().is_none(), "still open");
        drop(producer);
        assert!(!consumer.is_done());
        let block = consumer.take().unwrap();
        let paths: Vec<_> = told(&block);
        let expected = [("one", "/1"), ("one", "/2"), ("two", "/3"), ("one", "/4")];
        assert_eq!(
            paths,
            expected.map(|(a, p)| (a.to_owned(), p.as_bytes().to_vec()))
        );
        assert!(consumer.is_done());
    }

    #[test]
    fn a_block_is_handed_over_by_the_second_tick() {
        let (producer, consumer) = ring(0, Arc::default());
        let api = recorder("one");
        producer.tick();
        producer.record(&api, &hit());
        producer.tick();
        assert!(consumer.take().is_none());
        producer.record(&api, &hit());
        producer.tick();
        let block = consumer.take().unwrap();
        assert_eq!(told(&block).len(), 2);
        consumer.give(block);
        producer.record(&api, &hit());
        producer.tick();
        assert!(consumer.take().is_none(), "the new block is young");
        producer.tick();
        assert_eq!(told(&consumer.take().unwrap()).len(), 1);
    }

    #[test]
    fn beyond_the_bound_hits_are_counted_and_dropped() {
        let metrics = Arc::new(Shard::default());
        let (producer, consumer) = ring(4 * BLOCK_BYTES, Arc::clone(&metrics));
        let api = recorder("one");
        let size = HEAD_BYTES + "GET".len() + "/x".len() + "probe/1".len();
        let fits = (BLOCK_BYTES / size) as u64;
        for _ in 0..100 * fits {
            producer.record(&api, &hit());
        }
        let kept = metrics.records.value();
        assert!((3 * fits..=5 * fits).contains(&kept), "{kept}");
        assert_eq!(kept + metrics.records_dropped.value(), 100 * fits);
        let mut found = 0;
        while let Some(block) = consumer.take() {
            found += told(&block).len() as u64;
            consumer.give(block);
        }
        producer.record(&api, &hit());
        drop(producer);
        while let Some(block) = consumer.take() {
            found += told(&block).len() as u64;
        }
        assert_eq!(
            found,
            kept + 1,
            "what was kept arrives, and there is room again"
        );
    }

    #[test]
    fn a_large_hit_has_a_block_of_its_own_and_a_larger_one_is_dropped() {
        let metrics = Arc::new(Shard::default());
        let (producer, consumer) = ring(4 * BLOCK_BYTES, Arc::clone(&metrics));
        let api = recorder("one");
        let raw = vec![b'r'; 5 * BLOCK_BYTES];
        for bytes in [0, 2 * BLOCK_BYTES, 0, 5 * BLOCK_BYTES] {
            producer.record(
                &api,
                &Hit {
                    raw_request: &raw[..bytes],
                    ..hit()
                },
            );
        }
        assert_eq!(
            (metrics.records.value(), metrics.records_dropped.value()),
            (3, 1)
        );
        drop(producer);
        let mut found = 0;
        while let Some(block) = consumer.take() {
            found += told(&block).len();
            consumer.give(block);
        }
        assert_eq!(found, 3);
    }

    #[test]
    fn idle_blocks_between_ticks_do_not_use_up_the_queue_for_nothing() {
        let metrics = Arc::new(Shard::default());
        let (producer, consumer) = ring(0, Arc::clone(&metrics));
        let api = recorder("one");
        for _ in 0..1000 {
            producer.record(&api, &hit());
            producer.tick();
        }
        assert_eq!(
            metrics.records_dropped.value() + metrics.records.value(),
            1000
        );
        drop(producer);
        let mut found = 0;
        while let Some(block) = consumer.take() {
            found += told(&block).len() as u64;
        }
        assert_eq!(found + metrics.records_dropped.value(), 1000);
        assert!(found > 400, "{found}");
    }

    #[test]
    fn hits_cross_threads_without_loss() {
        let metrics = Arc::new(Shard::default());
        let (producer, consumer) = ring(64 * BLOCK_BYTES, Arc::clone(&metrics));
        let writer = std::thread::spawn(move || {
            let api = recorder("one");
            for n in 0..20_000u32 {
                producer.record(
                    &api,
                    &Hit {
                        path: &n.to_be_bytes(),
                        ..hit()
                    },
                );
            }
        });
        let mut paths = Vec::new();
        while !consumer.is_done() {
            if let Some(block) = consumer.take() {
                paths.extend(told(&block).into_iter().map(|(_, path)| path));
                consumer.give(block);
            }
        }
        writer.join().unwrap();
        assert_eq!(paths.len() as u64, metrics.records.value());
        assert!(paths.is_sorted());
        assert_eq!(
            metrics.records_dropped.value() + metrics.records.value(),
            20_000
        );
    }

    #[test]
    fn named_fields_become_tags() {
        struct Fields;
        impl FieldValues for Fields {
            fn each(&self, name: &str, found: &mut dyn FnMut(&[u8])) {
                if name == "x-tag" {
                    found(b"tv");
                    found(b"\xff");
                }
            }
        }
        let (producer, consumer) = ring(0, Arc::default());
        let api = recorder("tagged");
        producer.record(
            &api,
            &Hit {
                fields: &Fields,
                ..hit()
            },
        );
        producer.record(
            &recorder("one"),
            &Hit {
                fields: &Fields,
                ..hit()
            },
        );
        drop(producer);
        let block = consumer.take().unwrap();
        let mut rest = block.bytes.as_slice();
        let tags: Vec<_> = Told::read(&mut rest).unwrap().header_tags.collect();
        assert_eq!(tags, [&b"x-tag-tv"[..], b"x-tag-\xff"]);
        assert_eq!(Told::read(&mut rest).unwrap().header_tags.count(), 0);
    }
}
