//! The running process: shards, listeners, control plane, and what signals do to them.
//!
//! Lives on the control thread. Tyk: `gateway/server.go` (`Start`).

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::{
    auth::{directory::Directory, keyspace::Keyspace, write_back::WriteBack},
    config::{Config, StoreKind},
    control::{Answer, Call, Control, Paths, Setup},
    event,
    exchange::Settings,
    gateway::{
        compile::Compiler,
        live::Live,
        loader::Loader,
        reload::{Bell, Gateway as _, Readiness, Refused, ReloadReport, Ringer},
        snapshot::{ErrorResponses, PortKey},
    },
    limit::{self, Cells, Reconciler},
    mailbox::{Desk, mailbox},
    metrics::{Registry, Window},
    net::{
        dns::{self, Names},
        listener::{CannotListen, Handed, ListenerSet, Place},
        proxy_connect::ProxyEnv,
        sys,
        tls::{Identity, NamedIdentity, ServerOptions, ServerTls},
        watch::process_ms,
    },
    policy,
    server::{
        boot::session_freshness,
        debug,
        fleet::{Herald, Member},
        last_writes,
        notify::Notifier,
        origin, pid_file, records,
        signals::{Signal, Signals},
        telemetry,
        upgrade::{
            drive::{NewHost, OldHost, drive_new, drive_old},
            new::{NewAction, NewEvent, NewGeneration},
            old::{OldAction, OldEvent, OldGeneration},
            start::{Inherited, Program},
        },
    },
    session::{LifetimeRules, key_naming},
    shard::{
        Item, Job,
        runtime::{Driver, Handle, Parts, start},
    },
    storage::{Liveness, Owner, STORE_CONNECTIONS, StoreError},
};

const QUESTIONS_MAX: usize = 16 << 10;
const CALLS_MAX: usize = 1024;
/// How long a store may take to write what another process wants written.
const LAST_WRITE_MAX: Duration = Duration::from_secs(2);

/// After the drain limit: for streams to end cleanly.
const ENDING: Duration = Duration::from_millis(1500);

/// Between two attempts to accept that failed, for want of descriptors mostly.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// How long a starting process waits for a place to listen that is taken, and between two looks. The
/// kernel lets go of what a killed process had begun to accept in its ring a moment after its end.
// Tyk differs: it ends at once.
const LISTEN_WITHIN: Duration = Duration::from_secs(2);
const LISTEN_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// Between two looks at all sessions of the node.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// Between two looks whether somebody still serves from an old snapshot.
const LET_GO_EVERY: Duration = Duration::from_secs(1);

/// What a process is made of before it runs.
pub struct Process {
    pub config: Arc<Config>,
    pub settings: Arc<Settings>,
    pub errors: Arc<ErrorResponses>,
    pub registry: Arc<Registry>,
    pub owner: Arc<Owner>,
    /// The platform's folder for what must outlive the process.
    pub state_dir: PathBuf,
    pub driver: Driver,
    /// To bind shards to; empty: unbound.
    pub cpus: Vec<usize>,
    pub shards: usize,
    pub quickstart: bool,
    /// `TYK_INSTRUMENTATION`, `--log-instrumentation`
    pub is_instrumented: bool,
    pub program: Program,
    pub notifier: Notifier,
}

/// The parts of a running process that its tasks share.
struct Running {
    config: Arc<Config>,
    registry: Arc<Registry>,
    owner: Arc<Owner>,
    live: Arc<Live>,
    shards: Vec<Handle>,
    listeners: RefCell<ListenerSet>,
    /// Listeners that shards accept on, with the name of their sockets.
    open: RefCell<BTreeMap<PortKey, String>>,
    tls: Option<ServerTls>,
    accepting: Cell<bool>,
    /// Listeners that shards accept on.
    accepted: RefCell<BTreeSet<PortKey>>,
    policy_source: policy::Source,
    policies: Arc<policy::Current>,
    directory: Arc<Directory>,
    cells: Arc<Cells>,
    /// There once everything that it needs is.
    member: RefCell<Option<Arc<Member>>>,
    /// Old snapshots are being waited for.
    letting_go: Rc<Cell<bool>>,
    telemetry: telemetry::Ending,
}

impl Process {
    /// Serves until a signal, or a new process that took over, ends it.
    ///
    /// # Errors
    /// One line: why it cannot start, with the remedy.
    pub async fn run(self, inherited: Option<Inherited>) -> Result<(), String> {
        let mut signals =
            Signals::open().map_err(|error| format!("cannot listen to signals: {error}"))?;
        let config = Arc::clone(&self.config);
        #[allow(
            clippy::disallowed_methods,
            reason = "definitions refer to variables by name"
        )]
        let env = |name: &str| std::env::var(name).ok();
        if self.quickstart {
            origin::spawn(&config).await?;
        }
        let dns = &config.dns_cache;
        let options = dns::Options {
            servers: config.penstock.dns_server_addrs().collect(),
            ..dns::Options::default()
        }
        .with_dns_cache(dns.enabled, dns.ttl, &dns.multiple_ips_handle_strategy);
        let names = Names::new(options, tokio::runtime::Handle::current());
        let (cells, limit_work) = Cells::new(limit::Settings::from_config(
            &config,
            config.storage.store_kind() == Some(StoreKind::Redis),
        ));
        let traces = telemetry::plan(&config);
        let statsd = telemetry::statsd(&config, self.is_instrumented, &self.registry);
        let (events, teller) = event::queue(&config);
        tokio::spawn(teller.run());
        let mut compiler = Compiler::new(
            Arc::clone(&config),
            names,
            ProxyEnv::read(env)?,
            Arc::clone(&cells),
            Arc::clone(&self.registry),
            Box::new(env),
        );
        compiler.is_traced = traces.is_some();
        compiler.times_steps = statsd.is_some();
        compiler.events = events.clone();
        let loader = Loader::new(compiler, Arc::clone(&self.errors));
        let live = Arc::new(Live::start(loader, Arc::clone(&self.registry))?);

        let (session_mail, session_desk) = mailbox(QUESTIONS_MAX);
        let (limit_mail, limit_desk) = mailbox(QUESTIONS_MAX);
        let (control_mail, control_desk) = mailbox(CALLS_MAX);
        let records = records::start(&config, &self.state_dir, &self.owner, &self.registry)?;
        let mut records = records.into_iter();
        let (tracers, hurry) = traces
            .map(|planned| telemetry::export(&config, planned, &self.registry))
            .unzip();
        let mut tracers = tracers.into_iter().flatten();
        let mut settings = Settings::clone(&self.settings);
        settings.times_steps = statsd.is_some();
        let settings = Arc::new(settings);
        let mut shards = Vec::with_capacity(self.shards);
        // As many connections as the configuration allows.
        let may_ask = config.storage.store_kind() == Some(StoreKind::Redis)
            && config.storage.max_active_or_default() >= STORE_CONNECTIONS + self.shards;
        for index in 0..self.shards {
            let metrics = self.registry.shard(index).unwrap_or_default();
            let cpu = self.cpus.get(index % self.cpus.len().max(1)).copied();
            let parts = Parts {
                index,
                cpu,
                driver: self.driver,
                settings: Arc::clone(&settings),
                metrics,
                published: Arc::clone(live.published()),
                sessions: session_mail.clone(),
                limits: limit_mail.clone(),
                cells: Arc::clone(&cells),
                doorway: may_ask.then(|| self.owner.doorway()),
                records: records.next(),
                tracer: tracers.next(),
                control: control_mail.clone(),
                control_paths: Paths::from_config(&config),
            };
            let handle = start(parts).map_err(|error| {
                format!("cannot start shard {index}: {error}; see `ulimit -l` and `ulimit -n`")
            })?;
            shards.push(handle);
        }
        let policies = Arc::new(policy::Current::default());
        let (channel, listeners) = match inherited {
            Some(Inherited { channel, listeners }) => (Some(channel), listeners),
            None => (None, ListenerSet::default()),
        };
        let running = Rc::new(Running {
            tls: server_tls(&config)?,
            policy_source: policy::Source::from_config(&config)?,
            policies: Arc::clone(&policies),
            directory: Arc::new(Directory::new(
                key_naming(&config),
                Arc::clone(&self.owner),
                policies,
                Arc::clone(&cells),
                session_freshness(&config),
            )),
            cells,
            member: RefCell::default(),
            config,
            registry: self.registry,
            owner: Arc::clone(&self.owner),
            live: Arc::clone(&live),
            shards,
            listeners: RefCell::new(listeners),
            open: RefCell::default(),
            accepting: Cell::new(false),
            accepted: RefCell::default(),
            letting_go: Rc::default(),
            telemetry: telemetry::Ending {
                hurry,
                statsd: statsd.clone(),
            },
        });
        running.load_policies().await;
        running.open_listeners_at_start().await?;

        let (bell, ringer) = Bell::new();
        let liveness = Arc::new(Liveness::default());
        let member = Arc::new(Member::new(
            &running.config,
            Arc::clone(&self.owner),
            Arc::clone(&running.directory),
            Arc::clone(&running.cells),
            bell.clone(),
        )?);
        *running.member.borrow_mut() = Some(Arc::clone(&member));
        tokio::task::spawn_local(Arc::clone(&member).run());
        let control = Rc::new(Control::new(Setup {
            config: &running.config,
            gateway: Arc::clone(&live) as Arc<_>,
            bell: bell.clone(),
            owner: Arc::clone(&self.owner),
            liveness: Arc::clone(&liveness),
            registry: Arc::clone(&running.registry),
            keyspace: Arc::new(Keyspace::new(
                Arc::clone(&self.owner),
                key_naming(&running.config),
                Arc::new(Herald(Arc::clone(&member))),
            )),
            policies: Arc::clone(&running.policies),
            debugger: running.debugger()?,
            health: health_window(&running.config, &running.registry),
            statsd,
            events,
        }));
        tokio::task::spawn_local(answer_calls(control_desk, control));
        tokio::spawn(Arc::clone(&running.directory).run(session_desk));
        tokio::spawn(sweep(Arc::clone(&running.directory)));
        let write_back = WriteBack::new(
            Arc::clone(&running.directory),
            LifetimeRules::from_config(&running.config),
            {
                let herald = Herald(Arc::clone(&member));
                move |names| herald.key_quotas_changed(names)
            },
        );
        tokio::spawn(write_back.run(running.cells.renewals()));
        let reconciler = Reconciler::new(
            Arc::clone(&running.cells),
            limit_work,
            running.store_source(),
            Arc::new(process_ms),
        );
        tokio::spawn(reconciler.run(limit_desk, |question| question, |answer| answer));
        tokio::task::spawn_local(Rc::clone(&running).reloads(ringer));

        let notifier = Rc::new(self.notifier);
        let (events, received) = mpsc::unbounded_channel();
        let has_predecessor = channel.is_some();
        if let Some(channel) = channel {
            running
                .take_over(channel, &notifier, &mut signals, events.clone())
                .await?;
        } else {
            self.owner
                .acquire()
                .await
                .map_err(|error| format!("the store cannot be opened: {error}"))?;
            running.start_accepting()?;
            running.write_pid_file();
            notifier.ready();
        }
        running.listeners.borrow_mut().close_unclaimed();
        tokio::task::spawn_local({
            let (owner, interval) = (Arc::clone(&self.owner), liveness_interval(&running.config));
            async move {
                liveness
                    .run(&owner, interval, || {
                        let _ = bell.ring();
                    })
                    .await;
            }
        });
        running.say_ready();
        sys::give_back_program_pages();
        if self.quickstart {
            origin::print_hints(&running.config);
        }
        let machine = OldGeneration::new(has_predecessor);
        tokio::task::spawn_local(forward(signals, events.clone()));
        running
            .serve(machine, &self.program, &notifier, events, received)
            .await;
        Ok(())
    }
}

impl Running {
    /// Handles upgrades and the end until this process ends.
    async fn serve(
        self: &Rc<Self>,
        machine: OldGeneration,
        program: &Program,
        notifier: &Notifier,
        events: mpsc::UnboundedSender<OldEvent>,
        received: mpsc::UnboundedReceiver<OldEvent>,
    ) {
        let ended = Rc::new(tokio::sync::Notify::new());
        let mut host = Serving {
            running: Rc::clone(self),
            events,
            ended: Rc::clone(&ended),
        };
        tokio::select! {
            () = drive_old(machine, program, notifier, &mut host, received) => {}
            () = ended.notified() => notifier.stopping(),
        }
        tracing::info!(prefix = "main", "Terminating.");
    }

    /// Takes over from the process that started this one: returns when this one accepts. What is
    /// left to say to the old process goes on beside serving; its end is an event of `serving`.
    async fn take_over(
        self: &Rc<Self>,
        channel: std::os::unix::net::UnixStream,
        notifier: &Rc<Notifier>,
        signals: &mut Signals,
        serving: mpsc::UnboundedSender<OldEvent>,
    ) -> Result<(), String> {
        let (events, received) = mpsc::unbounded_channel();
        // The receiving end lives as long as `events` does.
        let _ = events.send(NewEvent::Prepared(Ok(())));
        let machine = NewGeneration::new(std::process::id(), env!("CARGO_PKG_VERSION"));
        let (accepts, mut accepting) = oneshot::channel();
        let mut host = TakingOver {
            running: Rc::clone(self),
            events: events.clone(),
            serving: serving.clone(),
            accepts: Some(accepts),
        };
        let notifier = Rc::clone(notifier);
        let mut taking = tokio::task::spawn_local(async move {
            drive_new(machine, channel, &notifier, &mut host, received).await
        });
        let mut given_up = false;
        loop {
            tokio::select! {
                // Its sender goes with the task when that fails: the task says why.
                told = &mut accepting, if !given_up => match told {
                    Ok(()) => return Ok(()),
                    Err(_) => given_up = true,
                },
                done = &mut taking => {
                    return done.unwrap_or_else(|error| Err(error.to_string()));
                }
                signal = signals.next() => match signal {
                    Ok(Signal::Terminate) => drop(events.send(NewEvent::TerminateRequested)),
                    // Starts when this process serves and the old one is gone.
                    Ok(Signal::Upgrade) => drop(serving.send(OldEvent::UpgradeRequested)),
                    _ => {}
                }
            }
        }
    }

    /// Binds what the snapshot needs and is not bound yet; what could not be bound. Nothing accepts
    /// yet.
    fn open_listeners(&self) -> Vec<Unbound> {
        let snapshot = self.live.published().load();
        let mut unbound = Vec::new();
        for port in &snapshot.ports {
            if self.open.borrow().contains_key(&port.key) {
                continue;
            }
            let scheme = if port.key.tls { "https" } else { "http" };
            let name = format!("{scheme}:{}", port.key.port);
            let place = Place::new(&self.config.listen_address, port.key.port);
            let opened = self
                .listeners
                .borrow_mut()
                .open(&name, &place, self.shards.len());
            match opened {
                Ok(_) => {
                    self.open.borrow_mut().insert(port.key, name);
                }
                Err(error) => unbound.push(Unbound {
                    is_needed: port.carries_control || port.key == self.main_key(),
                    error,
                }),
            }
        }
        unbound
    }

    /// Binds what a starting process needs. A port that is taken may be that of a process which was
    /// killed a moment ago, so it is waited for; ports of single APIs hold up nobody else.
    async fn open_listeners_at_start(self: &Rc<Self>) -> Result<(), String> {
        let until = tokio::time::Instant::now() + LISTEN_WITHIN;
        let mut is_told = false;
        let unbound = loop {
            let unbound = self.open_listeners();
            let Some(needed) = unbound.iter().find(|unbound| unbound.is_needed) else {
                break unbound;
            };
            if !needed.may_become_free(until) {
                return Err(needed.error.to_string());
            }
            if !std::mem::replace(&mut is_told, true) {
                tracing::info!(
                    prefix = "main",
                    "waiting up to {} s: {}",
                    LISTEN_WITHIN.as_secs(),
                    needed.error
                );
            }
            tokio::time::sleep(LISTEN_AGAIN_AFTER).await;
        };
        if unbound.iter().any(|unbound| unbound.may_become_free(until)) {
            let running = Rc::clone(self);
            tokio::task::spawn_local(async move { running.keep_opening_listeners(until).await });
        } else {
            Unbound::tell(&unbound);
        }
        Ok(())
    }

    /// Requests of `/tyk/debug` go to the first shard.
    fn debugger(&self) -> Result<Arc<debug::OnShard>, String> {
        let shard = self.shards.first().ok_or("no shard")?;
        Ok(Arc::new(debug::OnShard {
            live: Arc::clone(&self.live),
            shard: shard.outlet.clone(),
        }))
    }

    /// Binds ports of single APIs as they become free, until that is no longer to be expected.
    async fn keep_opening_listeners(&self, until: tokio::time::Instant) {
        loop {
            tokio::time::sleep(LISTEN_AGAIN_AFTER).await;
            if self.live.readiness() == Readiness::Draining {
                return;
            }
            let unbound = self.open_listeners();
            if self.accepting.get()
                && let Err(why) = self.accept_on_all()
            {
                tracing::error!(prefix = "main", "{why}");
            }
            if !unbound.iter().any(|unbound| unbound.may_become_free(until)) {
                return Unbound::tell(&unbound);
            }
        }
    }

    fn main_key(&self) -> PortKey {
        crate::gateway::loader::main_port(&self.config)
    }

    fn start_accepting(&self) -> Result<(), String> {
        self.accepting.set(true);
        self.accept_on_all()
    }

    /// Accepts, and where that fails tries again: in an upgrade nobody else accepts any more.
    fn keep_starting_to_accept(self: &Rc<Self>) {
        let Err(why) = self.start_accepting() else {
            return;
        };
        tracing::error!(prefix = "main", "{why}; trying again");
        let running = Rc::clone(self);
        tokio::task::spawn_local(async move {
            while running.accepting.get() && running.accept_on_all().is_err() {
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            }
        });
    }

    /// Accepts wherever something is open and nothing accepts yet. One that fails holds up no other.
    fn accept_on_all(&self) -> Result<(), String> {
        let keys: Vec<_> = self.open.borrow().keys().copied().collect();
        let mut done = Ok(());
        for key in keys {
            if !self.accepted.borrow().contains(&key) {
                done = done.and(self.accept_on(key));
            }
        }
        done
    }

    fn accept_on(&self, key: PortKey) -> Result<(), String> {
        let Some(name) = self.open.borrow().get(&key).cloned() else {
            return Ok(());
        };
        let lists = self
            .listeners
            .borrow()
            .for_shards(&name, self.shards.len())
            .map_err(|error| format!("cannot hand sockets to shards: {error}"))?;
        let tls = if key.tls { self.tls.clone() } else { None };
        let is_traffic =
            key == self.main_key() || key != crate::gateway::loader::control_port(&self.config);
        for (shard, sockets) in self.shards.iter().zip(lists) {
            let job = Job::Listen {
                key,
                sockets,
                tls: tls.clone(),
                is_traffic,
            };
            tell(shard, job);
        }
        self.accepted.borrow_mut().insert(key);
        Ok(())
    }

    /// Stops accepting on one listener or on all; ends when everything accepted is being served.
    async fn stop_accepting(&self, key: Option<PortKey>) {
        self.accepted
            .borrow_mut()
            .retain(|accepted| key.is_some_and(|key| key != *accepted));
        let mut waits = Vec::with_capacity(self.shards.len());
        for shard in &self.shards {
            let (stopped, wait) = oneshot::channel();
            tell(shard, Job::StopAccepting { key, stopped });
            waits.push(wait);
        }
        for wait in waits {
            // A shard that ended accepts nothing either.
            let _ = wait.await;
        }
    }

    /// Runs reloads as the bell asks for them.
    async fn reloads(self: Rc<Self>, ringer: Ringer) {
        let interval = self.config.reload_interval_or_default();
        let registry = Arc::clone(&self.registry);
        ringer
            .run(interval, &registry, || {
                let running = Rc::clone(&self);
                async move { running.reload().await }
            })
            .await;
    }

    /// Gives back what this node has reserved in the store and lets go of it.
    async fn release_store(&self) -> Result<(), StoreError> {
        limit::release(&self.cells, &self.store_source(), process_ms()).await;
        self.owner.release().await
    }

    /// Writes to the store what a process without one wants written.
    async fn write_for_another(&self, record: Value) -> Result<(), String> {
        let adds = last_writes::adds(record)?;
        let store = self.owner.store_within(LAST_WRITE_MAX);
        let store = store.map_err(|error| error.to_string())?;
        let added = store.add(adds).await;
        added.map(drop).map_err(|error| error.to_string())
    }

    /// Another generation speaks for this node, or this one does again.
    fn leave_fleet(&self, is_leaving: bool) {
        if let Some(member) = &*self.member.borrow() {
            member.set_leaving(is_leaving);
        }
    }

    /// The store as limiters reach it: while this process has it.
    fn store_source(&self) -> limit::StoreSource {
        let owner = Arc::clone(&self.owner);
        Arc::new(move || owner.store())
    }

    /// Reads the policies and puts them in force; sessions are worked out anew from them. Where they
    /// say what they said before, a session that cannot be read anew lives on: a store that comes
    /// and goes rings for reloads. Tells what could not be read.
    async fn load_policies(&self) -> Vec<Refused> {
        let (source, policies) = (self.policy_source.clone(), Arc::clone(&self.policies));
        let may_clear = self.config.penstock.compat_is_strict();
        let load = tokio::task::spawn_blocking(move || {
            let load = policy::load(&source, &policies.load(), may_clear);
            for error in &load.refused {
                tracing::error!(prefix = "policy", "{error}");
            }
            for warning in &load.warnings {
                tracing::warn!(prefix = "policy", "{warning}");
            }
            tracing::info!(
                prefix = "policy",
                count = load.policies.len(),
                "policies loaded"
            );
            let are_new = !load.policies.say_the_same(&policies.load());
            policies.publish(load.policies);
            let refused = load.refused.into_iter().map(Refused::from).collect();
            (are_new, refused)
        });
        let (are_new, refused) = load.await.unwrap_or_else(|error| {
            tracing::error!(prefix = "policy", %error, "loading policies broke off");
            (false, Vec::new())
        });
        match are_new {
            true => self.directory.all_changed(),
            false => self.directory.all_doubtful(),
        }
        refused
    }

    async fn reload(&self) -> ReloadReport {
        let refused = self.load_policies().await;
        let live = Arc::clone(&self.live);
        let done = tokio::task::spawn_blocking(move || live.reload()).await;
        let report = match done {
            Ok(report) => report.with(refused),
            Err(error) => {
                tracing::error!(prefix = "main", %error, "a reload broke off; nothing changed");
                return ReloadReport::failed(Vec::new());
            }
        };
        for shard in &self.shards {
            tell(shard, Job::Look);
        }
        self.follow_ports().await;
        self.let_go();
        report
    }

    /// Drops old snapshots, here and not on a shard, as requests let go of them.
    fn let_go(&self) {
        if self.letting_go.replace(true) {
            return;
        }
        let (live, letting_go) = (Arc::clone(&self.live), Rc::clone(&self.letting_go));
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(LET_GO_EVERY).await;
                let live = Arc::clone(&live);
                let done = tokio::task::spawn_blocking(move || live.let_go()).await;
                if !matches!(done, Ok(true)) {
                    break letting_go.set(false);
                }
            }
        });
    }

    /// Opens listeners for new ports and closes those that nobody uses any more.
    async fn follow_ports(&self) {
        Unbound::tell(&self.open_listeners());
        let snapshot = self.live.published().load();
        let gone: Vec<_> = {
            let open = self.open.borrow();
            open.iter()
                .filter(|(key, _)| snapshot.port(**key).is_none())
                .map(|(key, name)| (*key, name.clone()))
                .collect()
        };
        for (key, name) in gone {
            self.stop_accepting(Some(key)).await;
            self.listeners.borrow_mut().close(&name);
            self.open.borrow_mut().remove(&key);
        }
        if self.accepting.get()
            && let Err(why) = self.accept_on_all()
        {
            tracing::error!(prefix = "main", "{why}");
        }
    }

    fn write_pid_file(&self) {
        let path: &Path = self.config.pid_file();
        if let Err(why) = pid_file::write(path, std::process::id()) {
            tracing::warn!(prefix = "main", "{why}");
        }
    }

    fn say_ready(&self) {
        self.live.set_readiness(Readiness::Ready);
        for (key, name) in self.open.borrow().iter() {
            let address = self.listeners.borrow().local_addr(name);
            tracing::info!(
                prefix = "main",
                shards = self.shards.len(),
                "listening on {} ({})",
                address.map_or_else(|| key.port.to_string(), |address| address.to_string()),
                if key.tls { "https" } else { "http" },
            );
        }
    }

    /// When a drain that begins now ends at the latest.
    fn drained_by(&self) -> tokio::time::Instant {
        tokio::time::Instant::now() + self.config.shutdown_timeout_or_default()
    }

    /// Lets every request under way end, up to the limit; then ends what has no end of its own.
    async fn drain(&self) {
        for shard in &self.shards {
            tell(shard, Job::Drain);
        }
        let limit = self.drained_by();
        while self.connections() > 0 && tokio::time::Instant::now() < limit {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if self.connections() > 0 {
            for shard in &self.shards {
                tell(shard, Job::End);
            }
            let limit = tokio::time::Instant::now() + ENDING;
            while self.connections() > 0 && tokio::time::Instant::now() < limit {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    fn connections(&self) -> u64 {
        self.shards
            .iter()
            .map(|shard| shard.metrics.connections_open.value())
            .sum()
    }

    /// The ordinary end: readiness first, then accepting, then draining.
    async fn terminate(&self) {
        self.live.set_readiness(Readiness::Draining);
        self.leave_fleet(true);
        tracing::info!(prefix = "main", "Stop signal received.");
        tokio::time::sleep(self.config.shutdown_delay()).await;
        self.stop_accepting(None).await;
        let names: Vec<_> = self.open.borrow().values().cloned().collect();
        for name in names {
            self.listeners.borrow_mut().close(&name);
        }
        let drained_by = self.drained_by();
        self.drain().await;
        records::settle(&self.registry, drained_by).await;
        self.telemetry.settle(&self.registry).await;
        if let Err(error) = self.release_store().await {
            tracing::error!(prefix = "main", %error, "closing the store");
        }
    }
}

/// A port on which nothing listens although it should.
struct Unbound {
    /// The process is of no use without it.
    is_needed: bool,
    error: CannotListen,
}

impl Unbound {
    fn may_become_free(&self, until: tokio::time::Instant) -> bool {
        self.error.is_in_use && tokio::time::Instant::now() < until
    }

    fn tell(all: &[Self]) {
        for unbound in all {
            tracing::error!(prefix = "main", "{}", unbound.error);
        }
    }
}

/// This process as the one that may hand over.
struct Serving {
    running: Rc<Running>,
    events: mpsc::UnboundedSender<OldEvent>,
    ended: Rc<tokio::sync::Notify>,
}

impl OldHost for Serving {
    fn listeners(&self) -> Vec<Handed> {
        self.running.listeners.borrow().describe()
    }

    fn perform(&mut self, action: OldAction) {
        let running = Rc::clone(&self.running);
        let events = self.events.clone();
        match action {
            OldAction::CloseStore => {
                tokio::task::spawn_local(async move {
                    // What is reserved serves the requests that still come here.
                    let closed = running.owner.release().await;
                    let closed = closed.map_err(|error| error.to_string());
                    let _ = events.send(OldEvent::StoreClosed(closed));
                });
            }
            OldAction::ReopenStore => {
                tokio::task::spawn_local(async move {
                    let opened = running.owner.acquire().await;
                    let opened = opened.map_err(|error| error.to_string());
                    let _ = events.send(OldEvent::StoreReopened(opened));
                });
            }
            OldAction::CancelAccepts => {
                running.registry.upgrade_begun();
                running.leave_fleet(true);
                running.accepting.set(false);
                tokio::task::spawn_local(async move {
                    running.live.set_readiness(Readiness::Draining);
                    running.stop_accepting(None).await;
                    let _ = events.send(OldEvent::AcceptsCanceled);
                });
            }
            OldAction::ResumeAccepts => {
                running.leave_fleet(false);
                running.live.set_readiness(Readiness::Ready);
                running.keep_starting_to_accept();
            }
            OldAction::CloseListeners => {
                let names: Vec<_> = running.open.borrow().values().cloned().collect();
                for name in names {
                    running.listeners.borrow_mut().close(&name);
                }
            }
            OldAction::Drain => {
                tokio::task::spawn_local(async move {
                    let drained_by = running.drained_by();
                    running.drain().await;
                    records::settle(&running.registry, drained_by).await;
                    running.telemetry.settle(&running.registry).await;
                    for (id, record) in last_writes::take(&running.cells, process_ms()).enumerate()
                    {
                        let id = id as u64;
                        let _ = events.send(OldEvent::WriteWanted { id, record });
                    }
                    let _ = events.send(OldEvent::DrainEnded);
                });
            }
            OldAction::Terminate => {
                let ended = Rc::clone(&self.ended);
                tokio::task::spawn_local(async move {
                    running.terminate().await;
                    ended.notify_one();
                });
            }
            // The owner of the store refuses writes from the begin of its release on.
            OldAction::RefuseWrites => {}
            // Said once, at the end of every upgrade that failed.
            OldAction::AllowWrites => running.registry.upgrade_failed(),
            OldAction::ApplyWrite { record, .. } => {
                tokio::task::spawn_local(async move {
                    if let Err(why) = running.write_for_another(record).await {
                        tracing::warn!(prefix = "server", "counters were not settled: {why}");
                    }
                });
            }
            OldAction::WriteEnded {
                result: Err(why), ..
            } => {
                tracing::warn!(prefix = "server", "counters were not settled: {why}");
            }
            // The driver's own.
            _ => {}
        }
    }
}

/// This process as the one that takes over.
struct TakingOver {
    running: Rc<Running>,
    events: mpsc::UnboundedSender<NewEvent>,
    serving: mpsc::UnboundedSender<OldEvent>,
    /// Told once this process accepts.
    accepts: Option<oneshot::Sender<()>>,
}

impl NewHost for TakingOver {
    fn perform(&mut self, action: NewAction) {
        let running = Rc::clone(&self.running);
        let events = self.events.clone();
        match action {
            NewAction::OpenStore => {
                tokio::task::spawn_local(async move {
                    let opened = running.owner.acquire().await;
                    let opened = opened.map_err(|error| error.to_string());
                    let _ = events.send(NewEvent::StoreOpened(opened));
                });
            }
            NewAction::StartAccepting => {
                running.keep_starting_to_accept();
                if let Some(accepts) = self.accepts.take() {
                    let _ = accepts.send(());
                }
            }
            NewAction::PredecessorGone => drop(self.serving.send(OldEvent::PredecessorGone)),
            NewAction::WritePidFile => running.write_pid_file(),
            NewAction::ApplyWrite { id, record } => {
                tokio::task::spawn_local(async move {
                    let result = running.write_for_another(record).await;
                    let _ = events.send(NewEvent::WriteApplied { id, result });
                });
            }
            _ => {}
        }
    }
}

/// Turns signals into events.
async fn forward(mut signals: Signals, events: mpsc::UnboundedSender<OldEvent>) {
    while let Ok(signal) = signals.next().await {
        let event = match signal {
            Signal::Upgrade => OldEvent::UpgradeRequested,
            Signal::Terminate => OldEvent::TerminateRequested,
            Signal::Noted(name) => {
                tracing::info!(prefix = "main", "{name}: no effect");
                continue;
            }
        };
        if events.send(event).is_err() {
            return;
        }
    }
}

fn tell(shard: &Handle, job: Job) {
    if shard.outlet.send(Item::Job(job)).is_err() {
        tracing::error!(prefix = "main", "a shard does not take jobs any more");
    }
}

/// Lets go of sessions that nobody uses.
async fn sweep(directory: Arc<Directory>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        directory.sweep();
    }
}

/// Between two looks at the counters of all APIs.
const LOOK_AT_APIS_EVERY: Duration = Duration::from_secs(1);

/// What `/tyk/health` answers from; `None`, and no work, while nobody has asked for it.
fn health_window(config: &Config, registry: &Arc<Registry>) -> Option<Arc<Window>> {
    let options = &config.health_check;
    if !options.enable_health_checks {
        return None;
    }
    let window = Arc::new(Window::new(options.health_check_value_timeouts));
    let (looking, registry) = (Arc::clone(&window), Arc::clone(registry));
    tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(LOOK_AT_APIS_EVERY).await;
            looking.look(process_ms(), registry.api_sums());
        }
    });
    Some(window)
}

/// Answers control calls, each in its own task.
async fn answer_calls(mut desk: Desk<Call, Answer>, control: Rc<Control>) {
    let mut batch = Vec::new();
    while desk.recv_batch(&mut batch, 64).await > 0 {
        for question in batch.drain(..) {
            let control = Rc::clone(&control);
            tokio::task::spawn_local(async move {
                let answer = control.call(question.payload).await;
                question.reply.send(answer);
            });
        }
    }
}

fn liveness_interval(config: &Config) -> Duration {
    config.liveness_check.interval_or_default()
}

fn server_tls(config: &Config) -> Result<Option<ServerTls>, String> {
    let options = &config.http_server_options;
    if !options.use_ssl {
        return Ok(None);
    }
    let mut certificates = Vec::new();
    for file in &options.certificates {
        let identity = Identity::from_files(Path::new(&file.cert_file), Path::new(&file.key_file))?;
        certificates.push(NamedIdentity {
            domain_name: file.domain_name.clone(),
            identity,
        });
    }
    for path in &options.ssl_certificates {
        let identity = Identity::from_files(Path::new(path), Path::new(path))?;
        certificates.push(NamedIdentity {
            domain_name: String::new(),
            identity,
        });
    }
    ServerTls::new(&ServerOptions {
        certificates,
        min_version: options.min_version,
        max_version: options.max_version,
        ciphers: options.ssl_ciphers.clone(),
        enable_http2: false,
    })
    .map(Some)
}
