//! Names against a DNS server of the test's own, over loopback. A TTL's second lasts 20 ms here, and
//! what a test waits for are answers, never time.

use std::{
    collections::BTreeMap,
    fs,
    sync::atomic::AtomicBool,
    thread::{self, JoinHandle},
};

use super::*;

const A: u16 = 1;
const AAAA: u16 = 28;

/// What the test's server says about a name.
#[derive(Clone)]
enum Say {
    Addrs(Vec<IpAddr>, u32),
    Alias(&'static str, u32),
    /// An answer with this code and, for 3, the TTL of the zone in its authority section.
    Code(u8),
    Nothing,
}

#[derive(Default)]
struct Zone {
    says: BTreeMap<String, Say>,
    /// Questions by name and type.
    asked: BTreeMap<(String, u16), usize>,
}

/// A DNS server (RFC 1035) on a free port of loopback.
struct Server {
    addr: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let addr = socket.local_addr().expect("its address");
        let zone = Arc::new(Mutex::new(Zone::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (zone, stop) = (Arc::clone(&zone), Arc::clone(&stop));
            move || {
                let mut packet = [0; 1500];
                while let Ok((len, from)) = socket.recv_from(&mut packet) {
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    if let Some(reply) = reply(&packet[..len], &mut lock(&zone)) {
                        socket.send_to(&reply, from).expect("loopback takes it");
                    }
                }
            }
        });
        Self {
            addr,
            zone,
            stop,
            thread: Some(thread),
        }
    }

    fn say(&self, name: &str, say: Say) {
        lock(&self.zone).says.insert(name.to_owned(), say);
    }

    fn asked(&self, name: &str, kind: u16) -> usize {
        let key = (name.to_owned(), kind);
        lock(&self.zone).asked.get(&key).copied().unwrap_or(0)
    }

    fn options(&self) -> Options {
        Options {
            servers: vec![self.addr],
            hosts_file: PathBuf::from("/nonexistent/hosts"),
            second: Duration::from_millis(20),
            ..Options::default()
        }
    }

    fn names(&self) -> Names {
        Names::new(self.options(), Handle::current())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let waker = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        waker.send_to(&[], self.addr).expect("loopback takes it");
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server did not panic");
        }
    }
}

fn reply(question: &[u8], zone: &mut Zone) -> Option<Vec<u8>> {
    let (id, body) = (question.get(..2)?, question.get(12..)?);
    let mut name = String::new();
    let mut at = 0;
    while body[at] != 0 {
        let len = usize::from(body[at]);
        name.push_str(std::str::from_utf8(&body[at + 1..=at + len]).ok()?);
        name.push('.');
        at += len + 1;
    }
    name.pop();
    name.make_ascii_lowercase();
    let kind = u16::from_be_bytes([body[at + 1], body[at + 2]]);
    *zone.asked.entry((name.clone(), kind)).or_default() += 1;

    let mut answers = Vec::new();
    let mut count = 0_u16;
    let mut push = |owner: &[u8], kind: u16, ttl_s: u32, data: &[u8]| {
        answers.extend_from_slice(owner);
        answers.extend_from_slice(&kind.to_be_bytes());
        answers.extend_from_slice(&1_u16.to_be_bytes());
        answers.extend_from_slice(&ttl_s.to_be_bytes());
        answers.extend_from_slice(&(data.len() as u16).to_be_bytes());
        answers.extend_from_slice(data);
    };
    let mut owner = vec![0xc0, 12];
    let mut says = zone.says.get(&name).cloned();
    if let Some(Say::Alias(target, ttl_s)) = says {
        push(&owner, 5, ttl_s, &wire_name(target));
        count += 1;
        owner = wire_name(target);
        says = zone.says.get(target).cloned();
    }
    let mut code = 0;
    match says {
        Some(Say::Addrs(addrs, ttl_s)) => {
            for addr in addrs {
                match addr {
                    IpAddr::V4(addr) if kind == A => push(&owner, A, ttl_s, &addr.octets()),
                    IpAddr::V6(addr) if kind == AAAA => push(&owner, AAAA, ttl_s, &addr.octets()),
                    _ => continue,
                }
                count += 1;
            }
        }
        Some(Say::Code(other)) => code = other,
        Some(Say::Nothing) => return None,
        Some(Say::Alias(..)) | None => code = 3,
    }
    let mut authority = 0_u16;
    if count == 0 && matches!(code, 0 | 3) {
        let mut soa = wire_name("ns.test");
        soa.extend_from_slice(&wire_name("root.test"));
        for number in [1_u32, 60, 60, 60, NEGATIVE_TTL_S] {
            soa.extend_from_slice(&number.to_be_bytes());
        }
        push(&wire_name("test"), 6, NEGATIVE_TTL_S, &soa);
        authority = 1;
    }
    let mut packet = id.to_vec();
    packet.extend_from_slice(&[0x81, 0x80 | code, 0, 1]);
    packet.extend_from_slice(&count.to_be_bytes());
    packet.extend_from_slice(&authority.to_be_bytes());
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(&body[..at + 5]);
    packet.extend_from_slice(&answers);
    Some(packet)
}

const NEGATIVE_TTL_S: u32 = 2;

fn wire_name(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.') {
        wire.push(label.len() as u8);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}

fn ips(addrs: &[&str]) -> Vec<IpAddr> {
    addrs
        .iter()
        .map(|addr| addr.parse().expect("an address"))
        .collect()
}

fn addrs(texts: &[&str], ttl_s: u32) -> Say {
    Say::Addrs(ips(texts), ttl_s)
}

/// Far enough that only a broken resolver reaches it.
fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

async fn resolved(name: &Name) -> Arc<Answer> {
    name.wait_resolved(deadline()).await
}

/// The first answer for which `is_right`.
async fn until(name: &Name, is_right: impl Fn(&Answer) -> bool) -> Arc<Answer> {
    let mut answer = name.answer();
    while !is_right(&answer) {
        let newer = name.wait_newer(&answer, deadline()).await;
        assert!(!Arc::ptr_eq(&newer, &answer), "last: {answer:?}");
        answer = newer;
    }
    answer
}

#[tokio::test]
async fn there_is_one_question_per_ttl_however_many_ask() {
    let server = Server::start();
    server.say("api.test", addrs(&["10.0.0.1"], 5));
    let names = server.names();
    let name = names.subscribe("api.test");
    let same: Vec<Arc<Name>> = ["API.test", "api.test", "Api.Test"]
        .iter()
        .map(|host| names.subscribe(host))
        .collect();
    assert!(same.iter().all(|other| Arc::ptr_eq(other, &name)));
    let mut answer = resolved(&name).await;
    let first_at = answer.resolved_at.expect("resolved");
    for questions in 1..=5 {
        assert_eq!(server.asked("api.test", A), questions);
        assert_eq!(answer.addrs, ips(&["10.0.0.1"]));
        let least = Duration::from_millis(100) * (questions as u32 - 1);
        assert!(answer.resolved_at.expect("resolved") - first_at >= least);
        answer = name.wait_newer(&answer, deadline()).await;
    }
    assert_eq!(server.asked("api.test", AAAA), 0);
}

#[tokio::test]
async fn several_addresses_are_tried_in_turn() {
    let server = Server::start();
    server.say("two.test", addrs(&["10.0.0.1", "10.0.0.2"], 60));
    let name = server.names().subscribe("two.test");
    resolved(&name).await;
    let turn = || {
        let addrs = name.in_turn(8080).map(|addr| addr.to_string());
        addrs.collect::<Vec<_>>()
    };
    assert_eq!(turn(), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert_eq!(turn(), ["10.0.0.2:8080", "10.0.0.1:8080"]);
    assert_eq!(turn(), ["10.0.0.1:8080", "10.0.0.2:8080"]);
}

#[tokio::test]
async fn where_to_start_can_be_configured() {
    let server = Server::start();
    let many: Vec<String> = (1..=8).map(|n| format!("10.0.0.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    server.say("many.test", addrs(&many, 60));
    for (strategy, least_starts, most_starts) in [("pick_first", 1, 1), ("random", 3, 8)] {
        let options = server.options().with_dns_cache(true, 60, strategy);
        let name = Names::new(options, Handle::current()).subscribe("many.test");
        resolved(&name).await;
        let starts: std::collections::BTreeSet<SocketAddr> =
            (0..32).filter_map(|_| name.in_turn(1).next()).collect();
        assert!(starts.len() >= least_starts && starts.len() <= most_starts);
        assert_eq!(name.in_turn(1).count(), 8);
    }
}

#[tokio::test]
async fn a_changed_address_is_seen_with_the_next_answer() {
    let server = Server::start();
    server.say("moves.test", addrs(&["10.0.0.1"], 1));
    let changes = Arc::new(AtomicUsize::new(0));
    let options = Options {
        on_change: Some(Arc::new({
            let changes = Arc::clone(&changes);
            move |name: &Name| {
                assert_eq!(name.host(), "moves.test");
                changes.fetch_add(1, Ordering::Relaxed);
            }
        })),
        ..server.options()
    };
    let name = Names::new(options, Handle::current()).subscribe("moves.test");
    resolved(&name).await;
    server.say("moves.test", addrs(&["10.0.0.2"], 1));
    let asked = server.asked("moves.test", A);
    until(&name, |answer| answer.addrs == ips(&["10.0.0.2"])).await;
    // One question may have been under way during the change.
    assert!(server.asked("moves.test", A) <= asked + 2);
    assert_eq!(changes.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_not_found_until_it_does() {
    let server = Server::start();
    let name = server.names().subscribe("new.test");
    let answer = resolved(&name).await;
    assert_eq!(answer.state, State::NotFound);
    assert_eq!(name.in_turn(80).next(), None);
    assert_eq!(server.asked("new.test", AAAA), 0, "NXDOMAIN is for both");
    server.say("new.test", addrs(&["10.0.0.3"], 60));
    until(&name, |answer| answer.state == State::Resolved).await;
    assert_eq!(name.in_turn(80).count(), 1);
}

#[tokio::test]
async fn a_name_that_ceases_to_exist_loses_its_addresses() {
    let server = Server::start();
    server.say("old.test", addrs(&["10.0.0.1"], 1));
    let name = server.names().subscribe("old.test");
    resolved(&name).await;
    server.say("old.test", Say::Code(3));
    let answer = until(&name, |answer| answer.state == State::NotFound).await;
    assert_eq!(answer.addrs, ips(&[]));
}

#[tokio::test]
async fn a_failing_server_does_not_take_the_addresses_away() {
    let server = Server::start();
    server.say("kept.test", addrs(&["10.0.0.1"], 1));
    let name = server.names().subscribe("kept.test");
    let resolved_at = resolved(&name).await.resolved_at;
    for code in [2, 5] {
        server.say("kept.test", Say::Code(code));
        let answer = until(&name, |answer| matches!(answer.state, State::Failed(_))).await;
        assert_eq!(answer.addrs, ips(&["10.0.0.1"]));
        assert!(answer.resolved_at >= resolved_at);
        assert_eq!(name.in_turn(80).count(), 1);
        server.say("kept.test", addrs(&["10.0.0.1"], 1));
        until(&name, |answer| answer.state == State::Resolved).await;
    }
}

#[tokio::test]
async fn a_silent_server_holds_up_no_other_name() {
    let server = Server::start();
    server.say("silent.test", Say::Nothing);
    server.say("loud.test", addrs(&["10.0.0.1"], 60));
    let names = server.names();
    let silent = names.subscribe("silent.test");
    let loud = names.subscribe("loud.test");
    assert_eq!(resolved(&loud).await.state, State::Resolved);
    assert_eq!(silent.answer().state, State::Pending);
    let answer = silent.wait_resolved(Instant::now()).await;
    assert_eq!(answer.state, State::Pending);
    assert_eq!(silent.in_turn(80).next(), None);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_failure() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let closed = socket.local_addr().expect("its address");
    drop(socket);
    let options = Options {
        servers: vec![closed],
        timeout: Some(Duration::from_millis(50)),
        ..Options::default()
    };
    let name = Names::new(options, Handle::current()).subscribe("any.test");
    let answer = resolved(&name).await;
    assert!(
        matches!(&answer.state, State::Failed(why) if !why.is_empty()),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_name_that_nobody_holds_is_no_longer_asked_for() {
    let server = Server::start();
    server.say("dropped.test", addrs(&["10.0.0.1"], 1));
    server.say("held.test", addrs(&["10.0.0.2"], 1));
    let names = server.names();
    let dropped = names.subscribe("dropped.test");
    resolved(&dropped).await;
    drop(dropped);
    let asked = server.asked("dropped.test", A);
    let held = names.subscribe("held.test");
    let mut answer = resolved(&held).await;
    for _ in 0..5 {
        answer = held.wait_newer(&answer, deadline()).await;
    }
    assert_eq!(server.asked("dropped.test", A), asked);
    // And whoever comes back asks anew.
    let again = names.subscribe("dropped.test");
    resolved(&again).await;
    assert_eq!(server.asked("dropped.test", A), asked + 1);
}

#[tokio::test]
async fn ipv6_is_asked_for_when_there_is_no_ipv4() {
    let server = Server::start();
    server.say("six.test", addrs(&["2001:db8::7"], 60));
    let name = server.names().subscribe("six.test");
    assert_eq!(resolved(&name).await.addrs, ips(&["2001:db8::7"]));
    let addr = name.in_turn(443).next().expect("an address");
    assert_eq!(addr.to_string(), "[2001:db8::7]:443");
}

#[tokio::test]
async fn an_alias_counts_with_its_own_ttl() {
    let server = Server::start();
    server.say("www.test", Say::Alias("origin.test", 3));
    server.say("origin.test", addrs(&["10.0.0.9"], 600));
    let name = server.names().subscribe("www.test");
    let answer = resolved(&name).await;
    assert_eq!(answer.addrs, ips(&["10.0.0.9"]));
    assert_eq!(answer.ttl, Duration::from_millis(60));
}

#[tokio::test]
async fn an_address_is_its_own_answer() {
    let server = Server::start();
    let names = server.names();
    for (host, expected) in [
        ("192.0.2.7", "192.0.2.7:80"),
        ("::1", "[::1]:80"),
        ("[2001:db8::1]", "[2001:db8::1]:80"),
    ] {
        let name = names.subscribe(host);
        assert_eq!(name.answer().state, State::Resolved);
        let addrs: Vec<String> = name.in_turn(80).map(|addr| addr.to_string()).collect();
        assert_eq!(addrs, [expected]);
    }
    assert!(lock(&server.zone).asked.is_empty());
}

#[tokio::test]
async fn localhost_is_never_asked_for() {
    let server = Server::start();
    let names = server.names();
    for host in ["localhost", "LOCALHOST", "a.localhost", "localhost."] {
        let answer = resolved(&names.subscribe(host)).await;
        assert_eq!(answer.addrs, ips(&["127.0.0.1", "::1"]), "{host}");
    }
    assert!(lock(&server.zone).asked.is_empty());
}

#[tokio::test]
async fn the_hosts_file_goes_first_and_is_read_again_when_it_changes() {
    let server = Server::start();
    server.say("db.test", addrs(&["10.0.0.1"], 1));
    let dir = std::env::temp_dir().join(format!("penstock-hosts-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a temporary directory");
    let hosts_file = dir.join("hosts");
    fs::write(&hosts_file, "10.9.9.9 db.test other\n").expect("a temporary file");
    let options = Options {
        hosts_file: hosts_file.clone(),
        ..server.options()
    };
    let name = Names::new(options, Handle::current()).subscribe("DB.test");
    assert_eq!(resolved(&name).await.addrs, ips(&["10.9.9.9"]));
    assert_eq!(server.asked("db.test", A), 0);
    fs::write(&hosts_file, "10.9.9.10 db.test\n").expect("a temporary file");
    until(&name, |answer| answer.addrs == ips(&["10.9.9.10"])).await;
    fs::remove_file(&hosts_file).expect("it was there");
    until(&name, |answer| answer.addrs == ips(&["10.0.0.1"])).await;
    fs::remove_dir_all(&dir).expect("it was there");
}

#[tokio::test]
async fn what_is_no_host_name_fails_without_a_question() {
    let server = Server::start();
    let names = server.names();
    for host in ["a b.test", "", &"x".repeat(64), "..", "a/b"] {
        let answer = resolved(&names.subscribe(host)).await;
        assert!(
            matches!(answer.state, State::Failed(_) | State::NotFound),
            "{host:?}: {answer:?}"
        );
    }
    server.say("my_service", addrs(&["10.0.0.4"], 60));
    let answer = resolved(&names.subscribe("my_service")).await;
    assert_eq!(answer.addrs, ips(&["10.0.0.4"]));
}

#[tokio::test]
async fn a_fixed_ttl_goes_before_that_of_the_records() {
    let server = Server::start();
    server.say("fixed.test", addrs(&["10.0.0.1"], 1));
    server.say("other.test", addrs(&["10.0.0.2"], 1));
    let options = server.options().with_dns_cache(true, 3600, "");
    let names = Names::new(options, Handle::current());
    assert_eq!(
        resolved(&names.subscribe("fixed.test")).await.ttl,
        Duration::from_secs(3600)
    );
}

#[test]
fn pauses_follow_ttl_and_failures() {
    let options = Options::default();
    let found = |ttl_s| Outcome::Found {
        addrs: Vec::new(),
        ttl_s,
    };
    let failed = || Outcome::Failed {
        why: String::new(),
        is_answer: true,
    };
    let not_found = |ttl_s| Outcome::NotFound { ttl_s };
    for (outcome, failures, expected_s) in [
        (found(0), 0, 1),
        (found(1), 0, 1),
        (found(300), 0, 300),
        (found(u32::MAX), 0, 86_400),
        (not_found(None), 0, 5),
        (not_found(Some(0)), 0, 1),
        (not_found(Some(900)), 0, 5),
        (failed(), 1, 1),
        (failed(), 2, 2),
        (failed(), 3, 4),
        (failed(), 4, 5),
        (failed(), 1000, 5),
    ] {
        assert_eq!(
            pause_after(&outcome, failures, &options),
            Duration::from_secs(expected_s),
            "{outcome:?} {failures}"
        );
    }
    let fixed = |ttl_s| Options::default().with_dns_cache(true, ttl_s, "");
    assert_eq!(
        pause_after(&found(5), 0, &fixed(30)),
        Duration::from_secs(30)
    );
    assert_eq!(pause_after(&found(5), 0, &fixed(0)), Duration::from_secs(5));
    assert_eq!(pause_after(&found(5), 0, &fixed(-1)), Duration::MAX);
}

#[track_caller]
fn check_candidates(host: &str, ndots: usize, expected: &[&str]) {
    let search = ["ns.svc.cluster.local", "corp.test"]
        .map(|domain| DnsName::from_ascii(domain).expect("a domain"));
    let config = ResolverConfig::from_parts(None, search.to_vec(), Vec::new());
    let names: Vec<String> = candidates(host, &config, ndots)
        .expect("a name")
        .iter()
        .map(|candidate| candidate.name.to_ascii())
        .collect();
    assert_eq!(names, expected);
}

#[test]
fn the_search_list_applies_by_the_number_of_dots() {
    let with_search = ["db.ns.svc.cluster.local.", "db.corp.test.", "db."];
    check_candidates("db", 1, &with_search);
    check_candidates(
        "db.other",
        1,
        &[
            "db.other.",
            "db.other.ns.svc.cluster.local.",
            "db.other.corp.test.",
        ],
    );
    check_candidates(
        "db.other",
        5,
        &[
            "db.other.ns.svc.cluster.local.",
            "db.other.corp.test.",
            "db.other.",
        ],
    );
    check_candidates("db.other.", 5, &["db.other."]);
}
