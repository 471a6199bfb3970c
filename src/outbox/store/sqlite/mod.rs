//! The store in an SQLite database, which the processes of one host share.
//!
//! - [`file`](mod@file) opens the database, [`schema`] says what is in it, [`open_file`] notices when it is replaced, and
//!   [`restored`] when it is restored from a backup.
//! - [`thread`] does the [`jobs`] of all [`handle`]s of this process on a file, and [`tick`]s, as its [`inbox`] has them. An
//!   [`arbiter`] submits jobs. Those of one transaction share its [`session`].
//! - [`owners`] are alive while they hold the lock on an [`owner_file`]; [`watch`] frees the lanes of dead ones.
//! - [`insert`], [`claim`] (of what is [`due`]), [`settle`], [`inspect`] and [`repair`] are the operations, on [`lanes`]
//!   and [`rows`]; an [`inspector`] does the last two for an operator.

#[cfg(not(unix))]
compile_error!("the feature `outbox` needs a Unix host");

mod arbiter;
mod claim;
mod due;
mod error;
mod file;
mod file_state;
mod handle;
mod inbox;
mod insert;
mod inspect;
mod inspector;
mod jobs;
mod lanes;
mod open_file;
mod owner_file;
mod owners;
mod repair;
mod restored;
mod rows;
mod schema;
mod session;
mod settle;
mod target;
#[cfg(test)]
mod tests;
mod thread;
mod tick;
mod transfer;
mod watch;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, oneshot};

pub(in crate::outbox) use self::inspector::{Inspector, open_inspector, quick_check};
use self::{
    arbiter::Arbiter,
    error::sqlite_error,
    file::{Database, START_TIMEOUT},
    handle::Handle,
    inspect::{Count, List, PAGE},
    owners::Owner,
    rows::milliseconds,
    session::Session,
};
use super::{
    ClaimRequest, Claimed, Inserted, LaneClaim, NewMessage, Settled, Settlement, Store, StoreFuture, Tick, WallTime,
    Watched, lane_name::isolated_lanes,
};
use crate::{
    call_id::CallId,
    clock::Clock,
    error::OutboxError,
    outbox::entry::{EntryQuery, OutboxEntry, OutboxStats},
};

/// Checks that there is an outbox at `path`, creates it if there is none, and closes it. Returns the absolute path, with
/// links resolved.
///
/// # Errors
///
/// All that is wrong with the path or the file. A file that is not an outbox is not changed.
pub(in crate::outbox) fn prepare(path: &Path) -> Result<PathBuf, OutboxError> {
    let path = file::resolve(path)?;
    Database::open_within(&path, START_TIMEOUT)?;
    Ok(path)
}

/// An owner's handle on the store. Dropping it without [`close`](Store::close) counts as the death of the owner.
pub(in crate::outbox) struct SqliteStore {
    arbiter: Rc<Arbiter>,
    max_bytes: u64,
}

impl SqliteStore {
    /// A new owner. `path` is a path that [`prepare`] has returned. Does not wait for the file: while it can't be opened,
    /// each operation returns the reason.
    pub(in crate::outbox) fn open(path: &Path, queue: String, max_bytes: u64) -> Rc<Self> {
        Self::with_handle(Handle::join(path), queue, max_bytes)
    }

    fn with_handle(handle: Handle, queue: String, max_bytes: u64) -> Rc<Self> {
        Rc::new(Self {
            arbiter: Arbiter::new(handle, queue.into()),
            max_bytes,
        })
    }

    /// Wakes this owner when others of its process have made calls due.
    pub(in crate::outbox) fn wake(&self) -> Arc<Notify> {
        self.arbiter.handle.wake()
    }
}

#[cfg(test)]
impl SqliteStore {
    /// An owner with a thread and a connection of its own, as in another process.
    pub(super) fn open_apart(path: &Path, queue: String, max_bytes: u64) -> Rc<Self> {
        Self::with_handle(Handle::start_apart(path), queue, max_bytes)
    }

    /// Unlocks the owner's file, as the kernel does when a process is killed, and changes nothing else.
    pub(super) async fn die(&self) {
        let die = self.arbiter.read(|_, owners, member| {
            owners.members.remove(&member);
            Ok(Some(()))
        });
        die.await.unwrap();
        self.close().await.unwrap();
    }
}

impl Store for SqliteStore {
    fn insert(&self, message: NewMessage) -> StoreFuture<Inserted> {
        let max_bytes = self.max_bytes;
        self.arbiter
            .write(move |session, owner, queue| insert::insert(session, owner, queue, max_bytes, &message))
    }

    fn claim(&self, request: ClaimRequest) -> StoreFuture<Claimed> {
        self.arbiter
            .write(move |session, owner, queue| claim::claim(session, owner, queue, &request))
    }

    /// Its lock shows that it is alive.
    fn has_lease_since(&self, _: Instant) -> bool {
        true
    }

    fn is_current(&self, lane: LaneClaim, ids: Vec<CallId>) -> StoreFuture<bool> {
        self.arbiter.read(move |connection, owners, member| {
            let owner = owners.member(member).id;
            settle::is_current(&Session::new(connection), owner, &lane, &ids)
                .map(Some)
                .map_err(sqlite_error)
        })
    }

    fn note_sending(&self, lane: LaneClaim, ids: Vec<CallId>) -> StoreFuture<()> {
        self.arbiter
            .write(move |session, owner, _| settle::note_sending(session, owner.id, &lane, &ids).map_err(sqlite_error))
    }

    fn has_calls(&self, lane: String, ended: HashSet<CallId>) -> StoreFuture<bool> {
        let queue = Arc::clone(&self.arbiter.queue);
        self.arbiter.read(move |connection, _, _| {
            lanes::has_calls(&Session::new(connection), &queue, &lane, &ended)
                .map(Some)
                .map_err(sqlite_error)
        })
    }

    fn set_worker(&self, ids: Vec<CallId>, former: Option<String>, worker_id: String) -> StoreFuture<()> {
        self.arbiter.write(move |session, _, _| {
            settle::set_worker(session, &ids, former.as_deref(), &worker_id).map_err(sqlite_error)
        })
    }

    fn settle(&self, settlements: Arc<[Settlement]>) -> StoreFuture<Vec<Settled>> {
        let only_deletes = settlements.iter().all(Settlement::only_deletes);
        let settle = move |session: &Session<'_>, owner: &mut Owner, queue: &str| {
            let settle = |settlement| settle::settle(session, owner, queue, settlement).map_err(sqlite_error);
            settlements.iter().map(settle).collect()
        };
        if only_deletes {
            // Their callers have been answered.
            self.arbiter.write_later(settle)
        } else {
            self.arbiter.write(settle)
        }
    }

    fn release_all(&self, now: WallTime) -> StoreFuture<()> {
        self.arbiter.write_for_others(move |session, owner, _| {
            settle::release_all(session, owner.id, now).map_err(sqlite_error)
        })
    }

    fn tick(&self) -> Option<Arc<Tick>> {
        Some(Arc::clone(&self.arbiter.tick))
    }

    fn watch(&self, now: WallTime, delay: Duration) -> StoreFuture<Watched> {
        self.arbiter.read(move |connection, owners, member| {
            let now = (now, Clock::system().instant());
            owners.watch(connection, member, now, delay).map(Some)
        })
    }

    fn purge(&self, platform_now: WallTime, keep: Duration) -> StoreFuture<()> {
        let until = platform_now.saturating_sub(milliseconds(keep));
        let purge = move |session: &Session<'_>, _: &mut Owner, queue: &str| {
            settle::purge(session, queue, platform_now, until, PAGE).map_err(sqlite_error)
        };
        let arbiter = Rc::clone(&self.arbiter);
        Box::pin(async move {
            while arbiter.write(purge).await? == PAGE as usize {}
            Ok(())
        })
    }

    fn list(&self, query: EntryQuery) -> StoreFuture<Vec<OutboxEntry>> {
        let mut list = List::new(query, Some(self.arbiter.queue.to_string()));
        self.arbiter
            .read(move |connection, owners, _| list.step(connection, &owners.folder).map_err(sqlite_error))
    }

    fn of_target(&self, lane: String, target_id: String) -> StoreFuture<Vec<OutboxEntry>> {
        let (queue, isolated) = (Arc::clone(&self.arbiter.queue), isolated_lanes(&lane));
        self.arbiter.read(move |connection, owners, _| {
            target::of_target(connection, &owners.folder, (&queue, &lane, &target_id), &isolated)
                .map(Some)
                .map_err(sqlite_error)
        })
    }

    fn requeue(&self, id: CallId, now: WallTime) -> StoreFuture<bool> {
        self.arbiter.write_for_others(move |session, _, queue| {
            repair::requeue(session, Some(queue), id, now).map_err(sqlite_error)
        })
    }

    fn withdraw(&self, ids: Vec<CallId>) -> StoreFuture<bool> {
        self.arbiter
            .write(move |session, _, queue| repair::withdraw(session, queue, &ids).map_err(sqlite_error))
    }

    fn discard(&self, id: CallId) -> StoreFuture<bool> {
        self.arbiter
            .write_for_others(move |session, _, queue| repair::discard(session, Some(queue), id).map_err(sqlite_error))
    }

    fn replacements(&self) -> u64 {
        self.arbiter.handle.replacements()
    }

    fn stats(&self) -> StoreFuture<OutboxStats> {
        let mut count = Count::new(Some(self.arbiter.queue.to_string()));
        self.arbiter
            .read(move |connection, _, _| count.step(connection, Clock::system().now()).map_err(sqlite_error))
    }

    fn close(&self) -> StoreFuture<()> {
        let arbiter = Rc::clone(&self.arbiter);
        Box::pin(async move {
            let (sender, answer) = oneshot::channel();
            arbiter.handle.leave(Some(Box::new(|result| drop(sender.send(result)))));
            answer.await.unwrap_or(Err(OutboxError::Stopped))
        })
    }
}
