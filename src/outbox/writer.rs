//! The thread that owns the file: what waits when it comes round shares one transaction, and one flush to the disk.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use log::error;
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::oneshot;

use super::{Fault, OutboxError, file};
use crate::panics::quietly;

/// How many jobs share a transaction at the most.
const BATCH: usize = 1024;

/// Gives work to the thread, which ends when the last of its writers is dropped.
#[derive(Debug, Clone)]
pub(super) struct Writer(Sender<Box<dyn Job>>);

/// Work in a transaction, and what is to be said when that has ended.
trait Job: Send {
    /// May be called again, after its first transaction was undone.
    fn work(&mut self, connection: &Connection) -> rusqlite::Result<()>;
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
        // Nobody may be there any more to hear it.
        let _ = reply.send(outcome.and_then(|()| output.ok_or(OutboxError::Stopped)));
    }
}

impl Writer {
    /// Opens the file, and starts its thread.
    pub(super) fn start(path: PathBuf, max_bytes: Option<u64>) -> Result<Self, Fault> {
        let file = OpenFile::open(path, max_bytes)?;
        let (jobs, queue) = channel();
        thread::Builder::new()
            .name("outbox".into())
            .spawn(move || serve(file, &queue))?;
        Ok(Self(jobs))
    }

    /// Does `work` in a transaction. Once this returns, it is on the disk.
    ///
    /// It is done whether or not this is waited for.
    pub(super) fn run<T, W>(&self, work: W) -> impl Future<Output = Result<T, OutboxError>> + use<T, W>
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
        // If the thread is gone, so is the reply.
        let _ = self.0.send(Box::new(task));
        async { outcome.await.unwrap_or(Err(OutboxError::Stopped)) }
    }
}

struct OpenFile {
    path: PathBuf,
    max_bytes: Option<u64>,
    connection: Connection,
    identity: Identity,
}

impl OpenFile {
    fn open(path: PathBuf, max_bytes: Option<u64>) -> Result<Self, Fault> {
        let connection = file::open(&path, max_bytes)?;
        Ok(Self {
            identity: identity(&path),
            connection,
            path,
            max_bytes,
        })
    }

    /// Whether what is committed here is to be found at the path: it may have been deleted, or replaced.
    fn is_in_place(&self) -> bool {
        self.identity.is_some() && identity(&self.path) == self.identity
    }

    /// Opens the one at the path, if this is no longer there.
    fn put_in_place(&mut self) -> Result<(), Fault> {
        if !self.is_in_place() {
            quietly(|| error!("the outbox is no longer at {:?}: what was in it is gone", self.path));
            // First without the old one, which saves what it can, and whose locks a second one would share. If there is
            // none to be had, this is tried again each time, even with what was there before.
            self.identity = None;
            self.connection = Connection::open_in_memory()?;
            *self = Self::open(self.path.clone(), self.max_bytes)?;
        }
        Ok(())
    }

    /// All of these in one transaction, or none.
    fn commit(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<(), Fault> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        for job in jobs {
            job.work(&transaction)?;
        }
        Ok(transaction.commit()?)
    }
}

fn serve(mut file: OpenFile, queue: &Receiver<Box<dyn Job>>) {
    while let Ok(first) = queue.recv() {
        let mut jobs: Vec<_> = std::iter::once(first).chain(queue.try_iter()).take(BATCH).collect();
        let mut outcome = caught(|| file.put_in_place());
        if outcome.is_ok() {
            outcome = caught(|| file.commit(&mut jobs));
            // One that can't be done must not cost the others. (A lock would be waited for again and again.)
            if outcome.as_ref().is_err_and(|error| *error != OutboxError::Locked) && jobs.len() > 1 {
                for mut job in jobs {
                    let outcome = caught(|| file.commit(std::slice::from_mut(&mut job)));
                    job.end(noted(outcome));
                }
                continue;
            }
        }
        let outcome = noted(outcome);
        jobs.into_iter().for_each(|job| job.end(outcome.clone()));
    }
}

fn caught(work: impl FnOnce() -> Result<(), Fault>) -> Result<(), OutboxError> {
    let done = catch_unwind(AssertUnwindSafe(work));
    done.map_or(Err(OutboxError::Stopped), |outcome| Ok(outcome?))
}

fn noted(outcome: Result<(), OutboxError>) -> Result<(), OutboxError> {
    outcome.inspect_err(|error| quietly(|| error!("the outbox can't be written: {error}")))
}

/// What tells the database and its log from others at the same path; `None` if there is none, or it is empty.
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

    /// A writer that is busy until the sender is dropped: what it is given meanwhile waits together.
    fn busy_writer(folder: &Path) -> (Writer, Sender<()>) {
        let writer = Writer::start(folder.join("outbox.db"), None).unwrap();
        let (sender, receiver) = channel();
        drop(writer.run(move |_| {
            let _ = receiver.recv();
            Ok(())
        }));
        (writer, sender)
    }

    fn introduce(owner: i64) -> impl FnMut(&Connection) -> rusqlite::Result<()> + Send {
        move |connection| {
            connection
                .execute("INSERT INTO owners VALUES (?1, 0)", [owner])
                .map(drop)
        }
    }

    #[actix_rt::test]
    async fn what_waits_together_shares_a_transaction() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, busy) = busy_writer(folder.path());
        let log = folder.path().join("outbox.db-wal");
        let size = || fs::metadata(&log).unwrap().len();
        let before = size();
        let all = join_all((0..200).map(|owner| writer.run(introduce(owner))));
        drop(busy);
        assert!(all.await.iter().all(Result::is_ok));
        // A transaction writes each page that it has changed once, and 4 KiB is the least.
        let written = size().saturating_sub(before);
        assert!(written < 10 * 4096, "{written}");
    }

    #[actix_rt::test]
    async fn a_file_that_comes_back_is_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let (here, away) = (folder.path().join("here"), folder.path().join("away"));
        fs::create_dir(&here).unwrap();
        let writer = Writer::start(here.join("outbox.db"), None).unwrap();
        assert_eq!(writer.run(introduce(1)).await, Ok(()));
        fs::rename(&here, &away).unwrap();
        assert_eq!(writer.run(introduce(2)).await, Err(OutboxError::NotFound));
        fs::rename(&away, &here).unwrap();
        assert_eq!(writer.run(introduce(3)).await, Ok(()));
        let count = writer.run(|connection| connection.query_row("SELECT count(*) FROM owners", (), |row| row.get(0)));
        assert_eq!(count.await, Ok(2));
    }

    #[actix_rt::test]
    async fn one_that_fails_or_panics_costs_the_others_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, busy) = busy_writer(folder.path());
        let before = writer.run(introduce(1));
        let fails = writer.run(|connection| connection.execute("INSERT INTO nowhere VALUES (1)", ()));
        let panics = writer.run(|_| -> rusqlite::Result<()> { panic!("on purpose") });
        let after = writer.run(introduce(2));
        drop(busy);
        assert_eq!((before.await, after.await), (Ok(()), Ok(())));
        assert!(matches!(fails.await, Err(OutboxError::Other(_))));
        assert_eq!(panics.await, Err(OutboxError::Stopped));
        let count = writer.run(|connection| connection.query_row("SELECT count(*) FROM owners", (), |row| row.get(0)));
        assert_eq!(count.await, Ok(2));
    }
}
