//! The worker id of a message.

use std::{cell::RefCell, rc::Rc};

/// The worker id of a message: set once, before its first request, and unchanged by its attempts and replays.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    id: RefCell<Option<Rc<str>>>,
    /// Whether the id stays even if the platform rejects it.
    is_fixed: bool,
}

impl Worker {
    /// The worker that the message names, if it does. An id from the credentials may be replaced once.
    pub(crate) fn of_message(id: Option<&str>) -> Self {
        Self {
            id: RefCell::new(id.map(Rc::from)),
            is_fixed: id.is_some(),
        }
    }

    /// The worker of a message that was parked. It is never replaced, also if the store has none yet.
    pub(crate) fn of_replay(id: Option<&str>) -> Self {
        Self {
            is_fixed: true,
            ..Self::of_message(id)
        }
    }

    pub(crate) fn id(&self) -> Option<Rc<str>> {
        self.id.borrow().clone()
    }

    /// Sets the id to that of the credentials, unless it is set.
    pub(crate) fn set_from_credentials(&self, id: &str) {
        self.id.borrow_mut().get_or_insert_with(|| id.into());
    }

    /// Whether the id may be replaced: it came from the credentials, for a message that was not parked.
    pub(crate) fn is_replaceable(&self) -> bool {
        !self.is_fixed && self.id.borrow().is_some()
    }

    /// Replaces the id by that of other credentials.
    pub(crate) fn replace(&self, id: &str) {
        self.id.replace(Some(id.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_that_the_message_names_is_kept() {
        let worker = Worker::of_message(Some("own"));
        worker.set_from_credentials("other");
        assert_eq!(worker.id().as_deref(), Some("own"));
    }

    #[test]
    fn the_first_credentials_name_the_worker_of_a_message_that_does_not() {
        let worker = Worker::of_message(None);
        assert_eq!(worker.id(), None);
        worker.set_from_credentials("first");
        worker.set_from_credentials("second");
        assert_eq!(worker.id().as_deref(), Some("first"));
    }

    #[test]
    fn only_a_worker_from_the_credentials_of_a_live_message_is_replaceable() {
        for (worker, expected) in [
            (Worker::of_message(Some("own")), false),
            (Worker::of_message(None), true),
            (Worker::of_replay(Some("stored")), false),
            (Worker::of_replay(None), false),
        ] {
            worker.set_from_credentials("first");
            assert_eq!(worker.is_replaceable(), expected, "{worker:?}");
        }
        assert!(!Worker::of_message(None).is_replaceable());
    }
}
