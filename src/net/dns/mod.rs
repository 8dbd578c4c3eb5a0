//! Names of upstreams, resolved before they are needed.
//!
//! Runs on the control thread's tokio runtime; shards only read. A name is asked for when somebody
//! subscribes to it and again each time its answer expires, for as long as somebody holds it. One
//! answer serves all subscribers, so a server sees one question per name and TTL. A question that
//! fails keeps the addresses of the last good answer; a name that is said not to exist loses them.
//!
//! `/etc/hosts` goes first, then `localhost` (RFC 6761 §6.3), then the name servers of
//! `/etc/resolv.conf` with its search list, or those given. Both files are read again when they
//! change. Tyk: `dnscache/`, keys `dns_cache.*`; docs "DNS caching".

#![allow(
    clippy::disallowed_types,
    reason = "the mutexes are taken on the control thread, for a look-up; shards never touch them"
)]

mod hosts;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use hickory_resolver::{
    Name as DnsName, ResolveError, TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    name_server::TokioConnectionProvider,
    proto::{
        ProtoErrorKind,
        op::ResponseCode,
        rr::{RData, RecordType},
        xfer::Protocol,
    },
    system_conf::read_system_conf,
};
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore},
    task::AbortHandle,
    time::{Instant, sleep, timeout_at},
};

use crate::net::dns::hosts::{FileWatch, HostsFile};

/// How names are resolved.
pub struct Options {
    /// Servers to ask instead of those of `/etc/resolv.conf`; its search list does not apply then.
    pub servers: Vec<SocketAddr>,
    pub hosts_file: PathBuf,
    /// How long a server has for one question; `None`: as `/etc/resolv.conf` says, else 5 s.
    pub timeout: Option<Duration>,
    /// `dns_cache.ttl`: how long an answer holds, whatever its records say.
    pub ttl_fixed: Option<Duration>,
    /// With which address of several a caller starts.
    pub start: Start,
    /// How long a second of a TTL, and of every pause here, lasts. Other than a second in tests only.
    pub second: Duration,
    /// Called on the control thread when the state or the addresses of a name change.
    pub on_change: Option<OnChange>,
}

/// See [`Options::on_change`].
pub type OnChange = Arc<dyn Fn(&Name) + Send + Sync>;

impl Default for Options {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            hosts_file: PathBuf::from("/etc/hosts"),
            timeout: None,
            ttl_fixed: None,
            start: Start::InTurn,
            second: Duration::from_secs(1),
            on_change: None,
        }
    }
}

impl Options {
    /// Applies `dns_cache.{enabled, ttl, multiple_ips_handle_strategy}` of `tyk.conf`: `ttl` in
    /// seconds, `-1` for ever, 0 as the records say.
    // Tyk differs: without `dns_cache` it asks for every new connection; here the TTL of the records
    // holds. `pick_first` and `random` choose where to start; the other addresses are tried after it.
    #[must_use]
    pub fn with_dns_cache(mut self, enabled: bool, ttl_s: i64, strategy: &str) -> Self {
        if !enabled {
            return self;
        }
        self.ttl_fixed = match u64::try_from(ttl_s) {
            Ok(0) => None,
            Ok(ttl_s) => Some(Duration::from_secs(ttl_s)),
            Err(_) => Some(Duration::MAX),
        };
        self.start = match strategy {
            "pick_first" => Start::First,
            "random" => Start::Random,
            _ => Start::InTurn,
        };
        self
    }
}

/// With which address of several a caller starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Each caller with the next one.
    InTurn,
    First,
    Random,
}

/// The registry of names. Cheap to clone.
#[derive(Clone)]
pub struct Names(Arc<Shared>);

impl Names {
    /// A registry whose questions run on `runtime`. Reads `/etc/resolv.conf` unless servers are
    /// given; when that fails, 127.0.0.1 is asked, as Go does.
    #[must_use]
    pub fn new(options: Options, runtime: Handle) -> Self {
        let hosts = HostsFile::new(&options.hosts_file);
        let system = System::new(&options);
        Self(Arc::new(Shared {
            options,
            runtime,
            hosts: Mutex::new(hosts),
            system: Mutex::new(system),
            questions: Semaphore::new(QUESTIONS_MAX),
            names: Mutex::new(HashMap::new()),
        }))
    }

    /// The name `host`, asked for at once if nobody holds it yet. Never waits. `host` is a name, an
    /// IPv4 address or an IPv6 address with or without brackets; case does not matter.
    #[must_use]
    pub fn subscribe(&self, host: &str) -> Arc<Name> {
        let literal = host
            .strip_prefix('[')
            .and_then(|inner| inner.strip_suffix(']'))
            .unwrap_or(host);
        if let Ok(addr) = literal.parse::<IpAddr>() {
            return Arc::new(Name::new(
                host.into(),
                Answer::resolved(vec![addr], Duration::MAX),
                self.0.options.start,
            ));
        }
        let host: Arc<str> = host.to_ascii_lowercase().into();
        let mut names = lock(&self.0.names);
        if let Some(name) = names.get(&host).and_then(Weak::upgrade) {
            return name;
        }
        if names.len() == names.capacity() {
            names.retain(|_, name| name.strong_count() > 0);
        }
        let name = Arc::new(Name::new(
            Arc::clone(&host),
            Answer::pending(),
            self.0.options.start,
        ));
        names.insert(host, Arc::downgrade(&name));
        drop(names);
        let task = keep_fresh(Arc::clone(&self.0), Arc::downgrade(&name));
        // Nobody else has set it; if they had, the task would end with the name all the same.
        let _ = name.task.set(self.0.runtime.spawn(task).abort_handle());
        name
    }
}

/// Questions under way at a time, over all names.
pub const QUESTIONS_MAX: usize = 256;

/// Addresses kept of one answer.
pub const ADDRS_MAX: usize = 64;

/// One host name and what is known about it. Dropping the last reference ends its questions.
pub struct Name {
    host: Arc<str>,
    answer: ArcSwap<Answer>,
    /// Tells those who wait that `answer` is another one.
    changed: Notify,
    start: Start,
    /// How many have asked where to start.
    starts: AtomicUsize,
    task: OnceLock<AbortHandle>,
}

impl Name {
    fn new(host: Arc<str>, answer: Answer, start: Start) -> Self {
        Self {
            host,
            answer: ArcSwap::from_pointee(answer),
            changed: Notify::new(),
            start,
            starts: AtomicUsize::new(0),
            task: OnceLock::new(),
        }
    }

    /// The name in lower case, as it is asked for.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What is known now. Any thread; never waits.
    #[must_use]
    pub fn answer(&self) -> Arc<Answer> {
        self.answer.load_full()
    }

    /// The addresses to try, one after the other, each once; none while nothing is known. The next
    /// caller starts with another one, unless configured otherwise. Any thread; never waits.
    #[must_use]
    pub fn in_turn(&self, port: u16) -> InTurn {
        let answer = self.answer();
        let count = answer.addrs.len();
        let turn = match self.start {
            _ if count < 2 => 0,
            Start::First => 0,
            Start::InTurn => self.starts.fetch_add(1, Ordering::Relaxed),
            Start::Random => scattered(self.starts.fetch_add(1, Ordering::Relaxed)),
        };
        InTurn {
            first: turn.checked_rem(count).unwrap_or(0),
            answer,
            tried: 0,
            port,
        }
    }

    /// Waits, on tokio, until the first question is answered one way or the other, or until
    /// `deadline`; then the answer is still [`State::Pending`].
    pub async fn wait_resolved(&self, deadline: Instant) -> Arc<Answer> {
        let answer = self.answer();
        if matches!(answer.state, State::Pending) {
            return self.wait_newer(&answer, deadline).await;
        }
        answer
    }

    /// Waits, on tokio, for an answer other than `known`, which is what comes back at `deadline`.
    pub async fn wait_newer(&self, known: &Arc<Answer>, deadline: Instant) -> Arc<Answer> {
        loop {
            // Made before the look at the answer, so that no change falls in between.
            let changed = self.changed.notified();
            let answer = self.answer();
            if !Arc::ptr_eq(&answer, known) || timeout_at(deadline, changed).await.is_err() {
                return answer;
            }
        }
    }

    /// Replaces the answer; true when state or addresses are others than before.
    fn publish(&self, answer: Answer) -> bool {
        let before = self.answer.swap(Arc::new(answer));
        self.changed.notify_waiters();
        let now = self.answer.load();
        before.state != now.state || !same_addrs(&before.addrs, &now.addrs)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

/// What is known about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub state: State,
    /// In the order of the server, at most [`ADDRS_MAX`]. With [`State::Failed`]: those of the last
    /// good answer.
    pub addrs: Vec<IpAddr>,
    /// When `addrs` were learnt; `None` when they never were.
    pub resolved_at: Option<Instant>,
    /// How long `addrs` hold from then on.
    pub ttl: Duration,
}

/// How the last question ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The first question is under way.
    Pending,
    Resolved,
    /// The name does not exist, or has no address (NXDOMAIN, NODATA).
    NotFound,
    /// No usable answer: what went wrong, for people.
    Failed(String),
}

impl Answer {
    fn pending() -> Self {
        Self {
            state: State::Pending,
            addrs: Vec::new(),
            resolved_at: None,
            ttl: Duration::ZERO,
        }
    }

    fn resolved(mut addrs: Vec<IpAddr>, ttl: Duration) -> Self {
        addrs.truncate(ADDRS_MAX);
        Self {
            state: State::Resolved,
            addrs,
            resolved_at: Some(Instant::now()),
            ttl,
        }
    }

    fn not_found() -> Self {
        Self {
            state: State::NotFound,
            ..Self::pending()
        }
    }

    /// The same addresses after a question that failed.
    fn failed(&self, why: String) -> Self {
        Self {
            state: State::Failed(why),
            ..self.clone()
        }
    }
}

/// Addresses in the order in which one caller tries them.
#[derive(Debug, Clone)]
pub struct InTurn {
    answer: Arc<Answer>,
    first: usize,
    tried: usize,
    port: u16,
}

impl Iterator for InTurn {
    type Item = SocketAddr;

    fn next(&mut self) -> Option<SocketAddr> {
        let addrs = &self.answer.addrs;
        if self.tried >= addrs.len() {
            return None;
        }
        let addr = addrs.get((self.first + self.tried) % addrs.len())?;
        self.tried += 1;
        Some(SocketAddr::new(*addr, self.port))
    }
}

struct Shared {
    options: Options,
    runtime: Handle,
    hosts: Mutex<HostsFile>,
    system: Mutex<System>,
    questions: Semaphore,
    names: Mutex<HashMap<Arc<str>, Weak<Name>>>,
}

/// What asking for a name led to.
#[derive(Debug)]
enum Outcome {
    Found {
        addrs: Vec<IpAddr>,
        ttl_s: u32,
    },
    /// With how long that holds, if the server said so.
    NotFound {
        ttl_s: Option<u32>,
    },
    Failed {
        why: String,
        /// Whether a server answered, if only with an error.
        is_answer: bool,
    },
}

/// Asks for a name now and whenever its answer expires, until nobody holds it.
async fn keep_fresh(shared: Arc<Shared>, name: Weak<Name>) {
    let mut failures = 0;
    loop {
        let Some(host) = name.upgrade().map(|name| Arc::clone(&name.host)) else {
            return;
        };
        let outcome = shared.ask(&host).await;
        failures = match outcome {
            Outcome::Failed { .. } => failures + 1,
            _ => 0,
        };
        let pause = pause_after(&outcome, failures, &shared.options);
        let Some(name) = name.upgrade() else {
            return;
        };
        let answer = match outcome {
            Outcome::Found { addrs, .. } => Answer::resolved(addrs, pause),
            Outcome::NotFound { .. } => Answer::not_found(),
            Outcome::Failed { why, .. } => name.answer().failed(why),
        };
        if name.publish(answer) {
            let answer = name.answer();
            match &answer.state {
                State::Resolved => {
                    tracing::debug!(host = &*host, addrs = ?answer.addrs, "resolved");
                }
                State::NotFound => tracing::warn!(host = &*host, "no such host"),
                State::Failed(why) => tracing::warn!(
                    host = &*host,
                    error = why,
                    addrs_kept = answer.addrs.len(),
                    "resolving failed"
                ),
                State::Pending => {}
            }
            if let Some(on_change) = &shared.options.on_change {
                on_change(&name);
            }
        }
        drop(name);
        sleep(pause).await;
    }
}

/// How long after an answer the next question follows.
fn pause_after(outcome: &Outcome, failures: u32, options: &Options) -> Duration {
    let seconds = match outcome {
        Outcome::Found { ttl_s, .. } => match options.ttl_fixed {
            Some(ttl) => return ttl,
            None => (*ttl_s).clamp(1, TTL_MAX_S),
        },
        Outcome::NotFound { ttl_s } => ttl_s.unwrap_or(RETRY_MAX_S).clamp(1, RETRY_MAX_S),
        Outcome::Failed { .. } => {
            let doubled = 1_u32.checked_shl(failures.saturating_sub(1));
            doubled.unwrap_or(RETRY_MAX_S).min(RETRY_MAX_S)
        }
    };
    options.second * seconds
}

/// Longest time an answer is believed.
const TTL_MAX_S: u32 = 24 * 60 * 60;

/// Longest pause before a name without a good answer is asked for again.
const RETRY_MAX_S: u32 = 5;

/// How old what was read from `/etc/hosts` and `/etc/resolv.conf` may be (as in Go).
const FILE_AGE_MAX_S: u32 = 5;

impl Shared {
    async fn ask(&self, host: &str) -> Outcome {
        let file_age_max = self.options.second * FILE_AGE_MAX_S;
        if let Some(addrs) = lock(&self.hosts).find(host, file_age_max) {
            return Outcome::Found {
                addrs,
                ttl_s: FILE_AGE_MAX_S,
            };
        }
        if is_localhost(host) {
            return Outcome::Found {
                addrs: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
                ttl_s: FILE_AGE_MAX_S,
            };
        }
        let (resolver, families) = lock(&self.system).resolver(file_age_max);
        let candidates = match candidates(host, resolver.config(), resolver.options().ndots) {
            Ok(candidates) => candidates,
            Err(why) => {
                return Outcome::Failed {
                    why,
                    is_answer: false,
                };
            }
        };
        let Ok(_permit) = self.questions.acquire().await else {
            return Outcome::NotFound { ttl_s: None };
        };
        let mut last = Outcome::NotFound { ttl_s: None };
        for candidate in candidates {
            match ask_name(&resolver, candidate.name, families).await {
                found @ Outcome::Found { .. } => return found,
                not_found @ Outcome::NotFound { .. } => {
                    if !matches!(last, Outcome::Failed { .. }) {
                        last = not_found;
                    }
                }
                failed @ Outcome::Failed { is_answer, .. } => {
                    last = failed;
                    // A server may refuse to talk about a domain of the search list. Any other
                    // failure ends the search: what comes next in it is another name.
                    if !(candidate.is_search && is_answer) {
                        break;
                    }
                }
            }
        }
        last
    }
}

/// Asks for the addresses of the first family; only if the name has none of those, for the second.
async fn ask_name(resolver: &TokioResolver, name: DnsName, families: [RecordType; 2]) -> Outcome {
    let mut ttl_s = None;
    for family in families {
        match resolver.lookup(name.clone(), family).await {
            Ok(lookup) => {
                let addrs: Vec<IpAddr> = lookup
                    .iter()
                    .filter_map(|data| match data {
                        RData::A(addr) => Some(IpAddr::V4(addr.0)),
                        RData::AAAA(addr) => Some(IpAddr::V6(addr.0)),
                        _ => None,
                    })
                    .collect();
                // The aliases on the way count too.
                let ttl = lookup
                    .record_iter()
                    .map(hickory_resolver::proto::rr::Record::ttl)
                    .min();
                if !addrs.is_empty() {
                    return Outcome::Found {
                        addrs,
                        ttl_s: ttl.unwrap_or(0),
                    };
                }
                ttl_s = ttl;
            }
            Err(error) => match negative(&error) {
                Some((ResponseCode::NoError, ttl)) => ttl_s = ttl,
                Some((ResponseCode::NXDomain, ttl)) => return Outcome::NotFound { ttl_s: ttl },
                other => {
                    return Outcome::Failed {
                        why: error.to_string(),
                        is_answer: other.is_some(),
                    };
                }
            },
        }
    }
    Outcome::NotFound { ttl_s }
}

/// The code and TTL of an answer without addresses.
fn negative(error: &ResolveError) -> Option<(ResponseCode, Option<u32>)> {
    match error.proto()?.kind() {
        ProtoErrorKind::NoRecordsFound {
            response_code,
            negative_ttl,
            ..
        } => Some((*response_code, *negative_ttl)),
        _ => None,
    }
}

/// A full name to ask for.
struct Candidate {
    name: DnsName,
    /// Whether a domain of the search list was added.
    is_search: bool,
}

/// The full names that `host` may mean, in the order of `resolv.conf(5)`.
fn candidates(host: &str, config: &ResolverConfig, ndots: usize) -> Result<Vec<Candidate>, String> {
    // The ASCII reader takes `_`, which names of containers often have.
    let parsed = match host.is_ascii() {
        true => DnsName::from_ascii(host),
        false => DnsName::from_utf8(host),
    };
    let name = parsed.map_err(|error| format!("`{host}` is no host name: {error}"))?;
    if name.is_root() {
        return Err("the host name is empty".to_owned());
    }
    let mut full = name.clone();
    full.set_fqdn(true);
    let full = Candidate {
        name: full,
        is_search: false,
    };
    if name.is_fqdn() {
        return Ok(vec![full]);
    }
    let mut search = config.search().to_vec();
    if search.is_empty() {
        search.extend(config.domain().cloned());
    }
    let mut candidates: Vec<Candidate> = search
        .iter()
        .filter(|domain| !domain.is_root())
        .filter_map(|domain| name.clone().append_domain(domain).ok())
        .map(|mut name| {
            name.set_fqdn(true);
            Candidate {
                name,
                is_search: true,
            }
        })
        .collect();
    let dots = host.matches('.').count();
    let place = if dots >= ndots { 0 } else { candidates.len() };
    candidates.insert(place, full);
    Ok(candidates)
}

/// The name servers, and which family of addresses goes first.
struct System {
    resolver: TokioResolver,
    /// `None` when the servers were given.
    resolv_conf: Option<FileWatch>,
    timeout: Option<Duration>,
    families: [RecordType; 2],
}

impl System {
    fn new(options: &Options) -> Self {
        let timeout = options.timeout;
        let mut resolv_conf = None;
        let resolver = if options.servers.is_empty() {
            let mut watch = FileWatch::new(Path::new("/etc/resolv.conf"));
            watch.has_changed(Duration::ZERO);
            resolv_conf = Some(watch);
            system_resolver(timeout).unwrap_or_else(|why| {
                tracing::warn!(error = why, "no /etc/resolv.conf; 127.0.0.1:53 is asked");
                resolver_of(&[SocketAddr::from((Ipv4Addr::LOCALHOST, 53))], timeout)
            })
        } else {
            resolver_of(&options.servers, timeout)
        };
        Self {
            resolver,
            resolv_conf,
            timeout,
            families: families(),
        }
    }

    /// The resolver as of now; reads `/etc/resolv.conf` again when it has changed.
    fn resolver(&mut self, file_age_max: Duration) -> (TokioResolver, [RecordType; 2]) {
        let watch = self.resolv_conf.as_mut();
        if watch.is_some_and(|watch| watch.has_changed(file_age_max)) {
            match system_resolver(self.timeout) {
                Ok(resolver) => {
                    tracing::info!("/etc/resolv.conf has changed and was read again");
                    self.resolver = resolver;
                    self.families = families();
                }
                Err(why) => tracing::warn!(error = why, "the old /etc/resolv.conf stays in use"),
            }
        }
        (self.resolver.clone(), self.families)
    }
}

/// IPv4 first, as nearly every upstream has it, unless this host only has a route for IPv6.
fn families() -> [RecordType; 2] {
    // Connecting a datagram socket only asks the routing table. The addresses are those for
    // documentation (RFC 5737, RFC 3849).
    let has_route = |own: IpAddr, other: IpAddr| {
        UdpSocket::bind((own, 0))
            .and_then(|socket| socket.connect((other, 9)))
            .is_ok()
    };
    let v4 = || {
        has_route(
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv4Addr::new(192, 0, 2, 1).into(),
        )
    };
    let v6 = || {
        has_route(
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        )
    };
    if !v4() && v6() {
        [RecordType::AAAA, RecordType::A]
    } else {
        [RecordType::A, RecordType::AAAA]
    }
}

fn system_resolver(timeout: Option<Duration>) -> Result<TokioResolver, String> {
    let (config, options) = read_system_conf().map_err(|error| error.to_string())?;
    let servers: Vec<NameServerConfig> = config
        .name_servers()
        .iter()
        .cloned()
        .map(|server| NameServerConfig {
            // What the first server says holds, as in every other resolver.
            trust_negative_responses: true,
            ..server
        })
        .collect();
    let config =
        ResolverConfig::from_parts(config.domain().cloned(), config.search().to_vec(), servers);
    Ok(build_resolver(config, options, timeout))
}

fn resolver_of(servers: &[SocketAddr], timeout: Option<Duration>) -> TokioResolver {
    let servers: Vec<NameServerConfig> = servers
        .iter()
        .flat_map(|server| {
            // TCP for answers that do not fit into a datagram.
            [Protocol::Udp, Protocol::Tcp].map(|protocol| NameServerConfig::new(*server, protocol))
        })
        .collect();
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    build_resolver(config, ResolverOpts::default(), timeout)
}

/// A resolver without a cache or a hosts file: both are here.
fn build_resolver(
    config: ResolverConfig,
    mut options: ResolverOpts,
    timeout: Option<Duration>,
) -> TokioResolver {
    options.timeout = timeout.unwrap_or(options.timeout);
    // There counted without the first one, in resolv.conf(5) with it.
    options.attempts = options.attempts.saturating_sub(1);
    options.cache_size = 0;
    options.positive_max_ttl = Some(Duration::ZERO);
    options.negative_max_ttl = Some(Duration::ZERO);
    options.use_hosts_file = ResolveHosts::Never;
    // One server after the other, not two at a time.
    options.num_concurrent_reqs = 1;
    // The TTL of an alias counts.
    options.preserve_intermediates = true;
    let mut builder =
        TokioResolver::builder_with_config(config, TokioConnectionProvider::default());
    *builder.options_mut() = options;
    builder.build()
}

fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host == "localhost" || host.ends_with(".localhost")
}

/// Whether both hold the same addresses, in whatever order.
fn same_addrs(a: &[IpAddr], b: &[IpAddr]) -> bool {
    a.len() == b.len() && a.iter().all(|addr| b.contains(addr))
}

/// Spreads a counter over all numbers (the finaliser of SplitMix64).
fn scattered(counter: usize) -> usize {
    let mut mixed = (counter as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) as usize
}

/// A poisoned lock still holds whole values: none of the holders leaves one half written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
