//! A store for tests, and the choice of a store.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use super::*;

/// So many records of one byte.
pub(crate) fn some_records(count: usize) -> Records {
    (0..count).map(|_| [7]).collect()
}

/// A Redis of this test's own.
pub(crate) struct RedisServer {
    child: Child,
    pub(crate) port: u16,
}

impl RedisServer {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With further arguments.
    pub(crate) fn start_with(args: &[&str]) -> Self {
        // Between giving the port back and the server taking it, another may: try again.
        for _ in 0..20 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            drop(listener);
            if let Some(server) = Self::start_on(port, args) {
                return server;
            }
        }
        panic!("redis-server found no port");
    }

    /// `None` when the port is taken.
    pub(crate) fn start_on(port: u16, args: &[&str]) -> Option<Self> {
        let mut child = Command::new("redis-server")
            .args(["--port", &port.to_string()])
            .args(["--bind", "127.0.0.1", "--save", ""])
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-server is installed (see the test command in README.md)");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let is_ready = lines
            .map_while(Result::ok)
            .any(|line| line.contains("Ready to accept connections"));
        let server = Self { child, port };
        is_ready.then_some(server)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A store in memory that refuses a second opener and fails on command. A clone is the same store.
#[derive(Clone, Default)]
pub(crate) struct Stub(Arc<Inner>);

#[derive(Default)]
struct Inner {
    is_open: AtomicBool,
    flush_count: AtomicUsize,
    is_hanging: AtomicBool,
    failure: Mutex<Option<String>>,
    refusal: Mutex<Option<String>>,
    delay: Mutex<Duration>,
    values: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Stub {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A process' hold on this store.
    pub(crate) fn owner(&self) -> Owner {
        let stub = self.clone();
        Owner::new(Arc::new(move || {
            if stub.0.is_open.swap(true, SeqCst) {
                return Err(StoreError::Unusable("in use".to_owned()));
            }
            Ok(Arc::new(stub.clone()))
        }))
    }

    pub(crate) fn put(&self, key: &str, value: &str) {
        let mut values = self.0.values.lock().unwrap();
        values.insert(key.to_owned(), value.as_bytes().to_vec());
    }

    pub(crate) fn fail(&self, why: &str) {
        *self.0.failure.lock().unwrap() = Some(why.to_owned());
    }

    pub(crate) fn heal(&self) {
        *self.0.failure.lock().unwrap() = None;
    }

    /// Writes are refused; reads are answered.
    pub(crate) fn refuse_writes(&self, why: &str) {
        *self.0.refusal.lock().unwrap() = Some(why.to_owned());
    }

    /// Answers come so much later.
    pub(crate) fn delay(&self, delay: Duration) {
        *self.0.delay.lock().unwrap() = delay;
    }

    pub(crate) fn hang(&self) {
        self.0.is_hanging.store(true, SeqCst);
    }

    pub(crate) fn wake(&self) {
        self.0.is_hanging.store(false, SeqCst);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.is_open.load(SeqCst)
    }

    pub(crate) fn flush_count(&self) -> usize {
        self.0.flush_count.load(SeqCst)
    }

    pub(crate) fn value(&self, key: &str) -> Option<String> {
        let values = self.0.values.lock().unwrap();
        values
            .get(key)
            .map(|value| String::from_utf8(value.clone()).unwrap())
    }

    fn is_failing(&self) -> bool {
        self.0.failure.lock().unwrap().is_some()
    }

    fn answer<T: Send + 'static>(&self, answer: T) -> Waiting<'_, T> {
        Box::pin(async move {
            if self.0.is_hanging.load(SeqCst) {
                std::future::pending::<()>().await;
            }
            let delay = *self.0.delay.lock().unwrap();
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            match self.0.failure.lock().unwrap().clone() {
                Some(why) => Err(StoreError::Away(why)),
                None => Ok(answer),
            }
        })
    }
}

impl Stub {
    fn refused<T: Send + 'static>(&self) -> Option<Waiting<'_, T>> {
        let why = self.0.refusal.lock().unwrap().clone()?;
        Some(Box::pin(async { Err(StoreError::Refused(why)) }))
    }
}

impl Store for Stub {
    fn name(&self) -> &'static str {
        "stub"
    }

    fn get(&self, key: &str) -> Waiting<'_, Option<Vec<u8>>> {
        self.answer(self.0.values.lock().unwrap().get(key).cloned())
    }

    fn get_many(&self, keys: Vec<String>) -> Waiting<'_, Vec<Option<Vec<u8>>>> {
        let values = self.0.values.lock().unwrap();
        self.answer(keys.iter().map(|key| values.get(key).cloned()).collect())
    }

    fn set(&self, key: &str, value: &[u8], _: Option<Duration>) -> Waiting<'_, ()> {
        if let Some(refused) = self.refused() {
            return refused;
        }
        let mut values = self.0.values.lock().unwrap();
        values.insert(key.to_owned(), value.to_vec());
        self.answer(())
    }

    fn delete(&self, key: &str) -> Waiting<'_, bool> {
        self.answer(self.0.values.lock().unwrap().remove(key).is_some())
    }

    fn exists(&self, key: &str) -> Waiting<'_, bool> {
        self.answer(self.0.values.lock().unwrap().contains_key(key))
    }

    fn list(&self, prefix: &str) -> Waiting<'_, Vec<String>> {
        let values = self.0.values.lock().unwrap();
        let names = values.keys().filter(|name| name.starts_with(prefix));
        self.answer(names.cloned().collect())
    }

    fn write(&self, ops: Vec<WriteOp>) -> Waiting<'_, ()> {
        let mut values = self.0.values.lock().unwrap();
        for op in ops {
            match op {
                WriteOp::Set { key, value, .. } => drop(values.insert(key, value)),
                WriteOp::Delete(key) => drop(values.remove(&key)),
            }
        }
        self.answer(())
    }

    fn ttl(&self, key: &str) -> Waiting<'_, Option<Ttl>> {
        let is_there = self.0.values.lock().unwrap().contains_key(key);
        self.answer(is_there.then_some(Ttl::Forever))
    }

    fn set_if_absent(&self, key: &str, value: &[u8], _: Option<Duration>) -> Waiting<'_, bool> {
        let mut values = self.0.values.lock().unwrap();
        let is_there = values.contains_key(key);
        if !is_there {
            values.insert(key.to_owned(), value.to_vec());
        }
        self.answer(!is_there)
    }

    fn replace(&self, changes: Vec<Replace>) -> Waiting<'_, Vec<bool>> {
        let mut values = self.0.values.lock().unwrap();
        let mut replaced = Vec::new();
        if !self.is_failing() {
            for change in changes {
                let is_same = values.get(&change.key) == Some(&change.from);
                if is_same {
                    values.insert(change.key, change.to);
                }
                replaced.push(is_same);
            }
        }
        self.answer(replaced)
    }

    fn add(&self, adds: Vec<Add>) -> Waiting<'_, Vec<Counter>> {
        let mut values = self.0.values.lock().unwrap();
        let mut counters = Vec::new();
        for add in adds {
            let before = values
                .get(&add.key)
                .map_or("0", |value| str::from_utf8(value).unwrap());
            let value = before.parse::<i64>().unwrap() + add.by;
            values.insert(add.key, value.to_string().into_bytes());
            let ttl = Some(Ttl::Forever);
            counters.push(Counter { value, ttl });
        }
        self.answer(counters)
    }

    fn push(&self, _: &str, records: Records, _: ListLimit) -> Waiting<'_, PushOutcome> {
        let len = records.count();
        self.answer(PushOutcome { len, dropped: 0 })
    }

    fn publish(&self, _: &str, _: &str) -> Waiting<'_, ()> {
        self.answer(())
    }

    fn subscribe(&self, _: &str) -> Option<Subscription> {
        None
    }

    fn scripts(&self) -> Option<&dyn Scripts> {
        None
    }

    fn probe(&self) -> Waiting<'_, ()> {
        if let Some(refused) = self.refused() {
            return refused;
        }
        self.answer(())
    }

    fn flush(&self) -> Waiting<'_, ()> {
        self.0.flush_count.fetch_add(1, SeqCst);
        self.answer(())
    }

    fn close(&self) -> Waiting<'_, ()> {
        self.0.is_open.store(false, SeqCst);
        Box::pin(async { Ok(()) })
    }
}

/// Runs a test on a clock that jumps to the next timer when nothing else is to do.
pub(crate) fn paused(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test);
}

/// A folder of its own, removed with its content at the end.
pub(crate) struct Scratch(std::path::PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "penstock-store-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, SeqCst)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
fn check_refused(change: impl FnOnce(&mut Config), expected: &str) {
    let mut config = Config::default();
    config.storage.kind = "redis".to_owned();
    change(&mut config);
    match opener(&config, Path::new("/nowhere")) {
        Err(StoreError::Unusable(why)) => assert!(why.contains(expected), "{why}"),
        _ => panic!("refused with {expected:?}"),
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    check_refused(|c| c.storage.addrs = vec!["a".into()], "is no address");
    check_refused(
        |c| c.storage.addrs = vec!["a:99999".into()],
        "is no address",
    );
    check_refused(
        |c| c.storage.kind = "etcd".into(),
        "\"etcd\" does not exist",
    );
    check_refused(
        |c| {
            c.storage.use_ssl = true;
            c.storage.ca_file = "/nowhere/ca.pem".into();
        },
        "storage.use_ssl: cannot read /nowhere/ca.pem",
    );
    check_refused(
        |c| {
            c.storage.use_ssl = true;
            c.storage.tls_min_version = "1.3".into();
            c.storage.tls_max_version = "1.2".into();
        },
        "above the maximum",
    );
    check_refused(
        |c| {
            c.storage.use_ssl = true;
            c.storage.tls_max_version = "ssl3".into();
        },
        "is no TLS version",
    );
}

#[test]
fn caches_and_records_have_a_store_of_their_own_where_that_is_asked_for() {
    let dir = Scratch::new();
    let mut config = Config::default();
    let caches = |config: &Config| cache_opener(config, dir.path()).unwrap();
    let records = |config: &Config| analytics_opener(config, dir.path()).unwrap();
    assert!(caches(&config).is_none());
    config.enable_separate_cache_store = true;
    config.enable_separate_analytics_store = true;
    assert!(records(&config).is_none(), "nothing is recorded");
    config.enable_analytics = true;
    for open in [caches(&config), records(&config)] {
        open.unwrap()().map(drop).unwrap();
    }
    assert!(dir.path().join("cache/penstock.redb").exists());
    assert!(dir.path().join("analytics/penstock.redb").exists());
    config.analytics_storage.kind = "redis".to_owned();
    config.analytics_storage.addrs = vec!["x".to_owned()];
    let Err(StoreError::Unusable(why)) = analytics_opener(&config, dir.path()) else {
        panic!("that is no address");
    };
    assert!(why.starts_with("analytics_storage.addrs"), "{why}");
}

#[test]
fn the_store_path_wins_over_the_state_folder() {
    let (named, platform) = (Scratch::new(), Scratch::new());
    let mut config = Config::default();
    let open = |config: &Config| {
        let open = opener(config, platform.path()).unwrap();
        open().map(drop).unwrap();
    };
    open(&config);
    assert!(platform.path().join("penstock.redb").exists());
    config.penstock.store_path = named.path().to_str().unwrap().to_owned();
    open(&config);
    assert!(named.path().join("penstock.redb").exists());
}
