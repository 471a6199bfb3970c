//! Inspecting and repairing an outbox from outside of a poster.

use std::{fmt, path::Path};

use super::{
    entry::{EntryQuery, OutboxEntry, OutboxStats},
    owner::wall_time,
    store::{Inspector, open_inspector},
};
use crate::{call_id::CallId, clock::Clock, error::OutboxError};

/// An outbox, inspected from outside of a poster: for an operator's tool. Other processes may use the outbox at the same
/// time; calls that they are sending are shown, and not changed.
///
/// The methods wait for the disk and for other processes: do not call them on an actix arbiter, where the messages
/// [`ListEntries`](super::ListEntries), [`Requeue`](super::Requeue), [`Discard`](super::Discard) and
/// [`GetOutboxStats`](super::GetOutboxStats) do the same.
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
pub struct OutboxInspector(Inspector);

impl OutboxInspector {
    /// Opens the outbox at `path`.
    ///
    /// # Errors
    ///
    /// [`OutboxError::NotFound`] if there is no file; [`NotAnOutbox`](OutboxError::NotAnOutbox),
    /// [`UnsupportedVersion`](OutboxError::UnsupportedVersion) or [`Corrupt`](OutboxError::Corrupt), and then the file is
    /// not changed; any other error of the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OutboxError> {
        open_inspector(path.as_ref()).map(Self)
    }

    /// The calls that match the query, of all processes and queues, 500 at most.
    ///
    /// # Errors
    ///
    /// [`OutboxError`] if the file can't be read.
    pub fn list(&self, query: EntryQuery) -> Result<Vec<OutboxEntry>, OutboxError> {
        self.0.list(query)
    }

    /// The call with this id, if there is one.
    ///
    /// # Errors
    ///
    /// [`OutboxError`] if the file can't be read.
    pub fn get(&self, id: CallId) -> Result<Option<OutboxEntry>, OutboxError> {
        self.0.get(id)
    }

    /// Puts a parked call or a dead letter at the end of its lane, due now, as if it had not been tried yet.
    ///
    /// # Errors
    ///
    /// [`OutboxError::NoSuchCall`] if no parked call or dead letter has this id; any other [`OutboxError`] if the file
    /// can't be written.
    pub fn requeue(&self, id: CallId) -> Result<(), OutboxError> {
        found(self.0.requeue(id, wall_time(&Clock::system()))?)
    }

    /// Deletes a parked call or a dead letter.
    ///
    /// # Errors
    ///
    /// As [`requeue`](Self::requeue).
    pub fn discard(&self, id: CallId) -> Result<(), OutboxError> {
        found(self.0.discard(id)?)
    }

    /// Checks the whole file for damage. Other processes can use the file meanwhile. This may take long.
    ///
    /// # Errors
    ///
    /// [`OutboxError::Corrupt`] if the file is damaged; any other [`OutboxError`] if it can't be read.
    pub fn check(&self) -> Result<(), OutboxError> {
        self.0.quick_check()
    }

    /// The content of the outbox in numbers, of all queues.
    ///
    /// # Errors
    ///
    /// [`OutboxError`] if the file can't be read.
    pub fn stats(&self) -> Result<OutboxStats, OutboxError> {
        self.0.stats()
    }
}

fn found(is_found: bool) -> Result<(), OutboxError> {
    if is_found { Ok(()) } else { Err(OutboxError::NoSuchCall) }
}

impl fmt::Debug for OutboxInspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxInspector").finish_non_exhaustive()
    }
}
