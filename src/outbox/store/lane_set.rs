//! A set of lanes that an owner and its store share.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Names of lanes. Clones share them: an outage parks hundreds of thousands, too many to copy for each claim.
#[derive(Debug, Clone, Default)]
pub(in crate::outbox) struct LaneSet(Arc<Mutex<HashSet<String>>>);

impl LaneSet {
    pub(in crate::outbox) fn insert(&self, lane: &str) {
        self.names().insert(lane.to_owned());
    }

    pub(in crate::outbox) fn remove(&self, lane: &str) {
        self.names().remove(lane);
    }

    pub(in crate::outbox) fn contains(&self, lane: &str) -> bool {
        self.names().contains(lane)
    }

    fn names(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl FromIterator<String> for LaneSet {
    fn from_iter<T: IntoIterator<Item = String>>(lanes: T) -> Self {
        Self(Arc::new(Mutex::new(lanes.into_iter().collect())))
    }
}
