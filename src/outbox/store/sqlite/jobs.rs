//! The jobs of the thread: changes that share a transaction, and reads between two transactions.

use rusqlite::Connection;

use super::{
    error::catch,
    owners::{Member, Owner, Owners},
};
use crate::error::OutboxError;

/// Takes the answer of a job. It is dropped if the thread has ended.
pub(super) type JobReply<T> = Box<dyn FnOnce(Result<T, OutboxError>) + Send>;

/// A change. Changes that are submitted while the thread commits share the next transaction and its flush.
pub(super) trait Write: Send {
    fn member(&self) -> Member;
    /// Makes the change. May be called again after its transaction was rolled back.
    fn run(&mut self, connection: &Connection, owner: &mut Owner) -> Result<(), OutboxError>;
    /// Answers, after the end of the transaction.
    fn end(self: Box<Self>, committed: Result<(), OutboxError>);
}

/// A read, or work with a transaction of its own. It reads a bounded number of rows at a time.
pub(super) trait Read: Send {
    /// `None`: there is more. Otherwise the job has ended, and was answered.
    fn step(&mut self, connection: &mut Connection, owners: &mut Owners) -> Option<Result<(), OutboxError>>;
    fn fail(&mut self, error: OutboxError);
}

pub(super) struct WriteJob<T, W> {
    member: Member,
    work: W,
    outcome: Option<Result<T, OutboxError>>,
    reply: JobReply<T>,
}

impl<T, W> WriteJob<T, W> {
    pub(super) fn new(member: Member, work: W, reply: JobReply<T>) -> Self {
        Self {
            member,
            work,
            outcome: None,
            reply,
        }
    }
}

impl<T, W> Write for WriteJob<T, W>
where
    T: Send,
    W: FnMut(&Connection, &mut Owner) -> Result<T, OutboxError> + Send,
{
    fn member(&self) -> Member {
        self.member
    }

    fn run(&mut self, connection: &Connection, owner: &mut Owner) -> Result<(), OutboxError> {
        let outcome = catch(|| (self.work)(connection, owner));
        let result = outcome.as_ref().map(|_| ()).map_err(OutboxError::clone);
        self.outcome = Some(outcome);
        result
    }

    fn end(self: Box<Self>, committed: Result<(), OutboxError>) {
        let Self { outcome, reply, .. } = *self;
        reply(committed.and_then(|()| outcome.unwrap_or(Err(OutboxError::Stopped))));
    }
}

pub(super) struct ReadJob<T, R> {
    member: Member,
    work: R,
    reply: Option<JobReply<T>>,
}

impl<T, R> ReadJob<T, R> {
    pub(super) fn new(member: Member, work: R, reply: JobReply<T>) -> Self {
        Self {
            member,
            work,
            reply: Some(reply),
        }
    }

    fn answer(&mut self, answer: Result<T, OutboxError>) {
        if let Some(reply) = self.reply.take() {
            reply(answer);
        }
    }
}

impl<T, R> Read for ReadJob<T, R>
where
    T: Send,
    R: FnMut(&mut Connection, &mut Owners, Member) -> Result<Option<T>, OutboxError> + Send,
{
    fn step(&mut self, connection: &mut Connection, owners: &mut Owners) -> Option<Result<(), OutboxError>> {
        let answer = catch(|| (self.work)(connection, owners, self.member)).transpose()?;
        let result = answer.as_ref().map(|_| ()).map_err(OutboxError::clone);
        self.answer(answer);
        Some(result)
    }

    fn fail(&mut self, error: OutboxError) {
        self.answer(Err(error));
    }
}
