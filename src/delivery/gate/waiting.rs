//! Calls that wait at a gate.

use std::cell::Cell;

use tokio::sync::Notify;

/// Wakes so many of the calls that wait.
pub(super) fn wake(waiting: &Notify, room: Option<u32>) {
    match room {
        None => waiting.notify_waiters(),
        Some(room) => (0..room).for_each(|_| waiting.notify_one()),
    }
}

/// Wakes another call if one that was woken is dropped before it is let in.
pub(super) struct Rewake<'a>(pub(super) Option<&'a Notify>);

impl Drop for Rewake<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.0 {
            waiting.notify_one();
        }
    }
}

/// Counts a call that waits.
pub(super) struct Waiting<'a>(&'a Cell<u64>);

impl<'a> Waiting<'a> {
    pub(super) fn begin(count: &'a Cell<u64>) -> Self {
        count.set(count.get().saturating_add(1));
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
