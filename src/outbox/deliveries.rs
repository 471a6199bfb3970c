//! The last ends of stored calls that this process knows, and those who wait for one. Pure, but for the channels.

use std::{
    collections::{HashMap, VecDeque},
    rc::Rc,
    time::Instant,
};

use tokio::sync::oneshot;

use super::track::DeliveryEnd;
use crate::{call::CallKind, call_id::CallId};

/// How many delivered calls a poster remembers.
const MAX_REMEMBERED: usize = 10_000;
/// How many calls may be waited for at once.
const MAX_WATCHED: usize = 10_000;

/// A call that the platform has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Delivered {
    pub(super) id: CallId,
    pub(super) kind: CallKind,
    pub(super) target_id: Rc<str>,
    pub(super) at: Instant,
}

/// The last calls that were delivered, and the calls whose ends are waited for.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    delivered: VecDeque<Delivered>,
    watched: HashMap<CallId, Vec<oneshot::Sender<DeliveryEnd>>>,
    watchers: usize,
}

impl Deliveries {
    /// Notes a delivered call, and tells those that wait for it.
    pub(super) fn delivered(&mut self, delivered: Delivered) {
        self.ended(delivered.id, &DeliveryEnd::Delivered);
        if self.delivered.len() >= MAX_REMEMBERED {
            self.delivered.pop_front();
        }
        self.delivered.push_back(delivered);
    }

    /// The delivered calls that match, the oldest first.
    pub(super) fn find(&self, matches: impl Fn(&Delivered) -> bool) -> Vec<Delivered> {
        self.delivered
            .iter()
            .filter(|delivered| matches(delivered))
            .cloned()
            .collect()
    }

    /// Tells those that wait for this call how it ended.
    pub(super) fn ended(&mut self, id: CallId, end: &DeliveryEnd) {
        for watcher in self.watched.remove(&id).unwrap_or_default() {
            self.watchers = self.watchers.saturating_sub(1);
            // A receiver that was dropped waits no longer.
            let _ = watcher.send(end.clone());
        }
    }

    /// Waits for the end of a call. `None` if too many do.
    pub(super) fn watch(&mut self, id: CallId) -> Option<oneshot::Receiver<DeliveryEnd>> {
        if self.watchers >= MAX_WATCHED {
            self.forget_dropped();
        }
        if self.watchers >= MAX_WATCHED {
            return None;
        }
        let (watcher, end) = oneshot::channel();
        self.watched.entry(id).or_default().push(watcher);
        self.watchers = self.watchers.saturating_add(1);
        Some(end)
    }

    /// The calls that are waited for.
    pub(super) fn watched(&mut self) -> Vec<CallId> {
        self.forget_dropped();
        self.watched.keys().copied().collect()
    }

    /// Ends all waits.
    pub(super) fn close(&mut self) {
        self.watched.clear();
        self.watchers = 0;
    }

    fn forget_dropped(&mut self) {
        self.watched.retain(|_, watchers| {
            watchers.retain(|watcher| !watcher.is_closed());
            !watchers.is_empty()
        });
        self.watchers = self.watched.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn id(number: u64) -> CallId {
        CallId::from_parts(number, 0)
    }

    fn delivered(number: u64) -> Delivered {
        Delivered {
            id: id(number),
            kind: CallKind::Status,
            target_id: format!("s{number}").into(),
            at: Clock::system().instant(),
        }
    }

    #[test]
    fn the_last_ten_thousand_delivered_calls_are_remembered() {
        let mut deliveries = Deliveries::default();
        for number in 0..10_001 {
            deliveries.delivered(delivered(number));
        }
        assert_eq!(deliveries.find(|_| true).len(), 10_000);
        assert!(deliveries.find(|call| call.id == id(0)).is_empty());
        assert_eq!(deliveries.find(|call| &*call.target_id == "s10000").len(), 1);
    }

    #[test]
    fn all_that_wait_for_a_call_are_told_its_end() {
        let mut deliveries = Deliveries::default();
        let [mut first, mut second] = [(); 2].map(|()| deliveries.watch(id(1)).unwrap());
        let mut other = deliveries.watch(id(2)).unwrap();
        deliveries.delivered(delivered(1));
        for end in [&mut first, &mut second] {
            assert_eq!(end.try_recv(), Ok(DeliveryEnd::Delivered));
        }
        assert!(other.try_recv().is_err());
        deliveries.close();
        assert_eq!(other.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }

    #[test]
    fn the_waits_are_bounded_and_a_dropped_one_gives_up_its_place() {
        let mut deliveries = Deliveries::default();
        let waits: Vec<_> = (0..10_000)
            .map(|number| deliveries.watch(id(number)).unwrap())
            .collect();
        assert!(deliveries.watch(id(7)).is_none());
        drop(waits);
        assert!(deliveries.watch(id(7)).is_some());
        assert_eq!(deliveries.watched(), []);
    }
}
