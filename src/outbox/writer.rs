//! The thread that owns the file. Group commit: jobs that queue up during a commit share the next transaction, and its
//! flush to the disk.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use log::error;
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::oneshot;

use super::{
    error::{io_error, sqlite_error},
    file,
};
use crate::{
    error::OutboxError,
    util::{chain, ignore_panic},
};

/// How many jobs may share a transaction.
const MAX_BATCH: usize = 1024;

/// Submits jobs to the thread, which ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub(super) struct Writer(Sender<Box<dyn Job>>);

/// Work in a transaction.
trait Job: Send {
    /// May be called again after its transaction was rolled back.
    fn work(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    /// Reports the end of the transaction.
    fn end(self: Box<Self>, outcome: Result<(), OutboxError>);
}

struct Task<F, T> {
    work: F,
    output: Option<T>,
    reply: oneshot::Sender<Result<T, OutboxError>>,
}

impl<F, T> Job for Task<F, T>
where
    F: FnMut(&Connection) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn work(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.output = Some((self.work)(connection)?);
        Ok(())
    }

    fn end(self: Box<Self>, outcome: Result<(), OutboxError>) {
        let Self { output, reply, .. } = *self;
        // The submitter may not wait for it.
        let _ = reply.send(outcome.and_then(|()| output.ok_or(OutboxError::Stopped)));
    }
}

/// A job that the thread will do, whether or not this is awaited.
#[must_use = "say that a job need not be awaited with `.detach()`"]
pub(super) struct Submitted<T>(oneshot::Receiver<Result<T, OutboxError>>);

impl<T> Submitted<T> {
    /// Waits until the job's transaction is on the disk.
    pub(super) async fn committed(self) -> Result<T, OutboxError> {
        self.0.await.unwrap_or(Err(OutboxError::Stopped))
    }

    /// Does not wait.
    pub(super) fn detach(self) {}
}

impl Writer {
    /// Opens the file, and starts its thread.
    pub(super) fn start(path: PathBuf, max_bytes: Option<u64>) -> Result<Self, OutboxError> {
        let file = OpenFile::open(path, max_bytes)?;
        let (jobs, queue) = channel();
        thread::Builder::new()
            .name("outbox".into())
            .spawn(move || run_batches(file, &queue))
            .map_err(io_error)?;
        Ok(Self(jobs))
    }

    /// Submits `work`, to be done in a transaction. `work` may be called again if that was rolled back.
    pub(super) fn submit<T, W>(&self, work: W) -> Submitted<T>
    where
        T: Send + 'static,
        W: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, outcome) = oneshot::channel();
        let task = Task {
            work,
            output: None,
            reply,
        };
        // If the thread is gone, the reply is dropped with the job.
        let _ = self.0.send(Box::new(task));
        Submitted(outcome)
    }
}

struct OpenFile {
    path: PathBuf,
    max_bytes: Option<u64>,
    connection: Connection,
    identity: Identity,
}

impl OpenFile {
    fn open(path: PathBuf, max_bytes: Option<u64>) -> Result<Self, OutboxError> {
        let connection = file::open(&path, max_bytes)?;
        Ok(Self {
            identity: identity(&path),
            connection,
            path,
            max_bytes,
        })
    }

    /// Whether the file is still the one at the path: it may have been deleted or replaced.
    fn is_current(&self) -> bool {
        self.identity.is_some() && identity(&self.path) == self.identity
    }

    /// Opens the file at the path if it is another one.
    fn reopen_if_replaced(&mut self) -> Result<(), OutboxError> {
        if !self.is_current() {
            ignore_panic(|| {
                error!(
                    "the outbox file {:?} was removed or replaced; starting a new one",
                    self.path
                );
            });
            // The old connection is closed first: it saves what it can, and a second connection would share its locks.
            // If the new file can't be opened, this is tried again each time, even with the old file.
            self.identity = None;
            self.connection = Connection::open_in_memory().map_err(sqlite_error)?;
            *self = Self::open(self.path.clone(), self.max_bytes)?;
        }
        Ok(())
    }

    /// Does all of these jobs in one transaction, or none.
    fn commit(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<(), OutboxError> {
        let mut work = || {
            let transaction = self
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            for job in &mut *jobs {
                job.work(&transaction)?;
            }
            transaction.commit()
        };
        work().map_err(sqlite_error)
    }
}

fn run_batches(mut file: OpenFile, queue: &Receiver<Box<dyn Job>>) {
    while let Ok(first) = queue.recv() {
        let mut jobs: Vec<_> = std::iter::once(first).chain(queue.try_iter()).take(MAX_BATCH).collect();
        let mut outcome = catch(|| file.reopen_if_replaced());
        if outcome.is_ok() {
            outcome = catch(|| file.commit(&mut jobs));
            // One failing job must not cost the others. (A locked file would be waited for once per job.)
            if outcome.as_ref().is_err_and(|error| *error != OutboxError::Locked) && jobs.len() > 1 {
                for mut job in jobs {
                    let outcome = catch(|| file.commit(std::slice::from_mut(&mut job)));
                    job.end(logged(outcome));
                }
                continue;
            }
        }
        let outcome = logged(outcome);
        jobs.into_iter().for_each(|job| job.end(outcome.clone()));
    }
}

fn catch(work: impl FnOnce() -> Result<(), OutboxError>) -> Result<(), OutboxError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(OutboxError::Stopped))
}

fn logged(outcome: Result<(), OutboxError>) -> Result<(), OutboxError> {
    outcome.inspect_err(|error| ignore_panic(|| error!("writing to the outbox failed: {}", chain(error))))
}

/// Identifies the database and its log among other files at the same path; `None` if there is none, or it is empty.
#[cfg(unix)]
type Identity = Option<[(u64, u64); 2]>;

#[cfg(not(unix))]
type Identity = Option<()>;

#[cfg(unix)]
fn identity(path: &Path) -> Identity {
    use std::os::unix::fs::MetadataExt as _;
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let database = path.metadata().ok().filter(|database| database.len() > 0)?;
    let log = Path::new(&log).metadata().ok()?;
    Some([&database, &log].map(|file| (file.dev(), file.ino())))
}

#[cfg(not(unix))]
fn identity(path: &Path) -> Identity {
    path.metadata().ok().map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use futures_util::future::join_all;

    use super::*;

    /// A writer that is busy until the sender is dropped: jobs submitted meanwhile wait together.
    fn busy_writer(folder: &Path) -> (Writer, Sender<()>) {
        let writer = Writer::start(folder.join("outbox.db"), None).unwrap();
        let (sender, receiver) = channel();
        writer
            .submit(move |_| {
                let _ = receiver.recv();
                Ok(())
            })
            .detach();
        (writer, sender)
    }

    fn register(owner: i64) -> impl FnMut(&Connection) -> rusqlite::Result<()> + Send {
        move |connection| {
            connection
                .execute("INSERT INTO owners VALUES (?1, 0)", [owner])
                .map(drop)
        }
    }

    #[actix_rt::test]
    async fn jobs_that_wait_together_share_a_transaction() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, busy) = busy_writer(folder.path());
        let log = folder.path().join("outbox.db-wal");
        let size = || fs::metadata(&log).unwrap().len();
        let before = size();
        let all = join_all((0..200).map(|owner| writer.submit(register(owner)).committed()));
        drop(busy);
        assert!(all.await.iter().all(Result::is_ok));
        // A transaction writes each changed page once; a page has at least 4 KiB.
        let written = size().saturating_sub(before);
        assert!(written < 10 * 4096, "{written}");
    }

    #[actix_rt::test]
    async fn a_file_that_reappears_is_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let (here, away) = (folder.path().join("here"), folder.path().join("away"));
        fs::create_dir(&here).unwrap();
        let writer = Writer::start(here.join("outbox.db"), None).unwrap();
        assert_eq!(writer.submit(register(1)).committed().await, Ok(()));
        fs::rename(&here, &away).unwrap();
        assert_eq!(writer.submit(register(2)).committed().await, Err(OutboxError::NotFound));
        fs::rename(&away, &here).unwrap();
        assert_eq!(writer.submit(register(3)).committed().await, Ok(()));
        let count =
            writer.submit(|connection| connection.query_row("SELECT count(*) FROM owners", (), |row| row.get(0)));
        assert_eq!(count.committed().await, Ok(2));
    }

    #[actix_rt::test]
    async fn a_job_that_fails_or_panics_does_not_affect_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, busy) = busy_writer(folder.path());
        let before = writer.submit(register(1));
        let fails = writer.submit(|connection| connection.execute("INSERT INTO nowhere VALUES (1)", ()));
        let panics = writer.submit(|_| -> rusqlite::Result<()> { panic!("on purpose") });
        let after = writer.submit(register(2));
        drop(busy);
        assert_eq!((before.committed().await, after.committed().await), (Ok(()), Ok(())));
        assert!(matches!(fails.committed().await, Err(OutboxError::Other(_))));
        assert_eq!(panics.committed().await, Err(OutboxError::Stopped));
        let count =
            writer.submit(|connection| connection.query_row("SELECT count(*) FROM owners", (), |row| row.get(0)));
        assert_eq!(count.committed().await, Ok(2));
    }
}
