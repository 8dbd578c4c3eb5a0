//! The lanes to one server: what requests wait for does not stand behind what is large or slow.

use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use crate::storage::redis::{
    dial::Load,
    lane::{Dial, Lane},
    options::Options,
    request::{Failure, Request},
};

pub(super) struct Link {
    prompt: Lane,
    /// `None` when one connection is all that may be had.
    bulk: Option<Lane>,
}

impl Link {
    /// To be called inside tokio. Connects to nothing yet.
    pub(super) fn new(what: &str, options: &Options, dial: Dial) -> Self {
        let lane = |what, load| Lane::new(what, load, options.timeout, Dial::clone(&dial));
        Self {
            prompt: lane(what.to_owned(), Load::Prompt),
            bulk: (options.lanes > 1).then(|| lane(format!("{what} (bulk)"), Load::Bulk)),
        }
    }

    /// As [`Lane::exchange`]; one bulky request takes those beside it along.
    pub(super) async fn exchange(
        &self,
        requests: &[&Request],
        connect_until: Instant,
        patience: Duration,
        until: Instant,
    ) -> Vec<Result<Value, Failure>> {
        let is_bulk = requests.iter().any(|request| request.is_bulk);
        let lane = match &self.bulk {
            Some(bulk) if is_bulk => bulk,
            _ => &self.prompt,
        };
        lane.exchange(requests, connect_until, patience, until)
            .await
    }
}
