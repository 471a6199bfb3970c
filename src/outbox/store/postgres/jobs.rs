//! The jobs of the worker.

use std::{sync::Arc, time::Instant};

use futures_util::future::LocalBoxFuture;
use tokio::sync::oneshot;

use super::super::{Inserted, NewMessage, Settled, Settlement};
use super::{error::PgResult, owner::Owner, session::Transaction};
use crate::error::OutboxError;

/// Takes the answer of a job.
pub(super) type Reply<T> = oneshot::Sender<Result<T, OutboxError>>;

/// A job, and since when it waits.
pub(super) struct Job {
    pub(super) since: Instant,
    pub(super) work: Work,
    /// Whether it may have been committed without an answer.
    pub(super) is_in_doubt: bool,
}

pub(super) enum Work {
    Insert(NewMessage, Reply<Inserted>),
    Settle(Arc<[Settlement]>, Reply<Vec<Settled>>),
    Other(Box<dyn Other>),
    /// The owner is given up: the last job.
    Close(Reply<()>),
}

impl Job {
    pub(super) fn new(work: Work, since: Instant) -> Self {
        Self {
            since,
            work,
            is_in_doubt: false,
        }
    }

    /// Answers. The caller may have given up.
    pub(super) fn end(self, answer: Result<Answer, OutboxError>) {
        match (self.work, answer) {
            (Work::Insert(_, reply), Ok(Answer::Inserted(inserted))) => drop(reply.send(inserted)),
            (Work::Insert(_, reply), Err(error)) => drop(reply.send(Err(error))),
            (Work::Settle(_, reply), Ok(Answer::Settled(settled))) => drop(reply.send(Ok(settled))),
            (Work::Settle(_, reply), Err(error)) => drop(reply.send(Err(error))),
            (Work::Other(other), answer) => other.end(answer.map(drop)),
            // If the server can't be told, the others will find out.
            (Work::Close(reply), _) => drop(reply.send(Ok(()))),
            // No answer of the same kind: the reply is dropped.
            (Work::Insert(..) | Work::Settle(..), Ok(_)) => {}
        }
    }
}

/// The answer to a job.
pub(super) enum Answer {
    Inserted(Result<Inserted, OutboxError>),
    Settled(Vec<Settled>),
    Done,
}

impl Work {
    pub(super) fn message(&self) -> Option<&NewMessage> {
        match self {
            Self::Insert(message, _) => Some(message),
            Self::Settle(..) | Self::Other(_) | Self::Close(_) => None,
        }
    }

    pub(super) fn settlements(&self) -> Option<&[Settlement]> {
        match self {
            Self::Settle(settlements, _) => Some(settlements),
            Self::Insert(..) | Self::Other(_) | Self::Close(_) => None,
        }
    }
}

/// Work in a transaction of its own.
pub(super) trait Other {
    /// Does the work. May be called again after its transaction was rolled back.
    fn run<'a>(
        &'a mut self,
        transaction: &'a Transaction<'_>,
        owner: &'a mut Owner,
    ) -> LocalBoxFuture<'a, PgResult<()>>;

    /// Answers, after the end of the transaction.
    fn end(self: Box<Self>, committed: Result<(), OutboxError>);
}

pub(super) struct OtherWork<T, W> {
    work: W,
    output: Option<T>,
    reply: Reply<T>,
}

impl<T, W> OtherWork<T, W> {
    pub(super) fn new(work: W, reply: Reply<T>) -> Self {
        Self {
            work,
            output: None,
            reply,
        }
    }
}

impl<T, W> Other for OtherWork<T, W>
where
    W: AsyncFnMut(&Transaction<'_>, &mut Owner) -> PgResult<T>,
{
    fn run<'a>(
        &'a mut self,
        transaction: &'a Transaction<'_>,
        owner: &'a mut Owner,
    ) -> LocalBoxFuture<'a, PgResult<()>> {
        Box::pin(async move {
            self.output = Some((self.work)(transaction, owner).await?);
            Ok(())
        })
    }

    fn end(self: Box<Self>, committed: Result<(), OutboxError>) {
        let Self { output, reply, .. } = *self;
        // The caller may have given up.
        let _ = reply.send(committed.and_then(|()| output.ok_or(OutboxError::Stopped)));
    }
}
