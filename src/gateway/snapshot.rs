//! What is served, as one immutable value: published by the control thread, picked up by every
//! shard between two requests.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;

use crate::{
    error::{LoadError, Reject},
    gateway::{
        error_response::{OverrideMessages, Templates},
        listen_path::ListenPath,
        router::Router,
        spec::Api,
    },
};

/// All APIs and how requests find them.
pub struct Snapshot {
    /// What a router's targets point to.
    pub slots: Vec<Slot>,
    pub ports: Vec<Port>,
    pub errors: Arc<ErrorResponses>,
}

/// One entry of the route table.
pub enum Slot {
    Api(Mount),
    /// A definition that was refused keeps its route, so that its traffic never reaches another API.
    Refused,
}

/// An API where it is served. Cloning shares both.
#[derive(Clone)]
pub struct Mount {
    pub api: Arc<Api>,
    /// Its listen path, or another one when two APIs asked for the same.
    pub listen_path: ListenPath,
}

/// The routes of one listener.
pub struct Port {
    pub key: PortKey,
    pub router: Router,
    /// `/hello`, `/tyk/…` and their siblings live here too.
    pub carries_control: bool,
}

/// A listener's name.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct PortKey {
    pub port: u16,
    pub tls: bool,
}

impl PortKey {
    /// Of what no listener serves.
    pub const NONE: Self = Self {
        port: 0,
        tls: false,
    };
}

impl Snapshot {
    /// The routes of a listener; `None` when no API and no control API uses it any more.
    #[must_use]
    pub fn port(&self, key: PortKey) -> Option<&Port> {
        self.ports.iter().find(|port| port.key == key)
    }
}

/// The place where the current snapshot is found. Readers compare one number per request.
pub struct Published {
    current: ArcSwap<Snapshot>,
    epoch: AtomicU64,
}

impl Published {
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self {
            current: ArcSwap::new(snapshot),
            epoch: AtomicU64::new(1),
        }
    }

    /// Publishes a snapshot. Answers the one before, so that the caller drops it and no shard does.
    pub fn publish(&self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        let before = self.current.swap(snapshot);
        self.epoch.fetch_add(1, Ordering::Release);
        before
    }

    /// Grows with every publication.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    #[must_use]
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }
}

/// How refusals look: read once, at start.
#[derive(Default)]
pub struct ErrorResponses {
    templates: Templates,
    overrides: OverrideMessages,
}

impl ErrorResponses {
    /// Reads the templates of a folder. Beside it come the overrides that were left out, and why.
    ///
    /// # Errors
    /// A template that cannot be read or has an unknown action.
    pub fn load<'a>(
        dir: &Path,
        overrides: impl IntoIterator<Item = (&'a str, i64, &'a str)>,
    ) -> Result<(Self, Vec<String>), LoadError> {
        let templates = Templates::load(dir)?;
        let (overrides, left_out) = OverrideMessages::new(overrides);
        Ok((
            Self {
                templates,
                overrides,
            },
            left_out,
        ))
    }

    /// Status and text of a refusal.
    #[must_use]
    pub fn refusal(&self, reject: Reject) -> (u16, &str) {
        self.overrides.refusal(reject)
    }

    /// Content type and content; see [`Templates::render`].
    #[must_use]
    pub fn render(
        &self,
        status: u16,
        message: &str,
        content_type: Option<&[u8]>,
    ) -> (&'static str, Vec<u8>) {
        self.templates.render(status, message, content_type)
    }
}
