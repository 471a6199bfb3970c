//! The store in an SQLite database, which the processes of one host share.
//!
//! - [`file`](mod@file) opens the database, [`schema`] says what is in it, [`open_file`] notices when it is replaced.
//! - [`thread`] does the [`jobs`] of all [`handle`]s of this process on a file.
//! - [`owners`] are alive while they hold the lock on an [`owner_file`]; [`watch`] frees the lanes of dead ones.
//! - [`insert`], [`claim`] (of what is [`due`]), [`settle`], [`inspect`] and [`repair`] are the operations, on [`lanes`]
//!   and [`rows`]; an [`inspector`] does the last two for an operator.

#[cfg(not(unix))]
compile_error!("the feature `outbox` needs a Unix host");

mod claim;
mod due;
mod error;
mod file;
mod handle;
mod insert;
mod inspect;
mod inspector;
mod jobs;
mod lanes;
mod open_file;
mod owner_file;
mod owners;
mod repair;
mod rows;
mod schema;
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
    time::Duration,
};

use actix_rt::spawn;
use rusqlite::Connection;
use tokio::sync::{Notify, mpsc::unbounded_channel, oneshot};

pub(in crate::outbox) use self::inspector::{Inspector, open_inspector, quick_check};
use self::{
    error::sqlite_error,
    file::{Database, START_TIMEOUT},
    handle::Handle,
    inspect::{Count, List, PAGE},
    jobs::{Ended, Home},
    owners::{Member, Owner, Owners},
    rows::milliseconds,
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
    handle: Rc<Handle>,
    home: Home,
    tick: Arc<Tick>,
    queue: Arc<str>,
    max_bytes: u64,
}

impl SqliteStore {
    /// A new owner. `path` is a path that [`prepare`] has returned. Does not wait for the file: while it can't be opened,
    /// each operation returns the reason.
    pub(in crate::outbox) fn open(path: &Path, queue: String, max_bytes: u64) -> Rc<Self> {
        Self::with_handle(Handle::join(path), queue, max_bytes)
    }

    fn with_handle(handle: Handle, queue: String, max_bytes: u64) -> Rc<Self> {
        let (home, mut answers) = unbounded_channel::<Vec<Ended>>();
        spawn(async move {
            while let Some(ended) = answers.recv().await {
                ended.into_iter().for_each(Ended::answer);
            }
        });
        let tick = Arc::<Tick>::default();
        handle.tick(Arc::clone(&tick));
        Rc::new(Self {
            handle: Rc::new(handle),
            home,
            tick,
            queue: queue.into(),
            max_bytes,
        })
    }

    /// Wakes this owner when others of its process have made calls due.
    pub(in crate::outbox) fn wake(&self) -> Arc<Notify> {
        self.handle.wake()
    }

    /// A change after which others may find calls that are due.
    fn write_for_others<T, W>(&self, work: W) -> StoreFuture<T>
    where
        T: Send + 'static,
        W: FnMut(&Connection, &mut Owner, &str) -> Result<T, OutboxError> + Send + 'static,
    {
        let (handle, write) = (Rc::clone(&self.handle), self.write(work));
        Box::pin(async move {
            let answer = write.await;
            handle.wake_others();
            answer
        })
    }

    /// A change: it is submitted when the future is polled, and made even if the future is dropped after that.
    fn write<T, W>(&self, work: W) -> StoreFuture<T>
    where
        T: Send + 'static,
        W: FnMut(&Connection, &mut Owner, &str) -> Result<T, OutboxError> + Send + 'static,
    {
        let (handle, queue, mut work) = (Rc::clone(&self.handle), Arc::clone(&self.queue), work);
        let home = self.home.clone();
        Box::pin(async move {
            let (sender, answer) = oneshot::channel();
            let reply = Box::new(|result| drop(sender.send(result)));
            handle.write(
                Some(&home),
                move |connection, owner| work(connection, owner, &queue),
                reply,
            );
            answer.await.unwrap_or(Err(OutboxError::Stopped))
        })
    }

    fn read<T, R>(&self, work: R) -> StoreFuture<T>
    where
        T: Send + 'static,
        R: FnMut(&mut Connection, &mut Owners, Member) -> Result<Option<T>, OutboxError> + Send + 'static,
    {
        let handle = Rc::clone(&self.handle);
        Box::pin(async move {
            let (sender, answer) = oneshot::channel();
            handle.read(work, Box::new(|result| drop(sender.send(result))));
            answer.await.unwrap_or(Err(OutboxError::Stopped))
        })
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
        let die = self.read(|_, owners, member| {
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
        self.write(move |connection, owner, queue| insert::insert(connection, owner, queue, max_bytes, &message))
    }

    fn claim(&self, request: ClaimRequest) -> StoreFuture<Claimed> {
        self.write(move |connection, owner, queue| claim::claim(connection, owner, queue, &request))
    }

    fn is_current(&self, lane: LaneClaim, ids: Vec<CallId>) -> StoreFuture<bool> {
        self.read(move |connection, owners, member| {
            let owner = owners.member(member).id;
            settle::is_current(connection, owner, &lane, &ids)
                .map(Some)
                .map_err(sqlite_error)
        })
    }

    fn note_sending(&self, lane: LaneClaim, ids: Vec<CallId>) -> StoreFuture<()> {
        self.write(move |connection, owner, _| {
            settle::note_sending(connection, owner.id, &lane, &ids).map_err(sqlite_error)
        })
    }

    fn has_calls(&self, lane: String, ended: HashSet<CallId>) -> StoreFuture<bool> {
        let queue = Arc::clone(&self.queue);
        self.read(move |connection, _, _| {
            lanes::has_calls(connection, &queue, &lane, &ended)
                .map(Some)
                .map_err(sqlite_error)
        })
    }

    fn set_worker(&self, ids: Vec<CallId>, former: Option<String>, worker_id: String) -> StoreFuture<()> {
        self.write(move |connection, _, _| {
            settle::set_worker(connection, &ids, former.as_deref(), &worker_id).map_err(sqlite_error)
        })
    }

    fn settle(&self, settlements: Arc<[Settlement]>) -> StoreFuture<Vec<Settled>> {
        self.write(move |connection, owner, queue| {
            let settle = |settlement| settle::settle(connection, owner, queue, settlement).map_err(sqlite_error);
            settlements.iter().map(settle).collect()
        })
    }

    fn release_all(&self, now: WallTime) -> StoreFuture<()> {
        self.write_for_others(move |connection, owner, _| {
            settle::release_all(connection, owner.id, now).map_err(sqlite_error)
        })
    }

    fn tick(&self) -> Option<Arc<Tick>> {
        Some(Arc::clone(&self.tick))
    }

    fn watch(&self, now: WallTime, delay: Duration) -> StoreFuture<Watched> {
        self.read(move |connection, owners, member| {
            let now = (now, Clock::system().instant());
            owners.watch(connection, member, now, delay).map(Some)
        })
    }

    fn purge(&self, platform_now: WallTime, keep: Duration) -> StoreFuture<()> {
        let until = platform_now.saturating_sub(milliseconds(keep));
        let purge = move |connection: &Connection, _: &mut Owner, queue: &str| {
            settle::purge(connection, queue, platform_now, until, PAGE).map_err(sqlite_error)
        };
        let store = Self {
            handle: Rc::clone(&self.handle),
            home: self.home.clone(),
            tick: Arc::clone(&self.tick),
            queue: Arc::clone(&self.queue),
            max_bytes: self.max_bytes,
        };
        Box::pin(async move {
            while store.write(purge).await? == PAGE as usize {}
            Ok(())
        })
    }

    fn list(&self, query: EntryQuery) -> StoreFuture<Vec<OutboxEntry>> {
        let mut list = List::new(query, Some(self.queue.to_string()));
        self.read(move |connection, owners, _| list.step(connection, &owners.folder).map_err(sqlite_error))
    }

    fn of_target(&self, lane: String, target_id: String) -> StoreFuture<Vec<OutboxEntry>> {
        let (queue, isolated) = (Arc::clone(&self.queue), isolated_lanes(&lane));
        self.read(move |connection, owners, _| {
            target::of_target(connection, &owners.folder, (&queue, &lane, &target_id), &isolated)
                .map(Some)
                .map_err(sqlite_error)
        })
    }

    fn requeue(&self, id: CallId, now: WallTime) -> StoreFuture<bool> {
        self.write_for_others(move |connection, _, queue| {
            repair::requeue(connection, Some(queue), id, now).map_err(sqlite_error)
        })
    }

    fn withdraw(&self, ids: Vec<CallId>) -> StoreFuture<bool> {
        self.write(move |connection, _, queue| repair::withdraw(connection, queue, &ids).map_err(sqlite_error))
    }

    fn discard(&self, id: CallId) -> StoreFuture<bool> {
        self.write_for_others(move |connection, _, queue| {
            repair::discard(connection, Some(queue), id).map_err(sqlite_error)
        })
    }

    fn replacements(&self) -> u64 {
        self.handle.replacements()
    }

    fn stats(&self) -> StoreFuture<OutboxStats> {
        let mut count = Count::new(Some(self.queue.to_string()));
        self.read(move |connection, _, _| count.step(connection, Clock::system().now()).map_err(sqlite_error))
    }

    fn close(&self) -> StoreFuture<()> {
        let handle = Rc::clone(&self.handle);
        Box::pin(async move {
            let (sender, answer) = oneshot::channel();
            handle.leave(Some(Box::new(|result| drop(sender.send(result)))));
            answer.await.unwrap_or(Err(OutboxError::Stopped))
        })
    }
}
