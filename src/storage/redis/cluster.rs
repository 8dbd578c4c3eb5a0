//! A Redis cluster: which server has which key, and what happens when that changes.
//!
//! Keys fall into 16384 slots (Redis cluster specification, "Key distribution model"). A server that
//! does not have a slot any more says who has (`MOVED`), or who has this one key already (`ASK`).
//! Servers that are gone are noticed by their silence; the others then say who took over.

#![allow(
    clippy::disallowed_types,
    reason = "held for a few instructions on the control side and never over an await"
)]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use arc_swap::ArcSwap;
use redis::Value;
use tokio::time::Instant;

use crate::storage::redis::{
    dial::Connection,
    link::Link,
    options::{Address, Options},
    request::{Failure, FailureKind, Request, Route},
};

const SLOTS: usize = 16_384;

/// Marks a slot that nobody has.
const NOBODY: u16 = u16::MAX;

/// How long a question waits for a connection to one server before the others are asked where to
/// go instead.
const CONNECT_MAX: Duration = Duration::from_millis(250);

/// For one server to say who has which slots.
const MAP_MAX: Duration = Duration::from_millis(300);

/// Between two looks at who has which slots.
const REFRESH_EVERY: Duration = Duration::from_millis(100);

pub(super) struct Cluster {
    options: Options,
    map: ArcSwap<Map>,
    links: Mutex<BTreeMap<Address, Arc<Link>>>,
    /// When the map was last asked for. Held while it is.
    refreshed_at: tokio::sync::Mutex<Option<Instant>>,
    is_stale: AtomicBool,
    /// Whom to begin with.
    turn: AtomicUsize,
}

/// Who has which slots.
#[derive(Clone)]
struct Map {
    masters: Vec<Address>,
    /// Indices into `masters`.
    slots: Vec<u16>,
}

impl Map {
    fn nobody() -> Self {
        Self {
            masters: Vec::new(),
            slots: vec![NOBODY; SLOTS],
        }
    }

    fn of_slot(&self, slot: u16) -> Option<&Address> {
        let index = *self.slots.get(usize::from(slot))?;
        self.masters.get(usize::from(index))
    }

    fn give(&mut self, slots: std::ops::RangeInclusive<usize>, to: Address) {
        let known = self.masters.iter().position(|master| *master == to);
        let index = known.unwrap_or_else(|| {
            self.masters.push(to);
            self.masters.len() - 1
        });
        let Ok(index) = u16::try_from(index) else {
            return;
        };
        if let Some(slots) = self.slots.get_mut(slots) {
            slots.fill(index);
        }
    }

    /// Reads what `CLUSTER SLOTS` answers; `asked` stands for a host that is not told.
    fn parse(answer: &Value, asked: &Address) -> Option<Self> {
        let Value::Array(ranges) = answer else {
            return None;
        };
        let mut map = Self::nobody();
        for range in ranges {
            let Value::Array(parts) = range else {
                return None;
            };
            let [
                Value::Int(first),
                Value::Int(last),
                Value::Array(master),
                ..,
            ] = parts.as_slice()
            else {
                return None;
            };
            let (host, port) = match master.as_slice() {
                [host, Value::Int(port), ..] => (host, u16::try_from(*port).ok()?),
                _ => return None,
            };
            let host = match host {
                Value::BulkString(host) if !host.is_empty() && host != b"?" => {
                    String::from_utf8(host.clone()).ok()?
                }
                _ => asked.host.clone(),
            };
            let slots = usize::try_from(*first).ok()?..=usize::try_from(*last).ok()?;
            map.give(slots, Address { host, port });
        }
        (!map.masters.is_empty()).then_some(map)
    }
}

impl Cluster {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            map: ArcSwap::from_pointee(Map::nobody()),
            links: Mutex::default(),
            refreshed_at: tokio::sync::Mutex::new(None),
            is_stale: AtomicBool::new(true),
            turn: AtomicUsize::new(0),
        }
    }

    /// The servers that have keys, as of now.
    pub(super) async fn masters(&self, until: Instant) -> Vec<Address> {
        self.is_stale.store(true, Relaxed);
        self.refresh_if_stale(until).await;
        self.map.load().masters.clone()
    }

    /// Some server, for what every server can do.
    pub(super) fn anyone(&self) -> Address {
        let turn = self.turn.fetch_add(1, Relaxed);
        let map = self.map.load();
        let all = match map.masters.as_slice() {
            [] => self.options.addresses.as_slice(),
            masters => masters,
        };
        let nobody = || Address {
            host: String::new(),
            port: 0,
        };
        all.get(turn % all.len().max(1))
            .cloned()
            .unwrap_or_else(nobody)
    }

    /// Asks each server for what it has, all at the same time.
    pub(super) async fn exchange(
        &self,
        requests: &[&Request],
        until: Instant,
    ) -> Vec<Result<Value, Failure>> {
        self.refresh_if_stale(until).await;
        let mut groups: BTreeMap<Address, Vec<usize>> = BTreeMap::new();
        let nowhere = Failure::new(FailureKind::NotNow, "no server has this slot".to_owned());
        let mut outcomes: Vec<_> = requests.iter().map(|_| Err(nowhere.clone())).collect();
        for (at, request) in requests.iter().enumerate() {
            let server = match &request.route {
                Route::Key(key) => self.map.load().of_slot(slot(key.as_bytes())).cloned(),
                Route::Server(address) => Some(address.clone()),
                Route::Anywhere => Some(self.anyone()),
            };
            match server {
                Some(server) => groups.entry(server).or_default().push(at),
                None => self.is_stale.store(true, Relaxed),
            }
        }
        let asked = groups.into_iter().map(|(server, members)| async move {
            let own: Vec<_> = members
                .iter()
                .filter_map(|at| requests.get(*at).copied())
                .collect();
            let outcomes = self.ask(&server, &own, until).await;
            (members, outcomes)
        });
        for (members, answers) in all(asked.collect()).await {
            for (at, answer) in members.into_iter().zip(answers) {
                if let Some(outcome) = outcomes.get_mut(at) {
                    *outcome = answer;
                }
            }
        }
        outcomes
    }

    /// Asks one server, and follows it where it says that a key is elsewhere for the moment.
    async fn ask(
        &self,
        server: &Address,
        requests: &[&Request],
        until: Instant,
    ) -> Vec<Result<Value, Failure>> {
        let mut outcomes = self.ask_one(server, requests, until).await;
        for (outcome, request) in outcomes.iter_mut().zip(requests) {
            let Err(failure) = outcome else {
                continue;
            };
            match failure.redirect.take() {
                Some(mut redirect) => {
                    if redirect.address.host.is_empty() {
                        redirect.address.host.clone_from(&server.host);
                    }
                    if redirect.is_ask {
                        let mut asking = (*request).clone();
                        asking.commands.insert(0, redis::cmd("ASKING"));
                        if let Some((place, _)) = &mut asking.cargo {
                            *place += 1;
                        }
                        let answers = self.ask_one(&redirect.address, &[&asking], until).await;
                        if let Some(answer) = answers.into_iter().next() {
                            *outcome = answer;
                        }
                    } else {
                        self.give(redirect.slot, redirect.address);
                        self.is_stale.store(true, Relaxed);
                    }
                }
                None if failure.kind != FailureKind::NoScript => {
                    self.is_stale.store(true, Relaxed);
                }
                None => {}
            }
        }
        outcomes
    }

    async fn ask_one(
        &self,
        server: &Address,
        requests: &[&Request],
        until: Instant,
    ) -> Vec<Result<Value, Failure>> {
        let connect_until = until.min(Instant::now() + CONNECT_MAX);
        let patience = Duration::MAX;
        let link = self.link(server);
        link.exchange(requests, connect_until, patience, until)
            .await
    }

    fn link(&self, server: &Address) -> Arc<Link> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let link = links.entry(server.clone()).or_insert_with(|| {
            let (options, address) = (self.options.clone(), server.clone());
            let dial = move |load| {
                let (options, address) = (options.clone(), address.clone());
                Box::pin(async move { Connection::open(&options, &address, load).await }) as _
            };
            Arc::new(Link::new(
                &server.to_string(),
                &self.options,
                Arc::new(dial),
            ))
        });
        Arc::clone(link)
    }

    /// Notes what a `MOVED` said. More may have moved than that.
    fn give(&self, slot: u16, to: Address) {
        let slot_index = usize::from(slot);
        self.map.rcu(|map| {
            let mut map = Map::clone(map);
            map.give(slot_index..=slot_index, to.clone());
            map
        });
    }

    async fn refresh_if_stale(&self, until: Instant) {
        if !self.is_stale.load(Relaxed) {
            return;
        }
        let Ok(mut refreshed_at) = tokio::time::timeout_at(until, self.refreshed_at.lock()).await
        else {
            return;
        };
        let is_fresh = refreshed_at.is_some_and(|at| at.elapsed() < REFRESH_EVERY);
        if is_fresh || !self.is_stale.swap(false, Relaxed) {
            return;
        }
        let found = tokio::time::timeout_at(until, self.ask_for_map()).await;
        *refreshed_at = Some(Instant::now());
        match found {
            Ok(Some(map)) => {
                let servers = &map.masters;
                let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
                links.retain(|address, _| servers.contains(address));
                drop(links);
                self.map.store(Arc::new(map));
            }
            _ => self.is_stale.store(true, Relaxed),
        }
    }

    /// The first answer of those that are known and those of the configuration, beginning with
    /// another one each time: who was cut off may still tell what was once so.
    async fn ask_for_map(&self) -> Option<Map> {
        let mut servers = self.map.load().masters.clone();
        for address in &self.options.addresses {
            if !servers.contains(address) {
                servers.push(address.clone());
            }
        }
        let turn = self.turn.fetch_add(1, Relaxed) % servers.len().max(1);
        servers.rotate_left(turn);
        for server in servers {
            let mut command = redis::cmd("CLUSTER");
            command.arg("SLOTS");
            let request = Request::read(command, "");
            let until = Instant::now() + MAP_MAX;
            let link = self.link(&server);
            let answer = link
                .exchange(&[&request], until, Duration::MAX, until)
                .await;
            if let Some(Ok(answer)) = answer.first()
                && let Some(map) = Map::parse(answer, &server)
            {
                return Some(map);
            }
        }
        None
    }
}

/// Waits for all of them at the same time.
async fn all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut slots: Vec<_> = futures
        .into_iter()
        .map(|future| (Box::pin(future), None))
        .collect();
    std::future::poll_fn(|cx| {
        let mut is_done = true;
        for (future, slot) in &mut slots {
            if slot.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(value) => *slot = Some(value),
                    Poll::Pending => is_done = false,
                }
            }
        }
        if is_done {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    slots.into_iter().filter_map(|(_, slot)| slot).collect()
}

/// The slot of a key: that of what stands between its first `{` and the next `}`, if anything does
/// (Redis cluster specification, "Hash tags").
pub(super) fn slot(key: &[u8]) -> u16 {
    let open = key.iter().position(|byte| *byte == b'{');
    let tag = open
        .and_then(|open| key.get(open + 1..))
        .and_then(|rest| {
            let close = rest.iter().position(|byte| *byte == b'}')?;
            rest.get(..close)
        })
        .filter(|tag| !tag.is_empty());
    crc16(tag.unwrap_or(key)) % SLOTS as u16
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    let mut crc = 0_u16;
    for byte in bytes {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = match crc & 0x8000 {
                0 => crc << 1,
                _ => crc << 1 ^ 0x1021,
            };
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(key: &str, expected: u16) {
        assert_eq!(slot(key.as_bytes()), expected, "{key}");
    }

    #[test]
    fn keys_fall_into_the_slots_that_redis_gives_them() {
        // `CLUSTER KEYSLOT` of Redis 7.0.
        check("123456789", 0x31c3);
        check("", 0);
        check("foo", 12_182);
        check("apikey-{foo}x", 12_182);
        check("{foo}{bar}", 12_182);
        assert_eq!(slot(b"{}foo"), crc16(b"{}foo") % 16_384);
        assert_eq!(slot(b"{foo"), crc16(b"{foo") % 16_384);
    }

    #[test]
    fn an_answer_without_hosts_means_the_asked_one() {
        let asked = Address {
            host: "a".to_owned(),
            port: 1,
        };
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let range = |first, last, host| {
            let master = Value::Array(vec![host, Value::Int(7), bulk("id")]);
            Value::Array(vec![Value::Int(first), Value::Int(last), master])
        };
        let answer = Value::Array(vec![
            range(0, 1, bulk("")),
            range(2, 2, bulk("b")),
            range(3, 3, Value::Nil),
        ]);
        let map = Map::parse(&answer, &asked).unwrap();
        let host = |slot| map.of_slot(slot).map(|address| address.host.as_str());
        assert_eq!(
            [host(0), host(2), host(3), host(4)],
            [Some("a"), Some("b"), Some("a"), None]
        );
        for broken in [
            Value::Nil,
            Value::Array(vec![]),
            Value::Array(vec![Value::Nil]),
        ] {
            assert!(Map::parse(&broken, &asked).is_none());
        }
        let beyond = Value::Array(vec![range(16_000, 99_999, bulk("b"))]);
        assert_eq!(Map::parse(&beyond, &asked).unwrap().of_slot(16_000), None);
    }
}
