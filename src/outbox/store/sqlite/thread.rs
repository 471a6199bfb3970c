//! The thread that has the file open. It does the jobs of all handles of this process, and commits for all (group commit).

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use super::super::Tick;
use super::{
    error::sqlite_error,
    file_state::FileState,
    jobs::{JobReply, Read, Write, answer_all},
    open_file::OpenFile,
    owners::{Member, Owners},
    session::Session,
    tick::Ticks,
};
use crate::{clock::Clock, error::OutboxError};

/// How many jobs may share a transaction.
const MAX_BATCH: usize = 1024;

/// A job that fails after this time has waited for the disk, or for locks that the kernel refuses, and so would others.
/// Longer than the wait for a file that another process has locked.
const SLOW_FAILURE: Duration = Duration::from_secs(4);

/// How long jobs fail without a try after a slow failure.
const FAILS_FOR: Duration = Duration::from_secs(2);

/// How long a change that nobody waits for waits for others, to share their flush.
const LINGERS_FOR: Duration = Duration::from_micros(500);

/// The longest pause between two transactions.
const MAX_PAUSE: Duration = Duration::from_secs(1);

pub(super) enum Message {
    Write(Box<dyn Write>),
    /// Nobody waits for it.
    WriteLater(Box<dyn Write>),
    Read(Box<dyn Read>),
    Tick(Member, Arc<Tick>),
    Leave(Leave),
}

/// A handle is given up.
pub(super) struct Leave {
    pub(super) member: Member,
    /// Whether no handle is left: the thread ends.
    pub(super) is_last: bool,
    pub(super) reply: Option<JobReply<()>>,
}

/// The messages of the handles.
struct Inbox<'a> {
    messages: &'a Receiver<Message>,
    reads: VecDeque<Box<dyn Read>>,
    ticks: Ticks,
    leaves: Vec<Leave>,
    /// Whether somebody waits for a message that was taken last.
    is_awaited: bool,
    lingers_for: Duration,
}

impl<'a> Inbox<'a> {
    fn new(messages: &'a Receiver<Message>, lingers_for: Duration) -> Self {
        Self {
            messages,
            reads: VecDeque::new(),
            ticks: Ticks::default(),
            leaves: Vec::new(),
            is_awaited: false,
            lingers_for,
        }
    }

    /// The next writes. Waits for a message or a tick if there is no read to go on with, and for others if nobody waits for
    /// those that there are. `None` if there are no handles.
    fn next_writes(&mut self, clock: &Clock) -> Option<Vec<Box<dyn Write>>> {
        self.is_awaited = !self.reads.is_empty();
        let now = clock.instant();
        let first = match self.ticks.next(now) {
            _ if !self.reads.is_empty() => None,
            None => Some(self.messages.recv().ok()?),
            Some(at) => match self.messages.recv_timeout(at.saturating_duration_since(now)) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return None,
            },
        };
        let mut writes = self.sort(first.into_iter().chain(self.messages.try_iter().take(MAX_BATCH)));
        let since = clock.instant();
        while !self.is_awaited && (1..MAX_BATCH).contains(&writes.len()) {
            let waited = clock.instant().saturating_duration_since(since);
            let Ok(message) = self.messages.recv_timeout(self.lingers_for.saturating_sub(waited)) else {
                break;
            };
            writes.extend(self.sort([message].into_iter().chain(self.messages.try_iter().take(MAX_BATCH))));
        }
        Some(writes)
    }

    /// Answers the writes that came while a job waited for the file: they have waited for it, too.
    fn end_writes(&mut self, error: &OutboxError) {
        let jobs = self.sort(self.messages.try_iter());
        answer_all(jobs.into_iter().map(|job| (job, Err(error.clone()))));
    }

    fn sort(&mut self, messages: impl Iterator<Item = Message>) -> Vec<Box<dyn Write>> {
        let mut writes = Vec::new();
        for message in messages {
            self.is_awaited |= !matches!(message, Message::WriteLater(_));
            match message {
                Message::Write(job) | Message::WriteLater(job) => writes.push(job),
                Message::Read(job) => self.reads.push_back(job),
                Message::Tick(member, tick) => self.ticks.add(member, tick),
                Message::Leave(leave) => self.leaves.push(leave),
            }
        }
        writes
    }
}

pub(super) struct StoreThread {
    file: OpenFile,
    owners: Owners,
    clock: Clock,
    /// No transaction starts before this time, for the benefit of other processes.
    paused_until: Option<Instant>,
    /// After a slow failure: jobs fail so until this time, without a try.
    failing: Option<(OutboxError, Instant)>,
}

impl StoreThread {
    pub(super) fn new(path: PathBuf, state: Arc<FileState>) -> Self {
        Self {
            owners: Owners::new(&path, Arc::clone(&state)),
            file: OpenFile::new(path, state),
            clock: Clock::system(),
            paused_until: None,
            failing: None,
        }
    }

    /// Does jobs until the last handle is given up. Then it closes the file, and only then answers.
    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        // An error is answered to the first job.
        let _ = self.file.ready(&mut self.owners);
        let mut inbox = Inbox::new(messages, LINGERS_FOR);
        let last = loop {
            let Some(writes) = inbox.next_writes(&self.clock) else {
                break None;
            };
            if let Err(error) = self.commit(writes) {
                inbox.end_writes(&error);
            }
            if let Err(error) = self.read(&mut inbox.reads) {
                inbox.end_writes(&error);
            }
            inbox.ticks.tick(self.clock.instant(), |members| self.look(members));
            for leave in &inbox.leaves {
                inbox.ticks.remove(leave.member);
            }
            if let Some(last) = self.leave(std::mem::take(&mut inbox.leaves)) {
                break Some(last);
            }
        };
        drop(self);
        if let Some(reply) = last.and_then(|last| last.reply) {
            reply(Ok(()));
        }
    }

    /// Does jobs in as few transactions as possible, and answers them. An error is that of all jobs.
    fn commit(&mut self, mut jobs: Vec<Box<dyn Write>>) -> Result<(), OutboxError> {
        if jobs.is_empty() {
            return Ok(());
        }
        let mut outcome = self.attempt(|this| this.transact(&mut jobs));
        if outcome.is_ok() || jobs.len() == 1 || self.is_of_all(&outcome) {
            answer_all(jobs.into_iter().map(|job| (job, outcome.clone())));
            return if self.is_of_all(&outcome) { outcome } else { Ok(()) };
        }
        // The transaction may have failed because of one job. A locked file is waited for once.
        for mut job in jobs {
            if !self.is_of_all(&outcome) {
                outcome = self.attempt(|this| this.transact(std::slice::from_mut(&mut job)));
            }
            answer_all([(job, outcome.clone())]);
        }
        if self.is_of_all(&outcome) { outcome } else { Ok(()) }
    }

    /// Does jobs in one transaction. A job that fails before it has changed anything does not concern the others.
    fn transact(&mut self, jobs: &mut [Box<dyn Write>]) -> Result<(), OutboxError> {
        if let Some(pause) = self.paused_until.take() {
            thread::sleep(pause.saturating_duration_since(self.clock.instant()));
        }
        let transaction = self.file.begin(&mut self.owners)?;
        let began = self.clock.instant();
        self.owners.begin_transaction();
        let session = Session::new(&transaction);
        for job in jobs {
            let changes = transaction.total_changes();
            let outcome = job.run(&session, self.owners.member(job.member()));
            if transaction.total_changes() != changes {
                self.owners.count_change(job.member());
                outcome?;
            } else if transaction.is_autocommit() {
                // SQLite has rolled everything back.
                outcome?;
            }
        }
        drop(session);
        let has_others = self.owners.has_others(&transaction).map_err(sqlite_error)?;
        transaction.commit().map_err(sqlite_error)?;
        // SQLite's lock is not fair: without a pause, a busy process starves a quiet one.
        let now = self.clock.instant();
        let took = now.saturating_duration_since(began).min(MAX_PAUSE);
        self.paused_until = now.checked_add(took).filter(|_| has_others);
        Ok(())
    }

    /// Does one step of each read, until one fails with an error of all jobs.
    fn read(&mut self, reads: &mut VecDeque<Box<dyn Read>>) -> Result<(), OutboxError> {
        for _ in 0..reads.len() {
            let Some(mut job) = reads.pop_front() else { break };
            let step = self.attempt(|this| {
                let connection = this.file.ready(&mut this.owners)?;
                job.step(connection, &mut this.owners).transpose()
            });
            match step {
                Ok(None) => reads.push_back(job),
                Ok(Some(())) => {}
                Err(error) => {
                    // Unless it was answered.
                    job.fail(error.clone());
                    let outcome = Err(error);
                    if self.is_of_all(&outcome) {
                        return outcome;
                    }
                }
            }
        }
        Ok(())
    }

    /// The owners, of these, for which a look would find nothing.
    fn look(&mut self, members: &[Member]) -> Vec<Member> {
        let nothing = self.attempt(|this| {
            let connection = this.file.ready(&mut this.owners)?;
            let now = this.clock.instant();
            let nothing = this.owners.with_nothing_to_see(connection, members, now);
            nothing.map_err(sqlite_error)
        });
        nothing.unwrap_or_default() // After an error, each looks itself, and says what is wrong.
    }

    /// Does work, unless the last work failed slowly.
    fn attempt<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, OutboxError>) -> Result<T, OutboxError> {
        let started = self.clock.instant();
        if let Some((error, _)) = self.failing.as_ref().filter(|(_, until)| started < *until) {
            return Err(error.clone());
        }
        self.failing = None;
        let outcome = work(self);
        let now = self.clock.instant();
        if let Err(error) = &outcome
            && now.saturating_duration_since(started) >= SLOW_FAILURE
        {
            self.failing = now.checked_add(FAILS_FOR).map(|until| (error.clone(), until));
        }
        outcome
    }

    /// Whether other jobs would fail in the same way, and should not wait for that.
    fn is_of_all(&self, outcome: &Result<(), OutboxError>) -> bool {
        *outcome == Err(OutboxError::Locked) || (outcome.is_err() && self.failing.is_some())
    }

    /// Forgets handles, and answers all but the last one.
    fn leave(&mut self, leaves: Vec<Leave>) -> Option<Leave> {
        for mut leave in leaves {
            self.owners.leave(leave.member, self.file.current());
            if leave.is_last {
                return Some(leave);
            }
            if let Some(reply) = leave.reply.take() {
                reply(Ok(()));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::super::{jobs::WriteJob, owners::Owner};
    use super::*;

    fn job() -> Box<dyn Write> {
        let work = |_: &Session<'_>, _: &mut Owner| Ok(());
        Box::new(WriteJob::new(0, None, work, Box::new(|_| ())))
    }

    /// How many writes are taken together if each message is sent once the one before was taken.
    fn taken(lingers_for: Duration, messages: Vec<Message>) -> usize {
        let (sender, receiver) = sync_channel(0);
        let taken = thread::spawn(move || {
            Inbox::new(&receiver, lingers_for)
                .next_writes(&Clock::system())
                .unwrap()
                .len()
        });
        for message in messages {
            // Nobody takes what comes too late.
            let _ = sender.send(message);
        }
        taken.join().unwrap()
    }

    #[test]
    fn a_change_without_a_waiting_caller_shares_the_flush_of_the_next_change() {
        const LONG: Duration = Duration::from_secs(60);
        let messages = vec![
            Message::WriteLater(job()),
            Message::WriteLater(job()),
            Message::Write(job()),
        ];
        assert_eq!(taken(LONG, messages), 3);
        // Alone, it waits no longer than it may.
        assert_eq!(taken(Duration::ZERO, vec![Message::WriteLater(job())]), 1);
        // A change with a waiting caller is taken at once.
        assert_eq!(taken(LONG, vec![Message::Write(job())]), 1);
    }
}
