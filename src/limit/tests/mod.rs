//! Limits as requests see them: against a model on one node, in simulated fleets, through the
//! reconciler, and with scripts in a real server.

mod fake;
mod fleets;
mod node;
mod questions;
mod redis;

use std::sync::Arc;

use super::*;

/// A small generator, the same on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// In [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn shared() -> Settings {
    Settings {
        is_shared: true,
        ..Settings::default()
    }
}

fn rate(rate: f64, per: f64) -> RateLimit {
    RateLimit {
        rate,
        per,
        smoothing: None,
    }
}

const fn quota(max: i64, renewal_s: i64) -> QuotaLimit {
    QuotaLimit {
        max,
        renewal_s,
        renews_at_s: 0,
    }
}

/// A node of a fleet of so many, and the work it posts.
fn node(settings: Settings, nodes: u32) -> (Arc<Cells>, tokio::sync::mpsc::Receiver<Work>) {
    let (cells, work) = Cells::new(settings);
    cells.outlook().set_nodes(nodes);
    (cells, work)
}
