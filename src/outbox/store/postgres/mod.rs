//! The store on a PostgreSQL server, which the posters of all hosts share.
//!
//! - [`connection`] makes a [`session`], whose transactions ask statements with [`params`] and read [`rows`]; [`tls`] and
//!   [`error`] belong to it. [`schema`] says what is in the tables.
//! - [`worker`] does the [`jobs`], by [`group`]s, of an [`owner`], which is alive until its [`lease`] ends; [`watch`] frees the lanes of
//!   dead ones.
//! - [`insert`] (by a [`plan`]), [`claim`] (of what is [`due`]), [`settle`] (with its [`changes`]), [`current`] and
//!   [`repair`] are the operations, on [`lanes`].

mod changes;
mod claim;
mod connection;
mod count;
mod current;
mod due;
mod error;
mod group;
mod handle;
mod insert;
mod inspect;
mod inspector;
mod jobs;
mod lanes;
mod lease;
mod owner;
mod params;
mod plan;
mod purge;
mod repair;
mod rows;
mod schema;
mod session;
mod settle;
mod tables;
mod target;
#[cfg(test)]
mod tests;
mod tls;
mod transfer;
mod watch;
mod worker;

use std::{
    cell::Cell,
    collections::HashSet,
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use actix_rt::spawn;
use tokio::sync::Notify;

pub(in crate::outbox) use self::inspector::{Inspector, open_inspector};
use self::{
    connection::connect, count::Count, handle::Handle, inspect::Listing, jobs::Work, lease::Lease, owner::Owner,
    rows::milliseconds, session::Transaction, tables::Tables, worker::Worker,
};
use super::{
    ClaimRequest, Claimed, Inserted, LaneClaim, NewMessage, Settled, Settlement, Store, StoreFuture, WallTime, Watched,
    lane_name::isolated_lanes,
};
use crate::{
    call_id::CallId,
    clock::Clock,
    error::{OutboxError, ParkReason},
    outbox::{
        entry::{EntryQuery, OutboxEntry, OutboxStats},
        location::PostgresServer,
    },
};

/// Checks that there is an outbox on the server, creates it if there is none, and disconnects. Blocks.
///
/// # Errors
///
/// All that is wrong with the server or the schema. A schema that is not an outbox is not changed.
pub(in crate::outbox) fn prepare(server: &PostgresServer) -> Result<(), OutboxError> {
    let server = server.clone();
    // On a thread of its own, since a runtime may be running on this one.
    let run = move || {
        let runtime = actix_rt::Runtime::new().map_err(|error| OutboxError::Other(error.into()))?;
        runtime.block_on(async { connect(&server).await.map(drop) })
    };
    let prepared = thread::Builder::new().name("outbox".into()).spawn(run);
    let prepared = prepared.map_err(|error| OutboxError::Other(error.into()))?;
    prepared.join().unwrap_or(Err(OutboxError::Stopped))
}

/// An owner's handle on the store. Dropping it without [`close`](Store::close) counts as the death of the owner.
pub(in crate::outbox) struct PostgresStore {
    handle: Handle,
    lease: Rc<Cell<Lease>>,
    replacements: Rc<Cell<u64>>,
    clock: Clock,
    wake: Arc<Notify>,
}

impl PostgresStore {
    /// A new owner. Does not wait for the server: while it can't be reached, each operation returns the reason.
    pub(in crate::outbox) fn open(server: PostgresServer, queue: String, max_bytes: u64) -> Rc<Self> {
        let lease = Rc::new(Cell::new(Lease::new(server.lease())));
        let owner = Owner::new(queue.into(), Rc::clone(&lease));
        let (handle, jobs) = Handle::new();
        let tables = Tables::default();
        let replacements = Rc::clone(&tables.replacements);
        spawn(Worker::new(server, owner, max_bytes, jobs, tables).run());
        Rc::new(Self {
            handle,
            lease,
            replacements,
            clock: Clock::system(),
            wake: Arc::default(),
        })
    }

    /// Wakes this owner when others of its process have made calls due: they do not.
    pub(in crate::outbox) fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }
}

#[cfg(test)]
impl PostgresStore {
    /// The id of the owner.
    pub(super) fn id(&self) -> StoreFuture<i64> {
        self.handle.run(async |_, owner| Ok(owner.id))
    }

    /// The calls were answered as not stored, without certainty.
    pub(super) fn doubt(&self, calls: Vec<CallId>) -> StoreFuture<()> {
        self.handle.run(async move |_, owner| {
            owner.doubts.calls.extend(&calls);
            Ok(())
        })
    }

    /// The answers to the settlements were lost.
    pub(super) fn doubt_settlements(&self, settlements: Vec<Settlement>) -> StoreFuture<()> {
        self.handle.run(async move |_, owner| {
            for settlement in &settlements {
                owner.doubts.add_settlement(settlement);
            }
            Ok(())
        })
    }
}

impl Store for PostgresStore {
    fn insert(&self, message: NewMessage) -> StoreFuture<Inserted> {
        self.handle.submit(move |reply| Work::Insert(message, reply))
    }

    fn claim(&self, request: ClaimRequest) -> StoreFuture<Claimed> {
        self.handle
            .run(async move |transaction, owner| claim::claim(transaction, owner, &request).await)
    }

    fn has_lease_since(&self, since: Instant) -> bool {
        self.lease.get().holds_since(since, self.clock.instant())
    }

    fn is_current(&self, lane: LaneClaim, ids: Vec<CallId>) -> StoreFuture<bool> {
        self.handle
            .run(async move |transaction, owner| current::is_current(transaction, owner, &lane, &ids).await)
    }

    fn note_sending(&self, lane: LaneClaim, ids: Vec<CallId>) -> StoreFuture<()> {
        self.handle
            .run(async move |transaction, owner| current::note_sending(transaction, owner.id, &lane, &ids).await)
    }

    fn has_calls(&self, lane: String, ended: HashSet<CallId>) -> StoreFuture<bool> {
        self.handle
            .run(async move |transaction, owner| lanes::has_calls(transaction, &owner.queue, &lane, &ended).await)
    }

    fn set_worker(&self, ids: Vec<CallId>, former: Option<String>, worker_id: String) -> StoreFuture<()> {
        self.handle.run(async move |transaction, owner| {
            // Without ids, it shows whether the store can be written.
            owner.enter(transaction).await?;
            current::set_worker(transaction, &ids, former.as_deref(), &worker_id).await
        })
    }

    fn settle(&self, settlements: Arc<[Settlement]>) -> StoreFuture<Vec<Settled>> {
        self.handle.submit(move |reply| Work::Settle(settlements, reply))
    }

    fn release_all(&self, _: WallTime) -> StoreFuture<()> {
        let reason = ParkReason::Shutdown.as_str();
        self.handle
            .run(async move |transaction, owner| current::release_all(transaction, owner.id, reason).await)
    }

    fn watch(&self, _: WallTime, delay: Duration) -> StoreFuture<Watched> {
        let delay = milliseconds(delay);
        self.handle
            .run(async move |transaction, owner| watch::watch(transaction, owner, delay).await)
    }

    fn purge(&self, platform_now: WallTime, keep: Duration) -> StoreFuture<()> {
        let handle = self.handle.clone();
        let until = platform_now.saturating_sub(milliseconds(keep));
        Box::pin(async move {
            let purge = async move |transaction: &Transaction<'_>, owner: &mut Owner| {
                purge::purge(transaction, &owner.queue, platform_now, until).await
            };
            while handle.run(purge).await? {}
            Ok(())
        })
    }

    fn list(&self, query: EntryQuery) -> StoreFuture<Vec<OutboxEntry>> {
        let handle = self.handle.clone();
        Box::pin(async move {
            let mut list = Listing::new(query);
            loop {
                let (query, after, limit) = (list.query.clone(), list.after, list.limit());
                let page = handle.run(async move |transaction, owner| {
                    inspect::list(transaction, &query, Some(&owner.queue), after, limit).await
                });
                if !list.add(page.await?) {
                    return Ok(list.into_entries());
                }
            }
        })
    }

    fn of_target(&self, lane: String, target_id: String) -> StoreFuture<Vec<OutboxEntry>> {
        let isolated = isolated_lanes(&lane);
        self.handle.run(async move |transaction, owner| {
            target::of_target(transaction, (&owner.queue, &lane, &target_id), &isolated).await
        })
    }

    fn requeue(&self, id: CallId, _: WallTime) -> StoreFuture<bool> {
        self.handle
            .run(async move |transaction, owner| repair::requeue(transaction, Some(&owner.queue), id).await)
    }

    fn withdraw(&self, ids: Vec<CallId>) -> StoreFuture<bool> {
        self.handle
            .run(async move |transaction, owner| repair::withdraw(transaction, &owner.queue, &ids).await)
    }

    fn discard(&self, id: CallId) -> StoreFuture<bool> {
        self.handle
            .run(async move |transaction, owner| repair::discard(transaction, Some(&owner.queue), id).await)
    }

    fn replacements(&self) -> u64 {
        self.replacements.get()
    }

    fn stats(&self) -> StoreFuture<OutboxStats> {
        let handle = self.handle.clone();
        Box::pin(async move {
            let mut count = Count::default();
            loop {
                let after = count.after;
                let page = handle
                    .run(async move |transaction, owner| count::count(transaction, Some(&owner.queue), after).await);
                if !count.add(page.await?) {
                    break;
                }
            }
            let rest = handle
                .run(async move |transaction, owner| count::count_the_rest(transaction, Some(&owner.queue)).await);
            Ok(count.into_stats(rest.await?))
        })
    }

    fn close(&self) -> StoreFuture<()> {
        self.handle.submit(Work::Close)
    }
}
