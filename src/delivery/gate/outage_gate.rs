//! The outage gate of one route, and the calls that wait at it.

use std::{cell::RefCell, pin::pin, time::Instant};

use futures_util::future::{Either, select};
use tokio::sync::Notify;

use super::{hanging::Hanging, outage::Outage, waiting::wake};
use crate::error::AttemptError;

/// The outages of one route, and its requests that hang.
#[derive(Default)]
pub(super) struct OutageGate {
    pub(super) outage: RefCell<Outage>,
    pub(super) hanging: RefCell<Hanging>,
    pub(super) has_room: Notify,
    pub(super) was_closed: Notify,
}

impl OutageGate {
    pub(super) fn is_closed(&self) -> bool {
        self.outage.borrow().cause().is_some()
    }

    pub(super) fn cause(&self) -> Option<AttemptError> {
        self.outage.borrow().cause().cloned()
    }

    pub(super) fn has_room(&self, now: Instant) -> bool {
        let outage = self.outage.borrow();
        outage.room() != Some(0) || outage.more_at().is_some_and(|at| at <= now)
    }

    pub(super) fn more_at(&self) -> Option<Instant> {
        self.outage.borrow().more_at()
    }

    pub(super) fn enter(&self, now: Instant) -> u64 {
        self.outage.borrow_mut().enter(now)
    }

    /// Wakes the calls for which there is room.
    pub(super) fn wake(&self) {
        wake(&self.has_room, self.outage.borrow().room());
    }
}

/// Waits for a future, at most until the gate is closed.
pub(super) async fn unless_closed<T>(gate: Option<&OutageGate>, work: impl Future<Output = T>) -> Option<T> {
    let Some(gate) = gate else {
        return Some(work.await);
    };
    if gate.is_closed() {
        return None;
    }
    match select(pin!(work), pin!(gate.was_closed.notified())).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}
