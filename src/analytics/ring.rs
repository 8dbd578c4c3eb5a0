//! Where a shard leaves its hits: never waits, counts what it must drop.

use std::{cell::RefCell, sync::Arc};

use crate::{
    analytics::{
        hit::{Hit, put_short},
        recorder::ApiRecorder,
    },
    mailbox::{Block, Filler, Party, Taker, blocks},
    metrics::Shard,
};

/// Blocks of hits, as they come to the tokio thread.
pub type HitBlock = Block<ApiRecorder>;

/// The tokio thread's end.
pub type Consumer = Taker<ApiRecorder>;

/// A way for up to `bytes_max` bytes of hits; see [`blocks`]. Counts on the shard's own counters.
#[must_use]
pub fn ring(bytes_max: usize, metrics: Arc<Shard>) -> (Producer, Consumer) {
    let (filler, consumer) = blocks(bytes_max);
    let producer = Producer {
        open: RefCell::new(Open {
            filler,
            header_tags: Vec::new(),
        }),
        metrics,
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
    filler: Filler<ApiRecorder>,
    /// Room for the tags of one hit.
    header_tags: Vec<u8>,
}

impl Producer {
    /// Keeps a hit, or counts it as dropped.
    #[inline]
    pub fn record(&self, api: &Arc<ApiRecorder>, hit: &Hit<'_>) {
        let mut open = self.open.borrow_mut();
        let open = &mut *open;
        if !api.tag_headers().is_empty() {
            open.header_tags.clear();
            add_header_tags(api, hit, &mut open.header_tags);
        } else if !open.header_tags.is_empty() {
            open.header_tags.clear();
        }
        let tags = open.header_tags.as_slice();
        let is_kept = open.filler.put(api, hit.encoded_bytes(tags), |place, out| {
            hit.write(place, tags, out);
        });
        match is_kept {
            true => self.metrics.records.count(),
            false => self.metrics.records_dropped.count(),
        }
    }

    /// To be called once per tick of the shard's clock; see [`Filler::tick`].
    pub fn tick(&self) {
        self.open.borrow_mut().filler.tick();
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
            let path = path.as_bytes();
            producer.record(api, &Hit { path, ..hit() });
        }
        drop(producer);
        let block = consumer.take().unwrap();
        let expected = [("one", "/1"), ("one", "/2"), ("two", "/3"), ("one", "/4")];
        assert_eq!(
            told(&block),
            expected.map(|(a, p)| (a.as_bytes(), p.as_bytes()))
        );
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
        assert_eq!(told(&consumer.take().unwrap()).len(), 1);
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
        producer.record(&recorder("one"), &fields);
        drop(producer);
        let block = consumer.take().unwrap();
        let mut rest = block.bytes();
        let tags: Vec<_> = Told::read(&mut rest).unwrap().header_tags.collect();
        assert_eq!(tags, [&b"x-tag-tv"[..], b"x-tag-\xff"]);
        assert_eq!(Told::read(&mut rest).unwrap().header_tags.count(), 0);
    }
}
