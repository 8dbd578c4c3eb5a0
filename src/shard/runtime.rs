//! The thread of a shard: its CPU, its ring (or epoll), its timer and its inbox.

use std::{
    cell::{Cell, RefCell},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use crate::{
    analytics,
    auth::directory::{Ask, Found},
    control::{Answer, Call, Paths},
    exchange::{Local, Settings, direct::Direct, limits::Limiters, sessions::Sessions},
    gateway::{serve::Worker, snapshot::Published},
    limit,
    mailbox::{Inbox, Line, Mailbox, Outlet, Wake, inbox},
    metrics,
    net::{sys, watch::TICK_MS},
    shard::{Item, Job, Shard, accept, conn},
    storage::Doorway,
    telemetry::Tracer,
};

/// Which kernel interface a shard uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// io_uring with `SINGLE_ISSUER` and `DEFER_TASKRUN`; other flags cost more than epoll.
    IoUring,
    Epoll,
}

const RING_ENTRIES: u32 = 1024;
/// Seconds between two looks at all sessions of a shard.
const SWEEP_SESSIONS_S: u64 = 10;
const QUESTIONS_MAX: usize = 4096;
const JOBS_MAX: usize = 4096;

/// Tries the ring with the flags that shards use and one no-op.
///
/// # Errors
/// Why the kernel does not allow it.
pub fn probe_io_uring() -> io::Result<()> {
    let mut ring: io_uring06::IoUring = ring_builder().build(8)?;
    let nop = io_uring06::opcode::Nop::new().build();
    push_nop(&mut ring, &nop)?;
    ring.submit_and_wait(1)?;
    match ring.completion().next() {
        Some(done) if done.result() >= 0 => Ok(()),
        Some(done) => Err(io::Error::from_raw_os_error(-done.result())),
        None => Err(io::Error::other("the ring did not answer")),
    }
}

#[allow(unsafe_code, reason = "the ring cannot be tried without")]
fn push_nop(ring: &mut io_uring06::IoUring, nop: &io_uring06::squeue::Entry) -> io::Result<()> {
    // SAFETY: a no-op refers to no memory.
    unsafe { ring.submission().push(nop) }.map_err(io::Error::other)
}

fn ring_builder() -> io_uring06::Builder {
    let mut builder = io_uring06::IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun();
    builder
}

/// What a shard is started with.
pub struct Parts {
    pub index: usize,
    pub cpu: Option<usize>,
    pub driver: Driver,
    pub settings: Arc<Settings>,
    pub metrics: Arc<metrics::Shard>,
    pub published: Arc<Published>,
    pub sessions: Mailbox<Ask, Found>,
    pub limits: Mailbox<limit::Question, limit::Answer>,
    pub cells: Arc<limit::Cells>,
    /// Where the limiters' store is, if shards may ask it themselves.
    pub doorway: Option<Arc<Doorway>>,
    pub records: Option<analytics::Producer>,
    pub tracer: Option<Tracer>,
    pub control: Mailbox<Call, Answer>,
    pub control_paths: Paths,
}

/// A running shard, seen from the control thread.
pub struct Handle {
    pub outlet: Outlet<Item>,
    /// Its counters; connections count as open from the moment they are accepted.
    pub metrics: Arc<metrics::Shard>,
    pub thread: JoinHandle<()>,
}

/// Starts a shard.
///
/// # Errors
/// When the thread, its wake descriptor or its ring cannot be made.
pub fn start(parts: Parts) -> io::Result<Handle> {
    let wake = Wake::from_eventfd(sys::eventfd()?)?;
    let (inbox, outlet) = inbox::<Item>(wake, JOBS_MAX);
    let back = outlet.clone();
    let metrics = Arc::clone(&parts.metrics);
    let (ready, started) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new()
        .name(format!("shard-{}", parts.index))
        .spawn(move || run(parts, inbox, back, &ready))?;
    match started.recv() {
        Ok(Ok(())) => Ok(Handle {
            outlet,
            metrics,
            thread,
        }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("a shard ended before it was ready")),
    }
}

fn run(
    parts: Parts,
    inbox: Inbox<Item>,
    back: Outlet<Item>,
    ready: &std::sync::mpsc::Sender<io::Result<()>>,
) {
    if let Some(cpu) = parts.cpu
        && let Err(error) = sys::pin_to_cpu(cpu)
    {
        tracing::warn!(%error, cpu, "cannot bind a shard to its CPU");
    }
    let main = |parts: Parts| async move {
        let _ = ready.send(Ok(()));
        shard_main(parts, inbox, back).await;
    };
    match parts.driver {
        Driver::IoUring => {
            let runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
                .uring_builder(ring_builder())
                .with_entries(RING_ENTRIES)
                .enable_timer()
                .build();
            match runtime {
                Ok(mut runtime) => runtime.block_on(main(parts)),
                Err(error) => drop(ready.send(Err(error))),
            }
        }
        Driver::Epoll => {
            let runtime = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new()
                .enable_timer()
                .build();
            match runtime {
                Ok(mut runtime) => runtime.block_on(main(parts)),
                Err(error) => drop(ready.send(Err(error))),
            }
        }
    }
}

async fn shard_main(parts: Parts, inbox: Inbox<Item>, back: Outlet<Item>) {
    let back = Arc::new(back);
    let sessions = Sessions::new(
        Line::new(parts.sessions, back.clone(), QUESTIONS_MAX),
        parts.settings.store_deadline_ms,
        parts.settings.session_fresh_ms,
    );
    let outlook = parts.cells.outlook();
    let direct = parts
        .doorway
        .map(|doorway| Direct::new(doorway, Arc::clone(outlook)));
    let limiters = Limiters::new(
        Line::new(parts.limits, back.clone(), QUESTIONS_MAX),
        direct,
        parts.cells,
        Arc::clone(&parts.metrics),
    );
    let local = Rc::new(Local::new(
        parts.settings,
        parts.metrics,
        sessions,
        limiters,
        parts.records,
        parts.tracer,
        parts.index,
    ));
    let shard = Rc::new(Shard {
        worker: Worker::new(local, parts.published),
        control: Line::new(parts.control, back, QUESTIONS_MAX),
        control_paths: parts.control_paths,
        active: Cell::new(0),
        connections_max: accept::connections_max(sys::descriptor_limit()),
        acceptors: RefCell::default(),
    });
    conn::spawn(timer(Rc::clone(&shard)));
    conn::spawn(keep_direct(Rc::clone(&shard.worker.local)));
    let bell = match crate::net::io::Pollable::new(inbox.bell()) {
        Ok(bell) => bell,
        Err(error) => {
            tracing::error!(%error, "a shard cannot wait for its inbox");
            return;
        }
    };
    loop {
        if let Err(error) = bell.readable().await {
            tracing::error!(%error, "a shard lost its inbox");
            return;
        }
        inbox.drain(|item| contained(&shard, || take(&shard, item)));
        if inbox.is_gone() {
            return;
        }
    }
}

fn take(shard: &Rc<Shard>, item: Item) {
    let local = &shard.worker.local;
    match item {
        Item::Session(answered) => {
            local.sessions.line().complete(answered);
        }
        Item::Limit(answered) => {
            local.limiters.line().complete(answered);
        }
        Item::Control(answered) => {
            shard.control.complete(answered);
        }
        Item::Job(Job::Look) => {
            let _ = shard.worker.view();
        }
        Item::Job(Job::Listen {
            key,
            sockets,
            tls,
            is_traffic,
        }) => {
            for socket in sockets {
                accept::start(shard, key, socket, tls.clone(), is_traffic);
            }
        }
        Item::Job(Job::StopAccepting { key, stopped }) => accept::stop(shard, key, stopped),
        Item::Job(Job::Debug(debug)) => {
            let open = conn::Open::new(&local.metrics);
            conn::spawn(conn::debug(open, Rc::clone(local), *debug));
        }
        Item::Job(Job::Drain) => {
            local.draining.set(true);
            shard.worker.pools.clear();
        }
        Item::Job(Job::End) => {
            local.ending.set(true);
            local.watch.interrupt_all();
        }
    }
}

async fn keep_direct(local: Rc<Local>) {
    if let Some(direct) = local.limiters.direct() {
        direct.run(&local.watch).await;
    }
}

/// Moves the shard's clock on: deadlines, questions, and once a second the pools.
async fn timer(shard: Rc<Shard>) {
    let local = &shard.worker.local;
    let mut last_s = 0;
    loop {
        crate::net::io::sleep(Duration::from_millis(TICK_MS)).await;
        contained(&shard, || {
            local.watch.turn();
            let now_ms = local.watch.clock().now_ms();
            local.sessions.line().expire(now_ms);
            local.sessions.ask_ahead();
            local.limiters.line().expire(now_ms);
            if let Some(records) = &local.records {
                records.tick();
            }
            if let Some(tracer) = &local.tracer {
                tracer.tick();
            }
            shard.control.expire(now_ms);
            if now_ms / 1000 != last_s {
                last_s = now_ms / 1000;
                shard.worker.pools.sweep(local);
                if last_s % SWEEP_SESSIONS_S == 0 {
                    local.sessions.sweep(now_ms);
                }
            }
        });
    }
}

/// Runs a turn of what every connection depends on: a panic in it ends neither timer nor inbox.
fn contained(shard: &Shard, turn: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(turn)).is_err() {
        shard.worker.local.metrics.panics.count();
        tracing::error!("a panic in a shard's own work");
    }
}
