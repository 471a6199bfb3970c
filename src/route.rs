//! The route of an accepted message, chosen once when a poster is made: straight to the platform, or through a store.

use std::rc::Rc;

use futures_util::{FutureExt as _, future::LocalBoxFuture};

use crate::{
    call::Call,
    delivery::{Cancellation, Dispatcher, Job, Worker},
    error::ParkReason,
    queue::LaneQueue,
    receipt::Outcome,
};

/// When the reply to a message is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplyWhen {
    /// Once each of its calls has its outcome.
    Done,
    /// Once it is stored.
    Durable,
}

/// A message without a place in the queue.
pub(crate) struct Overflow {
    pub(crate) calls: Vec<Call>,
    pub(crate) worker: Worker,
    pub(crate) cancellation: Cancellation,
    /// `QueueFull` or `Shutdown`.
    pub(crate) reason: ParkReason,
}

/// Stores a message without a place in the queue, and returns the outcomes of its calls.
pub(crate) type RunOverflow =
    Box<dyn FnOnce(Rc<Dispatcher>, Overflow, ReplyWhen) -> LocalBoxFuture<'static, Vec<Outcome>>>;

/// The route of a message, from admission to the outcomes of its calls.
pub(crate) trait Route {
    /// Runs a message that has a place in the queue.
    fn run(
        self: Rc<Self>,
        dispatcher: Rc<Dispatcher>,
        job: Box<Job>,
        reply_when: ReplyWhen,
    ) -> LocalBoxFuture<'static, Vec<Outcome>>;

    /// The way of a message that has no place in the queue; `None` if the route stores no messages.
    fn overflow(self: Rc<Self>) -> Option<RunOverflow> {
        None
    }

    /// Whether the route stores messages.
    fn is_durable(&self) -> bool {
        false
    }

    /// Starts the background work, unless it is running.
    fn start(&self, _dispatcher: &Rc<Dispatcher>, _queue: &Rc<LaneQueue>) {}

    /// Wakes the background work: there may be other credentials.
    fn wake(&self) {}

    /// Stops the background work.
    fn stop(&self) {}

    /// Waits until pending writes are on disk, and releases the calls that this process owns.
    fn close(&self) -> LocalBoxFuture<'static, ()> {
        async {}.boxed_local()
    }

    /// As [`close`](Self::close), without waiting.
    fn abandon(&self) {}
}

/// The route straight to the platform, without a store.
pub(crate) struct Direct;

impl Route for Direct {
    fn run(
        self: Rc<Self>,
        dispatcher: Rc<Dispatcher>,
        job: Box<Job>,
        _: ReplyWhen,
    ) -> LocalBoxFuture<'static, Vec<Outcome>> {
        Box::pin(async move { dispatcher.run(job).await })
    }
}
