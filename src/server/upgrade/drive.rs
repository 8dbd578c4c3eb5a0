//! Puts the two state machines to work on the control thread.
//!
//! Messages, deadlines, the child process, log and service manager are handled here; everything
//! that concerns the gateway is passed to a host, which answers by events.

use std::{os::unix::net::UnixStream, process::Child, time::Duration};

use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{Instant, sleep_until},
};

use super::{
    Level, Message,
    channel::Channel,
    new::{self, NewAction, NewEvent, NewGeneration},
    old::{self, OldAction, OldEvent, OldGeneration},
    start::Program,
};
use crate::{net::listener::Handed, server::notify::Notifier};

/// How often a process that was killed is looked for.
const REAP_EVERY: Duration = Duration::from_millis(5);

/// The gateway, as the side that hands over sees it. Nothing here waits: work is started, and its
/// end arrives as an event.
pub trait OldHost {
    /// The listening sockets to hand down.
    fn listeners(&self) -> Vec<Handed>;

    /// Everything that [`drive_old`] does not do itself.
    fn perform(&mut self, action: OldAction);
}

/// Serves upgrade requests until this process has handed over and drained (`Exit`), or until
/// `events` ends. The service manager is told of the change.
pub async fn drive_old(
    mut machine: OldGeneration,
    program: &Program,
    notifier: &Notifier,
    host: &mut impl OldHost,
    mut events: UnboundedReceiver<OldEvent>,
) {
    let mut channel: Option<Channel> = None;
    let mut child: Option<Child> = None;
    // Not anew with every event: they may come more often.
    let mut reap_at: Option<Instant> = None;
    let mut deadline: Option<(old::Deadline, Instant)> = None;
    loop {
        let event = tokio::select! {
            event = events.recv() => match event {
                Some(event) => event,
                None => return,
            },
            received = receive(channel.as_mut()) => match received {
                Ok(message) => OldEvent::Received(message),
                Err(why) => {
                    channel = None;
                    OldEvent::ChannelEnded(why)
                }
            },
            () = until(deadline.map(|(_, at)| at)) => match deadline.take() {
                Some((deadline, _)) => OldEvent::DeadlinePassed(deadline),
                None => continue,
            },
            () = until(reap_at) => match child.as_mut().map(Child::try_wait) {
                Some(Ok(None)) => {
                    reap_at = Some(Instant::now() + REAP_EVERY);
                    continue;
                }
                // Gone, or not ours any more.
                _ => {
                    reap_at = None;
                    child = None;
                    channel = None;
                    OldEvent::SuccessorEnded
                }
            },
        };
        let mut todo: std::collections::VecDeque<OldAction> = machine.on(event).into();
        while let Some(action) = todo.pop_front() {
            match action {
                OldAction::Spawn => {
                    let started =
                        program
                            .start_successor(host.listeners())
                            .and_then(|(started, socket)| {
                                child = Some(started);
                                channel = Some(Channel::new(socket)?);
                                Ok(child.as_ref().map_or(0, Child::id))
                            });
                    if started.is_err() && child.is_some() {
                        end(&mut child);
                        reap_at = child.is_some().then(Instant::now);
                    }
                    let spawned = OldEvent::Spawned(started.map_err(|e| e.to_string()));
                    todo.extend(machine.on(spawned));
                }
                OldAction::Send(message) => {
                    if let Some(open) = &mut channel
                        && let Err(why) = open.send(&message).await
                    {
                        channel = None;
                        todo.extend(machine.on(OldEvent::ChannelEnded(why)));
                    }
                }
                OldAction::EndSuccessor => {
                    end(&mut child);
                    reap_at = Some(Instant::now());
                }
                OldAction::SetDeadline(name, within) => {
                    deadline = Some((name, Instant::now() + within));
                }
                OldAction::ClearDeadline => deadline = None,
                OldAction::NotifyReloading => notifier.reloading(),
                OldAction::NotifyReady => notifier.ready(),
                OldAction::NotifyMainPid(pid) => notifier.main_pid(pid),
                OldAction::Say(level, text) => say(level, &text),
                OldAction::Exit => return,
                action => host.perform(action),
            }
        }
    }
}

/// The gateway, as the side that takes over sees it.
pub trait NewHost {
    /// Everything that [`drive_new`] does not do itself.
    fn perform(&mut self, action: NewAction);
}

/// Takes over from the process at the other end of `socket`. Returns when that process is gone
/// and this one serves.
///
/// # Errors
/// One line: this process must end, having served nothing.
pub async fn drive_new(
    mut machine: NewGeneration,
    socket: UnixStream,
    notifier: &Notifier,
    host: &mut impl NewHost,
    mut events: UnboundedReceiver<NewEvent>,
) -> Result<(), String> {
    let mut channel = Some(Channel::new(socket).map_err(|e| e.to_string())?);
    let mut deadline: Option<(new::Deadline, Instant)> = None;
    loop {
        let event = tokio::select! {
            event = events.recv() => match event {
                Some(event) => event,
                None => return Err("the gateway stopped during the upgrade".to_owned()),
            },
            received = receive(channel.as_mut()) => match received {
                Ok(message) => NewEvent::Received(message),
                Err(why) => {
                    channel = None;
                    NewEvent::ChannelEnded(why)
                }
            },
            () = until(deadline.map(|(_, at)| at)) => match deadline.take() {
                Some((deadline, _)) => NewEvent::DeadlinePassed(deadline),
                None => continue,
            },
        };
        let mut is_over = false;
        let mut todo: std::collections::VecDeque<NewAction> = machine.on(event).into();
        while let Some(action) = todo.pop_front() {
            match action {
                NewAction::Send(message) => {
                    if let Some(open) = &mut channel
                        && let Err(why) = open.send(&message).await
                    {
                        channel = None;
                        todo.extend(machine.on(NewEvent::ChannelEnded(why)));
                    }
                }
                NewAction::SetDeadline(name, within) => {
                    deadline = Some((name, Instant::now() + within));
                }
                NewAction::ClearDeadline => deadline = None,
                NewAction::NotifyReady => notifier.ready(),
                NewAction::Say(level, text) => say(level, &text),
                NewAction::Exit(why) => return Err(why),
                NewAction::PredecessorGone => {
                    host.perform(NewAction::PredecessorGone);
                    is_over = true;
                }
                action => host.perform(action),
            }
        }
        if is_over {
            return Ok(());
        }
    }
}

async fn receive(channel: Option<&mut Channel>) -> Result<Message, String> {
    match channel {
        Some(channel) => channel.receive().await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Kills what still lives; it is reaped later.
fn end(child: &mut Option<Child>) {
    if let Some(child) = child {
        // An error means that it has ended already.
        let _ = child.kill();
    }
}

fn say(level: Level, text: &str) {
    match level {
        Level::Info => tracing::info!("{text}"),
        Level::Warn => tracing::warn!("{text}"),
        Level::Error => tracing::error!("{text}"),
    }
}
