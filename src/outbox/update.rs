//! The changes of a call in the file.

use std::rc::Rc;

use actix_rt::{spawn, task::JoinHandle};
use rusqlite::Connection;

use super::{
    process::Inner,
    store::{self, FailureRecord, StoredCall},
};
use crate::error::OutboxError;

/// A change of a call in the file.
#[derive(Debug, Clone)]
pub(super) enum Update {
    Delete(StoredCall),
    /// Releases the call, due at this time at the earliest.
    Release(StoredCall, i64),
    /// Parks the call until this time.
    Park(StoredCall, FailureRecord, i64),
    DeadLetter(StoredCall, FailureRecord),
}

impl Update {
    /// Returns whether the call exists, or existed.
    pub(super) fn apply(&self, connection: &Connection, owner: i64) -> rusqlite::Result<bool> {
        let changed = match self {
            Self::Delete(call) => store::delete(connection, call)?,
            Self::Release(call, due_at) => store::release(connection, call, owner, *due_at)?,
            // If this process was taken for dead, the call belongs to another one now.
            Self::Park(call, failure, due_at) => match store::park(connection, call, owner, *due_at, failure)? {
                0 => usize::from(store::owner(connection, call)?.is_some()),
                parked => parked,
            },
            Self::DeadLetter(call, failure) => store::dead_letter(connection, call, failure)?,
        };
        Ok(changed > 0)
    }
}

impl Inner {
    pub(super) fn retry_failed_updates(self: &Rc<Self>) {
        for update in self.failed_updates.take() {
            self.update(update);
        }
    }

    /// Submits an update, which need not be awaited: a failed one is retried. The task returns whether the call exists, as
    /// far as that is known.
    pub(super) fn update(self: &Rc<Self>, update: Update) -> JoinHandle<bool> {
        let (inner, owner, retry) = (Rc::clone(self), self.owner, update.clone());
        let submitted = self.writer.submit(move |connection| update.apply(connection, owner));
        spawn(async move {
            let applied = submitted.committed().await;
            if !matches!(retry, Update::Delete(_)) || inner.has_blocked_lane.get() {
                inner.wake_replay.notify_one();
            }
            applied.unwrap_or_else(|error| {
                inner.failed_updates.borrow_mut().push(retry);
                // The file was removed or replaced.
                !matches!(
                    error,
                    OutboxError::NotFound
                        | OutboxError::NotAnOutbox
                        | OutboxError::UnsupportedVersion
                        | OutboxError::Corrupt(_)
                )
            })
        })
    }
}
