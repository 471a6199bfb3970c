//! The thread that has the file open. It does the jobs of all handles of this process, and commits for all (group commit).

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, mpsc::Receiver},
    thread,
    time::{Duration, Instant},
};

use super::{
    error::sqlite_error,
    file_state::FileState,
    inbox::{Inbox, LINGERS_FOR, Leave, Message},
    jobs::{Read, Write, answer_all},
    open_file::OpenFile,
    owners::{Member, Owners},
    session::Session,
};
use crate::{clock::Clock, error::OutboxError};

/// A job that fails after this time has waited for the disk, or for locks that the kernel refuses, and so would others.
/// Longer than the wait for a file that another process has locked.
const SLOW_FAILURE: Duration = Duration::from_secs(4);

/// How long jobs fail without a try after a slow failure.
const FAILS_FOR: Duration = Duration::from_secs(2);

/// The longest pause between two transactions.
const MAX_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct StoreThread {
    file: OpenFile,
    owners: Owners,
    clock: Clock,
    /// No transaction starts before this time, for the benefit of other processes.
    paused_until: Option<Instant>,
    /// Whether other processes had owners at the last transaction.
    has_others: bool,
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
            has_others: false,
            failing: None,
        }
    }

    /// Does jobs until the last handle is given up. Then it closes the file, and only then answers.
    pub(super) fn run(self, messages: &Receiver<Message>) {
        self.run_with(Inbox::new(messages, LINGERS_FOR));
    }

    fn run_with(mut self, mut inbox: Inbox<'_>) {
        // An error is answered to the first job.
        let _ = self.file.ready(&mut self.owners);
        let last = loop {
            let Some(writes) = inbox.next_writes(&self.clock) else {
                break None;
            };
            if let Err(error) = self.commit(writes, &mut inbox) {
                inbox.end_writes(&error);
            }
            self.file.checkpoint();
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
    fn commit(&mut self, mut jobs: Vec<Box<dyn Write>>, inbox: &mut Inbox<'_>) -> Result<(), OutboxError> {
        if jobs.is_empty() {
            return Ok(());
        }
        if self.has_others {
            // Before the transaction: its lock would make other processes wait.
            while inbox.add_writes(&mut jobs, &self.clock) {}
        }
        let mut rest = Vec::new();
        let mut outcome = self.attempt(|this| {
            let done = this.transact(&mut jobs, inbox)?;
            rest = jobs.split_off(done);
            Ok(())
        });
        if outcome.is_ok() || jobs.len() == 1 || self.is_of_all(&outcome) {
            answer_all(jobs.into_iter().map(|job| (job, outcome.clone())));
            return if self.is_of_all(&outcome) {
                outcome
            } else {
                self.commit(rest, inbox)
            };
        }
        // The transaction may have failed because of one job. A locked file is waited for once.
        inbox.stop_lingering();
        for job in jobs {
            let mut alone = vec![job];
            if !self.is_of_all(&outcome) {
                outcome = self.attempt(|this| this.transact(&mut alone, inbox).map(|_| ()));
            }
            answer_all(alone.into_iter().map(|job| (job, outcome.clone())));
        }
        if self.is_of_all(&outcome) { outcome } else { Ok(()) }
    }

    /// Does jobs in one transaction. A job that fails before it has changed anything does not concern the others. While
    /// no caller waits, more jobs are added to the open transaction: the next awaited job shares its commit. Returns how many
    /// of the jobs were done: not those that came after the file was removed or replaced.
    fn transact(&mut self, jobs: &mut Vec<Box<dyn Write>>, inbox: &mut Inbox<'_>) -> Result<usize, OutboxError> {
        if let Some(pause) = self.paused_until.take() {
            thread::sleep(pause.saturating_duration_since(self.clock.instant()));
        }
        let place = self.file.place();
        let transaction = self.file.begin(&mut self.owners)?;
        let began = self.clock.instant();
        self.owners.begin_transaction();
        self.has_others = self.owners.has_others(&transaction).map_err(sqlite_error)?;
        let session = Session::new(&transaction);
        let mut done = 0;
        loop {
            for job in jobs.iter_mut().skip(done) {
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
            done = jobs.len();
            if self.has_others || !inbox.add_writes(jobs, &self.clock) || !place.is_unchanged() {
                break;
            }
        }
        drop(session);
        transaction.commit().map_err(sqlite_error)?;
        // SQLite's lock is not fair: without a pause, a busy process starves a quiet one.
        let now = self.clock.instant();
        let took = now.saturating_duration_since(began).min(MAX_PAUSE);
        self.paused_until = now.checked_add(took).filter(|_| self.has_others);
        Ok(done)
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
    use std::sync::mpsc::{Sender, channel};

    use rusqlite::Connection;

    use super::super::{jobs::WriteJob, owners::Owner};
    use super::*;

    /// Longer than anything takes that does not linger.
    const LIMIT: Duration = Duration::from_secs(10);

    /// Longer than any test: a change that lingers is committed because of something else.
    const LONG: Duration = Duration::from_secs(60);

    /// A thread whose unawaited changes linger.
    struct Lingering {
        folder: tempfile::TempDir,
        messages: Sender<Message>,
        thread: thread::JoinHandle<()>,
        events: Sender<&'static str>,
        happened: Receiver<&'static str>,
    }

    impl Lingering {
        fn start() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = StoreThread::new(folder.path().join("outbox.db"), Arc::default());
            let (messages, received) = channel();
            let (events, happened) = channel();
            let thread = thread::spawn(move || store.run_with(Inbox::new(&received, LONG)));
            Self {
                folder,
                messages,
                thread,
                events,
                happened,
            }
        }

        fn connect(&self) -> Connection {
            Connection::open(self.folder.path().join("outbox.db")).unwrap()
        }

        /// Submits a change, whose end is an event.
        fn write(
            &self,
            is_awaited: bool,
            mut work: impl FnMut(&Session<'_>, &Sender<&'static str>) -> Result<(), OutboxError> + Send + 'static,
            [done, failed]: [&'static str; 2],
        ) {
            let (events, answers) = (self.events.clone(), self.events.clone());
            let work = move |session: &Session<'_>, _: &mut Owner| work(session, &events);
            let reply = move |result: Result<(), OutboxError>| {
                answers.send(if result.is_ok() { done } else { failed }).unwrap();
            };
            let job = WriteJob::new(0, is_awaited, None, work, Box::new(reply));
            self.messages.send(Message::Write(Box::new(job))).unwrap();
        }

        /// The events that are left.
        fn end(self) -> Vec<&'static str> {
            drop(self.messages);
            self.thread.join().unwrap();
            drop(self.events);
            self.happened.iter().collect()
        }
    }

    fn made(event: &'static str) -> impl FnMut(&Session<'_>, &Sender<&'static str>) -> Result<(), OutboxError> {
        move |_, events| {
            events.send(event).unwrap();
            Ok(())
        }
    }

    #[test]
    fn an_unawaited_change_is_made_at_once_and_committed_with_the_next_one() {
        let store = Lingering::start();
        store.write(false, made("later"), ["later ended", ""]);
        assert_eq!(store.happened.recv(), Ok("later"));
        store.write(true, made("next"), ["next ended", ""]);
        assert_eq!(store.end(), ["next", "next ended", "later ended"]);
    }

    #[test]
    fn a_change_that_has_failed_with_another_one_does_not_linger_alone() {
        let store = Lingering::start();
        store.write(false, made("first"), ["first ended", ""]);
        assert_eq!(store.happened.recv(), Ok("first"));
        let fails = |session: &Session<'_>, _: &Sender<&'static str>| {
            session
                .execute_batch("INSERT INTO owners (file) VALUES ('a')")
                .map_err(sqlite_error)?;
            Err(OutboxError::Full)
        };
        store.write(false, fails, ["", "second failed"]);
        let events: Vec<_> = (0..3).map(|_| store.happened.recv_timeout(LIMIT).unwrap()).collect();
        assert_eq!(events, ["first", "first ended", "second failed"]);
        assert_eq!(store.end(), Vec::<&str>::new());
    }

    #[test]
    fn a_change_is_not_added_to_the_transaction_of_a_file_that_was_removed() {
        let store = Lingering::start();
        store.write(false, made("later"), ["later ended", ""]);
        assert_eq!(store.happened.recv(), Ok("later"));
        std::fs::remove_file(store.folder.path().join("outbox.db")).unwrap();
        store.write(true, made("next"), ["", "next failed"]);
        assert_eq!(store.end(), ["later ended", "next failed"]);
    }

    #[test]
    fn an_unawaited_change_leaves_the_file_to_other_processes() {
        let store = Lingering::start();
        let enters = |session: &Session<'_>, _: &Sender<&'static str>| {
            let others = "INSERT INTO owners (file) VALUES ('a'), ('b')";
            session.execute_batch(others).map_err(sqlite_error)
        };
        store.write(true, enters, ["entered", ""]);
        assert_eq!(store.happened.recv(), Ok("entered"));
        // The first transaction after it learns of them.
        store.write(true, made("looked"), ["look ended", ""]);
        assert_eq!(store.happened.recv(), Ok("looked"));
        assert_eq!(store.happened.recv(), Ok("look ended"));
        store.write(false, made("later"), ["later ended", ""]);
        let other = store.connect();
        other.busy_timeout(LIMIT).unwrap();
        other.execute_batch("BEGIN IMMEDIATE; COMMIT").unwrap();
        assert!(store.happened.try_recv().is_err());
        assert_eq!(store.end(), ["later", "later ended"]);
    }
}
