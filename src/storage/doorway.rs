//! Where the store's server is, for shards that ask it over connections of their own.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwapOption;

use crate::net::tls::UpstreamTls;

/// A server, and what to say to it first.
pub struct Endpoint {
    pub address: SocketAddr,
    /// With the name that the certificate is checked for.
    pub tls: Option<(UpstreamTls, String)>,
    /// Commands as they are written, and how many answers they get.
    pub greeting: (Vec<u8>, usize),
}

/// Who the server is at the moment, as the store's own connection has found it: its name resolved,
/// and behind sentinels the present master. The same one through hand-overs; there is no server while
/// this process does not have the store, and none where the store is embedded or a cluster.
#[derive(Default)]
pub struct Doorway(ArcSwapOption<Endpoint>);

impl Doorway {
    #[must_use]
    pub fn endpoint(&self) -> Option<Arc<Endpoint>> {
        self.0.load_full()
    }

    /// Whether `endpoint` is what [`Doorway::endpoint`] would return.
    #[must_use]
    pub fn leads_to(&self, endpoint: &Arc<Endpoint>) -> bool {
        let present = self.0.load();
        present
            .as_ref()
            .is_some_and(|present| Arc::ptr_eq(present, endpoint))
    }

    /// Tells of a connection that was just opened. The address is all that can have changed.
    pub(crate) fn show(&self, endpoint: Endpoint) {
        let is_known = self.0.load().as_ref().map(|known| known.address) == Some(endpoint.address);
        if !is_known {
            self.0.store(Some(Arc::new(endpoint)));
        }
    }

    pub(crate) fn close(&self) {
        self.0.store(None);
    }
}
