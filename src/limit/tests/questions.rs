//! Cells and the reconciler together, over a real mailbox.

use std::{
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::Duration,
};

use super::{
    fake::{Fake, FakeStore},
    *,
};
use crate::{
    mailbox::{Answered, Inbox, Line, Outlet, Wake, inbox, mailbox},
    storage::{Embedded, Store, tests::Scratch},
};

/// A node with a shard of one's own to ask from.
pub(super) struct Node {
    pub(super) cells: Arc<Cells>,
    line: Line<Question, Answer>,
    inbox: Inbox<Answered<Answer>>,
    pub(super) now_ms: Arc<AtomicU64>,
    store: StoreSource,
}

impl Node {
    pub(super) fn start(settings: Settings, nodes: u32, store: Arc<dyn Store>) -> Self {
        let (cells, work) = node(settings, nodes);
        let (mailbox, desk) = mailbox(1_024);
        let (inbox, outlet): (_, Outlet<Answered<Answer>>) =
            inbox(Wake::socketpair().unwrap(), 1_024);
        let now_ms = Arc::new(AtomicU64::new(1));
        let clock = Arc::clone(&now_ms);
        let store: StoreSource = Arc::new(move || Ok(Arc::clone(&store)));
        let reconciler = Reconciler::new(
            Arc::clone(&cells),
            work,
            Arc::clone(&store),
            Arc::new(move || clock.load(SeqCst)),
        );
        tokio::spawn(reconciler.run(desk, |question| question, |answer| answer));
        Self {
            cells,
            line: Line::new(mailbox, Arc::new(outlet), 1_024),
            inbox,
            now_ms,
            store,
        }
    }

    fn now(&self) -> u64 {
        self.now_ms.load(SeqCst)
    }

    async fn ask(&self, question: Question, patience_ms: u64) -> Option<Answer> {
        let answer = self.line.ask(question, u64::MAX);
        let draining = async {
            loop {
                self.inbox.drain(|answered| {
                    self.line.complete(answered);
                });
                // Not a busy loop: a paused clock moves on only when nobody has anything to do.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let patience = tokio::time::sleep(Duration::from_millis(patience_ms));
        tokio::select! {
            answer = answer => answer.ok(),
            () = draining => None,
            () = patience => None,
        }
    }

    pub(super) async fn rate(&self, cell: &Arc<RateCell>) -> bool {
        let at_ms = self.now();
        let mut taken = cell.take(at_ms);
        if taken == Taken::Ask {
            let question = Question::Rate {
                cell: Arc::clone(cell),
                at_ms,
            };
            taken = match self.ask(question, crate::limit::ASK_MAX_MS).await {
                Some(Answer::Rate(taken)) => taken,
                _ => cell.fallback(at_ms),
            };
        }
        assert_ne!(taken, Taken::Ask);
        taken == Taken::Admitted
    }

    pub(super) async fn quota(&self, cell: &Arc<QuotaCell>) -> QuotaTaken {
        let at_ms = self.now();
        let mut taken = cell.take(at_ms);
        if taken.taken == Taken::Ask {
            let question = Question::Quota {
                cell: Arc::clone(cell),
                at_ms,
            };
            // A commit may take its time on a loaded machine.
            let patience_ms = if self.cells.outlook().settings.is_shared {
                crate::limit::ASK_MAX_MS
            } else {
                60_000
            };
            let waiting = cell.wait();
            taken = match self.ask(question, patience_ms).await {
                Some(Answer::Quota(taken)) => taken,
                _ => {
                    drop(waiting);
                    cell.fallback(at_ms)
                }
            };
        }
        assert_ne!(taken.taken, Taken::Ask);
        taken
    }

    async fn admitted(&self, cell: &Arc<QuotaCell>, requests: usize) -> usize {
        let mut admitted = 0;
        for _ in 0..requests {
            admitted += usize::from(self.quota(cell).await.taken == Taken::Admitted);
        }
        admitted
    }
}

fn paused(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test);
}

fn real(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

const NOW_US: u64 = 1_700_000_000_000_000;
const NOW_S: i64 = 1_700_000_000;

thread_local! {
    static WALL_MS: std::cell::Cell<i64> = const { std::cell::Cell::new(NOW_S * 1_000) };
}

/// Settings whose wall clock stands still.
fn at_rest() -> Settings {
    Settings {
        wall_ns: || WALL_MS.get() * 1_000_000,
        ..shared()
    }
}

fn store(fake: &Arc<Fake>) -> Arc<dyn Store> {
    Arc::new(FakeStore(Arc::clone(fake)))
}

#[test]
fn two_nodes_share_a_low_limit_exactly_and_refuse_without_asking_again() {
    paused(async {
        let fake = Fake::at(NOW_US);
        let a = Node::start(at_rest(), 2, store(&fake));
        let b = Node::start(at_rest(), 2, store(&fake));
        let cell = |node: &Node| {
            node.cells
                .rate("rate-limit-k", "", &rate(3.0, 10.0))
                .unwrap()
        };
        let (cell_a, cell_b) = (cell(&a), cell(&b));
        assert!(a.rate(&cell_a).await);
        assert!(b.rate(&cell_b).await);
        assert!(a.rate(&cell_a).await);
        assert!(!b.rate(&cell_b).await);
        let asked = fake.eval_count.load(SeqCst);
        for _ in 0..100 {
            assert!(!a.rate(&cell_a).await);
            assert!(!b.rate(&cell_b).await);
        }
        assert_eq!(fake.eval_count.load(SeqCst), asked);
        assert_eq!(
            fake.entries("rate-limit-k"),
            3,
            "refused ones leave no entry"
        );
        for node in [&a, &b] {
            node.now_ms.store(10_002, SeqCst);
        }
        fake.advance_ms(10_001);
        assert!(b.rate(&cell_b).await);
    });
}

#[test]
fn tyks_modes_ask_for_every_request() {
    paused(async {
        let run = async |algorithm, times: &[u64]| {
            let fake = Fake::at(NOW_US);
            let settings = Settings {
                algorithm,
                ..at_rest()
            };
            let node = Node::start(settings, 1, store(&fake));
            let cell = node
                .cells
                .rate("rate-limit-k", "", &rate(3.0, 2.0))
                .unwrap();
            let mut took = Vec::new();
            let mut last_ms = 0;
            for &now_ms in times {
                fake.advance_ms(now_ms - last_ms);
                last_ms = now_ms;
                node.now_ms.store(now_ms + 1, SeqCst);
                took.push(node.rate(&cell).await);
                tokio::task::yield_now().await;
            }
            // What Tyk does when Redis fails.
            fake.is_away.store(true, SeqCst);
            (took, node.rate(&cell).await)
        };
        assert_eq!(
            run(Algorithm::RollingLog, &[0, 1, 2, 3, 1999, 2300, 4310]).await,
            (vec![true, true, true, false, false, true, true], false)
        );
        assert_eq!(
            run(Algorithm::Sentinel, &[0, 1, 2, 3, 2001, 2002, 2003, 4003]).await,
            (
                vec![true, true, true, false, false, true, false, true],
                true
            )
        );
        // The wall clock stands still: one window.
        assert_eq!(
            run(Algorithm::FixedWindow, &[0, 1, 2, 3]).await,
            (vec![true, true, true, false], true)
        );
    });
}

#[test]
fn a_store_that_does_not_answer_is_asked_three_times_and_then_each_node_has_its_share() {
    paused(async {
        let fake = Fake::at(NOW_US);
        let node = Node::start(at_rest(), 3, store(&fake));
        let cell = node
            .cells
            .rate("rate-limit-k", "", &rate(10.0, 60.0))
            .unwrap();
        assert!(node.rate(&cell).await);
        fake.is_hanging.store(true, SeqCst);
        let mut admitted = 0;
        for _ in 0..50 {
            admitted += u32::from(node.rate(&cell).await);
        }
        assert_eq!(admitted, 3);
        assert!(node.cells.outlook().is_away());
        fake.is_hanging.store(false, SeqCst);
        while node.cells.outlook().is_away() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        node.now_ms.store(300, SeqCst);
        // What was admitted alone is told first: one before, three alone, six now.
        let mut admitted = 0;
        for _ in 0..50 {
            admitted += u32::from(node.rate(&cell).await);
        }
        assert_eq!(admitted, 6);
    });
}

#[test]
fn a_silent_store_keeps_nobody_longer_however_many_ask() {
    paused(async {
        let fake = Fake::at(NOW_US);
        let node = Node::start(at_rest(), 3, store(&fake));
        fake.is_hanging.store(true, SeqCst);
        let began = tokio::time::Instant::now();
        let mut answers = Vec::new();
        // More than may be under way, each in a question of its own.
        for n in 0..40 {
            let name = format!("rate-limit-{n}");
            let cell = node.cells.rate(&name, "", &rate(10.0, 60.0)).unwrap();
            assert_eq!(cell.take(1), Taken::Ask);
            answers.push(node.line.ask(Question::Rate { cell, at_ms: 1 }, u64::MAX));
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
        }
        let mut count = 0;
        while count < answers.len() {
            node.inbox.drain(|_| count += 1);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let took = began.elapsed();
        // Those for whom there was no place have waited for one first.
        assert!(took <= Duration::from_millis(15), "{took:?}");
    });
}

#[test]
fn a_low_limit_is_never_nothing_while_the_store_is_away() {
    paused(async {
        let fake = Fake::at(NOW_US);
        fake.is_away.store(true, SeqCst);
        let node = Node::start(at_rest(), 16, store(&fake));
        let cell = node
            .cells
            .rate("rate-limit-k", "", &rate(3.0, 60.0))
            .unwrap();
        assert!(node.rate(&cell).await);
        assert!(!node.rate(&cell).await);
        let cell = node.cells.quota("quota-k", &quota(5, 60)).unwrap();
        assert_eq!(node.admitted(&cell, 10).await, 1);
    });
}

/// What of `requests` at the same time is admitted.
async fn at_once(node: &Node, cell: &Arc<QuotaCell>, requests: usize) -> usize {
    let mut under_way: Vec<_> = (0..requests).map(|_| Box::pin(node.quota(cell))).collect();
    let mut admitted = 0;
    std::future::poll_fn(|task| {
        under_way.retain_mut(|request| match request.as_mut().poll(task) {
            std::task::Poll::Ready(taken) => {
                admitted += usize::from(taken.taken == Taken::Admitted);
                false
            }
            std::task::Poll::Pending => true,
        });
        match under_way.is_empty() {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    admitted
}

#[test]
fn late_answers_never_let_one_node_admit_more_than_a_quota() {
    #[track_caller]
    fn check(late_ms: [u64; 4], wave: usize) {
        paused(async move {
            let fake = Fake::at(NOW_US);
            let node = Node::start(at_rest(), 1, store(&fake));
            let cell = node.cells.quota("quota-k", &quota(10, 3_600)).unwrap();
            let mut admitted = 0;
            for round in 0..24 {
                fake.late_ms.store(late_ms[round % 4], SeqCst);
                admitted += at_once(&node, &cell, wave).await;
                assert!(
                    admitted <= 10,
                    "{admitted} in round {round}: {late_ms:?} {wave}"
                );
                if round % 2 == 1 {
                    // Long enough for a probe to find the store again.
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                node.now_ms.fetch_add(1_100, SeqCst);
            }
            fake.late_ms.store(0, SeqCst);
            tokio::time::sleep(Duration::from_secs(2)).await;
            for _ in 0..4 {
                node.now_ms.fetch_add(1_100, SeqCst);
                admitted += at_once(&node, &cell, wave).await;
            }
            // Units that came for nobody may be lost.
            if late_ms == [0; 4] {
                assert_eq!(admitted, 10, "{wave}");
            }
            assert!(fake.counter("quota-k").is_some_and(|counted| counted >= 10));
        });
    }
    for wave in [1, 2, 3, 7, 40] {
        check([0; 4], wave);
        check([20; 4], wave);
        check([0, 20, 0, 20], wave);
        check([20, 0, 0, 30], wave);
        check([30, 30, 0, 0], wave);
        check([4, 7, 2, 6], wave);
    }
}

#[test]
fn a_smoothed_limit_moves_its_allowance_in_the_store() {
    paused(async {
        let fake = Fake::at(NOW_US);
        let settings = Settings {
            algorithm: Algorithm::RollingLog,
            is_smoothing: true,
            ..at_rest()
        };
        let limit = RateLimit {
            smoothing: Some(SmoothingRule {
                threshold: 5,
                trigger: 0.5,
                step: 5,
                delay_s: 1,
            }),
            ..rate(20.0, 10.0)
        };
        let node = Node::start(settings, 1, store(&fake));
        let cell = node.cells.rate("rate-limit-k", "", &limit).unwrap();
        let burst = async || {
            let mut admitted = 0;
            for _ in 0..30 {
                admitted += u32::from(node.rate(&cell).await);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            (admitted, cell.take_event())
        };
        assert_eq!(burst().await, (5, None));
        node.now_ms.store(1_001, SeqCst);
        WALL_MS.set(WALL_MS.get() + 1_000);
        fake.advance_ms(1_000);
        assert_eq!(burst().await.1, Some(Smoothed::Up));
        // Another node finds the allowance, and that it is not its turn.
        let other = Node::start(settings, 1, store(&fake));
        let there = other.cells.rate("rate-limit-k", "", &limit).unwrap();
        other.rate(&there).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(there.take_event(), None);
    });
}

#[test]
fn a_small_quota_is_counted_one_by_one_with_tyks_headers() {
    paused(async {
        let fake = Fake::at(NOW_US);
        let node = Node::start(at_rest(), 1, store(&fake));
        let cell = node.cells.quota("quota-k", &quota(3, 60)).unwrap();
        for remaining in [2, 1, 0] {
            assert_eq!(
                node.quota(&cell).await,
                QuotaTaken {
                    taken: Taken::Admitted,
                    remaining,
                    renews_at_s: NOW_S + 60,
                }
            );
        }
        assert_eq!(node.admitted(&cell, 5).await, 0);
        assert_eq!(fake.counter("quota-k"), Some(3));
        // Refused requests are counted, as in Tyk, but nobody waits for it.
        node.now_ms.store(1_002, SeqCst);
        fake.advance_ms(1_001);
        assert_eq!(node.admitted(&cell, 1).await, 0);
        assert_eq!(fake.counter("quota-k"), Some(9));
        // A reset elsewhere is seen within a second.
        fake.remove("quota-k");
        node.now_ms.store(2_003, SeqCst);
        assert_eq!(node.admitted(&cell, 5).await, 3);
        // One here at once.
        fake.remove("quota-k");
        node.cells.forget_quota("quota-k");
        assert_eq!(node.admitted(&cell, 5).await, 3);
        // And the period ends.
        node.now_ms.store(70_000, SeqCst);
        fake.advance_ms(68_000);
        assert_eq!(node.admitted(&cell, 5).await, 3);
    });
}

#[test]
fn a_quota_that_is_not_renewed_ends_for_good_and_a_stale_counter_begins_anew() {
    paused(async {
        let fake = Fake::at(NOW_US);
        let node = Node::start(at_rest(), 1, store(&fake));
        let cell = node.cells.quota("quota-never", &quota(2, 0)).unwrap();
        assert_eq!(node.admitted(&cell, 5).await, 2);
        node.now_ms.store(900_000_000, SeqCst);
        assert_eq!(node.admitted(&cell, 5).await, 0);
        // Without expiry, and the session's time of renewal is over.
        for (renews_at_s, expected) in [(NOW_S - 5, 2), (NOW_S + 50, 0)] {
            fake.put("quota-stale", 7);
            let limit = QuotaLimit {
                renews_at_s,
                ..quota(2, 60)
            };
            let node = Node::start(at_rest(), 1, store(&fake));
            let cell = node.cells.quota("quota-stale", &limit).unwrap();
            assert_eq!(node.admitted(&cell, 5).await, expected);
        }
    });
}

#[test]
fn a_large_quota_is_leased_by_a_fleet_and_never_exceeded() {
    paused(async {
        const MAX: usize = 5_000;
        let fake = Fake::at(NOW_US);
        let mut nodes: Vec<_> = (0..3)
            .map(|_| Node::start(at_rest(), 3, store(&fake)))
            .collect();
        let mut cells: Vec<_> = nodes
            .iter()
            .map(|node| {
                node.cells
                    .quota("quota-k", &quota(MAX as i64, 3_600))
                    .unwrap()
            })
            .collect();
        let mut admitted = 0;
        let mut lost = 0;
        let mut first_refused = None;
        for n in 0..8_000_u64 {
            let at = if n % 10 == 0 { 1 + n / 10 % 2 } else { 0 } as usize;
            // A thousand a second.
            nodes[at].now_ms.store(1 + n, SeqCst);
            let taken = nodes[at].quota(&cells[at]).await;
            if taken.taken == Taken::Admitted {
                admitted += 1;
            } else {
                first_refused.get_or_insert(admitted);
            }
            // A process that ends without a farewell: what it had is lost.
            let unused = nodes[0].cells.unused("quota-k");
            if n >= 2_000 && lost == 0 && unused > 5 {
                lost = unused;
                nodes[0] = Node::start(at_rest(), 3, store(&fake));
                let cell = nodes[0].cells.quota("quota-k", &quota(MAX as i64, 3_600));
                cells[0] = cell.unwrap();
            }
        }
        let asked = fake.eval_count.load(SeqCst);
        println!(
            "admitted {admitted}, lost {lost}, first refused at {first_refused:?}, asked {asked} times"
        );
        assert!(lost > 0 && admitted <= MAX - lost as usize);
        assert!(admitted >= MAX * 97 / 100, "{admitted}");
        assert!(first_refused.unwrap() >= MAX * 95 / 100);
        assert!(asked < 1_500, "{asked}");
    });
}

#[test]
fn what_is_left_goes_back_at_the_end_while_the_period_is_the_same() {
    paused(async {
        let fake = Fake::at(NOW_US);
        let node = Node::start(at_rest(), 2, store(&fake));
        let cell = node.cells.quota("quota-k", &quota(100_000, 60)).unwrap();
        for n in 0..1_000 {
            node.now_ms.store(1 + n, SeqCst);
            node.quota(&cell).await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(node.cells.unused("quota-k") > 0);
        let reserved = fake.counter("quota-k").unwrap();
        assert_eq!(reserved - node.cells.unused("quota-k"), 1_000);
        release(&node.cells, &node.store, node.now()).await;
        assert_eq!(fake.counter("quota-k"), Some(1_000));
        // Another period: nothing is given back into it.
        node.quota(&cell).await;
        node.quota(&cell).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        fake.put("quota-k", 500);
        release(&node.cells, &node.store, node.now()).await;
        assert_eq!(fake.counter("quota-k"), Some(500));
    });
}

#[test]
fn the_embedded_store_keeps_a_quota_through_any_number_of_crashes() {
    real(async {
        const MAX: usize = 300;
        let scratch = Scratch::new();
        let mut admitted = 0;
        let mut refused = false;
        let settings = Settings {
            is_shared: false,
            ..shared()
        };
        for _ in 0..20 {
            let embedded = Arc::new(Embedded::open(scratch.path()).unwrap());
            let node = Node::start(settings, 1, Arc::clone(&embedded) as Arc<dyn Store>);
            let cell = node
                .cells
                .quota("quota-k", &quota(MAX as i64, 3_600))
                .unwrap();
            for n in 0..40 {
                node.now_ms.store(1 + n, SeqCst);
                match node.quota(&cell).await.taken {
                    Taken::Admitted => admitted += 1,
                    _ => refused = true,
                }
            }
            // Gone without a farewell: stock and counts of this process are lost.
            embedded.close().await.unwrap();
        }
        println!("admitted {admitted} of {MAX}");
        assert!(refused);
        assert!(admitted <= MAX, "{admitted}");
        assert!(admitted >= MAX / 2, "{admitted}");
    });
}

#[test]
fn the_embedded_store_serves_a_small_quota_to_the_last_unit_with_tyks_headers() {
    real(async {
        let scratch = Scratch::new();
        let embedded = Arc::new(Embedded::open(scratch.path()).unwrap());
        let settings = Settings {
            is_shared: false,
            ..at_rest()
        };
        let node = Node::start(settings, 1, Arc::clone(&embedded) as Arc<dyn Store>);
        for max in [1_i64, 3, 10, 25] {
            let cell = node
                .cells
                .quota(&format!("quota-{max}"), &quota(max, 60))
                .unwrap();
            for left in (0..max).rev() {
                let taken = node.quota(&cell).await;
                assert_eq!((taken.taken, taken.remaining), (Taken::Admitted, left));
            }
        }
        embedded.close().await.unwrap();
    });
}

/// Several shards that ask by themselves: some answers come late, some never, some at once.
#[test]
fn threads_that_ask_for_one_quota_at_once_never_admit_more_than_it_has() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 2_000;
    let fake = Fake::at(NOW_US);
    let (cells, _work) = node(at_rest(), 1);
    let cell = cells.quota("quota-k", &quota(900, 3_600)).unwrap();
    let admitted = std::sync::atomic::AtomicUsize::new(0);
    let clock = AtomicU64::new(THREADS * 16);
    std::thread::scope(|scope| {
        for number in 0..THREADS {
            let (fake, cells, cell, admitted) = (&fake, &cells, &cell, &admitted);
            let clock = &clock;
            scope.spawn(move || {
                let mut random = Random(number + 1);
                let outlook = cells.outlook();
                let mut late = Vec::new();
                for _ in 0..ROUNDS {
                    // Slowly: a thread that stands still must not come back in another period.
                    let at_ms = clock.fetch_add(1, SeqCst) / (THREADS * 16);
                    let taken = cell.take(at_ms).taken;
                    if taken == Taken::Admitted {
                        admitted.fetch_add(1, SeqCst);
                    }
                    if taken != Taken::Ask {
                        continue;
                    }
                    let waiting = cell.wait();
                    let mut batch = Batch::default();
                    batch.ask(
                        Question::Quota {
                            cell: Arc::clone(cell),
                            at_ms,
                        },
                        (),
                    );
                    let (mut asked, evals) = batch.plan(outlook);
                    let mut answers = Vec::new();
                    let mut replies = Vec::new();
                    match random.below(4) {
                        // The question is lost.
                        0 => {}
                        way => {
                            replies.extend(evals.iter().map(|eval| Ok(fake.eval(eval))));
                            if way == 1 {
                                asked.give_up(outlook, |(), answer| answers.push(answer));
                            }
                        }
                    }
                    if asked.is_late() {
                        late.push((asked, replies));
                    } else {
                        let _ = asked.settle(&replies, outlook, |(), answer| answers.push(answer));
                    }
                    let taken = match answers.as_slice() {
                        [Answer::Quota(taken)] => *taken,
                        _ => {
                            drop(waiting);
                            cell.fallback(at_ms)
                        }
                    };
                    admitted.fetch_add(usize::from(taken.taken == Taken::Admitted), SeqCst);
                    if late.len() > 2 {
                        let (asked, replies) = late.remove(0);
                        let _ = asked.settle(&replies, outlook, |(), _| {});
                    }
                    outlook.answered(1);
                }
                for (asked, replies) in late {
                    let _ = asked.settle(&replies, outlook, |(), _| {});
                }
            });
        }
    });
    let admitted = admitted.load(SeqCst);
    assert!(admitted <= 900, "{admitted}");
    // Units of answers that came for nobody may be left over, and those that were held back.
    assert!(admitted >= 800, "{admitted}");
}
