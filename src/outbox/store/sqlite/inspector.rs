//! The store as an operator's tool sees it: its methods wait.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::sync_channel,
};

use rusqlite::Connection;

use super::super::WallTime;
use super::{
    error::{io_error, sqlite_error},
    file::{self, Database},
    handle::Handle,
    inspect::{self, Count, List},
    jobs::JobReply,
    owners::{Owner, Owners},
    repair,
    session::Session,
    transfer,
};
use crate::{
    call_id::CallId,
    clock::Clock,
    error::OutboxError,
    outbox::{
        entry::{EntryQuery, OutboxEntry, OutboxStats},
        record::{CallRecord, Imported},
    },
};

/// The calls of all queues in the outbox at a path. Shares the connection of this process on that file.
///
/// Its methods wait for the disk, and up to 2 s for other processes: they are not for an arbiter.
#[derive(Debug)]
pub(in crate::outbox) struct Inspector {
    handle: Handle,
}

/// Opens the outbox at `path`.
///
/// # Errors
///
/// [`OutboxError::NotFound`] if there is no such file; all else that is wrong with the file, which then is not changed.
pub(in crate::outbox) fn open_inspector(path: &Path) -> Result<Inspector, OutboxError> {
    let handle = Handle::join(&existing(path)?);
    let inspector = Inspector { handle };
    inspector.read(|_, _| Ok(Some(())))?;
    Ok(inspector)
}

/// Checks the whole file, over a connection of its own: this may take long.
pub(in crate::outbox) fn quick_check(path: &Path) -> Result<(), OutboxError> {
    let database = Database::open(&existing(path)?)?;
    let check = "PRAGMA quick_check(1)";
    let health: String = database
        .connection
        .query_row(check, (), |row| row.get(0))
        .map_err(sqlite_error)?;
    if health == "ok" {
        Ok(())
    } else {
        Err(OutboxError::Corrupt(health.into()))
    }
}

/// The resolved path of a file that exists and is not empty: an empty file would become an outbox.
fn existing(path: &Path) -> Result<PathBuf, OutboxError> {
    let path = file::resolve(path)?;
    match path.metadata().map_err(io_error)?.len() {
        0 => Err(OutboxError::NotAnOutbox),
        _ => Ok(path),
    }
}

impl Inspector {
    pub(in crate::outbox) fn list(&self, query: EntryQuery) -> Result<Vec<OutboxEntry>, OutboxError> {
        let mut list = List::new(query, None);
        self.read(move |connection, owners| list.step(connection, &owners.folder))
    }

    pub(in crate::outbox) fn get(&self, id: CallId) -> Result<Option<OutboxEntry>, OutboxError> {
        self.read(move |connection, owners| inspect::get(connection, &owners.folder, id).map(Some))
    }

    pub(in crate::outbox) fn export(&self, ids: Vec<CallId>) -> Result<Vec<CallRecord>, OutboxError> {
        self.read(move |connection, _| transfer::export(connection, &ids).map(Some))
    }

    pub(in crate::outbox) fn import(&self, records: Vec<CallRecord>, now: WallTime) -> Result<Imported, OutboxError> {
        let imported = self.write(move |session| transfer::import(session, &records, now));
        self.handle.wake_others();
        imported
    }

    /// Requeues parked calls and dead letters in one transaction, and returns how many of the calls were one.
    pub(in crate::outbox) fn requeue_each(&self, ids: Vec<CallId>, now: WallTime) -> Result<usize, OutboxError> {
        let found = self.write(move |session| count(&ids, |id| repair::requeue(session, None, id, now)));
        self.handle.wake_others();
        found
    }

    /// As [`requeue_each`](Self::requeue_each), but discards them.
    pub(in crate::outbox) fn discard_each(&self, ids: Vec<CallId>) -> Result<usize, OutboxError> {
        let found = self.write(move |session| count(&ids, |id| repair::discard(session, None, id)));
        self.handle.wake_others();
        found
    }

    pub(in crate::outbox) fn stats(&self) -> Result<OutboxStats, OutboxError> {
        let mut count = Count::new(None);
        self.read(move |connection, _| count.step(connection, Clock::system().now()))
    }

    fn read<T, R>(&self, mut work: R) -> Result<T, OutboxError>
    where
        T: Send + 'static,
        R: FnMut(&Connection, &Owners) -> rusqlite::Result<Option<T>> + Send + 'static,
    {
        wait(|reply| {
            let work = move |connection: &mut Connection, owners: &mut Owners, _| {
                work(connection, owners).map_err(sqlite_error)
            };
            self.handle.read(work, reply);
        })
    }

    fn write<T, W>(&self, mut work: W) -> Result<T, OutboxError>
    where
        T: Send + 'static,
        W: FnMut(&Session<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        wait(|reply| {
            let work = move |session: &Session<'_>, _: &mut Owner| work(session).map_err(sqlite_error);
            self.handle.write(true, None, work, reply);
        })
    }
}

impl Drop for Inspector {
    /// Waits until the file is closed: the process may be about to exit.
    fn drop(&mut self) {
        let _ = wait(|reply| self.handle.leave(Some(reply)));
    }
}

/// For how many of the calls `work` says yes.
fn count(ids: &[CallId], mut work: impl FnMut(CallId) -> rusqlite::Result<bool>) -> rusqlite::Result<usize> {
    let mut found: usize = 0;
    for id in ids {
        found = found.saturating_add(usize::from(work(*id)?));
    }
    Ok(found)
}

fn wait<T: Send + 'static>(submit: impl FnOnce(JobReply<T>)) -> Result<T, OutboxError> {
    let (sender, answer) = sync_channel(1);
    submit(Box::new(move |result| drop(sender.send(result))));
    answer.recv().unwrap_or(Err(OutboxError::Stopped))
}
