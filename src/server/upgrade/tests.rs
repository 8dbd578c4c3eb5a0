//! Both sides together: against every order of events that chance brings, and as two processes.

use std::{
    collections::{BTreeSet, VecDeque},
    fs::{File, TryLockError},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::process::parent_id,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use monoio::{LegacyDriver, RuntimeBuilder};
use serde_json::json;
use tokio::sync::{mpsc::UnboundedSender, oneshot};

use super::{
    Message,
    drive::{NewHost, OldHost, drive_new, drive_old},
    new::{NewAction, NewEvent, NewGeneration},
    old::{OldAction, OldEvent, OldGeneration},
    start::{self, Inherited, Program},
};
use crate::{
    net::{
        io::{Tcp, Transport},
        listener::{Acceptor, Handed, ListenerSet, Place},
        sys::Half,
    },
    server::notify::Notifier,
};

/// Numbers that look like chance and repeat with their seed (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("small")
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Old,
    New,
}

/// Two processes and what lies between them.
struct World {
    chance: Chance,
    has_faults: bool,
    old: OldGeneration,
    is_old_alive: bool,
    old_accepts: bool,
    old_todo: VecDeque<OldEvent>,
    old_deadline: Option<super::old::Deadline>,
    new: Option<NewGeneration>,
    new_accepts: bool,
    new_todo: VecDeque<NewEvent>,
    new_deadline: Option<super::new::Deadline>,
    to_old: VecDeque<Message>,
    to_new: VecDeque<Message>,
    /// Each side still has to learn that the other's end is closed.
    old_sees_end: bool,
    new_sees_end: bool,
    store: Option<Side>,
    writes_open: BTreeSet<u64>,
    next_write: u64,
    is_terminated: bool,
}

impl World {
    fn new(seed: u64, has_faults: bool) -> Self {
        Self {
            chance: Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            has_faults,
            old: OldGeneration::new(false),
            is_old_alive: true,
            old_accepts: true,
            old_todo: VecDeque::new(),
            old_deadline: None,
            new: None,
            new_accepts: false,
            new_todo: VecDeque::new(),
            new_deadline: None,
            to_old: VecDeque::new(),
            to_new: VecDeque::new(),
            old_sees_end: false,
            new_sees_end: false,
            store: Some(Side::Old),
            writes_open: BTreeSet::new(),
            next_write: 1,
            is_terminated: false,
        }
    }

    fn fault(&mut self, count: usize) -> bool {
        self.has_faults && self.chance.one_in(count)
    }

    fn open_store(&mut self, side: Side) -> Result<(), String> {
        assert_eq!(self.store, None, "{side:?} opens a store that has an owner");
        if self.fault(10) {
            return Err("chance".to_owned());
        }
        self.store = Some(side);
        Ok(())
    }

    fn kill_new(&mut self) {
        if self.new.take().is_some() {
            self.new_accepts = false;
            self.new_todo.clear();
            self.new_deadline = None;
            self.to_new.clear();
            self.new_sees_end = false;
            self.old_sees_end = true;
            if self.store == Some(Side::New) {
                self.store = None;
            }
        }
    }

    fn kill_old(&mut self) {
        self.is_old_alive = false;
        self.old_accepts = false;
        self.old_todo.clear();
        self.old_deadline = None;
        self.to_old.clear();
        self.old_sees_end = false;
        self.new_sees_end = self.new.is_some();
        self.writes_open.clear();
        if self.store == Some(Side::Old) {
            self.store = None;
        }
    }

    fn tell_old(&mut self, event: OldEvent) {
        if !self.is_old_alive {
            return;
        }
        // The driver answers a start at once, before it looks at messages.
        let mut spawned = None;
        for action in self.old.on(event) {
            match action {
                OldAction::Spawn if self.fault(10) => spawned = Some(Err("chance".to_owned())),
                OldAction::Spawn => {
                    self.new = Some(NewGeneration::new(2, "2"));
                    let prepared = if self.fault(10) {
                        Err("chance".to_owned())
                    } else {
                        Ok(())
                    };
                    self.new_todo.push_back(NewEvent::Prepared(prepared));
                    self.to_old.clear();
                    self.to_new.clear();
                    self.old_sees_end = false;
                    self.new_sees_end = false;
                    spawned = Some(Ok(2));
                }
                OldAction::Send(message) if self.new.is_some() => self.to_new.push_back(message),
                OldAction::Send(_) => {}
                OldAction::EndSuccessor => {
                    self.kill_new();
                    self.old_todo.push_back(OldEvent::SuccessorEnded);
                }
                OldAction::SetDeadline(name, _) => self.old_deadline = Some(name),
                OldAction::ClearDeadline => self.old_deadline = None,
                OldAction::CloseStore => {
                    assert_eq!(self.store, Some(Side::Old));
                    self.store = None;
                    let closed = if self.fault(10) {
                        Err("chance".to_owned())
                    } else {
                        Ok(())
                    };
                    self.old_todo.push_back(OldEvent::StoreClosed(closed));
                }
                OldAction::ReopenStore => {
                    let opened = self.open_store(Side::Old);
                    self.old_todo.push_back(OldEvent::StoreReopened(opened));
                }
                OldAction::CancelAccepts => {
                    self.old_accepts = false;
                    self.old_todo.push_back(OldEvent::AcceptsCanceled);
                }
                OldAction::ResumeAccepts => self.old_accepts = true,
                OldAction::Drain => self.old_todo.push_back(OldEvent::DrainEnded),
                OldAction::ApplyWrite { id, .. } => {
                    assert_eq!(self.store, Some(Side::Old), "a write without a store");
                    assert!(self.writes_open.remove(&id), "{id} answered twice");
                }
                OldAction::WriteEnded { id, .. } => {
                    assert!(self.writes_open.remove(&id), "{id} answered twice");
                }
                OldAction::Terminate => self.is_terminated = true,
                OldAction::Exit => {
                    assert!(self.writes_open.is_empty(), "writes without an answer");
                    self.kill_old();
                    return;
                }
                OldAction::CloseListeners => assert!(!self.old_accepts),
                OldAction::RefuseWrites
                | OldAction::AllowWrites
                | OldAction::NotifyReloading
                | OldAction::NotifyReady
                | OldAction::NotifyMainPid(_)
                | OldAction::Say(..) => {}
            }
        }
        if let Some(result) = spawned {
            self.tell_old(OldEvent::Spawned(result));
        }
    }

    fn tell_new(&mut self, event: NewEvent) {
        let Some(new) = &mut self.new else { return };
        for action in new.on(event) {
            match action {
                NewAction::Send(message) if self.is_old_alive => self.to_old.push_back(message),
                NewAction::SetDeadline(name, _) => self.new_deadline = Some(name),
                NewAction::ClearDeadline => self.new_deadline = None,
                NewAction::OpenStore => {
                    let opened = self.open_store(Side::New);
                    self.new_todo.push_back(NewEvent::StoreOpened(opened));
                }
                NewAction::StartAccepting => self.new_accepts = true,
                NewAction::ApplyWrite { id, .. } => {
                    assert_eq!(self.store, Some(Side::New), "a write without a store");
                    let result = Ok(());
                    self.new_todo
                        .push_back(NewEvent::WriteApplied { id, result });
                }
                NewAction::Exit(_) => {
                    assert!(!self.new_accepts, "a process that serves ends itself");
                    self.kill_new();
                    return;
                }
                _ => {}
            }
        }
    }

    /// One thing that can happen next; false when nothing can, but faults.
    fn step(&mut self) -> bool {
        let mut ways: Vec<fn(&mut Self)> = Vec::new();
        if !self.old_todo.is_empty() {
            ways.push(|w| {
                let event = w.old_todo.pop_front().expect("seen");
                w.tell_old(event);
            });
        }
        if !self.new_todo.is_empty() {
            ways.push(|w| {
                let event = w.new_todo.pop_front().expect("seen");
                w.tell_new(event);
            });
        }
        if self.is_old_alive && !self.to_old.is_empty() {
            ways.push(|w| {
                let message = w.to_old.pop_front().expect("seen");
                w.tell_old(OldEvent::Received(message));
            });
        } else if self.is_old_alive && self.old_sees_end {
            ways.push(|w| {
                w.old_sees_end = false;
                w.tell_old(OldEvent::ChannelEnded("closed".into()));
            });
        }
        if self.new.is_some() && !self.to_new.is_empty() {
            ways.push(|w| {
                let message = w.to_new.pop_front().expect("seen");
                w.tell_new(NewEvent::Received(message));
            });
        } else if self.new.is_some() && self.new_sees_end {
            ways.push(|w| {
                w.new_sees_end = false;
                w.tell_new(NewEvent::ChannelEnded("closed".into()));
            });
        }
        let has_work = !ways.is_empty();
        // Deadlines pass when nothing else happens, or as a fault.
        if !has_work || self.fault(50) {
            if self.old_deadline.is_some() {
                ways.push(|w| {
                    let name = w.old_deadline.take().expect("seen");
                    w.tell_old(OldEvent::DeadlinePassed(name));
                });
            }
            if self.new_deadline.is_some() {
                ways.push(|w| {
                    let name = w.new_deadline.take().expect("seen");
                    w.tell_new(NewEvent::DeadlinePassed(name));
                });
            }
        }
        if ways.is_empty() {
            return false;
        }
        let way = ways[self.chance.below(ways.len())];
        way(self);
        if self.fault(60) {
            self.kill_new();
        }
        if self.fault(300) && self.new.is_some() && self.is_old_alive {
            self.kill_old();
        }
        if self.is_old_alive && self.chance.one_in(4) && self.next_write < 200 {
            let id = self.next_write;
            self.next_write += 1;
            self.writes_open.insert(id);
            let record = json!({ "id": id });
            self.tell_old(OldEvent::WriteWanted { id, record });
        }
        true
    }

    fn run(mut self, seed: u64) -> Self {
        self.tell_old(OldEvent::UpgradeRequested);
        for _ in 0..10_000 {
            if !self.has_faults {
                assert!(
                    self.old_accepts || self.new_accepts,
                    "seed {seed}: nobody accepts"
                );
            }
            if self.fault(200) {
                self.tell_old(OldEvent::TerminateRequested);
            }
            if !self.step() {
                return self;
            }
        }
        panic!("seed {seed}: it does not come to rest");
    }
}

#[test]
fn without_faults_the_new_process_always_ends_up_serving_and_somebody_always_accepts() {
    for seed in 0..3_000 {
        let world = World::new(seed, false).run(seed);
        assert!(!world.is_old_alive, "seed {seed}");
        assert!(
            world.new_accepts && world.store == Some(Side::New),
            "seed {seed}"
        );
    }
}

#[test]
fn whatever_fails_the_store_has_one_owner_and_a_process_that_lives_serves() {
    let mut ends = [0; 3];
    for seed in 0..20_000 {
        let world = World::new(seed, true).run(seed);
        let old_serves = world.old_accepts && world.store == Some(Side::Old);
        let new_serves = world.new_accepts && world.store == Some(Side::New);
        match (world.is_old_alive, world.new.is_some()) {
            (true, false) => {
                assert!(old_serves, "seed {seed}: {:?}", world.old);
                assert!(world.writes_open.is_empty(), "seed {seed}: {:?}", world.old);
                ends[0] += 1;
            }
            (false, true) => {
                assert!(new_serves, "seed {seed}: {:?}", world.new);
                ends[1] += 1;
            }
            // Both were killed, or the old one had drained when the new one was.
            (false, false) => ends[2] += 1,
            (true, true) => panic!("seed {seed}: {:?} {:?}", world.old, world.new),
        }
    }
    assert!(ends.iter().all(|count| *count > 100), "{ends:?}");
}

// What follows uses real processes: this test program starts itself, with one of the tests below as
// its argument. Run without an inheritance, those tests do nothing.

/// A store with an owner: a file that one process at a time has locked.
struct Store {
    _lock: File,
}

impl Store {
    fn open(path: &Path) -> Result<Self, String> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|e| e.to_string())?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _lock: file }),
            Err(TryLockError::WouldBlock) => Err("another process has it open".to_owned()),
            Err(TryLockError::Error(e)) => Err(e.to_string()),
        }
    }
}

fn store_path(pid: u32, story: &str) -> PathBuf {
    std::env::temp_dir().join(format!("penstock-upgrade-{pid}-{story}"))
}

/// A shard that answers each connection with the number of its process; `q` ends that process.
struct Shard {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Shard {
    fn start(set: &ListenerSet) -> Self {
        let mut sockets = set.for_shards("traffic", 1).expect("copies");
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            // The driver that every machine has; `net::listener` tests both.
            RuntimeBuilder::<LegacyDriver>::new()
                .enable_timer()
                .build()
                .expect("a runtime")
                .block_on(async move {
                    let acceptors: Vec<_> = sockets
                        .remove(0)
                        .into_iter()
                        .map(|socket| Rc::new(Acceptor::new(socket).expect("an acceptor")))
                        .collect();
                    let loops: Vec<_> = acceptors
                        .iter()
                        .map(|acceptor| monoio::spawn(serve(acceptor.clone())))
                        .collect();
                    // An error means that the sender is gone, which ends the shard too.
                    let _ = stopped.await;
                    for acceptor in &acceptors {
                        acceptor.stop();
                    }
                    for serving in loops {
                        serving.await;
                    }
                });
        });
        Self { stop, thread }
    }

    /// Calls `then` when every accept has answered and what it brought was served.
    fn stop(self, then: impl FnOnce() + Send + 'static) {
        let _ = self.stop.send(());
        std::thread::spawn(move || {
            self.thread.join().expect("the shard ends well");
            then();
        });
    }
}

async fn serve(acceptor: Rc<Acceptor>) {
    let pause = async |time| monoio::time::sleep(time).await;
    let mut serving = Vec::new();
    while let Ok(Some((tcp, _))) = acceptor.accept(pause).await {
        serving.push(monoio::spawn(answer(tcp)));
    }
    for task in serving {
        task.await;
    }
}

async fn answer(tcp: Tcp) {
    let (_, asked) = tcp.read(Vec::with_capacity(16)).await;
    let text = std::process::id().to_string();
    let _ = tcp.write_all(text.into_bytes(), 0).await;
    tcp.shutdown(Half::Both);
    if asked == b"q" {
        std::process::exit(0);
    }
}

fn ask(addr: SocketAddr, question: &[u8]) -> std::io::Result<u32> {
    let mut stream = TcpStream::connect(addr)?;
    stream.write_all(question)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    answer
        .parse()
        .map_err(|_| std::io::Error::other(format!("answered {answer:?}")))
}

/// What the old process of a story did, for the assertions.
#[derive(Default)]
struct Record {
    applied: Vec<u64>,
    ended: Vec<(u64, bool)>,
    refuses_writes: bool,
    has_resumed: bool,
}

struct StubOld {
    set: ListenerSet,
    path: PathBuf,
    store: Option<Store>,
    shard: Option<Shard>,
    events: UnboundedSender<OldEvent>,
    record: Arc<Mutex<Record>>,
}

impl StubOld {
    fn record(&self, change: impl FnOnce(&mut Record)) {
        change(&mut self.record.lock().expect("not poisoned"));
    }
}

impl OldHost for StubOld {
    fn listeners(&self) -> Vec<Handed> {
        self.set.describe()
    }

    fn perform(&mut self, action: OldAction) {
        let tell = |event| self.events.send(event).expect("the driver listens");
        match action {
            OldAction::CloseStore => {
                self.store = None;
                tell(OldEvent::StoreClosed(Ok(())));
            }
            OldAction::ReopenStore => {
                let opened = Store::open(&self.path);
                tell(OldEvent::StoreReopened(
                    opened.map(|store| self.store = Some(store)),
                ));
            }
            OldAction::CancelAccepts => {
                let events = self.events.clone();
                self.shard.take().expect("it accepts").stop(move || {
                    let _ = events.send(OldEvent::AcceptsCanceled);
                });
            }
            OldAction::ResumeAccepts => {
                self.shard = Some(Shard::start(&self.set));
                self.record(|r| r.has_resumed = true);
            }
            OldAction::CloseListeners => self.set.close("traffic"),
            OldAction::Drain => tell(OldEvent::DrainEnded),
            OldAction::ApplyWrite { id, .. } => {
                assert!(self.store.is_some(), "a write without a store");
                self.record(|r| r.applied.push(id));
            }
            OldAction::WriteEnded { id, result } => {
                self.record(|r| r.ended.push((id, result.is_ok())));
            }
            OldAction::RefuseWrites => self.record(|r| r.refuses_writes = true),
            OldAction::AllowWrites => self.record(|r| r.refuses_writes = false),
            other => panic!("{other:?}"),
        }
    }
}

struct StubNew {
    set: ListenerSet,
    path: PathBuf,
    store: Option<Store>,
    shard: Option<Shard>,
    events: UnboundedSender<NewEvent>,
    on_store: fn(),
}

impl NewHost for StubNew {
    fn perform(&mut self, action: NewAction) {
        let tell = |event| self.events.send(event).expect("the driver listens");
        match action {
            NewAction::OpenStore => {
                let opened = Store::open(&self.path);
                let opened = opened.map(|store| self.store = Some(store));
                (self.on_store)();
                tell(NewEvent::StoreOpened(opened));
            }
            NewAction::StartAccepting => self.shard = Some(Shard::start(&self.set)),
            NewAction::ApplyWrite { id, .. } => {
                let result = match &self.store {
                    Some(_) => Ok(()),
                    None => Err("no store".to_owned()),
                };
                tell(NewEvent::WriteApplied { id, result });
            }
            NewAction::WritePidFile | NewAction::PredecessorGone => {}
            other => panic!("{other:?}"),
        }
    }
}

fn on_control_thread<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// The life of a new process; `on_start` and `on_store` are where stories differ.
fn be_the_new_process(story: &str, on_start: fn(), on_store: fn()) {
    let inherited = Inherited::take(std::env::var(start::ENV).ok().as_deref());
    let Some(inherited) = inherited.expect("an inheritance") else {
        return;
    };
    on_start();
    let mut set = inherited.listeners;
    let place = Place::new("127.0.0.1", 0);
    set.open("traffic", &place, 3).expect("it was inherited");
    assert!(set.close_unclaimed().is_empty());
    let (events, receiver) = tokio::sync::mpsc::unbounded_channel();
    let mut host = StubNew {
        set,
        path: store_path(parent_id(), story),
        store: None,
        shard: None,
        events: events.clone(),
        on_store,
    };
    events.send(NewEvent::Prepared(Ok(()))).expect("it listens");
    let machine = NewGeneration::new(std::process::id(), "test");
    let channel = inherited.channel;
    let notifier = Notifier::default();
    let served = on_control_thread(drive_new(machine, channel, &notifier, &mut host, receiver));
    if served.is_ok() {
        // Until a client says `q`, or the test program ends without that.
        let parent = parent_id();
        std::thread::spawn(move || {
            while parent_id() == parent {
                std::thread::sleep(Duration::from_millis(100));
            }
            std::process::exit(1);
        });
        host.shard
            .expect("it serves")
            .thread
            .join()
            .expect("it serves");
    }
}

/// Upgrades this process to one that runs `story`, while clients ask and requests write; answers
/// whether it handed over, and what happened.
fn upgrade_to(story: &str, test: &str) -> (bool, SocketAddr, Record) {
    let path = store_path(std::process::id(), story);
    let mut set = ListenerSet::default();
    let addr = set
        .open("traffic", &Place::new("127.0.0.1", 0), 2)
        .expect("a port");
    let record = Arc::new(Mutex::new(Record::default()));
    let (events, receiver) = tokio::sync::mpsc::unbounded_channel();
    let mut host = StubOld {
        store: Some(Store::open(&path).expect("ours")),
        shard: Some(Shard::start(&set)),
        set,
        path: path.clone(),
        events: events.clone(),
        record: record.clone(),
    };
    assert!(
        Store::open(&path).is_err(),
        "the stub refuses a second opener"
    );
    let program = Program {
        path: std::env::current_exe().expect("this program"),
        args: [
            "penstock",
            &format!("server::upgrade::tests::{test}"),
            "--exact",
        ]
        .map(Into::into)
        .to_vec(),
        folder: std::env::current_dir().expect("a folder"),
    };

    let is_over = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicUsize::new(0));
    let (answers_to, answers) = mpsc::channel();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (is_over, asked, answers) = (is_over.clone(), asked.clone(), answers_to.clone());
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = answers.send(ask(addr, b"?"));
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let first = json!({ "id": 1 });
    let write = OldEvent::WriteWanted {
        id: 1,
        record: first,
    };
    events.send(write).expect("it listens");
    let writer = std::thread::spawn({
        let (is_over, events) = (is_over.clone(), events.clone());
        move || {
            let mut id = 1;
            while !is_over.load(Ordering::Relaxed) && id < 100_000 {
                id += 1;
                let record = json!({ "id": id });
                if events.send(OldEvent::WriteWanted { id, record }).is_err() {
                    return id - 1;
                }
                std::thread::sleep(Duration::from_micros(500));
            }
            id
        }
    });
    events.send(OldEvent::UpgradeRequested).expect("it listens");
    let notifier = Notifier::default();
    let has_handed_over = on_control_thread(async {
        let machine = OldGeneration::new(false);
        let mut driving = Box::pin(drive_old(machine, &program, &notifier, &mut host, receiver));
        loop {
            tokio::select! {
                () = &mut driving => return true,
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
            let record = record.lock().expect("not poisoned");
            let was_refused = asked.load(Ordering::Relaxed) > 20 && !record.refuses_writes;
            if story != "serves" && was_refused && Path::new(&tried(&path)).exists() {
                return false;
            }
        }
    });
    // The process that serves now answers a while longer.
    let before = asked.load(Ordering::Relaxed);
    while asked.load(Ordering::Relaxed) < before + 20 {
        std::thread::yield_now();
    }
    is_over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("a client");
    }
    writer.join().expect("a writer");
    drop(answers_to);
    let answers: Vec<u32> = answers
        .into_iter()
        .map(|answer| answer.expect("every client is served"))
        .collect();
    let own = std::process::id();
    let last = *answers.last().expect("some");
    assert_eq!(
        last == own,
        !has_handed_over,
        "{last} serves, {own} is the old process"
    );
    assert_eq!(host.store.is_some(), !has_handed_over);
    assert!(Store::open(&path).is_err(), "somebody owns the store");
    if let Some(shard) = host.shard.take() {
        let (done, wait) = mpsc::channel();
        shard.stop(move || done.send(()).expect("awaited"));
        wait.recv().expect("it ends");
    }
    let record = std::mem::take(&mut *record.lock().expect("not poisoned"));
    (has_handed_over, addr, record)
}

/// Where a failing new process leaves word that it was there.
fn tried(path: &Path) -> PathBuf {
    path.with_extension("tried")
}

fn leave_word(story: &str) {
    File::create(tried(&store_path(parent_id(), story))).expect("a file");
}

fn clean_up(story: &str) {
    let path = store_path(std::process::id(), story);
    let _ = std::fs::remove_file(tried(&path));
    let _ = std::fs::remove_file(path);
}

#[test]
fn new_process_that_serves() {
    be_the_new_process("serves", || {}, || {});
}

#[test]
fn a_process_hands_over_to_another_without_losing_a_client_or_a_write() {
    let (has_handed_over, addr, record) = upgrade_to("serves", "new_process_that_serves");
    assert!(has_handed_over);
    assert!(
        record.ended.iter().all(|(_, is_ok)| *is_ok),
        "{:?}",
        record.ended
    );
    assert!(
        !record.applied.is_empty(),
        "writes before the upgrade are our own"
    );
    let mut all: Vec<u64> = record.ended.iter().map(|(id, _)| *id).collect();
    all.extend(&record.applied);
    all.sort_unstable();
    assert!(
        all.iter().copied().eq(1..=all.len() as u64),
        "each is answered once"
    );
    ask(addr, b"q").expect("it ends");
    clean_up("serves");
}

#[test]
fn new_process_that_dies_at_start() {
    be_the_new_process(
        "dies-at-start",
        || {
            leave_word("dies-at-start");
            std::process::abort();
        },
        || {},
    );
}

#[test]
fn a_process_whose_successor_dies_at_start_goes_on_serving() {
    let (has_handed_over, ..) = upgrade_to("dies-at-start", "new_process_that_dies_at_start");
    assert!(!has_handed_over);
    clean_up("dies-at-start");
}

#[test]
fn new_process_that_dies_with_the_store() {
    be_the_new_process(
        "dies-with-the-store",
        || {},
        || {
            leave_word("dies-with-the-store");
            std::process::abort();
        },
    );
}

#[test]
fn a_process_whose_successor_dies_with_the_store_opens_it_again() {
    let (has_handed_over, _, record) = upgrade_to(
        "dies-with-the-store",
        "new_process_that_dies_with_the_store",
    );
    assert!(!has_handed_over);
    assert!(!record.has_resumed, "accepting never stopped");
    assert!(
        record.ended.is_empty(),
        "every write was applied here in the end"
    );
    clean_up("dies-with-the-store");
}
