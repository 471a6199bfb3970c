//! Inspecting and repairing an outbox from outside of a poster.

use std::{fmt, path::Path};

use super::{
    entry::{EntryQuery, OutboxEntry, OutboxStats},
    options::OutboxOptions,
    owner::wall_time,
    record::{CallRecord, Imported},
    store::{Inspector, check, open_inspector},
};
use crate::{call_id::CallId, clock::Clock, error::OutboxError};

/// An outbox, inspected from outside of a poster: for an operator's tool. Other processes may use the outbox at the same
/// time; calls that they are sending are shown, and not changed.
///
/// The methods wait for the disk or the server, and for other processes: do not call them on an actix arbiter, where the messages
/// [`ListEntries`](super::ListEntries), [`Requeue`](super::Requeue), [`Discard`](super::Discard) and
/// [`GetOutboxStats`](super::GetOutboxStats) do the same.
///
/// Dropping it closes the file or the connection, unless a poster or another inspector of the process uses the file.
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
        Self::of(&OutboxOptions::new(path.as_ref()))
    }

    /// Opens the outbox of a poster with these options, in a file or on a server. The connection to a server is opened
    /// again when it is lost.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open). On a server: [`OutboxError::NotFound`] if it has no such schema;
    /// [`Unreachable`](OutboxError::Unreachable), [`Denied`](OutboxError::Denied) or [`TimedOut`](OutboxError::TimedOut).
    pub fn of(options: &OutboxOptions) -> Result<Self, OutboxError> {
        open_inspector(options.location()).map(Self)
    }

    /// Checks the outbox of a poster with these options, without a change: the whole file for damage, which may take
    /// long, or whether a server has the outbox and the role may use it. Other processes can use the outbox meanwhile.
    ///
    /// # Errors
    ///
    /// [`OutboxError::Corrupt`] if the file is damaged; the errors of [`of`](Self::of).
    pub fn check(options: &OutboxOptions) -> Result<(), OutboxError> {
        check(options.location())
    }

    /// The calls that match the query, of all processes and queues, 500 at most.
    ///
    /// # Errors
    ///
    /// [`OutboxError`] if the outbox can't be read.
    pub fn list(&self, query: EntryQuery) -> Result<Vec<OutboxEntry>, OutboxError> {
        self.0.list(query)
    }

    /// The call with this id, if there is one.
    ///
    /// # Errors
    ///
    /// [`OutboxError`] if the outbox can't be read.
    pub fn get(&self, id: CallId) -> Result<Option<OutboxEntry>, OutboxError> {
        self.0.get(id)
    }

    /// Puts a parked call or a dead letter at the end of its lane, due now, as if it had not been tried yet.
    ///
    /// # Errors
    ///
    /// [`OutboxError::NoSuchCall`] if no parked call or dead letter has this id; any other [`OutboxError`] if the
    /// outbox can't be written.
    pub fn requeue(&self, id: CallId) -> Result<(), OutboxError> {
        found(self.requeue_each(&[id])?)
    }

    /// Deletes a parked call or a dead letter.
    ///
    /// # Errors
    ///
    /// As [`requeue`](Self::requeue).
    pub fn discard(&self, id: CallId) -> Result<(), OutboxError> {
        found(self.discard_each(&[id])?)
    }

    /// [Requeues](Self::requeue) many calls, 100 in a transaction, so that other processes can commit in between. Returns
    /// how many of them were parked calls or dead letters; the others are left alone.
    ///
    /// # Errors
    ///
    /// [`OutboxError`] if the outbox can't be written. Earlier transactions stay.
    pub fn requeue_each(&self, ids: &[CallId]) -> Result<usize, OutboxError> {
        let now = wall_time(&Clock::system());
        in_batches(ids, |batch| self.0.requeue_each(batch, now))
    }

    /// [Discards](Self::discard) many calls, as [`requeue_each`](Self::requeue_each) requeues them.
    ///
    /// # Errors
    ///
    /// As [`requeue_each`](Self::requeue_each).
    pub fn discard_each(&self, ids: &[CallId]) -> Result<usize, OutboxError> {
        in_batches(ids, |batch| self.0.discard_each(batch))
    }

    /// The stored calls with these ids, for [`import`](Self::import) into another outbox. They stay here:
    /// [discard](Self::discard_each) them once they are there, or both outboxes deliver them. They are read at once: name a
    /// few at a time, since a body may have 512 KiB.
    ///
    /// # Errors
    ///
    /// [`OutboxError`] if the outbox can't be read.
    pub fn export(&self, ids: &[CallId]) -> Result<Vec<CallRecord>, OutboxError> {
        self.0.export(ids.to_vec())
    }

    /// Stores calls in one transaction, unless the outbox has them: see [`Imported`]. A dead letter stays one. Any other
    /// call is put at the end of its lane, due now, as if it had not been tried yet. `max_bytes` does not apply.
    ///
    /// # Errors
    ///
    /// [`OutboxError`] if the outbox can't be written. Then none is stored.
    pub fn import(&self, records: Vec<CallRecord>) -> Result<Imported, OutboxError> {
        self.0.import(records, wall_time(&Clock::system()))
    }

    /// The content of the outbox in numbers, of all queues.
    ///
    /// # Errors
    ///
    /// [`OutboxError`] if the outbox can't be read.
    pub fn stats(&self) -> Result<OutboxStats, OutboxError> {
        self.0.stats()
    }
}

/// How many calls a transaction changes: other processes wait for it.
const MAX_BATCH: usize = 100;

fn in_batches(ids: &[CallId], work: impl Fn(Vec<CallId>) -> Result<usize, OutboxError>) -> Result<usize, OutboxError> {
    let mut found: usize = 0;
    for batch in ids.chunks(MAX_BATCH) {
        found = found.saturating_add(work(batch.to_vec())?);
    }
    Ok(found)
}

fn found(calls: usize) -> Result<(), OutboxError> {
    if calls > 0 {
        Ok(())
    } else {
        Err(OutboxError::NoSuchCall)
    }
}

impl fmt::Debug for OutboxInspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxInspector").finish_non_exhaustive()
    }
}
