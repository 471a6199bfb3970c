//! Counts the messages without a place in the queue whose insert is pending, since nothing else bounds them: those that
//! found the queue full, and those that were cancelled.

use std::{cell::Cell, rc::Rc};

/// How many messages may wait for their insert, and how many bytes of bodies.
const MAX_MESSAGES: usize = 10_000;
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The messages that wait for their insert.
#[derive(Default)]
pub(super) struct Overflowing {
    messages: Cell<usize>,
    bytes: Cell<usize>,
}

/// One message that waits. Dropping it ends the wait.
pub(super) struct Waiting {
    all: Rc<Overflowing>,
    bytes: usize,
}

impl Overflowing {
    /// `None` if there is no room for a message with bodies of so many bytes.
    pub(super) fn begin(self: &Rc<Self>, bytes: usize) -> Option<Waiting> {
        let has_room = self.messages.get() < MAX_MESSAGES && self.bytes.get().saturating_add(bytes) <= MAX_BYTES;
        has_room.then(|| self.count(bytes))
    }

    /// Counts a message whose place in the queue was given back. It waits already.
    pub(super) fn count(self: &Rc<Self>, bytes: usize) -> Waiting {
        self.messages.set(self.messages.get().saturating_add(1));
        self.bytes.set(self.bytes.get().saturating_add(bytes));
        Waiting {
            all: Rc::clone(self),
            bytes,
        }
    }

    /// Whether a message that is cancelled now would be too much.
    pub(super) fn is_full(&self) -> bool {
        self.messages.get() >= MAX_MESSAGES || self.bytes.get() >= MAX_BYTES
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes.get()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Overflowing { messages, bytes } = &*self.all;
        messages.set(messages.get().saturating_sub(1));
        bytes.set(bytes.get().saturating_sub(self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_messages_are_bounded_by_number() {
        let all = Rc::<Overflowing>::default();
        let mut waiting: Vec<_> = (0..MAX_MESSAGES).map(|_| all.begin(1).unwrap()).collect();
        assert!(all.begin(1).is_none());
        waiting.pop();
        assert!(all.begin(1).is_some());
    }

    #[test]
    fn waiting_messages_are_bounded_by_bytes() {
        let all = Rc::<Overflowing>::default();
        let half = all.begin(MAX_BYTES / 2).unwrap();
        let rest = all.begin(MAX_BYTES / 2).unwrap();
        assert!(all.begin(1).is_none());
        drop(half);
        assert!(all.begin(MAX_BYTES / 2 + 1).is_none());
        assert!(all.begin(MAX_BYTES / 2).is_some());
        drop(rest);
        assert_eq!((all.messages.get(), all.bytes.get()), (0, 0));
    }
}
