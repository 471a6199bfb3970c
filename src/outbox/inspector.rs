//! Inspecting and repairing an outbox from outside of a poster.

use std::{fmt, path::Path};

use rusqlite::Connection;

use super::{
    EntryQuery, OutboxEntry,
    error::{io_error, sqlite_error},
    file,
    options::EXPIRES_AFTER,
    store::{self, milliseconds, milliseconds_of},
};
use crate::{call_id::CallId, clock::Clock, error::OutboxError};

/// An outbox, inspected from outside of a poster: for an operator's tool. Other processes may use the outbox at the same
/// time; calls that are being sent are neither shown nor changed.
///
/// The methods wait for the disk, and up to 5 s for other processes: do not call them on an actix arbiter, where the
/// messages [`ListEntries`](super::ListEntries), [`Requeue`](super::Requeue) and [`Discard`](super::Discard) do the same.
///
/// ```no_run
/// use result_poster::outbox::{EntryQuery, OutboxInspector};
///
/// let outbox = OutboxInspector::open("outbox.db")?;
/// for entry in outbox.list(EntryQuery::dead_letters())? {
///     println!("{}: {} of {}", entry.id, entry.kind, entry.target_id);
/// }
/// # Ok::<_, result_poster::OutboxError>(())
/// ```
pub struct OutboxInspector(Connection);

impl OutboxInspector {
    /// Opens the outbox at `path`.
    ///
    /// # Errors
    ///
    /// [`OutboxError::NotFound`] if there is no file; [`NotAnOutbox`](OutboxError::NotAnOutbox),
    /// [`UnsupportedVersion`](OutboxError::UnsupportedVersion) or [`Corrupt`](OutboxError::Corrupt), and then the file is
    /// not changed; any other error of the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OutboxError> {
        let path = path.as_ref();
        path.metadata().map_err(io_error)?;
        file::open(path, None).map(Self)
    }

    /// The calls that match the query, of all processes.
    ///
    /// # Errors
    ///
    /// [`OutboxError`] if the file can't be read.
    pub fn list(&self, query: EntryQuery) -> Result<Vec<OutboxEntry>, OutboxError> {
        store::list(&self.0, query).map_err(sqlite_error)
    }

    /// The parked call or dead letter with this id, if there is one.
    ///
    /// # Errors
    ///
    /// [`OutboxError`] if the file can't be read.
    pub fn get(&self, id: CallId) -> Result<Option<OutboxEntry>, OutboxError> {
        store::get(&self.0, id).map_err(sqlite_error)
    }

    /// Makes a parked call or a dead letter due now, with a fresh expiry of 7 days.
    ///
    /// # Errors
    ///
    /// [`OutboxError::NoSuchCall`] if no parked call or dead letter has this id; any other [`OutboxError`] if the file
    /// can't be written.
    pub fn requeue(&self, id: CallId) -> Result<(), OutboxError> {
        let now = milliseconds(Clock::system().now());
        let expires_at = now.saturating_add(milliseconds_of(EXPIRES_AFTER));
        self.change(|connection| store::requeue(connection, id, expires_at))
    }

    /// Deletes a parked call or a dead letter.
    ///
    /// # Errors
    ///
    /// As [`requeue`](Self::requeue).
    pub fn discard(&self, id: CallId) -> Result<(), OutboxError> {
        self.change(|connection| store::discard(connection, id))
    }

    /// Changes a call in a transaction. `change` returns whether the call was there.
    fn change(&self, change: impl FnOnce(&Connection) -> rusqlite::Result<bool>) -> Result<(), OutboxError> {
        let transaction = self.0.unchecked_transaction().map_err(sqlite_error)?;
        let changed = change(&transaction).map_err(sqlite_error)?;
        transaction.commit().map_err(sqlite_error)?;
        if changed { Ok(()) } else { Err(OutboxError::NoSuchCall) }
    }
}

impl fmt::Debug for OutboxInspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxInspector").finish_non_exhaustive()
    }
}
