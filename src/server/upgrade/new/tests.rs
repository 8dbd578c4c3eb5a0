//! Each case is a story: what happens, and what the process does about it.

use serde_json::json;

use super::*;

fn show(actions: &[NewAction]) -> String {
    let words: Vec<String> = actions
        .iter()
        .map(|action| match action {
            NewAction::Send(Message::Failed { .. }) => "send failed".into(),
            NewAction::Send(Message::Ready { .. }) => "send ready".into(),
            NewAction::Send(Message::Written { id, error }) => {
                format!("send written {id} {}", error.as_deref().unwrap_or("ok"))
            }
            NewAction::Send(message) => format!("send {message:?}"),
            NewAction::SetDeadline(name, within) => format!("{name:?} in {}", within.as_secs()),
            NewAction::ApplyWrite { id, .. } => format!("apply {id}"),
            NewAction::Exit(why) => format!("exit: {why}"),
            NewAction::Say(..) => "say".into(),
            other => format!("{other:?}"),
        })
        .collect();
    words.join(", ")
}

#[track_caller]
fn check(machine: &mut NewGeneration, story: &[(NewEvent, &str)]) {
    for (event, expected) in story {
        let got = show(&machine.on(event.clone()));
        assert_eq!(got, *expected, "on {event:?}");
    }
}

const PREPARED: NewEvent = NewEvent::Prepared(Ok(()));
const OPENED: NewEvent = NewEvent::StoreOpened(Ok(()));
const TAKE_STORE: NewEvent = NewEvent::Received(Message::TakeStore);

fn gone() -> NewEvent {
    NewEvent::ChannelEnded("it closed the connection".into())
}

fn locked() -> NewEvent {
    NewEvent::StoreOpened(Err("locked".into()))
}

fn waiting() -> NewGeneration {
    let mut machine = NewGeneration::new(7, "2");
    check(&mut machine, &[(PREPARED, "TakeStore in 60, send ready")]);
    machine
}

fn serving() -> NewGeneration {
    let mut machine = waiting();
    check(
        &mut machine,
        &[
            (TAKE_STORE, "ClearDeadline, OpenStore"),
            (
                OPENED,
                "send StoreTaken, StartAccepting, WritePidFile, NotifyReady",
            ),
        ],
    );
    machine
}

#[test]
fn the_store_is_opened_when_it_is_offered_and_traffic_taken_when_it_is_open() {
    check(
        &mut serving(),
        &[
            (NewEvent::Received(Message::AcceptStopped), "say"),
            (
                NewEvent::Received(Message::Write {
                    id: 3,
                    record: json!({}),
                }),
                "apply 3",
            ),
            (
                NewEvent::WriteApplied {
                    id: 3,
                    result: Ok(()),
                },
                "send written 3 ok",
            ),
            (
                NewEvent::WriteApplied {
                    id: 4,
                    result: Err("full".into()),
                },
                "send written 4 full",
            ),
            (NewEvent::Received(Message::Drained), "say, PredecessorGone"),
            (gone(), ""),
        ],
    );
}

#[test]
fn what_goes_wrong_before_traffic_is_taken_is_said_and_ends_this_process() {
    let mut machine = NewGeneration::new(7, "2");
    check(
        &mut machine,
        &[(
            NewEvent::Prepared(Err("bad file".into())),
            "send failed, exit: bad file",
        )],
    );
    check(
        &mut waiting(),
        &[(
            NewEvent::DeadlinePassed(Deadline::TakeStore),
            "send failed, exit: the old process did not give up the store in 60 s",
        )],
    );
    check(
        &mut waiting(),
        &[
            (TAKE_STORE, "ClearDeadline, OpenStore"),
            (
                locked(),
                "send failed, exit: the store could not be opened: locked",
            ),
            (gone(), ""),
        ],
    );
    check(
        &mut waiting(),
        &[(
            NewEvent::Received(Message::Failed {
                reason: "no".into(),
            }),
            "exit: the old process gave up: no",
        )],
    );
    check(
        &mut waiting(),
        &[(
            NewEvent::TerminateRequested,
            "send failed, exit: this process was asked to stop",
        )],
    );
    check(
        &mut NewGeneration::new(7, "2"),
        &[(
            TAKE_STORE,
            "send failed, exit: the old process said TakeStore out of turn",
        )],
    );
}

#[test]
fn when_the_old_process_dies_this_one_goes_on_alone() {
    let alone = "StartAccepting, WritePidFile, NotifyReady, PredecessorGone";
    check(
        &mut NewGeneration::new(7, "2"),
        &[
            (gone(), "say"),
            (PREPARED, "ClearDeadline, OpenStore"),
            (locked(), "say, Reopen in 1"),
            (NewEvent::DeadlinePassed(Deadline::Reopen), "OpenStore"),
            (OPENED, alone),
        ],
    );
    check(
        &mut waiting(),
        &[(gone(), "say, ClearDeadline, OpenStore"), (OPENED, alone)],
    );
    check(
        &mut waiting(),
        &[
            (TAKE_STORE, "ClearDeadline, OpenStore"),
            (gone(), "say"),
            (OPENED, alone),
        ],
    );
    check(
        &mut serving(),
        &[
            (gone(), "say, PredecessorGone"),
            (
                NewEvent::WriteApplied {
                    id: 1,
                    result: Ok(()),
                },
                "",
            ),
        ],
    );
}

#[test]
fn a_process_that_serves_is_not_ended_by_words_or_signals_of_the_upgrade() {
    check(
        &mut serving(),
        &[
            (NewEvent::TerminateRequested, ""),
            (TAKE_STORE, "say"),
            (
                NewEvent::Received(Message::Failed { reason: "x".into() }),
                "say",
            ),
            (NewEvent::DeadlinePassed(Deadline::TakeStore), ""),
            (locked(), ""),
        ],
    );
}
