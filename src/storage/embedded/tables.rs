//! The tables in the embedded store's file, and a batch of work on them in one transaction.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use redb::{
    Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase as _, ReadableTable,
    ReadableTableMetadata as _, StorageError, Table, TableDefinition, TableError, WriteTransaction,
};

use crate::storage::{
    Add, Counter, ListLimit, PushOutcome, Records, Ttl, WriteOp,
    embedded::{Found, Work},
    keys,
};

/// Key to: four bytes of checksum over the key and all that follows; eight bytes of expiry in
/// milliseconds since 1970, 0 for never; value. Numbers are little-endian.
pub(super) const VALUES: TableDefinition<&str, &[u8]> = TableDefinition::new("entries");

/// Name of a list to its [`List`].
pub(super) const LISTS: TableDefinition<&str, (u64, u64, u64)> = TableDefinition::new("lists");

/// Name of a list and number of a record to the record.
pub(super) const RECORDS: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("records");

/// What expires, by when. A row whose value or list has been written anew since is stale.
pub(super) const EXPIRIES: TableDefinition<(u64, &str), ()> = TableDefinition::new("expiries");

/// Expired values and lists that one writing batch removes beside its own work.
const SWEEP_MAX: usize = 64;

/// As Redis says it.
const NO_INTEGER: &str = "value is not an integer or out of range";
const WRONG_KIND: &str = "operation against a key holding the wrong kind of value";

/// A list: when it expires, as [`VALUES`] has it; number of its first record; number after its
/// last.
#[derive(Clone, Copy)]
struct List {
    expires_at_ms: u64,
    first: u64,
    end: u64,
}

impl List {
    fn from_row((expires_at_ms, first, end): (u64, u64, u64)) -> Self {
        Self {
            expires_at_ms,
            first,
            end,
        }
    }

    fn row(self) -> (u64, u64, u64) {
        (self.expires_at_ms, self.first, self.end)
    }
}

/// What a file holds; expired values that are still there count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Content {
    pub values: u64,
    pub lists: u64,
    pub records: u64,
}

/// Rows that are copied in one piece.
const COPY_ROWS: usize = 1024;

/// Copies everything into an empty file, asking `go_on` now and then. Every value is checked on the
/// way. [`seal`] makes it durable.
///
/// # Errors
/// Also what `go_on` says.
pub(super) fn copy(
    from: &ReadTransaction,
    to: &Database,
    go_on: &dyn Fn() -> Result<(), StorageError>,
) -> Result<Content, redb::Error> {
    let content = Content {
        values: copy_table(from, to, VALUES, go_on, |key, row| {
            split(key, row).map(drop)
        })?,
        lists: copy_table(from, to, LISTS, go_on, |_, _| Ok(()))?,
        records: copy_table(from, to, RECORDS, go_on, |_, _| Ok(()))?,
    };
    copy_table(from, to, EXPIRIES, go_on, |_, ()| Ok(()))?;
    Ok(content)
}

/// Makes everything durable that was written before.
pub(super) fn seal(database: &Database) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    Ok(transaction.commit()?)
}

fn copy_table<K: redb::Key + 'static, V: redb::Value + 'static>(
    from: &ReadTransaction,
    to: &Database,
    definition: TableDefinition<K, V>,
    go_on: &dyn Fn() -> Result<(), StorageError>,
    check: impl Fn(K::SelfType<'_>, V::SelfType<'_>) -> Result<(), StorageError>,
) -> Result<u64, redb::Error> {
    let table = from.open_table(definition)?;
    let mut rows = table.iter()?;
    let mut count = 0;
    loop {
        go_on()?;
        let mut transaction = to.begin_write()?;
        transaction
            .set_durability(Durability::None)
            .map_err(|error| StorageError::Corrupted(error.to_string()))?;
        let mut copy = transaction.open_table(definition)?;
        let before = count;
        for row in rows.by_ref().take(COPY_ROWS) {
            let (key, value) = row?;
            check(key.value(), value.value())?;
            copy.insert(key.value(), value.value())?;
            count += 1;
        }
        drop(copy);
        transaction.commit()?;
        if count == before {
            return Ok(count);
        }
    }
}

/// Copies what can be read of a damaged file into an empty one; what that is, and how many values
/// and lists are lost.
pub(super) fn salvage(
    from: &ReadTransaction,
    to: &Database,
) -> Result<(Content, u64), redb::Error> {
    let mut transaction = to.begin_write()?;
    transaction.set_quick_repair(true);
    let mut tables = Tables::open(&transaction, 0)?;
    let broken = from.open_table(VALUES)?;
    let mut there = broken.len().unwrap_or_default();
    each_readable(&broken, |key, row| match split(key, row) {
        Ok((expires_at_ms, value)) => tables.set(key, value, expires_at_ms),
        Err(_) => Ok(()),
    })?;
    if let Ok(broken) = from.open_table(LISTS) {
        there += broken.len().unwrap_or_default();
        each_readable(&broken, |name, row| {
            tables.expires(name, 0, List::from_row(row).expires_at_ms)?;
            tables.lists.insert(name, row).map(drop)
        })?;
    }
    if let Ok(broken) = from.open_table(RECORDS) {
        each_readable(&broken, |key, record| {
            tables.records.insert(key, record).map(drop)
        })?;
    }
    let content = Content {
        values: tables.values.len()?,
        lists: tables.lists.len()?,
        records: tables.records.len()?,
    };
    drop(tables);
    transaction.commit()?;
    let lost = there.saturating_sub(content.values + content.lists);
    Ok((content, lost))
}

/// Rows from both ends as far as they can be read.
fn each_readable<K: redb::Key + 'static, V: redb::Value + 'static>(
    table: &ReadOnlyTable<K, V>,
    mut each: impl FnMut(K::SelfType<'_>, V::SelfType<'_>) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    for from_the_end in [false, true] {
        let Ok(mut rows) = ReadableTable::iter(table) else {
            continue;
        };
        loop {
            let row = catch_unwind(AssertUnwindSafe(|| match from_the_end {
                false => rows.next(),
                true => rows.next_back(),
            }));
            match row {
                Ok(Some(Ok((key, value)))) => each(key.value(), value.value())?,
                Ok(None) => return Ok(()),
                Ok(Some(Err(_))) | Err(_) => break,
            }
        }
    }
    Ok(())
}

/// Looks at every value.
pub(super) fn walk(database: &Database) -> Result<Content, redb::Error> {
    let transaction = database.begin_read()?;
    let mut content = Content::default();
    for row in transaction.open_table(VALUES)?.iter()? {
        let (key, row) = row?;
        split(key.value(), row.value())?;
        content.values += 1;
    }
    content.lists = transaction.open_table(LISTS)?.len()?;
    content.records = transaction.open_table(RECORDS)?.len()?;
    Ok(content)
}

pub(super) fn is_write(work: &Work) -> bool {
    match work {
        Work::Get(_) | Work::Exists(_) | Work::Ttl(_) | Work::List(_) | Work::Close => false,
        Work::Write(_)
        | Work::Delete(_)
        | Work::SetIfAbsent { .. }
        | Work::Replace(_)
        | Work::Add(_)
        | Work::Push { .. }
        | Work::Flush => true,
    }
}

/// Whether a copy of the file would be missing something; that the store is probed is nothing.
pub(super) fn is_worth_a_copy(work: &Work) -> bool {
    match work {
        Work::Write(ops) => !matches!(
            ops.as_slice(),
            [WriteOp::Set { key, .. }] if key == keys::LIVENESS_PROBE
        ),
        Work::Flush => false,
        work => is_write(work),
    }
}

/// Makes the tables of a new file.
pub(super) fn prepare(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_read()?;
    let is_prepared = |opened: Result<(), TableError>| match opened {
        Ok(()) => Ok(true),
        Err(TableError::TableDoesNotExist(_)) => Ok(false),
        Err(error) => Err(error),
    };
    if is_prepared(transaction.open_table(VALUES).map(drop))?
        && is_prepared(transaction.open_table(LISTS).map(drop))?
    {
        return Ok(());
    }
    drop(transaction);
    write(database, &[], 0).map(drop)
}

/// Answers a batch that writes nothing.
pub(super) fn read(
    database: &Database,
    batch: &[&Work],
    now_ms: u64,
) -> Result<Vec<Found>, redb::Error> {
    let transaction = database.begin_read()?;
    let values = transaction.open_table(VALUES)?;
    let lists = transaction.open_table(LISTS)?;
    let mut found = Vec::with_capacity(batch.len());
    for work in batch {
        found.push(answer(&values, &lists, work, now_ms)?);
    }
    Ok(found)
}

/// Answers what only reads.
fn answer(
    values: &impl ReadableTable<&'static str, &'static [u8]>,
    lists: &impl ReadableTable<&'static str, (u64, u64, u64)>,
    work: &Work,
    now_ms: u64,
) -> Result<Found, StorageError> {
    let expiry = |key: &str| expiry(values, lists, key, now_ms);
    Ok(match work {
        Work::Get(keys) => {
            let values: Result<_, _> = keys.iter().map(|key| alive(values, key, now_ms)).collect();
            Found::Values(values?)
        }
        Work::Exists(key) => Found::Was(expiry(key)?.is_some()),
        Work::Ttl(key) => Found::Ttl(expiry(key)?.map(|at| ttl_of(at, now_ms))),
        Work::List(prefix) => {
            let mut names = Vec::new();
            for row in values.range(prefix.as_str()..)? {
                let (name, row) = row?;
                if !name.value().starts_with(prefix.as_str()) {
                    break;
                }
                if is_alive(split(name.value(), row.value())?.0, now_ms) {
                    names.push(name.value().to_owned());
                }
            }
            for row in lists.range(prefix.as_str()..)? {
                let (name, row) = row?;
                if !name.value().starts_with(prefix.as_str()) {
                    break;
                }
                if is_alive(row.value().0, now_ms) {
                    names.push(name.value().to_owned());
                }
            }
            names.sort_unstable();
            Found::Names(names)
        }
        _ => Found::Done,
    })
}

/// Does a batch, all or nothing, and returns when it is durable.
pub(super) fn write(
    database: &Database,
    batch: &[&Work],
    now_ms: u64,
) -> Result<Vec<Found>, redb::Error> {
    let mut transaction = database.begin_write()?;
    // Opening after a kill takes a millisecond instead of a walk through the file.
    transaction.set_quick_repair(true);
    let found = write_batch(&transaction, batch, now_ms)?;
    transaction.commit()?;
    Ok(found)
}

fn write_batch(
    transaction: &WriteTransaction,
    batch: &[&Work],
    now_ms: u64,
) -> Result<Vec<Found>, redb::Error> {
    let mut tables = Tables::open(transaction, now_ms)?;
    let mut found = Vec::with_capacity(batch.len());
    for work in batch {
        found.push(tables.work(work)?);
    }
    tables.sweep()?;
    Ok(found)
}

/// All tables within a transaction that writes.
struct Tables<'t> {
    values: Table<'t, &'static str, &'static [u8]>,
    lists: Table<'t, &'static str, (u64, u64, u64)>,
    records: Table<'t, (&'static str, u64), &'static [u8]>,
    expiries: Table<'t, (u64, &'static str), ()>,
    now_ms: u64,
}

impl<'t> Tables<'t> {
    fn open(transaction: &'t WriteTransaction, now_ms: u64) -> Result<Self, redb::Error> {
        Ok(Self {
            values: transaction.open_table(VALUES)?,
            lists: transaction.open_table(LISTS)?,
            records: transaction.open_table(RECORDS)?,
            expiries: transaction.open_table(EXPIRIES)?,
            now_ms,
        })
    }

    fn work(&mut self, work: &Work) -> Result<Found, StorageError> {
        Ok(match work {
            Work::Write(ops) => {
                for op in ops {
                    match op {
                        WriteOp::Set { key, value, ttl } => {
                            self.set(key, value, self.expires_at_ms(*ttl))?;
                        }
                        WriteOp::Delete(key) => {
                            self.remove(key)?;
                        }
                    }
                }
                Found::Done
            }
            Work::Delete(key) => Found::Was(self.remove(key)?),
            Work::SetIfAbsent { key, value, ttl } => {
                let is_absent = expiry(&self.values, &self.lists, key, self.now_ms)?.is_none();
                if is_absent {
                    self.set(key, value, self.expires_at_ms(*ttl))?;
                }
                Found::Was(is_absent)
            }
            Work::Replace(changes) => {
                let mut replaced = Vec::with_capacity(changes.len());
                for change in changes {
                    let there = alive(&self.values, &change.key, self.now_ms)?;
                    let is_same = there.is_some_and(|value| value == change.from);
                    if is_same {
                        let expires_at_ms = self.expires_at_ms(change.ttl);
                        self.set(&change.key, &change.to, expires_at_ms)?;
                    }
                    replaced.push(is_same);
                }
                Found::Were(replaced)
            }
            Work::Add(adds) => self.add(adds)?,
            Work::Push {
                list,
                records,
                limit,
            } => self.push(list, records, *limit)?,
            Work::Flush | Work::Close => Found::Done,
            Work::Get(_) | Work::Exists(_) | Work::Ttl(_) | Work::List(_) => {
                answer(&self.values, &self.lists, work, self.now_ms)?
            }
        })
    }

    fn set(&mut self, key: &str, value: &[u8], expires_at_ms: u64) -> Result<(), StorageError> {
        self.remove_list(key)?;
        let row = row(key, expires_at_ms, value);
        let before = match self.values.insert(key, row.as_slice())? {
            Some(before) => split(key, before.value())?.0,
            None => 0,
        };
        self.expires(key, before, expires_at_ms)
    }

    /// Removes whatever has this name; whether it was alive.
    fn remove(&mut self, key: &str) -> Result<bool, StorageError> {
        let value = match self.values.remove(key)? {
            Some(row) => Some(split(key, row.value())?.0),
            None => None,
        };
        let before = match value {
            None => self.remove_list(key)?,
            Some(expires_at_ms) => {
                self.expires(key, expires_at_ms, 0)?;
                Some(expires_at_ms)
            }
        };
        Ok(before.is_some_and(|at| is_alive(at, self.now_ms)))
    }

    /// Removes a list with its records; when it would have expired.
    fn remove_list(&mut self, name: &str) -> Result<Option<u64>, StorageError> {
        let list = self
            .lists
            .remove(name)?
            .map(|row| List::from_row(row.value()));
        let Some(list) = list else {
            return Ok(None);
        };
        self.records
            .retain_in((name, list.first)..(name, list.end), |_, _| false)?;
        self.expires(name, list.expires_at_ms, 0)?;
        Ok(Some(list.expires_at_ms))
    }

    /// All or none of them, for a number that is none.
    fn add(&mut self, adds: &[Add]) -> Result<Found, StorageError> {
        let mut counters: Vec<Counter> = Vec::with_capacity(adds.len());
        let mut changes: BTreeMap<&str, (i64, u64)> = BTreeMap::new();
        for add in adds {
            let before = match changes.get(add.key.as_str()) {
                Some(before) => Some(*before),
                None => match self.counter(&add.key)? {
                    Ok(before) => before,
                    Err(why) => return Ok(Found::Refused(why)),
                },
            };
            let (value, expires_at_ms) = before.unwrap_or((0, self.expires_at_ms(add.ttl)));
            let Some(value) = value.checked_add(add.by) else {
                return Ok(Found::Refused(NO_INTEGER));
            };
            changes.insert(&add.key, (value, expires_at_ms));
            counters.push(Counter {
                value,
                ttl: is_alive(expires_at_ms, self.now_ms)
                    .then(|| ttl_of(expires_at_ms, self.now_ms)),
            });
        }
        for (key, (value, expires_at_ms)) in changes {
            self.set(key, value.to_string().as_bytes(), expires_at_ms)?;
        }
        Ok(Found::Counters(counters))
    }

    /// A counter and its expiry, `None` for none; or why it is no counter.
    #[allow(clippy::type_complexity, reason = "read by one caller")]
    fn counter(&self, key: &str) -> Result<Result<Option<(i64, u64)>, &'static str>, StorageError> {
        let Some(row) = self.values.get(key)? else {
            let list = self.lists.get(key)?.map(|row| row.value().0);
            let is_list = list.is_some_and(|at| is_alive(at, self.now_ms));
            return Ok(if is_list { Err(WRONG_KIND) } else { Ok(None) });
        };
        let (expires_at_ms, value) = split(key, row.value())?;
        if !is_alive(expires_at_ms, self.now_ms) {
            return Ok(Ok(None));
        }
        let number = str::from_utf8(value)
            .ok()
            .and_then(|text| text.parse().ok());
        Ok(match number {
            Some(number) => Ok(Some((number, expires_at_ms))),
            None => Err(NO_INTEGER),
        })
    }

    fn push(
        &mut self,
        name: &str,
        records: &Records,
        limit: ListLimit,
    ) -> Result<Found, StorageError> {
        let value = match self.values.get(name)? {
            Some(row) => Some(split(name, row.value())?.0),
            None => None,
        };
        if let Some(expires_at_ms) = value {
            if is_alive(expires_at_ms, self.now_ms) {
                return Ok(Found::Refused(WRONG_KIND));
            }
            self.remove(name)?;
        }
        let mut list = self.lists.get(name)?.map(|row| List::from_row(row.value()));
        if list.is_some_and(|list| !is_alive(list.expires_at_ms, self.now_ms)) {
            self.remove_list(name)?;
            list = None;
        }
        if records.count() == 0 && list.is_none() {
            return Ok(Found::Pushed(PushOutcome::default()));
        }
        let mut list = list.unwrap_or(List {
            expires_at_ms: 0,
            first: 0,
            end: 0,
        });
        for record in records.iter() {
            self.records.insert((name, list.end), record)?;
            list.end += 1;
        }
        let len = list.end - list.first;
        let dropped = len.saturating_sub(limit.records_max.unwrap_or(len));
        if dropped > 0 {
            let kept = list.first + dropped;
            self.records
                .retain_in((name, list.first)..(name, kept), |_, _| false)?;
            list.first = kept;
        }
        if list.expires_at_ms == 0 {
            list.expires_at_ms = self.expires_at_ms(limit.ttl);
            self.expires(name, 0, list.expires_at_ms)?;
        }
        self.lists.insert(name, list.row())?;
        Ok(Found::Pushed(PushOutcome {
            len: len - dropped,
            dropped,
        }))
    }

    /// Moves a name among those that expire; 0 stands for never.
    fn expires(&mut self, name: &str, before: u64, after: u64) -> Result<(), StorageError> {
        if before == after {
            return Ok(());
        }
        if before != 0 {
            self.expiries.remove((before, name))?;
        }
        if after != 0 {
            self.expiries.insert((after, name), ())?;
        }
        Ok(())
    }

    /// Removes some of what has expired.
    fn sweep(&mut self) -> Result<(), StorageError> {
        let mut due = Vec::new();
        for row in self
            .expiries
            .range(..(self.now_ms.saturating_add(1), ""))?
            .take(SWEEP_MAX)
        {
            let (row, _) = row?;
            let (at, name) = row.value();
            due.push((at, name.to_owned()));
        }
        for (at, name) in due {
            self.expiries.remove((at, name.as_str()))?;
            // As of the beginning of time everything is alive.
            if expiry(&self.values, &self.lists, &name, 0)? == Some(at) {
                self.remove(&name)?;
            }
        }
        Ok(())
    }

    /// When something with this time to live expires; 0 for never.
    fn expires_at_ms(&self, ttl: Option<Duration>) -> u64 {
        ttl.map_or(0, |ttl| {
            let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
            self.now_ms.saturating_add(ttl_ms)
        })
    }
}

/// Expiry of whatever has this name and has not expired.
fn expiry(
    values: &impl ReadableTable<&'static str, &'static [u8]>,
    lists: &impl ReadableTable<&'static str, (u64, u64, u64)>,
    name: &str,
    now_ms: u64,
) -> Result<Option<u64>, StorageError> {
    let expires_at_ms = match values.get(name)? {
        Some(row) => Some(split(name, row.value())?.0),
        None => lists.get(name)?.map(|row| row.value().0),
    };
    Ok(expires_at_ms.filter(|at| is_alive(*at, now_ms)))
}

/// The value of a key that has not expired.
fn alive(
    values: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
    now_ms: u64,
) -> Result<Option<Vec<u8>>, StorageError> {
    let Some(row) = values.get(key)? else {
        return Ok(None);
    };
    let (expires_at_ms, value) = split(key, row.value())?;
    Ok(is_alive(expires_at_ms, now_ms).then(|| value.to_vec()))
}

fn is_alive(expires_at_ms: u64, now_ms: u64) -> bool {
    expires_at_ms == 0 || expires_at_ms > now_ms
}

fn ttl_of(expires_at_ms: u64, now_ms: u64) -> Ttl {
    match expires_at_ms {
        0 => Ttl::Forever,
        at => Ttl::Ms(at.saturating_sub(now_ms)),
    }
}

/// A row of [`VALUES`].
fn row(key: &str, expires_at_ms: u64, value: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(12 + value.len());
    row.extend_from_slice(&[0; 4]);
    row.extend_from_slice(&expires_at_ms.to_le_bytes());
    row.extend_from_slice(value);
    let sum = checksum(key, row.get(4..).unwrap_or_default());
    if let Some(place) = row.first_chunk_mut() {
        *place = sum.to_le_bytes();
    }
    row
}

fn checksum(key: &str, rest: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(key.as_bytes());
    crc.update(rest);
    crc.sum()
}

/// Expiry and value of a row.
///
/// # Errors
/// When it is not what was written. The library trusts the pages that it reads.
fn split<'a>(key: &str, row: &'a [u8]) -> Result<(u64, &'a [u8]), StorageError> {
    let parts = row
        .split_first_chunk()
        .filter(|(sum, rest)| u32::from_le_bytes(**sum) == checksum(key, rest))
        .and_then(|(_, rest)| rest.split_first_chunk());
    match parts {
        Some((expires_at_ms, value)) => Ok((u64::from_le_bytes(*expires_at_ms), value)),
        None => Err(StorageError::Corrupted("a value has changed".to_owned())),
    }
}
