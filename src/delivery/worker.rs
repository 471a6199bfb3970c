//! The worker id of a message.

use std::{cell::RefCell, rc::Rc};

/// The worker id of a message: set once, before its first request, and unchanged by its attempts and replays.
#[derive(Debug, Default)]
pub(crate) struct Worker(RefCell<Option<Named>>);

#[derive(Debug)]
struct Named {
    id: Rc<str>,
    by: NamedBy,
}

#[derive(Debug, PartialEq, Eq)]
enum NamedBy {
    /// The message itself, or the store that a parked message comes from.
    Message,
    /// The credentials with which the message was first sent or stored.
    Credentials,
}

impl Worker {
    /// The worker that the message names, if it does.
    pub(crate) fn of_message(id: Option<&str>) -> Self {
        let named = id.map(|id| Named {
            id: id.into(),
            by: NamedBy::Message,
        });
        Self(RefCell::new(named))
    }

    pub(crate) fn id(&self) -> Option<Rc<str>> {
        self.0.borrow().as_ref().map(|named| Rc::clone(&named.id))
    }

    /// Sets the id to that of the credentials, unless it is set.
    pub(crate) fn set_from_credentials(&self, id: &str) {
        self.0.borrow_mut().get_or_insert_with(|| Named {
            id: id.into(),
            by: NamedBy::Credentials,
        });
    }

    /// Whether the id may be replaced, since the message did not name it.
    pub(crate) fn is_from_credentials(&self) -> bool {
        let named = self.0.borrow();
        named.as_ref().is_some_and(|named| named.by == NamedBy::Credentials)
    }

    /// Replaces the id by that of other credentials.
    pub(crate) fn replace(&self, id: &str) {
        self.0.replace(Some(Named {
            id: id.into(),
            by: NamedBy::Credentials,
        }));
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
}
