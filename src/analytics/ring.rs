//! Where a shard leaves its hits: never waits, counts what it must drop.

use std::{cell::RefCell, sync::Arc};

use crate::{
    analytics::{
        hit::{Hit, put_short},
        prepared::{Again, KeyRuns, Tail, Writer},
        recorder::ApiRecorder,
    },
    mailbox::{Block, Filler, Party, Taker, blocks_sharing},
    metrics::Shard,
};

/// Blocks of hits, as they come to the store's thread.
pub type HitBlock = Block<ApiRecorder>;

/// What records refer to: nothing.
pub struct Nothing;

impl Party for Nothing {
    fn number(&self) -> u64 {
        0
    }
}

/// The other thread's end.
pub struct Consumer {
    pub(super) records: Taker<Nothing>,
    pub(super) hits: Taker<ApiRecorder>,
}

impl Consumer {
    /// The oldest block of records that was handed over.
    #[must_use]
    pub fn take_records(&self) -> Option<Block<Nothing>> {
        self.records.take()
    }

    /// Gives the bytes of such a block back to be filled again.
    pub fn give_records(&self, bytes: Vec<u8>) {
        self.records.give_bytes(bytes);
    }

    /// The oldest block of hits that was handed over.
    #[must_use]
    pub fn take_hits(&self) -> Option<HitBlock> {
        self.hits.take()
    }

    /// Gives a block back to be filled again.
    pub fn give_hits(&self, block: HitBlock) {
        self.hits.give(block);
    }

    /// Nothing more will come: the shard has ended and its blocks have been taken.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.records.is_done() && self.hits.is_done()
    }
}

/// A way for up to `bytes_max` bytes of records and hits; see [`blocks_sharing`]. Counts on the
/// shard's own counters.
#[must_use]
pub fn ring(bytes_max: usize, metrics: Arc<Shard>) -> (Producer, Consumer) {
    let waiting_bytes = Arc::default();
    let (records, taken_records) = blocks_sharing(bytes_max, &waiting_bytes);
    let (hits, taken_hits) = blocks_sharing(bytes_max, &waiting_bytes);
    let producer = Producer {
        open: RefCell::new(Open {
            records,
            writer: Writer::default(),
            hits,
            header_tags: Vec::new(),
        }),
        metrics,
    };
    let consumer = Consumer {
        records: taken_records,
        hits: taken_hits,
    };
    (producer, consumer)
}

impl Party for ApiRecorder {
    fn number(&self) -> u64 {
        ApiRecorder::number(self)
    }
}

/// The shard's end. Dropping it hands over what is left.
pub struct Producer {
    open: RefCell<Open>,
    metrics: Arc<Shard>,
}

struct Open {
    /// The short way.
    records: Filler<Nothing>,
    writer: Writer,
    /// The long one.
    hits: Filler<ApiRecorder>,
    /// Room for the tags of one hit.
    header_tags: Vec<u8>,
}

impl Producer {
    /// Keeps what has the tail of its connection's last record; `key` is `None` where nobody showed
    /// one. False for anything else, which goes by [`Producer::record`].
    #[inline(always)]
    pub fn record_again(
        &self,
        api: &ApiRecorder,
        key: Option<&KeyRuns>,
        tail: &RefCell<Tail>,
        again: &impl Again,
    ) -> bool {
        let Some(runs) = api.runs() else {
            return false;
        };
        let key = match key {
            Some(key) if key.is_of(api) => key,
            Some(_) => return false,
            None => runs.nobody(),
        };
        let mut open = self.open.borrow_mut();
        let Open {
            records, writer, ..
        } = &mut *open;
        let written = writer.write_again(runs, key, &tail.borrow(), again, records);
        if written.is_some() {
            self.metrics.records.count();
        }
        written.is_some()
    }

    /// Keeps a hit, or counts it as dropped.
    #[inline(never)]
    pub fn record(&self, api: &Arc<ApiRecorder>, hit: &Hit<'_>) {
        if let Some(runs) = api.runs()
            && let Some(key) = runs.who(api, hit)
            && let (Some(tail), None) = (hit.tail, hit.host)
            && self.record_again(api, hit.identity.and(Some(key)), tail, hit)
        {
            return;
        }
        let mut open = self.open.borrow_mut();
        let Open {
            records, writer, ..
        } = &mut *open;
        if let Some(runs) = api.runs()
            && let Some(key) = runs.who(api, hit)
        {
            let bytes_max = runs.bytes_max(key, hit);
            let write = |place: &mut [u8]| writer.write(runs, key, hit, place);
            if records.put_within(bytes_max, write).is_some() {
                self.metrics.records.count();
                return;
            }
        }
        match open.put_hit(api, hit) {
            true => self.metrics.records.count(),
            false => self.metrics.records_dropped.count(),
        }
    }

    /// To be called once per tick of the shard's clock; see [`Filler::tick`].
    pub fn tick(&self) {
        let mut open = self.open.borrow_mut();
        open.records.tick();
        open.hits.tick();
    }
}

impl Open {
    /// False when there is no room.
    fn put_hit(&mut self, api: &Arc<ApiRecorder>, hit: &Hit<'_>) -> bool {
        self.header_tags.clear();
        if !api.tag_headers().is_empty() {
            add_header_tags(api, hit, &mut self.header_tags);
        }
        let tags = self.header_tags.as_slice();
        let bytes = hit.encoded_bytes(tags);
        self.hits
            .put(api, bytes, |place, out| hit.write(place, tags, out))
    }
}

/// `<name>-<value>` for each value of the fields that the API names (Tyk: `tagHeaders`).
#[cold]
fn add_header_tags(api: &ApiRecorder, hit: &Hit<'_>, out: &mut Vec<u8>) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        analytics::{
            hit::{FieldValues, Told, tests::hit},
            recorder::tests::recorder,
        },
        mailbox::BLOCK_BYTES,
    };

    fn told(block: &HitBlock) -> Vec<(&[u8], &[u8])> {
        let mut rest = block.bytes();
        let found: Vec<_> = std::iter::from_fn(|| Told::read(&mut rest))
            .map(|told| (block.party(told.api).unwrap().api_id(), told.path))
            .collect();
        assert_eq!(found.len() as u64, block.entry_count());
        found
    }

    #[test]
    fn hits_of_several_apis_arrive_in_order() {
        let (producer, consumer) = ring(0, Arc::default());
        let (one, two) = (recorder("one"), recorder("two"));
        for (api, path) in [(&one, "/1"), (&one, "/2"), (&two, "/3"), (&one, "/4")] {
            let told = Hit {
                path: path.as_bytes(),
                is_cached: true,
                ..hit()
            };
            producer.record(api, &told);
        }
        drop(producer);
        let block = consumer.take_hits().unwrap();
        let expected = [("one", "/1"), ("one", "/2"), ("two", "/3"), ("one", "/4")];
        assert_eq!(
            told(&block),
            expected.map(|(a, p)| (a.as_bytes(), p.as_bytes()))
        );
    }

    #[test]
    fn what_is_left_is_handed_over_by_both_ways() {
        let metrics = Arc::new(Shard::default());
        let (producer, consumer) = ring(0, Arc::clone(&metrics));
        let api = recorder("one");
        for is_cached in [false, true, false] {
            let told = Hit { is_cached, ..hit() };
            producer.record(&api, &told);
        }
        assert!(consumer.take_records().is_none() && !consumer.is_done());
        (0..2).for_each(|_| producer.tick());
        assert_eq!(consumer.take_records().unwrap().entry_count(), 2);
        producer.record(&api, &hit());
        drop(producer);
        assert!(!consumer.is_done());
        assert_eq!(consumer.take_hits().unwrap().entry_count(), 1);
        let block = consumer.take_records().unwrap();
        consumer.give_records(block.into_bytes().0);
        assert!(consumer.is_done());
        assert_eq!(metrics.records.value(), 4);
    }

    #[test]
    fn what_has_no_room_is_counted() {
        let metrics = Arc::new(Shard::default());
        let (producer, consumer) = ring(0, Arc::clone(&metrics));
        let api = recorder("one");
        let raw = vec![b'r'; 2 * BLOCK_BYTES];
        for raw_request in [&[][..], &raw] {
            producer.record(
                &api,
                &Hit {
                    raw_request,
                    ..hit()
                },
            );
        }
        let counts = (metrics.records.value(), metrics.records_dropped.value());
        assert_eq!(counts, (1, 1));
        (0..2).for_each(|_| producer.tick());
        assert_eq!(consumer.take_records().unwrap().entry_count(), 1);
        assert!(consumer.take_hits().is_none());
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
        let fields = Hit {
            fields: &Fields,
            ..hit()
        };
        producer.record(&recorder("tagged"), &fields);
        let long = Hit {
            is_cached: true,
            ..fields
        };
        producer.record(&recorder("one"), &long);
        drop(producer);
        let block = consumer.take_hits().unwrap();
        let mut rest = block.bytes();
        let tags: Vec<_> = Told::read(&mut rest).unwrap().header_tags.collect();
        assert_eq!(tags, [&b"x-tag-tv"[..], b"x-tag-\xff"]);
        assert_eq!(Told::read(&mut rest).unwrap().header_tags.count(), 0);
    }
}
