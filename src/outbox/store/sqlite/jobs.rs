//! The jobs of the thread: changes that share a transaction, and reads between two transactions.

use rusqlite::Connection;
use tokio::sync::mpsc::UnboundedSender;

use super::{
    error::catch,
    owners::{Member, Owner, Owners},
    session::Session,
};
use crate::error::OutboxError;

/// Takes the answer of a job. It is dropped if the thread has ended.
pub(super) type JobReply<T> = Box<dyn FnOnce(Result<T, OutboxError>) + Send>;

/// A change. Changes that are submitted while the thread commits share the next transaction and its flush.
pub(super) trait Write: Send {
    fn member(&self) -> Member;
    /// Whether somebody waits for it.
    fn is_awaited(&self) -> bool;
    /// Where it is answered, if not by the thread.
    fn home(&self) -> Option<&Home>;
    /// Makes the change. May be called again after its transaction was rolled back.
    fn run(&mut self, session: &Session<'_>, owner: &mut Owner) -> Result<(), OutboxError>;
    /// Answers, after the end of the transaction.
    fn end(self: Box<Self>, committed: Result<(), OutboxError>);
}

/// A read, or work with a transaction of its own. It reads a bounded number of rows at a time.
pub(super) trait Read: Send {
    /// `None`: there is more. Otherwise the job has ended, and was answered.
    fn step(&mut self, connection: &mut Connection, owners: &mut Owners) -> Option<Result<(), OutboxError>>;
    fn fail(&mut self, error: OutboxError);
}

/// Takes changes that have ended to the arbiter that submitted them. One wake-up answers all of a transaction, and their
/// memory is freed by the thread that allocated it.
pub(super) type Home = UnboundedSender<Vec<Ended>>;

/// A change, and the end of its transaction.
pub(super) struct Ended {
    job: Box<dyn Write>,
    committed: Result<(), OutboxError>,
}

impl Ended {
    pub(super) fn answer(self) {
        self.job.end(self.committed);
    }
}

/// Answers changes, each at its home: first those that somebody waits for.
pub(super) fn answer_all(ended: impl IntoIterator<Item = (Box<dyn Write>, Result<(), OutboxError>)>) {
    let mut homes: Vec<(Member, Home, Vec<Ended>)> = Vec::new();
    let (awaited, others): (Vec<_>, Vec<_>) = ended.into_iter().partition(|(job, _)| job.is_awaited());
    for (job, committed) in awaited.into_iter().chain(others) {
        let (member, home) = (job.member(), job.home().cloned());
        let ended = Ended { job, committed };
        let Some(home) = home else {
            ended.answer();
            continue;
        };
        match homes.iter_mut().find(|(other, ..)| *other == member) {
            Some((.., jobs)) => jobs.push(ended),
            None => homes.push((member, home, vec![ended])),
        }
    }
    for (_, home, jobs) in homes {
        // If the arbiter has ended, nobody waits for the answers.
        let _ = home.send(jobs);
    }
}

pub(super) struct WriteJob<T, W> {
    member: Member,
    is_awaited: bool,
    home: Option<Home>,
    work: W,
    outcome: Option<Result<T, OutboxError>>,
    reply: JobReply<T>,
}

impl<T, W> WriteJob<T, W> {
    pub(super) fn new(member: Member, is_awaited: bool, home: Option<Home>, work: W, reply: JobReply<T>) -> Self {
        Self {
            member,
            is_awaited,
            home,
            work,
            outcome: None,
            reply,
        }
    }
}

impl<T, W> Write for WriteJob<T, W>
where
    T: Send,
    W: FnMut(&Session<'_>, &mut Owner) -> Result<T, OutboxError> + Send,
{
    fn member(&self) -> Member {
        self.member
    }

    fn is_awaited(&self) -> bool {
        self.is_awaited
    }

    fn home(&self) -> Option<&Home> {
        self.home.as_ref()
    }

    fn run(&mut self, session: &Session<'_>, owner: &mut Owner) -> Result<(), OutboxError> {
        let outcome = catch(|| (self.work)(session, owner));
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
