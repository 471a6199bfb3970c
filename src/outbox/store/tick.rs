//! The reasons that wake an owner for its next look at the store.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Wakes one owner.
#[derive(Debug, Default)]
pub(in crate::outbox) struct Tick {
    notify: Notify,
    was_in_vain: AtomicBool,
}

impl Tick {
    /// `is_in_vain`: the store has looked itself, and found nothing that is new to this owner.
    pub(super) fn wake(&self, is_in_vain: bool) {
        self.was_in_vain.store(is_in_vain, Ordering::Relaxed);
        self.notify.notify_one();
    }

    /// Waits for the next tick. Returns whether a look would be in vain.
    pub(in crate::outbox) async fn ticked(&self) -> bool {
        self.notify.notified().await;
        self.was_in_vain.load(Ordering::Relaxed)
    }
}
