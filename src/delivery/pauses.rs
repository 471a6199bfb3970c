//! The pauses that the platform asks for, per group of calls: those of sessions, and those of the issue tracker.

use std::{
    cell::{Cell, RefCell},
    pin::pin,
    time::Duration,
};

use futures_util::future::select;
use tokio::sync::Notify;

use super::gate::{Ended, Entry, Gate};
use crate::{call::Endpoint, clock::Clock, queue::Permit};

/// The gates of both groups.
#[derive(Default)]
pub(crate) struct Pauses {
    session: Group,
    tracker: Group,
    /// The calls that wait.
    waiting: Cell<u64>,
}

#[derive(Default)]
struct Group {
    gate: RefCell<Gate>,
    changed: Notify,
}

impl Pauses {
    /// Waits until a request may be sent, and for the permit, which is not held meanwhile.
    pub(super) async fn enter<'a>(&'a self, endpoint: Endpoint, permit: &mut Permit, clock: &'a Clock) -> Pass<'a> {
        let group = match endpoint {
            Endpoint::Session => &self.session,
            Endpoint::Proxy => &self.tracker,
        };
        let mut woken = Rewake(None);
        loop {
            permit.acquire().await;
            let entry = group.gate.borrow_mut().enter(clock.instant());
            let at = match entry {
                Entry::Now { round } => {
                    woken.0 = None;
                    return Pass {
                        group,
                        clock,
                        round: Some(round),
                    };
                }
                Entry::Later { at } => Some(at),
                Entry::AfterOthers => None,
            };
            permit.release();
            woken.0 = None;
            let _waiting = Waiting::begin(&self.waiting);
            // Boxed: most calls never wait here, and every one would reserve room for it.
            Box::pin(async {
                let changed = pin!(group.changed.notified());
                match at {
                    None => changed.await,
                    Some(at) => {
                        let pause = pin!(clock.sleep(at.saturating_duration_since(clock.instant())));
                        select(pause, changed).await;
                    }
                }
            })
            .await;
            woken.0 = Some(group);
        }
    }

    /// How many calls wait.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.get()
    }
}

/// The right to send the requests of one attempt. Dropping it has the effect of a request without a response.
pub(super) struct Pass<'a> {
    group: &'a Group,
    clock: &'a Clock,
    round: Option<u64>,
}

impl Pass<'_> {
    /// Notes the end of the attempt. Returns the length of the pause that begins, if one does.
    pub(super) fn ended(mut self, ended: Ended<'_>) -> Option<Duration> {
        self.leave(ended)
    }

    fn leave(&mut self, ended: Ended<'_>) -> Option<Duration> {
        let round = self.round.take()?;
        let mut gate = self.group.gate.borrow_mut();
        let pause = gate.leave(round, ended, self.clock.instant());
        match gate.room() {
            // Calls that wait for others wait for the end of the pause instead.
            0 if pause.is_some() => self.group.changed.notify_waiters(),
            usize::MAX => self.group.changed.notify_waiters(),
            room => (0..room).for_each(|_| self.group.changed.notify_one()),
        }
        pause
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.leave(Ended::Unanswered);
    }
}

/// Wakes another call if one that was woken is dropped before it is let in.
struct Rewake<'a>(Option<&'a Group>);

impl Drop for Rewake<'_> {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            group.changed.notify_one();
        }
    }
}

/// Counts a call that waits.
struct Waiting<'a>(&'a Cell<u64>);

impl<'a> Waiting<'a> {
    fn begin(count: &'a Cell<u64>) -> Self {
        count.set(count.get().saturating_add(1));
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
