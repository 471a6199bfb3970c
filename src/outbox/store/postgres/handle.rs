//! Submits jobs to the worker of an owner.

use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    oneshot,
};

use super::super::StoreFuture;
use super::{
    error::PgResult,
    jobs::{Job, OtherWork, Reply, Work},
    owner::Owner,
    session::Transaction,
};
use crate::{clock::Clock, error::OutboxError};

/// Submits jobs. The worker ends when all handles are dropped.
#[derive(Clone)]
pub(super) struct Handle {
    jobs: UnboundedSender<Job>,
    clock: Clock,
}

impl Handle {
    /// A handle, and what it submits.
    pub(super) fn new() -> (Self, UnboundedReceiver<Job>) {
        let (jobs, submitted) = unbounded_channel();
        let clock = Clock::system();
        (Self { jobs, clock }, submitted)
    }

    /// Submits work for a transaction of its own.
    pub(super) fn run<T: 'static>(
        &self,
        work: impl AsyncFnMut(&Transaction<'_>, &mut Owner) -> PgResult<T> + 'static,
    ) -> StoreFuture<T> {
        self.submit(move |reply| Work::Other(Box::new(OtherWork::new(work, reply))))
    }

    /// A job: it is submitted when the future is polled, and done even if the future is dropped after that.
    pub(super) fn submit<T: 'static>(&self, work: impl FnOnce(Reply<T>) -> Work + 'static) -> StoreFuture<T> {
        let Self { jobs, clock } = self.clone();
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            // If the worker has ended, the reply is dropped with the job.
            let _ = jobs.send(Job::new(work(reply), clock.instant()));
            drop(jobs);
            answer.await.unwrap_or(Err(OutboxError::Stopped))
        })
    }
}
