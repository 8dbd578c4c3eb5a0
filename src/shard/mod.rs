//! One thread, one ring, its connections.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

pub mod accept;
pub mod conn;
pub mod runtime;

use std::{cell::Cell, net::SocketAddr, rc::Rc, sync::Arc};

use crate::{
    auth::directory::Found,
    control::{Answer, Call, Paths},
    gateway::{serve::Worker, snapshot::Published},
    limit,
    mailbox::{Answered, Line},
};

/// What reaches a shard from other threads.
pub enum Item {
    Session(Answered<Found>),
    Limit(Answered<limit::Answer>),
    Control(Answered<Answer>),
    Job(Job),
}

impl From<Answered<Found>> for Item {
    fn from(answered: Answered<Found>) -> Self {
        Self::Session(answered)
    }
}

impl From<Answered<limit::Answer>> for Item {
    fn from(answered: Answered<limit::Answer>) -> Self {
        Self::Limit(answered)
    }
}

impl From<Answered<Answer>> for Item {
    fn from(answered: Answered<Answer>) -> Self {
        Self::Control(answered)
    }
}

/// What the control thread may tell a shard.
pub enum Job {
    /// The snapshot changed: look now, so that an idle shard lets the old one go.
    Look,
    /// Accept on these sockets too.
    Listen {
        key: crate::gateway::snapshot::PortKey,
        sockets: Vec<std::net::TcpListener>,
        tls: Option<crate::net::tls::ServerTls>,
        /// APIs are served here, and not the control API alone.
        is_traffic: bool,
    },
    /// Stop accepting on this listener, or on all; tell when every accept has been served.
    StopAccepting {
        key: Option<crate::gateway::snapshot::PortKey>,
        stopped: tokio::sync::oneshot::Sender<()>,
    },
    /// Answer one request by a snapshot of its own.
    Debug(Box<Debug>),
    /// Answers close their connections from now on.
    Drain,
    /// End what has no end of its own.
    End,
}

/// A request that passes through a definition which is not served (`/tyk/debug`).
pub struct Debug {
    pub published: Arc<Published>,
    /// Whole, as a client would have sent it.
    pub request: Vec<u8>,
    /// Where its answer goes.
    pub stream: std::net::TcpStream,
    pub peer: SocketAddr,
    /// Gets what is logged on the way.
    pub logs: tracing::Dispatch,
}

/// What the tasks of a shard share.
pub struct Shard {
    pub worker: Worker,
    /// Questions to the control plane.
    pub control: Line<Call, Answer>,
    /// Which paths are the control plane's.
    pub control_paths: Paths,
    /// Connections that hold buffers.
    pub active: Cell<usize>,
    /// With so many open in the process, traffic listeners wait.
    pub connections_max: usize,
    pub acceptors: std::cell::RefCell<Vec<Rc<accept::Listening>>>,
}
