//! For who looks into the outbox: by messages to a poster, or at the file.

use std::path::Path;

use actix::Message;
use rusqlite::Connection;

use super::{DeliveryId, EXPIRES_AFTER, Fault, OutboxEntry, OutboxError, file, milliseconds, milliseconds_of, store};
use crate::clock::Clock;

/// An outbox, looked at from outside of a poster: for an operator's tool. Other processes may be using it meanwhile;
/// what a poster is sending at the moment is not shown, and can't be changed.
///
/// Its methods wait for the disk, and up to 5 s for other processes: do not call them on an actix arbiter, where the
/// messages [`ListParked`], [`ListDeadLetters`], [`Requeue`] and [`Discard`] do the same, but that a requeued call has
/// the time of [`OutboxOptions::expires_after`](super::OutboxOptions::expires_after).
#[derive(Debug)]
pub struct OutboxFile(Connection);

impl OutboxFile {
    /// Opens the outbox at `path`.
    ///
    /// # Errors
    ///
    /// [`OutboxError::NotFound`] if there is no such file; and all that is wrong with the file, which then is left as
    /// it is.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OutboxError> {
        let path = path.as_ref();
        path.metadata().map_err(Fault::from)?;
        Ok(Self(file::open(path, None)?))
    }

    /// Calls that are parked, whichever process they are from.
    ///
    /// # Errors
    ///
    /// If the file can't be read.
    pub fn parked(&self, page: Page) -> Result<Vec<OutboxEntry>, OutboxError> {
        Ok(store::list(&self.0, false, page).map_err(Fault::from)?)
    }

    /// Dead letters: calls that were refused by the platform, or have expired.
    ///
    /// # Errors
    ///
    /// If the file can't be read.
    pub fn dead_letters(&self, page: Page) -> Result<Vec<OutboxEntry>, OutboxError> {
        Ok(store::list(&self.0, true, page).map_err(Fault::from)?)
    }

    /// The call with this number, if it is parked or dead.
    ///
    /// # Errors
    ///
    /// If the file can't be read.
    pub fn get(&self, id: DeliveryId) -> Result<Option<OutboxEntry>, OutboxError> {
        Ok(store::get(&self.0, id.0).map_err(Fault::from)?)
    }

    /// Lets it be tried again, at once and for seven days. `false` if no call that is parked or dead has this number.
    ///
    /// # Errors
    ///
    /// If the file can't be written.
    pub fn requeue(&self, id: DeliveryId) -> Result<bool, OutboxError> {
        let now = milliseconds(Clock::host().now());
        let expires_at = now.saturating_add(milliseconds_of(EXPIRES_AFTER));
        let change = self.0.unchecked_transaction().map_err(Fault::from)?;
        let requeued = store::requeue(&change, id.0, expires_at).map_err(Fault::from)?;
        change.commit().map_err(Fault::from)?;
        Ok(requeued)
    }

    /// Deletes it for good. `false` if no call that is parked or dead has this number.
    ///
    /// # Errors
    ///
    /// If the file can't be written.
    pub fn discard(&self, id: DeliveryId) -> Result<bool, OutboxError> {
        let change = self.0.unchecked_transaction().map_err(Fault::from)?;
        let discarded = store::discard(&change, id.0).map_err(Fault::from)?;
        change.commit().map_err(Fault::from)?;
        Ok(discarded)
    }
}

/// A part of a list, by the calls' numbers.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Page {
    pub(super) after: i64,
    pub(super) limit: u32,
}

impl Page {
    /// The first calls, at most so many.
    pub fn first(limit: u32) -> Self {
        Self { after: 0, limit }
    }

    /// The next ones, after the last of the page before.
    pub fn after(self, id: DeliveryId) -> Self {
        Self { after: id.0, ..self }
    }
}

/// Asks a [`ResultPoster`](crate::ResultPoster) for calls that are parked in its outbox, whichever process they are
/// from.
///
/// # Errors
///
/// [`OutboxError`]: no outbox, or one that can't be read.
#[derive(Debug, Clone, Copy)]
pub struct ListParked(pub Page);

impl Message for ListParked {
    type Result = Result<Vec<OutboxEntry>, OutboxError>;
}

/// As [`ListParked`], for dead letters: calls that were refused by the platform, or have expired.
///
/// # Errors
///
/// As of that.
#[derive(Debug, Clone, Copy)]
pub struct ListDeadLetters(pub Page);

impl Message for ListDeadLetters {
    type Result = Result<Vec<OutboxEntry>, OutboxError>;
}

/// Lets a call that is parked or dead be tried again, at once, with all of its time before it. The reply is whether
/// there is such a call.
///
/// # Errors
///
/// [`OutboxError`]: no outbox, or one that can't be written.
#[derive(Debug, Clone, Copy)]
pub struct Requeue(pub DeliveryId);

impl Message for Requeue {
    type Result = Result<bool, OutboxError>;
}

/// Deletes a call that is parked or dead, for good. The reply is whether there is such a call.
///
/// # Errors
///
/// [`OutboxError`]: no outbox, or one that can't be written.
#[derive(Debug, Clone, Copy)]
pub struct Discard(pub DeliveryId);

impl Message for Discard {
    type Result = Result<bool, OutboxError>;
}
