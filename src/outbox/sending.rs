//! The messages of each target that this poster has in hand, so that they can be withdrawn together.

use std::{
    cell::RefCell,
    collections::{HashMap, hash_map::Entry},
    rc::Rc,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::call::Target;

/// The targets with a message in hand.
#[derive(Debug, Default)]
pub(super) struct Sending(Rc<RefCell<HashMap<Target, Messages>>>);

/// The messages of one target.
#[derive(Debug)]
struct Messages {
    count: usize,
    discarded: CancellationToken,
    ended: TaskTracker,
}

/// A message in hand, until it is dropped.
#[derive(Debug)]
pub(super) struct InHand {
    sending: Rc<RefCell<HashMap<Target, Messages>>>,
    target: Target,
    discarded: CancellationToken,
    ended: TaskTracker,
    _token: tokio_util::task::task_tracker::TaskTrackerToken,
}

impl Sending {
    /// Takes a message in hand.
    pub(super) fn begin(&self, target: &Target) -> InHand {
        let mut targets = self.0.borrow_mut();
        let messages = targets.entry(target.clone()).or_insert_with(|| Messages {
            count: 0,
            discarded: CancellationToken::new(),
            ended: TaskTracker::new(),
        });
        messages.count = messages.count.saturating_add(1);
        InHand {
            sending: Rc::clone(&self.0),
            target: target.clone(),
            discarded: messages.discarded.clone(),
            ended: messages.ended.clone(),
            _token: messages.ended.token(),
        }
    }

    /// Cancels the messages of this target, and returns what to wait for until they have ended. Later messages are not
    /// concerned.
    pub(super) fn discard(&self, target: &Target) -> Option<TaskTracker> {
        let messages = self.0.borrow_mut().remove(target)?;
        messages.discarded.cancel();
        messages.ended.close();
        Some(messages.ended)
    }
}

impl InHand {
    /// Cancelled when the messages of the target are discarded.
    pub(super) fn discarded(&self) -> CancellationToken {
        self.discarded.clone()
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        // After a discard, the entry is that of later messages, or is gone.
        if self.ended.is_closed() {
            return;
        }
        if let Entry::Occupied(mut entry) = self.sending.borrow_mut().entry(self.target.clone()) {
            let messages = entry.get_mut();
            messages.count = messages.count.saturating_sub(1);
            if messages.count == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn session(id: &str) -> Target {
        Target::Session(id.into())
    }

    #[test]
    fn the_messages_of_a_target_are_discarded_together_and_later_ones_are_not() {
        let sending = Sending::default();
        let [first, second, other] = ["a", "a", "b"].map(|id| sending.begin(&session(id)));
        let ended = sending.discard(&session("a")).unwrap();
        let later = sending.begin(&session("a"));
        let is_discarded = |message: &InHand| message.discarded().is_cancelled();
        assert_eq!(
            [&first, &second, &other, &later].map(is_discarded),
            [true, true, false, false]
        );
        drop(first);
        assert!(ended.wait().now_or_never().is_none());
        drop(second);
        assert!(ended.wait().now_or_never().is_some());
        drop((other, later));
        assert!(sending.0.borrow().is_empty());
        assert!(sending.discard(&session("a")).is_none());
    }
}
