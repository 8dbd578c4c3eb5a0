//! The policies in force.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwap;

use crate::policy::Policies;

/// Holds the policies in force. Readers take them whole and never wait; [`Current::epoch`] tells
/// them cheaply whether what they have is still it.
#[derive(Debug, Default)]
pub struct Current {
    policies: ArcSwap<Policies>,
    epoch: AtomicU64,
}

impl Current {
    #[must_use]
    pub fn load(&self) -> Arc<Policies> {
        self.policies.load_full()
    }

    /// Of what [`Current::load`] gives; just after a publication, of what it gave before.
    #[inline]
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Puts other policies in force. One caller at a time: that of the reload.
    pub fn publish(&self, mut policies: Policies) {
        policies.epoch = self.epoch() + 1;
        let epoch = policies.epoch;
        // First the policies: a reader that sees the new number finds them.
        self.policies.store(Arc::new(policies));
        self.epoch.store(epoch, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    #[test]
    fn each_publication_has_an_epoch_of_its_own() {
        let current = Current::default();
        assert_eq!((current.epoch(), current.load().len()), (0, 0));
        let before = current.load();
        current.publish([Policy::default()].into_iter().collect());
        assert_eq!(current.epoch(), 1);
        assert_eq!((current.load().epoch(), current.load().len()), (1, 1));
        assert!(before.is_empty(), "what a reader has does not change");
        assert!(!before.say_the_same(&current.load()));
        let same: Policies = [Policy::default()].into_iter().collect();
        assert!(same.say_the_same(&current.load()));
        current.publish(Policies::default());
        assert_eq!((current.epoch(), current.load().epoch()), (2, 2));
    }
}
