//! The pauses of one group of calls, and the calls that wait for their end.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, Notify};

use super::{ended::Ended, pause::Pause, waiting::wake};
use crate::call::Target;

/// The pauses of one group of calls.
#[derive(Default)]
pub(super) struct PauseGate {
    pub(super) pause: RefCell<Pause>,
    pub(super) has_room: Notify,
    /// Held by the call that waits for the pace, so that the others are not woken with it.
    pub(super) turn: Mutex<()>,
}

impl PauseGate {
    /// Notes the end of an attempt of this round. Returns the length of the pause that begins, if one does.
    pub(super) fn leave(&self, round: u64, target: &Target, ended: Ended, now: Instant) -> Option<Duration> {
        let mut state = self.pause.borrow_mut();
        let pause = state.leave(round, target, ended, now);
        match state.room() {
            // Calls that wait for others wait for the end of the pause instead.
            Some(0) if pause.is_some() => self.has_room.notify_waiters(),
            room => wake(&self.has_room, room),
        }
        pause
    }
}
