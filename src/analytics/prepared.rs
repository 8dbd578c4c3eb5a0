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
//! rare: a request in the first millisecond of a second, whose time has another length, and a record
//! beyond 9,999 bytes.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::analytics::{
    assemble::write_ip,
    hit::{Hit, Identified, Identity},
    msgpack,
    record::{Geo, Latency, Network},
    recorder::{ApiRecorder, HUNDRED_YEARS_S},
};

/// What the records of an API have in common.
#[derive(Debug)]
pub(super) struct ApiRuns {
    /// From the begin of a `GET`'s record to the name of `Path`.
    get: Box<[u8]>,
    nobody: KeyRuns,
}

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
    expire_after_s: i64,
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
        let mut get = GET.to_vec();
        msgpack::host(&mut get, api.host());
        Some(Self {
            get: get.into(),
            nobody: KeyRuns::of(api, &api.nobody())?,
        })
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
            (Some(_), Some(key)) if key.api == api.number() => Some(key),
            _ => None,
        }
    }

    /// What the record takes at most.
    #[inline]
    pub(super) fn bytes_max(&self, key: &KeyRuns, hit: &Hit<'_>) -> usize {
        FIXED_BYTES_MAX
            + (self.get.len() + key.middle.len() + key.end.len())
            + (hit.method.len() + hit.host.map_or(0, <[u8]>::len))
            + (2 * hit.path.len() + hit.user_agent.len())
    }
}

impl KeyRuns {
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
            expire_after_s,
        })
    }
}

/// The begin of a record of most requests.
const GET: &[u8] = b"\xde\x00\x20\xa6Method\xa3GET";

impl KeyRuns {
    #[inline(always)]
    fn put_expiry(&self, place: &mut [u8], seconds: u64, nanoseconds: u32) -> Option<()> {
        let expires = seconds + self.expire_after_s as u64;
        if self.expire_after_s == HUNDRED_YEARS_S {
            let place: &mut [u8; LONG_TIME_BYTES] = place.first_chunk_mut()?;
            place[1..9].copy_from_slice(&expires.to_be_bytes());
            place[10..].copy_from_slice(&nanoseconds.to_be_bytes());
            return Some(());
        }
        put_time(place, u32::try_from(expires).ok()?, nanoseconds)
    }
}

/// Where in the end of a record something stands that changes.
#[derive(Debug, Clone, Copy, Default)]
struct Places {
    user_agent: usize,
    time: usize,
    request_time: usize,
    latency: usize,
    expiry: usize,
}

/// A connection's last record from `UserAgent` on, which is mostly the next one's as well: a client
/// shows the same key and name again.
#[derive(Debug, Default)]
pub struct Tail {
    /// What it goes by: the number of the runs, 0 for none.
    key: u64,
    ip: Option<IpAddr>,
    status: u16,
    hour_began_ms: u64,
    user_agent_bytes: usize,
    /// Empty until the same comes a second time.
    bytes: Vec<u8>,
    places: Places,
}

impl Tail {
    #[inline(always)]
    fn is_that_of(&self, writer: &Writer, key: &KeyRuns, hit: &Hit<'_>) -> bool {
        self.key == key.number
            && self.status == hit.status
            && writer.hour_began_ms == Some(self.hour_began_ms)
            && self.user_agent_bytes == hit.user_agent.len()
            && hit.latency.total | hit.latency.upstream < 0x80
            && self.ip == Some(hit.ip)
            && self
                .bytes
                .get(self.places.user_agent..)
                .is_some_and(|rest| rest.starts_with(hit.user_agent) && !rest.is_empty())
    }

    /// Returns what is left then.
    #[inline(always)]
    fn put(
        &mut self,
        rest: &mut [u8],
        key: &KeyRuns,
        latency: Latency,
        seconds: u64,
        nanoseconds: u32,
    ) -> Option<usize> {
        let places = self.places;
        let (all, rest) = run(rest, &self.bytes)?;
        put_time(all.get_mut(places.time..)?, seconds as u32, nanoseconds)?;
        key.put_expiry(all.get_mut(places.expiry..)?, seconds, nanoseconds)?;
        *all.get_mut(places.request_time)? = latency.total as u8;
        let both: &mut [u8; 11] = all.get_mut(places.latency..)?.first_chunk_mut()?;
        both[0] = latency.total as u8;
        both[10] = latency.upstream as u8;
        Some(rest.len())
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
        let hour_began_ms = writer.hour_began_ms.unwrap_or_default();
        let is_known = self.key == key.number
            && self.status == hit.status
            && self.hour_began_ms == hour_began_ms
            && self.user_agent_bytes == hit.user_agent.len()
            && self.ip == Some(hit.ip);
        if !is_known {
            self.key = key.number;
            self.status = hit.status;
            self.hour_began_ms = hour_began_ms;
            self.user_agent_bytes = hit.user_agent.len();
            self.ip = Some(hit.ip);
            self.bytes.clear();
        } else if hit.latency.total | hit.latency.upstream < 0x80 {
            self.bytes.clear();
            self.bytes.extend_from_slice(bytes);
            self.places = *places;
        }
    }
}

const ONE_YEAR_S: i64 = 365 * 24 * 3600;

/// Names, numbers, heads of texts, hour, address and what follows it: more than they ever take
/// together.
const FIXED_BYTES_MAX: usize = 512;

/// And what they take mostly.
const USUAL_BYTES: usize = 313;

/// Before a record of three digits' length: `$735\r\n`.
const HEAD_BYTES: usize = 6;

/// `Day` to the name of `ResponseCode`.
const HOUR_BYTES: usize = 39;
const HOUR_MS: u64 = 3_600_000;

/// Addresses whose run is kept: two to this power.
const ADDRESSES_LOG2: u32 = 6;

/// A shard's part: runs that depend on the time, and on who asks.
pub(super) struct Writer {
    /// `None` before the first record.
    hour_began_ms: Option<u64>,
    /// From `Day` to the name of `ResponseCode`.
    hour: [u8; HOUR_BYTES],
    addresses: Box<[Address]>,
    /// What stands before a record of `head_of` bytes, and how many bytes that has.
    head: [u8; HEAD_BYTES + 1],
    head_of: usize,
    head_bytes: usize,
}

#[derive(Clone, Default)]
struct Address {
    ip: Option<IpAddr>,
    /// From `RawRequest` to the name of `Latency.Total`.
    run: Box<[u8]>,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            hour_began_ms: None,
            hour: [0; HOUR_BYTES],
            head: [0; HEAD_BYTES + 1],
            head_of: 0,
            head_bytes: 0,
            addresses: vec![Address::default(); 1 << ADDRESSES_LOG2].into(),
        }
    }
}

impl Writer {
    /// Writes a record as [`Records`](crate::storage::Records) have it and returns how many bytes that
    /// took. `None` when it has no room or must go the long way.
    #[inline]
    pub(super) fn write(
        &mut self,
        api: &ApiRuns,
        key: &KeyRuns,
        hit: &Hit<'_>,
        place: &mut [u8],
    ) -> Option<usize> {
        let seconds = hit.timestamp_ms / 1000;
        let ms = (hit.timestamp_ms % 1000) as u32;
        // Each thousandth record has fewer bytes than the runs have room for.
        if ms == 0 || !SECONDS.contains(&seconds) {
            return None;
        }
        if !self.is_hour_of(hit.timestamp_ms) {
            self.turn_hour(hit.timestamp_ms)?;
        }
        let nanoseconds = ms * 1_000_000;
        // How many digits the length has is known for sure when it is too late.
        let head = match place.len() < FIXED_BYTES_MAX - USUAL_BYTES + 1000 {
            true => HEAD_BYTES,
            false => HEAD_BYTES + 1,
        };
        let rest = place.get_mut(head..)?;
        let room = rest.len();
        let rest = match hit.method == b"GET" && hit.host.is_none() {
            true => run(rest, &api.get)?.1,
            false => other_begin(rest, api, hit)?,
        };
        let is_rooted = hit.path.first() == Some(&b'/');
        let rest = path(rest, hit.path, is_rooted)?;
        let rest = put(rest, b"\xa7RawPath")?;
        let rest = path(rest, hit.path, is_rooted)?;
        let rest = put(rest, b"\xadContentLength")?;
        let rest = match hit.content_length {
            length @ 0.. => uint(rest, length as u64)?,
            -1 => put(rest, &[0xff])?,
            _ => return None,
        };
        let left = match hit.tail {
            Some(tail) => {
                let mut tail = tail.try_borrow_mut().ok()?;
                match tail.is_that_of(self, key, hit) {
                    true => tail.put(rest, key, hit.latency, seconds, nanoseconds)?,
                    false => {
                        let (left, places) = self.end(rest, key, hit, seconds, nanoseconds)?;
                        tail.learn(self, key, hit, &places, rest.get(..rest.len() - left)?);
                        left
                    }
                }
            }
            None => self.end(rest, key, hit, seconds, nanoseconds)?.0,
        };
        self.put_head(place, head, room - left - 2)
    }

    /// Writes the record from `UserAgent` on, and `\r\n`. Returns what is left then, and where things
    /// stand that change.
    #[inline(never)]
    fn end(
        &mut self,
        rest: &mut [u8],
        key: &KeyRuns,
        hit: &Hit<'_>,
        seconds: u64,
        nanoseconds: u32,
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
        put_time(middle.get_mut(key.time_at..)?, seconds as u32, nanoseconds)?;
        let request_time = room - rest.len();
        let rest = uint(rest, hit.latency.total.into())?;
        let (_, rest) = run(rest, &self.address(hit.ip)?.run)?;
        let latency_at = room - rest.len();
        let rest = latency(rest, hit.latency)?;
        let expiry = room - rest.len() + key.expiry_at;
        let (end, rest) = run(rest, &key.end)?;
        key.put_expiry(end.get_mut(key.expiry_at..)?, seconds, nanoseconds)?;
        let rest = put(rest, b"\r\n")?;
        let places = Places {
            user_agent,
            time,
            request_time,
            latency: latency_at,
            expiry,
        };
        Some((rest.len(), places))
    }

    /// Puts the length of a record before it, which begins at `head`, and has it begin right behind.
    /// Returns where it ends.
    #[inline(always)]
    fn put_head(&mut self, place: &mut [u8], head: usize, bytes: usize) -> Option<usize> {
        if bytes != self.head_of {
            self.turn_head(bytes)?;
        }
        let right_head = self.head_bytes;
        if head != right_head {
            place.copy_within(head..head + bytes + 2, right_head);
        }
        if right_head == HEAD_BYTES {
            *place.first_chunk_mut::<HEAD_BYTES>()? = *self.head.first_chunk()?;
        } else {
            *place.first_chunk_mut()? = self.head;
        }
        Some(right_head + bytes + 2)
    }

    /// Records of one client have mostly the same length.
    #[inline(never)]
    fn turn_head(&mut self, bytes: usize) -> Option<()> {
        if !(100..10_000).contains(&bytes) {
            return None;
        }
        let [a, b, c, d] = [1000, 100, 10, 1].map(|of| b'0' + (bytes as u32 / of % 10) as u8);
        self.head_of = bytes;
        if bytes < 1000 {
            self.head_bytes = HEAD_BYTES;
            self.head = [b'$', b, c, d, b'\r', b'\n', 0];
        } else {
            self.head_bytes = HEAD_BYTES + 1;
            self.head = [b'$', a, b, c, d, b'\r', b'\n'];
        }
        Some(())
    }

    #[inline]
    fn is_hour_of(&self, ms: u64) -> bool {
        self.hour_began_ms
            .is_some_and(|began| ms.wrapping_sub(began) < HOUR_MS)
    }

    /// `None` for a time that is none of ours: its numbers have other lengths.
    #[cold]
    fn turn_hour(&mut self, ms: u64) -> Option<()> {
        let began = ms / HOUR_MS * HOUR_MS;
        let mut run = Vec::new();
        msgpack::hour(&mut run, began / HOUR_MS);
        self.hour = run.try_into().ok()?;
        self.hour_began_ms = Some(began);
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

/// Seconds and nanoseconds; the codes before them stand there already.
#[inline(always)]
fn put_time(place: &mut [u8], seconds: u32, nanoseconds: u32) -> Option<()> {
    let place: &mut [u8; TIME_BYTES] = place.first_chunk_mut()?;
    place[1..5].copy_from_slice(&seconds.to_be_bytes());
    place[6..].copy_from_slice(&nanoseconds.to_be_bytes());
    Some(())
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

/// [`ApiRuns::get`] for another method or target.
#[inline(never)]
fn other_begin<'a>(rest: &'a mut [u8], api: &ApiRuns, hit: &Hit<'_>) -> Option<&'a mut [u8]> {
    let rest = put(rest, b"\xde\x00\x20\xa6Method")?;
    let rest = text_head(rest, hit.method.len())?;
    let (_, rest) = run(rest, hit.method)?;
    let Some(host) = hit.host else {
        return Some(run(rest, api.get.get(GET.len()..)?)?.1);
    };
    let rest = put(rest, b"\xa4Host")?;
    let rest = text_head(rest, host.len())?;
    put(run(rest, host)?.1, b"\xa4Path")
}
