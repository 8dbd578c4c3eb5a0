//! What a [`Store`](super::Store) is asked to do, beside single values.

use std::{io::Write as _, ops::Deref, sync::Arc, time::Duration};

/// One change of several that are stored together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOp {
    /// As [`Store::set`](super::Store::set).
    Set {
        key: String,
        value: Vec<u8>,
        ttl: Option<Duration>,
    },
    /// As [`Store::delete`](super::Store::delete).
    Delete(String),
}

/// A value to be put in another's place, if that is still the one that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replace {
    pub key: String,
    pub from: Vec<u8>,
    pub to: Vec<u8>,
    /// As for [`Store::set`](super::Store::set).
    pub ttl: Option<Duration>,
}

/// How much longer a key lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    Forever,
    /// Milliseconds.
    Ms(u64),
}

/// A counter and what to add to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    pub key: String,
    pub by: i64,
    /// Given to the counter when it did not exist before.
    pub ttl: Option<Duration>,
}

/// A counter after an [`Add`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    /// Exact up to 2^53, beyond which Redis' scripts round.
    pub value: i64,
    /// `None` when it was gone as soon as it was there (a time to live of zero).
    pub ttl: Option<Ttl>,
}

/// Records for a list, as Redis takes them: one behind the other, each as a bulk string
/// (`$<length>\r\n<record>\r\n`). Cheap to clone, and never copied on their way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    chunks: Arc<Vec<Chunk>>,
    count: u64,
}

/// Whole records. What the bytes hold behind them is there to be written over one day.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chunk {
    bytes: Vec<u8>,
    filled: usize,
}

impl Chunk {
    /// The first `filled` of the bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>, filled: usize) -> Self {
        Self { bytes, filled }
    }

    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// One record after the other. Ends where they are broken.
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &**self;
        std::iter::from_fn(move || {
            let (record, behind) = split_record(rest)?;
            rest = behind;
            Some(record)
        })
    }
}

impl From<Vec<u8>> for Chunk {
    fn from(bytes: Vec<u8>) -> Self {
        let filled = bytes.len();
        Self { bytes, filled }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }
}

impl Records {
    /// `chunks` hold `count` whole records.
    #[must_use]
    pub fn new(chunks: Vec<Chunk>, count: u64) -> Self {
        let chunks = Arc::new(chunks);
        Self { chunks, count }
    }

    /// Appends a record to a chunk.
    pub fn add(chunk: &mut Vec<u8>, record: &[u8]) {
        // Writing to a Vec cannot fail.
        let _ = write!(chunk, "${}\r\n", record.len());
        chunk.extend_from_slice(record);
        chunk.extend_from_slice(b"\r\n");
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    #[must_use]
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// The chunks themselves, once nobody else has them.
    #[must_use]
    pub fn into_chunks(self) -> Option<Vec<Chunk>> {
        Arc::into_inner(self.chunks)
    }

    /// One record after the other.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.chunks.iter().flat_map(Chunk::records)
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for Records {
    fn from_iter<I: IntoIterator<Item = T>>(records: I) -> Self {
        let (mut chunk, mut count) = (Vec::new(), 0);
        for record in records {
            Self::add(&mut chunk, record.as_ref());
            count += 1;
        }
        Self::new(vec![chunk.into()], count)
    }
}

/// Takes the first record off a chunk.
fn split_record(chunk: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = chunk.strip_prefix(b"$")?;
    let digits = rest.iter().position(|byte| *byte == b'\r')?;
    let (length, rest) = rest.split_at_checked(digits)?;
    let length = str::from_utf8(length).ok()?.parse().ok()?;
    let (record, rest) = rest.strip_prefix(b"\r\n")?.split_at_checked(length)?;
    Some((record, rest.strip_prefix(b"\r\n")?))
}

/// How large and how old a list may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListLimit {
    /// Records; the oldest go first. `None` for no limit.
    pub records_max: Option<u64>,
    /// Given to the list whenever it has none.
    pub ttl: Option<Duration>,
}

/// A list after records were appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PushOutcome {
    /// Records in the list.
    pub len: u64,
    /// Records that left it for [`ListLimit::records_max`].
    pub dropped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_again_across_chunks() {
        let mut one = Vec::new();
        Records::add(&mut one, b"a");
        Records::add(&mut one, b"");
        assert_eq!(one, b"$1\r\na\r\n$0\r\n\r\n");
        let mut other = Vec::new();
        Records::add(&mut other, &[7; 300]);
        let length = other.len();
        other.extend_from_slice(b"what was there before");
        let chunks = vec![
            Chunk::default(),
            one.into(),
            Vec::new().into(),
            Chunk::new(other, length),
        ];
        let records = Records::new(chunks, 3);
        let found: Vec<_> = records.iter().collect();
        assert_eq!(found, [b"a".as_slice(), b"", &[7; 300]]);
        let also = records.clone();
        assert!(records.into_chunks().is_none(), "somebody else has them");
        assert_eq!(also.into_chunks().unwrap().len(), 4);
        for broken in ["$2\r\na\r\n", "1\r\na\r\n", "$1\r\na", "$x\r\na\r\n"] {
            let broken = Records::new(vec![broken.as_bytes().to_vec().into()], 1);
            assert_eq!(broken.iter().count(), 0);
        }
    }
}
