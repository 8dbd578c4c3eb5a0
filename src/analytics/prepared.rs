//! The short way of a record: the shard writes its final bytes itself, between runs of bytes that
//! were prepared beforehand.
//!
//! What the records of a process, of an API, of a key at that API, of an hour and of an address share
//! is copied in runs; what differs from request to request is put between them. No thread touches the
//! record again until it is sent. Both ways write the same bytes: the runs are made by
//! [`msgpack`](super::msgpack), which writes whole records on the long way.
//!
//! The short way knows no patterns, no GeoIP, no tags of fields, no tracked path, no detail and no
//! Protocol Buffers; what needs one of them goes as a [`Hit`] through the assembler. So does what is
//! rare: a record beyond 9,999 bytes.
//!
//! The records of one connection differ mostly in path and time. What is equal is kept as one run
//! ([`Tail`]), and [`Writer::write_again`] writes a record from it that takes no look at anything
//! else.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    analytics::{
        assemble::write_ip,
        hit::{Hit, Identified, Identity},
        msgpack,
        record::{Geo, Latency, Network},
        recorder::{ApiRecorder, HUNDRED_YEARS_S},
        ring::Nothing,
    },
    http::h1::Method,
    mailbox::Filler,
};

/// What the records of an API have in common.
#[derive(Debug)]
pub(super) struct ApiRuns {
    /// From the begin of a record to the name of `Path`, by [`Method`].
    begins: [Begin; METHODS.len()],
    nobody: KeyRuns,
}

/// The begin of a record.
#[derive(Debug)]
struct Begin {
    text: Box<[u8]>,
    /// The same and zeros, to be copied in one piece; `None` where it is too long for that.
    padded: Option<Box<[u8; BEGIN_ROOM]>>,
}

/// Enough for a host of 60 characters.
const BEGIN_ROOM: usize = 96;

/// In the order of [`Method`], which has a last one for all others.
const METHODS: [(Method, &[u8]); 8] = [
    (Method::Get, b"GET"),
    (Method::Head, b"HEAD"),
    (Method::Post, b"POST"),
    (Method::Put, b"PUT"),
    (Method::Patch, b"PATCH"),
    (Method::Delete, b"DELETE"),
    (Method::Options, b"OPTIONS"),
    (Method::Trace, b"TRACE"),
];

const _: () = {
    let [(first, _), .., (last, _)] = METHODS;
    assert!(first as usize == 0 && last as usize + 1 == METHODS.len());
    assert!(Method::Other as usize == METHODS.len());
};

/// What the records of a key at one API have in common, with room for their times.
#[derive(Debug)]
pub struct KeyRuns {
    /// Never given twice, and never 0.
    number: u64,
    /// The number of the API's recorder.
    api: u64,
    /// From `APIKey` to the name of `RequestTime`.
    middle: Box<[u8]>,
    /// Where in it the time stands.
    time_at: usize,
    /// From `Tags` to the end of the record.
    end: Box<[u8]>,
    /// Where in it the expiry stands.
    expiry_at: usize,
    expire_after_s: u64,
}

/// Seconds of `TimeStamp`: no other form is needed from 1970 to 2106.
const SECONDS: std::ops::Range<u64> = 0x1_0000..0x1_0000_0000;

/// Seconds and nanoseconds behind the head of their list, where neither is small.
const TIME_BYTES: usize = 10;
/// The same with seconds beyond 2106.
const LONG_TIME_BYTES: usize = 14;

/// Room for them, with the codes of their numbers.
const TIME: [u8; TIME_BYTES] = [0xce, 0, 0, 0, 0, 0xce, 0, 0, 0, 0];
const LONG_TIME: [u8; LONG_TIME_BYTES] = [0xcf, 0, 0, 0, 0, 0, 0, 0, 0, 0xce, 0, 0, 0, 0];

impl ApiRuns {
    pub(super) fn new(api: &ApiRecorder) -> Option<Self> {
        Some(Self {
            begins: METHODS.map(|(_, method)| Begin::of(api, method)),
            nobody: KeyRuns::of(api, &api.nobody())?,
        })
    }

    /// From the begin of a record to the name of `Path`; `None` for a rare method.
    #[inline]
    fn begin(&self, method: Method) -> Option<&Begin> {
        self.begins.get(method as usize)
    }

    /// Who is recorded where there is no session.
    #[inline]
    pub(super) fn nobody(&self) -> &KeyRuns {
        &self.nobody
    }

    /// Who is recorded; `None` for a hit that must go the long way.
    #[inline]
    pub(super) fn who<'a>(&'a self, api: &ApiRecorder, hit: &Hit<'a>) -> Option<&'a KeyRuns> {
        let needs_more = hit.tracked_path.is_some()
            | hit.is_cached
            | hit.expire_after_s.is_some()
            | !hit.version.is_empty()
            | !hit.raw_request.is_empty()
            | !hit.raw_response.is_empty();
        if needs_more {
            return None;
        }
        match (hit.identity, hit.key) {
            (None, _) => Some(&self.nobody),
            (Some(_), Some(key)) if key.is_of(api) => Some(key),
            _ => None,
        }
    }

    /// What the record takes at most.
    #[inline]
    pub(super) fn bytes_max(&self, key: &KeyRuns, hit: &Hit<'_>) -> usize {
        let begin = self.begin(Method::Get).map_or(0, |begin| begin.text.len());
        FIXED_BYTES_MAX
            + (begin + key.middle.len() + key.end.len())
            + (hit.method.len() + hit.host.map_or(0, <[u8]>::len))
            + (2 * hit.path.len() + hit.user_agent.len())
    }
}

impl Begin {
    fn of(api: &ApiRecorder, method: &[u8]) -> Self {
        let mut text = BEGIN.to_vec();
        msgpack::text(&mut text, method);
        msgpack::host(&mut text, api.host());
        let mut padded = text.clone();
        padded.resize(BEGIN_ROOM.max(text.len()), 0);
        Self {
            text: text.into(),
            padded: padded.into_boxed_slice().try_into().ok(),
        }
    }
}

impl KeyRuns {
    /// Whether they were made for the records of that API as it is now.
    #[inline]
    pub(super) fn is_of(&self, api: &ApiRecorder) -> bool {
        self.api == api.number()
    }

    /// `None` where the records of the key go the long way.
    #[must_use]
    pub fn new(api: &ApiRecorder, identity: &Identity) -> Option<Self> {
        api.runs()?;
        Self::of(api, &Identified::read(identity.bytes()))
    }

    fn of(api: &ApiRecorder, who: &Identified<'_>) -> Option<Self> {
        let mut middle = Vec::new();
        msgpack::key(&mut middle, who.key);
        let time_at = middle.len();
        middle.extend_from_slice(&TIME);
        middle.extend_from_slice(api.unversioned());
        msgpack::oauth(&mut middle, who.oauth_id);
        let mut end = Vec::new();
        let mut tags = Vec::new();
        api.add_tags(who, [], false, &mut tags);
        msgpack::tagged(&mut end, &tags, who.alias, false);
        let expiry_at = end.len();
        let expire_after_s = api.expire_after_s();
        match expire_after_s {
            HUNDRED_YEARS_S => end.extend_from_slice(&LONG_TIME),
            1..ONE_YEAR_S => end.extend_from_slice(&TIME),
            _ => return None,
        }
        msgpack::end(&mut end, b"");
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        Some(Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            api: api.number(),
            middle: middle.into(),
            time_at,
            end: end.into(),
            expiry_at,
            expire_after_s: expire_after_s as u64,
        })
    }
}

/// The begin of a record, to the name of `Method`.
const BEGIN: &[u8] = b"\xde\x00\x20\xa6Method";

/// Where in the end of a record something stands that changes.
#[derive(Debug, Clone, Copy, Default)]
struct Places {
    user_agent: u32,
    time: u32,
    request_time: u32,
    latency: u32,
    expiry: u32,
}

/// A connection's last records from `UserAgent` on, which is mostly the next one's as well: a client
/// shows the same key and name again.
#[derive(Debug, Default)]
pub struct Tail {
    /// Of the record in `bytes`.
    of: Likeness,
    bytes: Vec<u8>,
    places: Places,
    expire_after_s: u64,
    /// What the last record went by that was not written from here.
    seen: Likeness,
}

/// What two records have in common that have the same tail, beside the text of `UserAgent`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Likeness {
    /// The number of the runs, 0 for none.
    key: u64,
    hour_began_ms: u64,
    user_agent_bytes: u32,
    /// `None` for the peer's.
    told_ip: Option<IpAddr>,
    status: u16,
}

impl Tail {
    #[inline(always)]
    fn is_that_of(&self, hour_began_ms: u64, key: &KeyRuns, again: &impl Again) -> bool {
        let user_agent = part(
            &self.bytes,
            self.places.user_agent,
            self.of.user_agent_bytes,
        );
        self.of.key == key.number
            && self.of.hour_began_ms == hour_began_ms
            && self.of.status == again.status()
            && self.of.told_ip == again.told_ip()
            && user_agent == again.user_agent()
    }

    /// Puts what differs into a copy of `bytes`.
    #[inline(always)]
    fn put_times(&self, copy: &mut [u8], at: Moment, latency: Latency) -> Option<()> {
        let places = self.places;
        put_time(place_of(copy, places.time)?, at.seconds, at.nanoseconds);
        *place_of(copy, places.request_time)? = [latency.total as u8];
        let both: &mut [u8; 11] = place_of(copy, places.latency)?;
        both[0] = latency.total as u8;
        both[10] = latency.upstream as u8;
        put_expiry(copy, places.expiry, self.expire_after_s, at)
    }

    /// Keeps what was written, once it was the same twice.
    #[inline(never)]
    fn learn(
        &mut self,
        writer: &Writer,
        key: &KeyRuns,
        hit: &Hit<'_>,
        places: &Places,
        bytes: &[u8],
    ) {
        let likeness = Likeness {
            key: key.number,
            hour_began_ms: writer.hour_began_ms,
            user_agent_bytes: hit.user_agent.len() as u32,
            told_ip: (!hit.is_peers_ip).then_some(hit.ip),
            status: hit.status,
        };
        if self.seen != likeness {
            self.seen = likeness;
        } else if hit.latency.total | hit.latency.upstream < 0x80 {
            self.of = likeness;
            self.bytes.clear();
            self.bytes.extend_from_slice(bytes);
            self.places = *places;
            self.expire_after_s = key.expire_after_s;
        }
    }
}

/// A request whose record may have the tail of its connection's last one. What is not asked for is
/// not looked up, and what is asked for late need not be kept at hand till then.
pub trait Again {
    fn method(&self) -> Method;
    /// From the path on. What stands behind it in the same buffer is not recorded, but lets the path
    /// be copied without asking for its length.
    fn path_and_behind(&self) -> &[u8];
    /// As many of these are the path.
    fn path_bytes(&self) -> usize;
    /// As [`Hit::content_length`].
    fn content_length(&self) -> i64;
    fn user_agent(&self) -> &[u8];
    fn status(&self) -> u16;
    /// `None` for the peer's, which stays the same as long as the connection.
    fn told_ip(&self) -> Option<IpAddr>;
    /// When the record is written, in microseconds since 1970.
    fn unix_us(&self) -> u64;
    fn total_us(&self) -> u64;
    fn upstream_us(&self) -> u64;
}

impl Again for Hit<'_> {
    fn method(&self) -> Method {
        let known = METHODS.iter().find(|(_, text)| *text == self.method);
        known.map_or(Method::Other, |(method, _)| *method)
    }

    fn path_and_behind(&self) -> &[u8] {
        self.path
    }

    fn path_bytes(&self) -> usize {
        self.path.len()
    }

    fn content_length(&self) -> i64 {
        self.content_length
    }

    fn user_agent(&self) -> &[u8] {
        self.user_agent
    }

    fn status(&self) -> u16 {
        self.status
    }

    fn told_ip(&self) -> Option<IpAddr> {
        (!self.is_peers_ip).then_some(self.ip)
    }

    fn unix_us(&self) -> u64 {
        self.timestamp_ms.saturating_mul(1000)
    }

    fn total_us(&self) -> u64 {
        u64::from(self.latency.total) * 1000
    }

    fn upstream_us(&self) -> u64 {
        u64::from(self.latency.upstream) * 1000
    }
}

/// Microseconds of a latency that takes one byte.
const LATENCY_US: u64 = 128_000;

/// When a record is written.
#[derive(Clone, Copy)]
struct Moment {
    seconds: u32,
    nanoseconds: u32,
}

const ONE_YEAR_S: i64 = 365 * 24 * 3600;

/// Names, numbers, heads of texts, hour, address and what follows it: more than they ever take
/// together.
const FIXED_BYTES_MAX: usize = 512;

/// And what they take mostly.
const USUAL_BYTES: usize = 313;

/// Before a record of three digits' length: `$735\r\n`.
const HEAD_BYTES: usize = 6;
/// What is written for it, the begin of the record being written over the rest.
const HEAD_ROOM: usize = 8;

const RAW_PATH: &[u8; 8] = b"\xa7RawPath";
const CONTENT_LENGTH: &[u8; 14] = b"\xadContentLength";

/// Behind a record.
const END: &[u8; 2] = b"\r\n";

/// `Day` to the name of `ResponseCode`.
const HOUR_BYTES: usize = 39;
const HOUR_MS: u64 = 3_600_000;

/// Addresses whose run is kept: two to this power.
const ADDRESSES_LOG2: u32 = 6;

/// A shard's part: runs that depend on the time, and on who asks.
pub(super) struct Writer {
    /// [`NEVER`] before the first record.
    hour_began_ms: u64,
    /// From `Day` to the name of `ResponseCode`.
    hour: [u8; HOUR_BYTES],
    /// The second of the last record that was written again. It lies in the hour.
    second_began_us: u64,
    second: u32,
    addresses: Box<[Address]>,
    /// What stands before a record of `head_of` bytes, and how many bytes that has.
    head: [u8; HEAD_ROOM],
    head_of: usize,
    head_bytes: usize,
}

/// No hour and no second of ours begins then.
const NEVER: u64 = u64::MAX / 2;

#[derive(Clone, Default)]
struct Address {
    ip: Option<IpAddr>,
    /// From `RawRequest` to the name of `Latency.Total`.
    run: Box<[u8]>,
}

/// The begin of a place for a record: room for all that stands before a [`Tail`]. Pieces are put at
/// offsets below [`Front::OFFSETS`], so the compiler sees that each lies within it.
struct Front<'a>(&'a mut [u8; Front::BYTES]);

/// Paths of as many bytes or more do not come into a [`Front`].
const PATH_BYTES: usize = 0x100;

/// Paths up to this are copied in one piece, without asking for their length.
const SHORT_PATH: usize = 32;

const _: () = {
    let paths = 2 * (2 + PATH_BYTES);
    let names = RAW_PATH.len() + CONTENT_LENGTH.len();
    assert!(HEAD_BYTES + 1 + BEGIN_ROOM + paths + names < Front::OFFSETS);
    assert!(BEGIN_ROOM >= SHORT_PATH && BEGIN_ROOM > 9);
};

impl Front<'_> {
    /// A power of two.
    const OFFSETS: usize = 1024;
    const BYTES: usize = Self::OFFSETS + BEGIN_ROOM;

    #[inline(always)]
    fn put<const N: usize>(&mut self, at: usize, piece: [u8; N]) {
        const { assert!(N <= BEGIN_ROOM) };
        let rest = self.0.get_mut(at % Self::OFFSETS..).unwrap_or_default();
        if let Some(place) = rest.first_chunk_mut() {
            *place = piece;
        }
    }

    #[inline(always)]
    fn put_path(&mut self, at: usize, from: &[u8], bytes: usize) -> Option<()> {
        match from.first_chunk::<SHORT_PATH>() {
            Some(piece) if bytes <= SHORT_PATH => self.put(at, *piece),
            _ => self.put_long_path(at, from.get(..bytes)?)?,
        }
        Some(())
    }

    /// Apart, for the compiler would make one copy of a length to be asked for of both.
    #[inline(never)]
    fn put_long_path(&mut self, at: usize, path: &[u8]) -> Option<()> {
        self.0.get_mut(at..at + path.len())?.copy_from_slice(path);
        Some(())
    }

    #[cold]
    fn put_large_uint(&mut self, at: usize, value: u64) -> Option<()> {
        large_uint(self.0.get_mut(at..)?, value).map(|_| ())
    }
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            hour_began_ms: NEVER,
            hour: [0; HOUR_BYTES],
            second_began_us: NEVER,
            second: 0,
            head: [0; HEAD_ROOM],
            head_of: 0,
            head_bytes: 0,
            addresses: vec![Address::default(); 1 << ADDRESSES_LOG2].into(),
        }
    }
}

impl Writer {
    /// Adds a record that has a tail which is known already. `None` when it has another, or when it
    /// differs in its form: then nothing was added.
    #[inline(always)]
    pub(super) fn write_again(
        &mut self,
        api: &ApiRuns,
        key: &KeyRuns,
        tail: &Tail,
        again: &impl Again,
        records: &mut Filler<Nothing>,
    ) -> Option<()> {
        let unix_us = again.unix_us();
        if unix_us.wrapping_sub(self.second_began_us) >= 1_000_000 {
            self.turn_second(unix_us)?;
        }
        if !tail.is_that_of(self.hour_began_ms, key, again) {
            return None;
        }
        let ms = unix_us.wrapping_sub(self.second_began_us) as u32 / 1000;
        let (total_us, upstream_us) = (again.total_us(), again.upstream_us());
        if ms == 0 || total_us >= LATENCY_US || upstream_us >= LATENCY_US {
            return None;
        }
        let at_time = Moment {
            seconds: self.second,
            nanoseconds: ms * 1_000_000,
        };
        let latency = Latency {
            total: total_us as u32 / 1000,
            upstream: upstream_us as u32 / 1000,
        };
        let begin = api.begin(again.method())?;
        let begin_bytes = begin.text.len();
        let begin = begin.padded.as_deref()?;
        let (from_path, path_bytes) = (again.path_and_behind(), again.path_bytes());
        if from_path.first() != Some(&b'/') {
            return None;
        }
        let (path_head, path_head_bytes) = match path_bytes {
            0..0x20 => ([0xa0 | path_bytes as u8, 0], 1),
            0x20..PATH_BYTES => ([0xd9, path_bytes as u8], 2),
            _ => return None,
        };
        let content_length = again.content_length();
        let length_bytes = match content_length {
            -1..0x80 => 1,
            length => large_uint_bytes(length)?,
        };
        let text_bytes = path_head_bytes + path_bytes;
        let front_bytes =
            begin_bytes + 2 * text_bytes + (RAW_PATH.len() + CONTENT_LENGTH.len() + length_bytes);
        let bytes = front_bytes + tail.bytes.len();
        self.turn_head(bytes - END.len())?;
        let all_bytes = self.head_bytes + bytes;
        let place = records.place_within(all_bytes.max(Front::BYTES))?;
        // What is too much of each is written over by the next.
        let front = &mut Front(place.first_chunk_mut()?);
        let mut at = 0;
        front.put(at, self.head);
        at += self.head_bytes;
        front.put(at, *begin);
        at += begin_bytes;
        front.put(at, path_head);
        front.put_path(at + path_head_bytes, from_path, path_bytes)?;
        at += text_bytes;
        front.put(at, *RAW_PATH);
        at += RAW_PATH.len();
        front.put(at, path_head);
        front.put_path(at + path_head_bytes, from_path, path_bytes)?;
        at += text_bytes;
        front.put(at, *CONTENT_LENGTH);
        at += CONTENT_LENGTH.len();
        front.put(at, [content_length as u8]);
        if length_bytes > 1 {
            front.put_large_uint(at, content_length as u64)?;
        }
        let copy = place.get_mut(at + length_bytes..all_bytes)?;
        copy.copy_from_slice(&tail.bytes);
        tail.put_times(copy, at_time, latency)?;
        records.take_in(all_bytes);
        Some(())
    }

    /// Writes a record as [`Records`](crate::storage::Records) have it and returns how many bytes that
    /// took. `None` when it has no room or must go the long way.
    #[inline(never)]
    pub(super) fn write(
        &mut self,
        api: &ApiRuns,
        key: &KeyRuns,
        hit: &Hit<'_>,
        place: &mut [u8],
    ) -> Option<usize> {
        if !self.is_hour_of(hit.timestamp_ms) {
            self.turn_hour(hit.timestamp_ms)?;
        }
        let ms = (hit.timestamp_ms % 1000) as u32;
        let at = Moment {
            seconds: (hit.timestamp_ms / 1000) as u32,
            nanoseconds: ms * 1_000_000,
        };
        // How many digits the length has is known for sure when it is too late.
        let head = match place.len() < FIXED_BYTES_MAX - USUAL_BYTES + 1000 {
            true => HEAD_BYTES,
            false => HEAD_BYTES + 1,
        };
        let rest = place.get_mut(head..)?;
        let room = rest.len();
        let rest = begin(rest, api, hit)?;
        let is_rooted = hit.path.first() == Some(&b'/');
        let rest = path(rest, hit.path, is_rooted)?;
        let rest = put(rest, RAW_PATH)?;
        let rest = path(rest, hit.path, is_rooted)?;
        let rest = put(rest, CONTENT_LENGTH)?;
        let rest = match hit.content_length {
            length @ 0.. => uint(rest, length as u64)?,
            -1 => put(rest, &[0xff])?,
            _ => return None,
        };
        let (mut left, places) = self.end(rest, key, hit, at)?;
        let bytes = rest.len() - left;
        if ms == 0 {
            left += shorten(rest.get_mut(..bytes)?, key, &places)?;
        } else if let Some(tail) = hit.tail {
            let mut tail = tail.try_borrow_mut().ok()?;
            tail.learn(self, key, hit, &places, rest.get(..bytes)?);
        }
        self.put_head(place, head, room - left - END.len())
    }

    /// Writes the record from `UserAgent` on, and `\r\n`. Returns what is left then, and where things
    /// stand that change.
    #[inline(never)]
    fn end(
        &mut self,
        rest: &mut [u8],
        key: &KeyRuns,
        hit: &Hit<'_>,
        at: Moment,
    ) -> Option<(usize, Places)> {
        let room = rest.len();
        let rest = put(rest, b"\xa9UserAgent")?;
        let rest = text_head(rest, hit.user_agent.len())?;
        let user_agent = room - rest.len();
        let (_, rest) = run(rest, hit.user_agent)?;
        let rest = put(rest, &self.hour)?;
        let rest = status(rest, hit.status)?;
        let time = room - rest.len() + key.time_at;
        let (middle, rest) = run(rest, &key.middle)?;
        put_time(
            place_of(middle, key.time_at as u32)?,
            at.seconds,
            at.nanoseconds,
        );
        let request_time = room - rest.len();
        let rest = uint(rest, hit.latency.total.into())?;
        let (_, rest) = run(rest, &self.address(hit.ip)?.run)?;
        let latency_at = room - rest.len();
        let rest = latency(rest, hit.latency)?;
        let expiry = room - rest.len() + key.expiry_at;
        let (end, rest) = run(rest, &key.end)?;
        put_expiry(end, key.expiry_at as u32, key.expire_after_s, at)?;
        let rest = put(rest, END)?;
        // Records of the short way have less than 10,000 bytes.
        let places = Places {
            user_agent: user_agent as u32,
            time: time as u32,
            request_time: request_time as u32,
            latency: latency_at as u32,
            expiry: expiry as u32,
        };
        Some((rest.len(), places))
    }

    /// Puts the length of a record before it, which begins at `head`, and has it begin right behind.
    /// Returns where it ends.
    fn put_head(&mut self, place: &mut [u8], head: usize, bytes: usize) -> Option<usize> {
        self.turn_head(bytes)?;
        let right_head = self.head_bytes;
        if head != right_head {
            place.copy_within(head..head + bytes + END.len(), right_head);
        }
        let text = self.head.get(..right_head)?;
        place.get_mut(..right_head)?.copy_from_slice(text);
        Some(right_head + bytes + END.len())
    }

    /// Records of one client have mostly the same length.
    #[inline(always)]
    fn turn_head(&mut self, bytes: usize) -> Option<()> {
        match bytes == self.head_of {
            true => Some(()),
            false => self.turn_other_head(bytes),
        }
    }

    #[inline(never)]
    fn turn_other_head(&mut self, bytes: usize) -> Option<()> {
        if !(100..10_000).contains(&bytes) {
            return None;
        }
        let [a, b, c, d] = [1000, 100, 10, 1].map(|of| b'0' + (bytes as u32 / of % 10) as u8);
        self.head_of = bytes;
        if bytes < 1000 {
            self.head_bytes = HEAD_BYTES;
            self.head = [b'$', b, c, d, b'\r', b'\n', 0, 0];
        } else {
            self.head_bytes = HEAD_BYTES + 1;
            self.head = [b'$', a, b, c, d, b'\r', b'\n', 0];
        }
        Some(())
    }

    #[inline]
    fn is_hour_of(&self, ms: u64) -> bool {
        ms.wrapping_sub(self.hour_began_ms) < HOUR_MS
    }

    /// `None` for a time that is none of ours: its numbers have other lengths.
    #[cold]
    fn turn_hour(&mut self, ms: u64) -> Option<()> {
        let began = ms / HOUR_MS * HOUR_MS;
        let (first, last) = (began / 1000, began.saturating_add(HOUR_MS - 1000) / 1000);
        if !SECONDS.contains(&first) || !SECONDS.contains(&last) {
            return None;
        }
        let mut run = Vec::new();
        msgpack::hour(&mut run, began / HOUR_MS);
        self.hour = run.try_into().ok()?;
        self.hour_began_ms = began;
        self.second_began_us = NEVER;
        Some(())
    }

    #[cold]
    fn turn_second(&mut self, unix_us: u64) -> Option<()> {
        if !self.is_hour_of(unix_us / 1000) {
            self.turn_hour(unix_us / 1000)?;
        }
        let seconds = unix_us / 1_000_000;
        self.second = u32::try_from(seconds).ok()?;
        self.second_began_us = seconds * 1_000_000;
        Some(())
    }

    #[inline(always)]
    fn address(&mut self, ip: IpAddr) -> Option<&Address> {
        let number = match ip {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64 ^ ip.to_bits() as u64,
        };
        // Fibonacci hashing: neighbours fall into places of their own.
        let place = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - ADDRESSES_LOG2);
        let address = self.addresses.get_mut(place as usize)?;
        if address.ip != Some(ip) {
            address.turn(ip);
        }
        Some(address)
    }
}

impl Address {
    #[cold]
    fn turn(&mut self, ip: IpAddr) {
        let mut text = String::new();
        write_ip(&mut text, ip);
        let mut run = Vec::new();
        msgpack::raw(&mut run, b"", b"");
        msgpack::address(&mut run, text.as_bytes());
        msgpack::place(&mut run, &Geo::default(), Network::default());
        self.run = run.into();
        self.ip = Some(ip);
    }
}

/// As [`put_time`], so many seconds later.
#[inline(always)]
fn put_expiry(bytes: &mut [u8], at: u32, expire_after_s: u64, time: Moment) -> Option<()> {
    let expires = u64::from(time.seconds) + expire_after_s;
    if expire_after_s == HUNDRED_YEARS_S as u64 {
        let place: &mut [u8; LONG_TIME_BYTES] = place_of(bytes, at)?;
        place[1..9].copy_from_slice(&expires.to_be_bytes());
        place[10..].copy_from_slice(&time.nanoseconds.to_be_bytes());
        return Some(());
    }
    let expires = u32::try_from(expires).ok()?;
    put_time(place_of(bytes, at)?, expires, time.nanoseconds);
    Some(())
}

/// Seconds and nanoseconds; the codes before them stand there already.
#[inline(always)]
fn put_time(place: &mut [u8; TIME_BYTES], seconds: u32, nanoseconds: u32) {
    place[1..5].copy_from_slice(&seconds.to_be_bytes());
    place[6..].copy_from_slice(&nanoseconds.to_be_bytes());
}

#[inline(always)]
fn place_of<const N: usize>(bytes: &mut [u8], at: u32) -> Option<&mut [u8; N]> {
    let at = at as usize;
    bytes.get_mut(at..at + N)?.first_chunk_mut()
}

#[inline(always)]
fn part(bytes: &[u8], at: u32, length: u32) -> &[u8] {
    let at = at as usize;
    bytes.get(at..at + length as usize).unwrap_or_default()
}

// Each of these writes at the begin of what is left and returns what is left then. `None`: the end.

#[inline(always)]
fn put<'a, const N: usize>(rest: &'a mut [u8], bytes: &[u8; N]) -> Option<&'a mut [u8]> {
    let (place, rest) = rest.split_first_chunk_mut()?;
    *place = *bytes;
    Some(rest)
}

/// Returns what was written as well, for times to be put into it.
#[inline(always)]
fn run<'a>(rest: &'a mut [u8], bytes: &[u8]) -> Option<(&'a mut [u8], &'a mut [u8])> {
    let (place, rest) = rest.split_at_mut_checked(bytes.len())?;
    place.copy_from_slice(bytes);
    Some((place, rest))
}

/// A path with its leading `/`.
#[inline(always)]
fn path<'a>(rest: &'a mut [u8], path: &[u8], is_rooted: bool) -> Option<&'a mut [u8]> {
    let mut rest = text_head(rest, path.len() + usize::from(!is_rooted))?;
    if !is_rooted {
        rest = put(rest, b"/")?;
    }
    Some(run(rest, path)?.1)
}

#[inline(always)]
fn text_head(rest: &mut [u8], length: usize) -> Option<&mut [u8]> {
    match length {
        0..0x20 => put(rest, &[0xa0 | length as u8]),
        0x20..0x100 => put(rest, &[0xd9, length as u8]),
        _ => long_text_head(rest, length),
    }
}

#[inline(never)]
fn long_text_head(rest: &mut [u8], length: usize) -> Option<&mut [u8]> {
    // No record of the short way has a longer one.
    let [a, b] = u16::try_from(length).ok()?.to_be_bytes();
    put(rest, &[0xda, a, b])
}

#[inline(always)]
fn uint(rest: &mut [u8], value: u64) -> Option<&mut [u8]> {
    match value {
        0..0x80 => put(rest, &[value as u8]),
        _ => large_uint(rest, value),
    }
}

#[inline(always)]
fn status(rest: &mut [u8], code: u16) -> Option<&mut [u8]> {
    let [a, b] = code.to_be_bytes();
    match code {
        0x80..0x100 => put(rest, &[0xcc, b]),
        0x100.. => put(rest, &[0xcd, a, b]),
        _ => put(rest, &[b]),
    }
}

/// From the value of `Latency.Total` to that of `Latency.Upstream`.
#[inline(always)]
fn latency(rest: &mut [u8], latency: Latency) -> Option<&mut [u8]> {
    if latency.total | latency.upstream < 0x80 {
        let mut both = *b"\0\xa8Upstream\0";
        both[0] = latency.total as u8;
        both[10] = latency.upstream as u8;
        return put(rest, &both);
    }
    let rest = uint(rest, latency.total.into())?;
    uint(put(rest, b"\xa8Upstream")?, latency.upstream.into())
}

#[inline(never)]
fn large_uint(rest: &mut [u8], value: u64) -> Option<&mut [u8]> {
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    match value {
        0..0x100 => put(rest, &[0xcc, h]),
        0x100..0x1_0000 => put(rest, &[0xcd, g, h]),
        0x1_0000..0x1_0000_0000 => put(rest, &[0xce, e, f, g, h]),
        _ => put(rest, &[0xcf, a, b, c, d, e, f, g, h]),
    }
}

/// What [`large_uint`] takes; `None` for less than zero.
#[cold]
fn large_uint_bytes(value: i64) -> Option<usize> {
    match value {
        0x80..0x100 => Some(2),
        0x100..0x1_0000 => Some(3),
        0x1_0000..0x1_0000_0000 => Some(5),
        0x1_0000_0000.. => Some(9),
        _ => None,
    }
}

/// A record up to the name of `Path`.
fn begin<'a>(rest: &'a mut [u8], api: &ApiRuns, hit: &Hit<'_>) -> Option<&'a mut [u8]> {
    let get = &*api.begin(Method::Get)?.text;
    if hit.method == b"GET" && hit.host.is_none() {
        return Some(run(rest, get)?.1);
    }
    let rest = run(rest, BEGIN)?.1;
    let rest = text_head(rest, hit.method.len())?;
    let (_, rest) = run(rest, hit.method)?;
    let Some(host) = hit.host else {
        return Some(run(rest, get.get(BEGIN.len() + b"\xa3GET".len()..)?)?.1);
    };
    let rest = put(rest, b"\xa4Host")?;
    let rest = text_head(rest, host.len())?;
    put(run(rest, host)?.1, b"\xa4Path")
}

/// Gives both moments of a record from `UserAgent` on their shorter form: no nanoseconds are a small
/// number. Returns by how many bytes that made it shorter; what stands behind them is not moved.
#[cold]
fn shorten(record: &mut [u8], key: &KeyRuns, places: &Places) -> Option<usize> {
    const NUMBER_BYTES: usize = 5;
    let expiry_bytes = match key.expire_after_s == HUNDRED_YEARS_S as u64 {
        true => LONG_TIME_BYTES,
        false => TIME_BYTES,
    };
    // The later one first: the place of the other stays.
    for (at, bytes) in [(places.expiry, expiry_bytes), (places.time, TIME_BYTES)] {
        let behind = at as usize + bytes;
        let number = behind - NUMBER_BYTES;
        *record.get_mut(number)? = 0;
        record.get(behind..)?;
        record.copy_within(behind.., number + 1);
    }
    Some(2 * (NUMBER_BYTES - 1))
}
