//! One way, from a shard to the tokio thread: bytes in blocks, bounded, without a lock or a wait.
//!
//! A shard fills a block and hands it over when it is full, or has been open for a tick. Beside that
//! the two threads share nothing, so an entry costs the shard its copy and no atomic. Blocks go back
//! to be filled again. When the other side is slower, up to the bound is kept, and the shard is told
//! of what comes beyond it.
//!
//! Entries may refer to something immutable that both sides know, such as an API: the block carries
//! it once, and entries name it by its place there.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use crossbeam_queue::ArrayQueue;

/// A block is handed over when the next entry would not fit. A larger one gets a block of its own.
pub const BLOCK_BYTES: usize = 64 << 10;

/// Empty blocks that wait to be filled again: as many as come back at once where the other side takes
/// a megabyte at a time, a few times in a row.
const SPARE_MAX: usize = 48;

/// A way for up to `bytes_max` bytes; at least one block.
#[must_use]
pub fn blocks<T: Party>(bytes_max: usize) -> (Filler<T>, Taker<T>) {
    blocks_sharing(bytes_max, &Arc::default())
}

/// As [`blocks`]; the bound holds for everything that waits on ways with the same count of bytes.
#[must_use]
pub fn blocks_sharing<T: Party>(
    bytes_max: usize,
    waiting_bytes: &Arc<AtomicUsize>,
) -> (Filler<T>, Taker<T>) {
    let bytes_max = bytes_max.max(BLOCK_BYTES);
    // Blocks that hold few entries, because ticks came between, count too.
    let blocks_max = 2 * bytes_max / BLOCK_BYTES + 16;
    let shared = Arc::new(Shared {
        full: ArrayQueue::new(blocks_max + 1),
        spare: ArrayQueue::new(SPARE_MAX),
        waiting_bytes: Arc::clone(waiting_bytes),
        is_closed: AtomicBool::new(false),
        bytes_max,
        blocks_max,
    });
    let filler = Filler {
        block: Block::default(),
        room: 0,
        has_aged: false,
        last: None,
        places: ahash::AHashMap::new(),
        shared: Arc::clone(&shared),
    };
    (filler, Taker { shared })
}

/// What entries refer to.
pub trait Party: Send + Sync {
    /// Never the same for two that are alive.
    fn number(&self) -> u64;
}

/// Entries of one shard, one behind the other.
#[derive(Debug)]
pub struct Block<T> {
    /// Behind `filled` stands what was there before, to be written over.
    bytes: Vec<u8>,
    filled: usize,
    parties: Vec<Arc<T>>,
    entry_count: u64,
}

impl<T> Default for Block<T> {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            filled: 0,
            parties: Vec::new(),
            entry_count: 0,
        }
    }
}

impl<T> Block<T> {
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }

    /// The entries alone: bytes, and how many of them hold entries. To be given back with
    /// [`Taker::give_bytes`].
    #[must_use]
    pub fn into_bytes(self) -> (Vec<u8>, usize) {
        (self.bytes, self.filled)
    }

    /// What an entry refers to by this place.
    #[must_use]
    pub fn party(&self, place: u32) -> Option<&T> {
        self.parties.get(place as usize).map(AsRef::as_ref)
    }

    #[must_use]
    pub fn entry_count(&self) -> u64 {
        self.entry_count
    }
}

/// The shard's end. Dropping it hands over what is left.
pub struct Filler<T> {
    block: Block<T>,
    /// Bytes that the block still takes; 0 while there is none.
    room: usize,
    /// A tick has passed since its first entry.
    has_aged: bool,
    /// What the entry before referred to, and its place.
    last: Option<(u64, u32)>,
    /// Places of everything in the block.
    places: ahash::AHashMap<u64, u32>,
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    full: ArrayQueue<Block<T>>,
    spare: ArrayQueue<Block<T>>,
    /// In handed-over blocks that nobody has taken.
    waiting_bytes: Arc<AtomicUsize>,
    is_closed: AtomicBool,
    bytes_max: usize,
    /// One less than the queue takes: the last block always finds its place.
    blocks_max: usize,
}

impl<T: Party> Filler<T> {
    /// Adds an entry of exactly `bytes` bytes, which `write` appends when it is given the place of
    /// `party`. False when there is no room: then nothing was written.
    #[inline]
    #[must_use]
    pub fn put(
        &mut self,
        party: &Arc<T>,
        bytes: usize,
        write: impl FnOnce(u32, &mut Vec<u8>),
    ) -> bool {
        if bytes > self.room && !self.turn(bytes) {
            return false;
        }
        let place = self.place(party);
        if self.block.bytes.is_empty() {
            self.block.bytes.reserve(self.room);
        }
        write(place, &mut self.block.bytes);
        self.block.filled = self.block.bytes.len();
        self.block.entry_count += 1;
        self.room -= bytes;
        true
    }

    /// Adds an entry that refers to nothing: `write` puts it at the begin of `bytes_max` bytes and
    /// returns how many it took. `None` when there is no room or `write` gave up: then nothing was
    /// added. A way takes entries of one kind, of this or of [`Filler::put`].
    #[inline]
    pub fn put_within(
        &mut self,
        bytes_max: usize,
        write: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Option<()> {
        let bytes = write(self.place_within(bytes_max)?)?;
        self.take_in(bytes);
        Some(())
    }

    /// As [`Filler::put_within`], in two steps: where the next entry goes; `None` when there is no room.
    /// It is added by [`Filler::take_in`].
    #[inline(always)]
    pub fn place_within(&mut self, bytes_max: usize) -> Option<&mut [u8]> {
        if bytes_max > self.room && !self.turn_within(bytes_max) {
            return None;
        }
        let filled = self.block.filled;
        self.block.bytes.get_mut(filled..filled + bytes_max)
    }

    /// Adds the entry that stands in so many bytes of what [`Filler::place_within`] gave.
    #[inline(always)]
    pub fn take_in(&mut self, bytes: usize) {
        self.block.filled += bytes;
        self.block.entry_count += 1;
        self.room -= bytes;
    }

    #[cold]
    fn turn_within(&mut self, bytes: usize) -> bool {
        if !self.turn(bytes) {
            return false;
        }
        // A block that was filled before has them all.
        if self.block.bytes.len() < self.room {
            self.block.bytes = vec![0; self.room];
        }
        true
    }

    /// To be called once per tick of the shard's clock: hands over a block that the tick before has
    /// seen already.
    pub fn tick(&mut self) {
        if self.block.filled == 0 {
            return;
        }
        if self.has_aged {
            self.hand_over();
        }
        self.has_aged = self.block.filled > 0;
    }

    /// Makes room for `bytes` more. False when there is none.
    #[cold]
    fn turn(&mut self, bytes: usize) -> bool {
        if self.block.filled > 0 && !self.hand_over() {
            return false;
        }
        let waiting = self.shared.waiting_bytes.load(Ordering::Relaxed);
        if waiting.saturating_add(bytes) > self.shared.bytes_max {
            return false;
        }
        if let Some(spare) = self.shared.spare.pop() {
            self.block = spare;
        }
        self.room = bytes.max(BLOCK_BYTES);
        true
    }

    /// False when there is no room: the block stays open.
    fn hand_over(&mut self) -> bool {
        let waiting = self.shared.waiting_bytes.load(Ordering::Relaxed);
        if waiting.saturating_add(self.block.filled) > self.shared.bytes_max
            || self.shared.full.len() >= self.shared.blocks_max
        {
            return false;
        }
        self.shared.push(std::mem::take(&mut self.block));
        self.room = 0;
        self.has_aged = false;
        self.last = None;
        self.places.clear();
        true
    }

    #[inline]
    fn place(&mut self, party: &Arc<T>) -> u32 {
        let number = party.number();
        match self.last {
            Some((last, place)) if last == number => place,
            _ => self.place_of_another(number, party),
        }
    }

    fn place_of_another(&mut self, number: u64, party: &Arc<T>) -> u32 {
        let parties = &mut self.block.parties;
        let place = *self.places.entry(number).or_insert_with(|| {
            parties.push(Arc::clone(party));
            (parties.len() - 1) as u32
        });
        self.last = Some((number, place));
        place
    }
}

impl<T> Drop for Filler<T> {
    fn drop(&mut self) {
        let block = std::mem::take(&mut self.block);
        if block.entry_count > 0 {
            self.shared.push(block);
        }
        self.shared.is_closed.store(true, Ordering::Release);
    }
}

impl<T> Shared<T> {
    /// Only the filler pushes, and it has looked that there is room.
    fn push(&self, block: Block<T>) {
        self.waiting_bytes
            .fetch_add(block.filled, Ordering::Relaxed);
        let pushed = self.full.push(block);
        debug_assert!(pushed.is_ok(), "the queue has a place more than is used");
    }
}

/// The tokio thread's end.
pub struct Taker<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Taker<T> {
    /// The oldest block that was handed over.
    #[must_use]
    pub fn take(&self) -> Option<Block<T>> {
        let block = self.shared.full.pop()?;
        self.shared
            .waiting_bytes
            .fetch_sub(block.filled, Ordering::Relaxed);
        Some(block)
    }

    /// Gives a block back to be filled again.
    pub fn give(&self, mut block: Block<T>) {
        if block.bytes.capacity() > 2 * BLOCK_BYTES {
            return;
        }
        block.bytes.clear();
        block.filled = 0;
        block.parties.clear();
        block.entry_count = 0;
        // Where enough are waiting already, this one is let go.
        let _ = self.shared.spare.push(block);
    }

    /// Gives back what [`Block::into_bytes`] took. The bytes stay as they are, to be written over.
    pub fn give_bytes(&self, bytes: Vec<u8>) {
        // One that is no whole block would have to grow first.
        if (BLOCK_BYTES..=2 * BLOCK_BYTES).contains(&bytes.len()) {
            let block = Block {
                bytes,
                ..Block::default()
            };
            let _ = self.shared.spare.push(block);
        }
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

    struct Number(u64);

    impl Party for Number {
        fn number(&self) -> u64 {
            self.0
        }
    }

    fn put(filler: &mut Filler<Number>, number: u64, bytes: usize) -> bool {
        filler.put(&Arc::new(Number(number)), bytes, |place, out| {
            out.push(place as u8);
            out.resize(out.len() + bytes - 1, 0);
        })
    }

    #[test]
    fn entries_name_what_they_refer_to_by_its_place() {
        let (mut filler, taker) = blocks(0);
        for number in [7, 7, 9, 7] {
            assert!(put(&mut filler, number, 1));
        }
        assert!(taker.take().is_none(), "still open");
        drop(filler);
        assert!(!taker.is_done());
        let block = taker.take().unwrap();
        assert_eq!(block.bytes(), [0, 0, 1, 0]);
        assert_eq!(block.party(0).unwrap().0, 7);
        assert_eq!(block.party(1).unwrap().0, 9);
        assert!(block.party(2).is_none());
        assert_eq!(block.entry_count(), 4);
        assert!(taker.is_done());
    }

    #[test]
    fn entries_of_unknown_length_are_written_in_place() {
        let (mut filler, taker) = blocks::<Number>(0);
        for round in 0..3_u8 {
            let mut expected = Vec::new();
            for n in 0..200_u8 {
                let entry = vec![n ^ round; usize::from(n) + 1];
                let put = filler.put_within(1000, |place| {
                    assert_eq!(place.len(), 1000);
                    place[..entry.len()].copy_from_slice(&entry);
                    Some(entry.len())
                });
                assert!(put.is_some());
                expected.extend(entry);
            }
            assert!(filler.put_within(10, |_| None).is_none());
            (0..2).for_each(|_| filler.tick());
            let block = taker.take().unwrap();
            assert_eq!((block.entry_count(), block.bytes()), (200, &expected[..]));
            let (bytes, filled) = block.into_bytes();
            assert_eq!(&bytes[..filled], expected);
            taker.give_bytes(bytes);
        }
        let large = filler.put_within(BLOCK_BYTES + 1, |place| Some(place.len()));
        assert!(large.is_none(), "more than may wait");
    }

    #[test]
    fn ways_that_share_a_bound_fill_it_together() {
        let waiting = Arc::default();
        let (mut one, taker) = blocks_sharing(2 * BLOCK_BYTES, &waiting);
        let (mut other, _) = blocks_sharing(2 * BLOCK_BYTES, &waiting);
        let fill =
            |filler: &mut Filler<Number>| (0..10_000).filter(|_| put(filler, 1, 100)).count();
        assert_eq!(fill(&mut one), 2 * (BLOCK_BYTES / 100));
        assert_eq!(fill(&mut other), 0);
        while taker.take().is_some() {}
        assert!(put(&mut other, 1, 100));
    }

    #[test]
    fn a_block_is_handed_over_by_the_second_tick() {
        let (mut filler, taker) = blocks(0);
        filler.tick();
        assert!(put(&mut filler, 1, 1));
        filler.tick();
        assert!(taker.take().is_none());
        assert!(put(&mut filler, 1, 1));
        filler.tick();
        let block = taker.take().unwrap();
        assert_eq!(block.entry_count(), 2);
        taker.give(block);
        assert!(put(&mut filler, 2, 1));
        filler.tick();
        assert!(taker.take().is_none(), "the new block is young");
        filler.tick();
        let block = taker.take().unwrap();
        assert_eq!((block.entry_count(), block.party(0).unwrap().0), (1, 2));
    }

    #[test]
    fn beyond_the_bound_entries_are_turned_away() {
        let (mut filler, taker) = blocks(4 * BLOCK_BYTES);
        let kept = (0..100_000).filter(|_| put(&mut filler, 1, 100)).count();
        let full = BLOCK_BYTES / 100;
        assert!((3 * full..=5 * full).contains(&kept), "{kept}");
        let mut found = 0;
        while let Some(block) = taker.take() {
            found += block.entry_count();
            taker.give(block);
        }
        assert!(put(&mut filler, 1, 100), "there is room again");
        drop(filler);
        while let Some(block) = taker.take() {
            found += block.entry_count();
        }
        assert_eq!(found, kept as u64 + 1);
    }

    #[test]
    fn a_large_entry_has_a_block_of_its_own_and_a_larger_one_is_turned_away() {
        let (mut filler, taker) = blocks(4 * BLOCK_BYTES);
        let kept = [1, 2 * BLOCK_BYTES, 1, 5 * BLOCK_BYTES].map(|bytes| put(&mut filler, 1, bytes));
        assert_eq!(kept, [true, true, true, false]);
        drop(filler);
        let sizes: Vec<_> = std::iter::from_fn(|| taker.take())
            .map(|block| block.bytes().len())
            .collect();
        assert_eq!(sizes, [1, 2 * BLOCK_BYTES, 1]);
    }

    #[test]
    fn while_the_queue_is_full_the_open_block_goes_on() {
        let (mut filler, taker) = blocks(0);
        let kept = (0..1000)
            .filter(|_| {
                filler.tick();
                put(&mut filler, 1, 100)
            })
            .count();
        assert!(kept > BLOCK_BYTES / 100, "{kept}");
        drop(filler);
        let found: u64 = std::iter::from_fn(|| taker.take())
            .map(|block| block.entry_count())
            .sum();
        assert_eq!(found, kept as u64);
    }

    #[test]
    fn entries_cross_threads_without_loss_and_in_order() {
        let (mut filler, taker) = blocks(64 * BLOCK_BYTES);
        let writer = std::thread::spawn(move || {
            let party = Arc::new(Number(1));
            (0..50_000u32)
                .filter(|n| filler.put(&party, 4, |_, out| out.extend_from_slice(&n.to_be_bytes())))
                .count()
        });
        let mut found: Vec<[u8; 4]> = Vec::new();
        while !taker.is_done() {
            if let Some(block) = taker.take() {
                found.extend(
                    block
                        .bytes()
                        .chunks(4)
                        .map(|n| <[u8; 4]>::try_from(n).unwrap()),
                );
                taker.give(block);
            }
        }
        assert_eq!(found.len(), writer.join().unwrap());
        assert!(found.is_sorted());
    }
}
