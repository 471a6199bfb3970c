//! A store as an operator's tool sees it, wherever the outbox is.

#[cfg(feature = "outbox-postgres")]
use super::postgres;
use super::{WallTime, sqlite};
use crate::{
    call_id::CallId,
    error::OutboxError,
    outbox::{
        entry::{EntryQuery, OutboxEntry, OutboxStats},
        location::Location,
        record::{CallRecord, Imported},
    },
};

/// The calls of all queues in an outbox. Its methods wait: they are not for an arbiter.
pub(in crate::outbox) enum Inspector {
    File(sqlite::Inspector),
    #[cfg(feature = "outbox-postgres")]
    Postgres(postgres::Inspector),
}

/// Opens the outbox at this location, which is not created.
pub(in crate::outbox) fn open_inspector(location: &Location) -> Result<Inspector, OutboxError> {
    match location {
        Location::File(path) => sqlite::open_inspector(path).map(Inspector::File),
        #[cfg(feature = "outbox-postgres")]
        Location::Postgres(server) => postgres::open_inspector(server).map(Inspector::Postgres),
    }
}

/// Checks the outbox at this location, without a change.
pub(in crate::outbox) fn check(location: &Location) -> Result<(), OutboxError> {
    match location {
        Location::File(path) => sqlite::quick_check(path),
        #[cfg(feature = "outbox-postgres")]
        Location::Postgres(_) => open_inspector(location).map(drop),
    }
}

/// Calls the method of the same name.
macro_rules! delegate {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        match $self {
            Self::File(inspector) => inspector.$method($($argument),*),
            #[cfg(feature = "outbox-postgres")]
            Self::Postgres(inspector) => inspector.$method($($argument),*),
        }
    };
}

impl Inspector {
    pub(in crate::outbox) fn list(&self, query: EntryQuery) -> Result<Vec<OutboxEntry>, OutboxError> {
        delegate!(self.list(query))
    }

    pub(in crate::outbox) fn get(&self, id: CallId) -> Result<Option<OutboxEntry>, OutboxError> {
        delegate!(self.get(id))
    }

    pub(in crate::outbox) fn export(&self, ids: Vec<CallId>) -> Result<Vec<CallRecord>, OutboxError> {
        delegate!(self.export(ids))
    }

    pub(in crate::outbox) fn import(&self, records: Vec<CallRecord>, now: WallTime) -> Result<Imported, OutboxError> {
        delegate!(self.import(records, now))
    }

    /// Requeues parked calls and dead letters in one transaction, and returns how many of the calls were one.
    pub(in crate::outbox) fn requeue_each(&self, ids: Vec<CallId>, now: WallTime) -> Result<usize, OutboxError> {
        delegate!(self.requeue_each(ids, now))
    }

    /// As [`requeue_each`](Self::requeue_each), but discards them.
    pub(in crate::outbox) fn discard_each(&self, ids: Vec<CallId>) -> Result<usize, OutboxError> {
        delegate!(self.discard_each(ids))
    }

    pub(in crate::outbox) fn stats(&self) -> Result<OutboxStats, OutboxError> {
        delegate!(self.stats())
    }
}
