//! Each case is a story: what happens, and what the process does about it.

use serde_json::json;

use super::*;

/// One word or two per action, in order.
fn show(actions: &[OldAction]) -> String {
    let words: Vec<String> = actions
        .iter()
        .map(|action| match action {
            OldAction::Send(Message::Failed { .. }) => "send failed".into(),
            OldAction::Send(Message::Write { id, .. }) => format!("send write {id}"),
            OldAction::Send(message) => format!("send {message:?}"),
            OldAction::SetDeadline(name, within) => format!("{name:?} in {}", within.as_secs()),
            OldAction::ApplyWrite { id, .. } => format!("apply {id}"),
            OldAction::WriteEnded { id, result } => {
                format!("{} {id}", if result.is_ok() { "written" } else { "lost" })
            }
            OldAction::Say(_, text) => format!("\"{text}\""),
            other => format!("{other:?}"),
        })
        .collect();
    words.join(", ")
}

#[track_caller]
fn check(machine: &mut OldGeneration, story: &[(OldEvent, &str)]) {
    for (event, expected) in story {
        let got = show(&machine.on(event.clone()));
        // What is said is quoted; only its part between two stars is asked for.
        let matches = match expected.split_once('*') {
            None => got == *expected,
            Some(_) => {
                let mut rest = got.as_str();
                expected.split('*').all(|part| match rest.find(part) {
                    Some(at) => {
                        rest = &rest[at + part.len()..];
                        true
                    }
                    None => false,
                })
            }
        };
        assert!(matches, "on {event:?}\n     got {got}\nexpected {expected}");
    }
}

fn ready() -> OldEvent {
    OldEvent::Received(Message::Ready {
        pid: 42,
        release: "2".into(),
    })
}

fn gone() -> OldEvent {
    OldEvent::ChannelEnded("it closed the connection".into())
}

fn failed() -> OldEvent {
    OldEvent::Received(Message::Failed {
        reason: "no such file".into(),
    })
}

fn write(id: u64) -> OldEvent {
    OldEvent::WriteWanted {
        id,
        record: json!(null),
    }
}

const TAKE_STORE: Message = Message::TakeStore;

fn started() -> OldGeneration {
    let mut machine = OldGeneration::new(false);
    check(
        &mut machine,
        &[
            (
                OldEvent::UpgradeRequested,
                "*starting the new process*, NotifyReloading, Spawn",
            ),
            (OldEvent::Spawned(Ok(42)), "Ready in 30"),
        ],
    );
    machine
}

fn offered() -> OldGeneration {
    let mut machine = started();
    check(
        &mut machine,
        &[
            (
                ready(),
                "*process 42*, ClearDeadline, RefuseWrites, CloseStore",
            ),
            (
                OldEvent::StoreClosed(Ok(())),
                "StoreTaken in 30, send TakeStore",
            ),
        ],
    );
    assert!(!machine.owns_store());
    machine
}

fn draining() -> OldGeneration {
    let mut machine = offered();
    check(
        &mut machine,
        &[
            (
                OldEvent::Received(Message::StoreTaken),
                "ClearDeadline, CancelAccepts",
            ),
            (
                OldEvent::AcceptsCanceled,
                "*this one drains*, CloseListeners, send AcceptStopped, NotifyMainPid(42), Drain",
            ),
        ],
    );
    machine
}

#[test]
fn an_upgrade_ends_with_this_process_drained_and_gone() {
    check(
        &mut draining(),
        &[(OldEvent::DrainEnded, "send Drained, Exit")],
    );
}

#[test]
fn a_program_that_cannot_be_started_leaves_everything_as_it_was() {
    let mut machine = OldGeneration::new(false);
    check(
        &mut machine,
        &[
            (OldEvent::UpgradeRequested, "*Spawn"),
            (
                OldEvent::Spawned(Err("no such file".into())),
                "ClearDeadline, *goes on serving*no such file*, AllowWrites, NotifyReady",
            ),
            (OldEvent::UpgradeRequested, "*Spawn"),
        ],
    );
    assert!(machine.owns_store());
}

#[test]
fn a_new_process_that_is_not_ready_in_time_is_ended_before_anything_else() {
    let mut machine = started();
    check(
        &mut machine,
        &[
            (
                OldEvent::DeadlinePassed(Deadline::Ready),
                "ClearDeadline, send failed, EndSuccessor",
            ),
            (ready(), ""),
            (gone(), ""),
            (
                OldEvent::SuccessorEnded,
                "*goes on serving*not ready in 30 s*, AllowWrites, NotifyReady",
            ),
        ],
    );
    assert!(machine.owns_store());
}

#[test]
fn a_new_process_that_dies_or_gives_up_while_it_starts_costs_nothing() {
    for (event, first, why) in [
        (gone(), "ClearDeadline, EndSuccessor", "is gone"),
        (
            failed(),
            "ClearDeadline, send failed, EndSuccessor",
            "gave up: no such file",
        ),
    ] {
        let mut machine = started();
        check(&mut machine, &[(event, first)]);
        let last = show(&machine.on(OldEvent::SuccessorEnded));
        assert!(last.contains(why) && last.contains("AllowWrites"), "{last}");
        assert!(machine.owns_store());
    }
}

#[test]
fn a_store_that_was_given_up_is_opened_again_only_after_the_new_process_has_ended() {
    for event in [
        gone(),
        failed(),
        OldEvent::DeadlinePassed(Deadline::StoreTaken),
    ] {
        let mut machine = offered();
        let first = show(&machine.on(event));
        assert!(
            first.ends_with("EndSuccessor") && !first.contains("Reopen"),
            "{first}"
        );
        check(
            &mut machine,
            &[
                (OldEvent::SuccessorEnded, "ReopenStore"),
                (
                    OldEvent::StoreReopened(Ok(())),
                    "*goes on serving*, AllowWrites, NotifyReady",
                ),
            ],
        );
        assert!(machine.owns_store());
    }
}

#[test]
fn a_new_process_that_dies_while_the_store_closes_is_answered_after_both_ended() {
    for close_first in [true, false] {
        let mut machine = started();
        check(
            &mut machine,
            &[(ready(), "*CloseStore"), (gone(), "*EndSuccessor")],
        );
        let closed = OldEvent::StoreClosed(Ok(()));
        let story = if close_first {
            [(closed, ""), (OldEvent::SuccessorEnded, "ReopenStore")]
        } else {
            [(OldEvent::SuccessorEnded, ""), (closed, "ReopenStore")]
        };
        check(&mut machine, &story);
    }
}

#[test]
fn a_store_that_does_not_close_or_does_not_open_again_is_said_and_tried_again() {
    let mut machine = started();
    check(
        &mut machine,
        &[
            (ready(), "*CloseStore"),
            (
                OldEvent::StoreClosed(Err("disk full".into())),
                "ClearDeadline, send failed, EndSuccessor",
            ),
            (OldEvent::SuccessorEnded, "ReopenStore"),
            (
                OldEvent::StoreReopened(Err("disk full".into())),
                "*disk full*trying again*, Reopen in 1",
            ),
            (OldEvent::DeadlinePassed(Deadline::Reopen), "ReopenStore"),
            (
                OldEvent::StoreReopened(Ok(())),
                "*could not be closed: disk full*, AllowWrites, NotifyReady",
            ),
        ],
    );
}

#[test]
fn a_new_process_that_dies_before_accepting_ended_here_is_replaced_by_this_one() {
    let taken = OldEvent::Received(Message::StoreTaken);
    // Its end is seen before the shards answered, or after.
    let mut machine = offered();
    check(
        &mut machine,
        &[
            (taken.clone(), "*CancelAccepts"),
            (gone(), "ClearDeadline, EndSuccessor"),
            (OldEvent::SuccessorEnded, "ReopenStore"),
            (OldEvent::AcceptsCanceled, "ResumeAccepts"),
            (
                OldEvent::StoreReopened(Ok(())),
                "*goes on serving*, AllowWrites, NotifyReady",
            ),
        ],
    );
    let mut machine = offered();
    check(
        &mut machine,
        &[
            (taken, "*CancelAccepts"),
            (gone(), "ClearDeadline, EndSuccessor"),
            (OldEvent::AcceptsCanceled, ""),
            (OldEvent::SuccessorEnded, "ResumeAccepts, ReopenStore"),
            (
                OldEvent::StoreReopened(Ok(())),
                "*goes on serving*, AllowWrites, NotifyReady",
            ),
        ],
    );
}

#[test]
fn a_new_process_that_dies_later_does_not_keep_this_one_from_draining() {
    check(
        &mut draining(),
        &[
            (write(1), "send write 1"),
            (gone(), "*is gone while this one drains*, lost 1"),
            (write(2), "lost 2"),
            (OldEvent::DrainEnded, "Exit"),
        ],
    );
}

#[test]
fn writes_wait_while_the_store_changes_hands_and_then_travel() {
    let mut machine = started();
    check(
        &mut machine,
        &[
            (write(1), "apply 1"),
            (ready(), "*CloseStore"),
            (write(2), ""),
            (OldEvent::StoreClosed(Ok(())), "*send TakeStore"),
            (write(3), ""),
            (
                OldEvent::Received(Message::StoreTaken),
                "ClearDeadline, CancelAccepts, send write 2, send write 3",
            ),
            (OldEvent::AcceptsCanceled, "*Drain"),
            (write(4), "send write 4"),
            (
                OldEvent::Received(Message::Written { id: 3, error: None }),
                "written 3",
            ),
            (
                OldEvent::Received(Message::Written {
                    id: 4,
                    error: Some("full".into()),
                }),
                "lost 4",
            ),
            (OldEvent::DrainEnded, "LastWrites in 5"),
            (
                OldEvent::Received(Message::Written { id: 2, error: None }),
                "written 2, send Drained, Exit",
            ),
        ],
    );
}

#[test]
fn the_last_writes_are_not_awaited_for_ever() {
    check(
        &mut draining(),
        &[
            (write(1), "send write 1"),
            (OldEvent::DrainEnded, "LastWrites in 5"),
            (
                OldEvent::DeadlinePassed(Deadline::LastWrites),
                "lost 1, send Drained, Exit",
            ),
        ],
    );
}

#[test]
fn writes_that_waited_are_applied_here_when_the_upgrade_fails() {
    check(
        &mut offered(),
        &[
            (write(1), ""),
            (failed(), "*EndSuccessor"),
            (write(2), ""),
            (OldEvent::SuccessorEnded, "ReopenStore"),
            (
                OldEvent::StoreReopened(Ok(())),
                "apply 1, apply 2, *AllowWrites*",
            ),
        ],
    );
}

#[test]
fn only_so_many_writes_wait() {
    let mut machine = offered();
    for id in 1..=WAITING_WRITES_MAX as u64 {
        assert!(machine.on(write(id)).is_empty());
    }
    check(&mut machine, &[(write(0), "lost 0")]);
}

#[test]
fn an_upgrade_waits_for_the_older_process_and_then_starts() {
    let mut machine = OldGeneration::new(true);
    check(
        &mut machine,
        &[
            (OldEvent::UpgradeRequested, "*queued*"),
            (OldEvent::UpgradeRequested, "*queued*"),
            (OldEvent::PredecessorGone, "*NotifyReloading, Spawn"),
            (OldEvent::UpgradeRequested, "*already under way*"),
        ],
    );
    let mut machine = OldGeneration::new(true);
    check(&mut machine, &[(OldEvent::PredecessorGone, "")]);
}

#[test]
fn an_upgrade_that_is_asked_for_while_another_is_taken_back_starts_afterwards() {
    check(
        &mut started(),
        &[
            (gone(), "*EndSuccessor"),
            (OldEvent::UpgradeRequested, "*queued*"),
            (
                OldEvent::SuccessorEnded,
                "*goes on serving*, NotifyReloading, Spawn",
            ),
        ],
    );
}

#[test]
fn a_draining_process_names_the_one_to_signal() {
    check(
        &mut draining(),
        &[(OldEvent::UpgradeRequested, "*signal process 42*")],
    );
}

#[test]
fn a_request_to_stop_ends_an_upgrade_that_has_not_handed_over() {
    let mut machine = OldGeneration::new(false);
    check(&mut machine, &[(OldEvent::TerminateRequested, "Terminate")]);
    check(
        &mut offered(),
        &[
            (OldEvent::TerminateRequested, "*EndSuccessor"),
            (OldEvent::SuccessorEnded, "ReopenStore"),
            (
                OldEvent::StoreReopened(Ok(())),
                "*AllowWrites, NotifyReady, Terminate",
            ),
        ],
    );
    check(&mut draining(), &[(OldEvent::TerminateRequested, "")]);
}

#[test]
fn words_out_of_turn_end_the_upgrade_and_not_the_service() {
    for message in [
        TAKE_STORE,
        Message::StoreTaken,
        Message::Drained,
        Message::Written { id: 1, error: None },
    ] {
        let mut machine = started();
        check(
            &mut machine,
            &[
                (
                    OldEvent::Received(message),
                    "ClearDeadline, send failed, EndSuccessor",
                ),
                (
                    OldEvent::SuccessorEnded,
                    "*out of turn*, AllowWrites, NotifyReady",
                ),
            ],
        );
    }
    // The store may not be claimed before it was offered.
    let mut machine = started();
    check(
        &mut machine,
        &[
            (ready(), "*CloseStore"),
            (
                OldEvent::Received(Message::StoreTaken),
                "ClearDeadline, send failed, EndSuccessor",
            ),
        ],
    );
}
