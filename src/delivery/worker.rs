//! The worker id of a message.

use std::{cell::RefCell, rc::Rc};

use futures_util::future::LocalBoxFuture;

/// Keeps the id that a message gets, in place of the one that it had, before a request is sent with it.
pub(crate) type KeepWorker = Box<dyn Fn(Option<&str>, &str) -> LocalBoxFuture<'static, ()>>;

/// The worker id of a message: set once, before its first request, and unchanged by its attempts and replays.
#[derive(Default)]
pub(crate) struct Worker {
    id: RefCell<Option<Rc<str>>>,
    /// Whether the id stays even if the platform rejects it.
    is_fixed: bool,
    keep: Option<KeepWorker>,
}

impl Worker {
    /// The worker that the message names, if it does. An id from the credentials may be replaced once.
    pub(crate) fn of_message(id: Option<&str>) -> Self {
        Self {
            id: RefCell::new(id.map(Rc::from)),
            is_fixed: id.is_some(),
            keep: None,
        }
    }

    /// From now on, a new id is kept in this way before it is used.
    pub(crate) fn keep_by(&mut self, keep: KeepWorker) {
        self.keep = Some(keep);
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

    /// Sets the id to one that is kept already, unless it is set.
    pub(crate) fn set_kept(&self, id: &str) {
        self.id.borrow_mut().get_or_insert_with(|| id.into());
    }

    /// Sets the id to that of the credentials, unless it is set.
    pub(crate) async fn set_from_credentials(&self, id: &str) {
        if self.id.borrow().is_none() {
            self.replace(id).await;
        }
    }

    /// Whether the id may be replaced: it came from the credentials, for a message that was not parked.
    pub(crate) fn is_replaceable(&self) -> bool {
        !self.is_fixed && self.id.borrow().is_some()
    }

    /// Replaces the id by that of other credentials.
    pub(crate) async fn replace(&self, id: &str) {
        if let Some(keep) = &self.keep {
            let former = self.id();
            keep(former.as_deref(), id).await;
        }
        self.id.replace(Some(id.into()));
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    #[actix_rt::test]
    async fn the_worker_that_the_message_names_is_kept() {
        let worker = Worker::of_message(Some("own"));
        worker.set_from_credentials("other").await;
        assert_eq!(worker.id().as_deref(), Some("own"));
    }

    #[actix_rt::test]
    async fn the_first_credentials_name_the_worker_of_a_message_that_does_not() {
        let worker = Worker::of_message(None);
        assert_eq!(worker.id(), None);
        worker.set_from_credentials("first").await;
        worker.set_from_credentials("second").await;
        assert_eq!(worker.id().as_deref(), Some("first"));
    }

    #[actix_rt::test]
    async fn only_a_worker_from_the_credentials_of_a_live_message_is_replaceable() {
        for (worker, expected) in [
            (Worker::of_message(Some("own")), false),
            (Worker::of_message(None), true),
            (Worker::of_replay(Some("stored")), false),
            (Worker::of_replay(None), false),
        ] {
            worker.set_from_credentials("first").await;
            assert_eq!(worker.is_replaceable(), expected, "{:?}", worker.id());
        }
        assert!(!Worker::of_message(None).is_replaceable());
    }

    #[actix_rt::test]
    async fn a_new_id_is_kept_before_it_is_used() {
        let mut worker = Worker::of_message(None);
        let kept = Rc::new(RefCell::new(Vec::new()));
        let keep = {
            let kept = Rc::clone(&kept);
            move |former: Option<&str>, id: &str| -> LocalBoxFuture<'static, ()> {
                kept.borrow_mut().push((former.map(str::to_owned), id.to_owned()));
                Box::pin(ready(()))
            }
        };
        worker.keep_by(Box::new(keep));
        worker.set_from_credentials("first").await;
        worker.set_from_credentials("other").await;
        worker.replace("second").await;
        let expected = [
            (None, "first".to_owned()),
            (Some("first".to_owned()), "second".to_owned()),
        ];
        assert_eq!(*kept.borrow(), expected);
    }
}
