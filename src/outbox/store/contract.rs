//! The contract of a store: what an owner may ask of it, and what every implementation promises.
//!
//! - A lane has at most one owner, and only its owner sends its calls. So the calls of a target go out in order, whatever
//!   other processes do.
//! - A lane exists while it has calls. A free lane has only parked calls. An owned lane has live calls, up to the last one
//!   that its owner has taken; calls behind those are parked until the owner claims the lane again.
//! - Everything an owner writes about a lane is guarded by its id and the lane's claim: the late word of a former owner
//!   changes nothing.
//! - An answer means that the change is durable. A change that was not awaited may or may not have happened.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::LocalBoxFuture;

use super::{
    super::entry::{EntryQuery, OutboxEntry, OutboxStats},
    calls::{History, LaneClaim, NewMessage, StoredCall, WallTime},
    lane_set::LaneSet,
    tick::Tick,
};
use crate::{
    call::Endpoint,
    call_id::CallId,
    error::{OutboxError, ParkReason},
};

/// How many calls of a lane are claimed at once if many lanes are due.
pub(in crate::outbox) const MAX_PER_LANE: usize = 16;

/// How often an owner looks at the store for changes of others.
pub(in crate::outbox) const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// The answer of a store.
pub(in crate::outbox) type StoreFuture<T> = LocalBoxFuture<'static, Result<T, OutboxError>>;

/// The result of storing a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::outbox) enum Inserted {
    /// The message is live: this owner sends it, under this claim.
    Live { claim: i64 },
    /// The message is parked at the end of its lane.
    Parked,
    /// No call was stored, since calls with these keys wait in the store already: their ids, in the order of the message's
    /// calls. A dead letter with one of the keys waits again, at the end of its lane. A call that is not stored was
    /// delivered, and has the id of the other call of its message.
    Known { ids: Vec<CallId> },
    /// Nothing was stored, since the message was withdrawn.
    Withdrawn,
    /// The store can't tell whether the message was stored, for this reason. If it was, its calls are deleted before the store
    /// does anything else for this owner, except for calls that another owner has taken or another message was answered with.
    #[cfg_attr(
        not(feature = "outbox-postgres"),
        expect(dead_code, reason = "a file leaves no commit in doubt")
    )]
    InDoubt(OutboxError),
}

/// Which of the lanes that are free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::outbox) enum Which {
    /// Those that are due. Lanes that were parked because of an outage are due if the reason is one of these, whenever they
    /// were parked and by whom, and only then.
    Due { outages: Vec<ParkReason> },
    /// The first message of the lane that was parked first because of this outage.
    Probe { outage: ParkReason },
}

/// Which lanes to claim.
#[derive(Debug, Clone)]
pub(in crate::outbox) struct ClaimRequest {
    /// Counts the claims of this owner, from 1.
    pub(in crate::outbox) round: i64,
    pub(in crate::outbox) now: WallTime,
    pub(in crate::outbox) which: Which,
    /// The endpoint of the lanes: a pause of one endpoint must not hold up the calls of the other.
    pub(in crate::outbox) endpoint: Endpoint,
    /// Lanes that this owner has parked and that are due by its monotonic clock.
    pub(in crate::outbox) due: Vec<String>,
    /// The lanes that this owner has parked and not claimed since. Unless they are named as due, they are not claimed, whatever
    /// the host's clock says, even if another owner has parked them since (`parked_by` is another owner); a lane that was
    /// released, freed from a dead owner or requeued (`parked_by` is nobody) is claimed nevertheless.
    pub(in crate::outbox) delayed: LaneSet,
    /// About how many calls to claim.
    pub(in crate::outbox) max_calls: usize,
    /// After how many bytes of bodies to stop.
    pub(in crate::outbox) max_bytes: usize,
}

impl ClaimRequest {
    /// Whether the owner that claims has parked the lane, and its delay is not over.
    pub(super) fn is_delayed(&self, lane: &str) -> bool {
        self.delayed.contains(lane) && !self.due.iter().any(|due| due == lane)
    }

    /// How many calls of each lane to claim at most, if so many lanes are due. Half of the room is left for lanes that become
    /// due later.
    ///
    /// The end of one claim of a lane and the beginning of the next wait for the disk, so few lanes are claimed further.
    pub(super) fn max_per_lane(&self, due: usize) -> usize {
        match self.which {
            Which::Due { .. } => {
                let share = (self.max_calls / 2).checked_div(due);
                share.unwrap_or_default().max(MAX_PER_LANE)
            }
            // At least its first message.
            Which::Probe { .. } => 1,
        }
    }
}

/// The lanes that were claimed.
#[derive(Debug, Default)]
pub(in crate::outbox) struct Claimed {
    /// Whole messages, those of one lane in order.
    pub(in crate::outbox) messages: Vec<ClaimedMessage>,
    /// Whether there may be more to claim now.
    pub(in crate::outbox) is_limited: bool,
    /// When a lane that another owner has parked becomes due.
    pub(in crate::outbox) next_due: Option<Duration>,
}

/// The remaining calls of a message whose lane was claimed.
#[derive(Debug, Clone)]
pub(in crate::outbox) struct ClaimedMessage {
    pub(in crate::outbox) lane: LaneClaim,
    pub(in crate::outbox) calls: Vec<StoredCall>,
}

/// The end of calls of one message, written in one transaction.
#[derive(Debug, Clone)]
pub(in crate::outbox) struct Settlement {
    pub(in crate::outbox) lane: LaneClaim,
    pub(in crate::outbox) changes: Vec<(CallId, Change)>,
    pub(in crate::outbox) then: Then,
    pub(in crate::outbox) now: WallTime,
}

impl Settlement {
    /// Whether nothing changes but that delivered calls are gone.
    pub(super) fn only_deletes(&self) -> bool {
        let is_delete = |change: &Change| matches!(change, Change::Delete);
        matches!(self.then, Then::Stay | Then::Continue) && self.changes.iter().all(|(_, change)| is_delete(change))
    }
}

/// The end of one call, or its place in the store from now on.
#[derive(Debug, Clone)]
pub(in crate::outbox) enum Change {
    /// The platform has acknowledged the call.
    Delete,
    /// The caller has withdrawn the call. It is deleted, unless another message was answered with its id
    /// ([`Inserted::Known`]): then it stays, parked at the end of its lane. With [`Then::Park`] it keeps its place.
    Withdraw,
    /// The call is not tried again.
    DeadLetter(Failure),
    /// The call stays in its lane.
    Keep(Failure),
}

/// Why a call was not delivered, and its history from now on.
#[derive(Debug, Clone)]
pub(in crate::outbox) struct Failure {
    pub(in crate::outbox) status_code: Option<u16>,
    pub(in crate::outbox) error: String,
    pub(in crate::outbox) worker_id: Option<String>,
    pub(in crate::outbox) history: History,
}

/// The state of the lane after a settlement.
#[derive(Debug, Clone)]
pub(in crate::outbox) enum Then {
    /// It stays the owner's: the message has another call, which is settled after this settlement was written. So the store
    /// need not look whether the lane has calls left.
    Stay,
    /// It stays the owner's as long as it has calls that the owner has taken; then it is released, due at once.
    Continue,
    /// It is released, due after this time, and all of its calls with it. If the reason is an outage, it is due by
    /// [`Which::Due`] alone.
    Park { wait: Duration, reason: ParkReason },
    /// The message moves to a lane of its own, which is parked. The lane goes on as with `Continue`.
    Isolate { wait: Duration, reason: ParkReason },
}

/// The result of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::outbox) enum Settled {
    /// The changes were made.
    Done {
        /// Whether the lane was released with calls left.
        is_released: bool,
    },
    /// The lane is no longer this owner's under that claim: nothing was changed.
    NotCurrent,
}

/// The result of a look at the other owners.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::outbox) struct Watched {
    /// Calls that were freed because their owner had died.
    pub(in crate::outbox) freed: u64,
    /// Whether there may be lanes to claim: another owner or an operator has changed the store since the last look, or lanes
    /// of others are due.
    pub(in crate::outbox) has_changed: bool,
}

/// A store, as one owner sees it.
pub(in crate::outbox) trait Store {
    /// Stores a message, live or parked, in one transaction. A dead letter with one of its keys is replaced.
    fn insert(&self, message: NewMessage) -> StoreFuture<Inserted>;

    /// Claims free lanes that are due, the longest due first, and takes the first calls of each.
    fn claim(&self, request: ClaimRequest) -> StoreFuture<Claimed>;

    /// Whether this owner has counted as alive since that time, and does so until a request has ended that begins now,
    /// whatever happens.
    fn has_lease_since(&self, since: Instant) -> bool;

    /// Whether the lane is this owner's under this claim, and has these calls. Makes sure that this owner counts as alive.
    fn is_current(&self, lane: LaneClaim, ids: Vec<CallId>) -> StoreFuture<bool>;

    /// Notes that the owner begins to send these calls under this claim: from the second death on, only calls that are so
    /// noted count it.
    fn note_sending(&self, lane: LaneClaim, ids: Vec<CallId>) -> StoreFuture<()>;

    /// Whether the lane has calls, of whatever owner, that have not `ended`.
    fn has_calls(&self, lane: String, ended: HashSet<CallId>) -> StoreFuture<bool>;

    /// Sets the worker id of those of these calls whose worker id is still the `former` one.
    fn set_worker(&self, ids: Vec<CallId>, former: Option<String>, worker_id: String) -> StoreFuture<()>;

    /// Writes what became of calls, in this order and in one transaction. An error has changed nothing.
    fn settle(&self, settlements: Arc<[Settlement]>) -> StoreFuture<Vec<Settled>>;

    /// Releases all lanes of this owner, due at once.
    fn release_all(&self, now: WallTime) -> StoreFuture<()>;

    /// Ticks every [`LOOK_INTERVAL`] if the store itself wakes its owner for the next [`watch`](Self::watch).
    fn tick(&self) -> Option<Arc<Tick>> {
        None
    }

    /// Frees the lanes of dead owners, and makes sure that this owner counts as alive. `delay` is the wait of a lane whose
    /// first call may have killed its owner.
    fn watch(&self, now: WallTime, delay: Duration) -> StoreFuture<Watched>;

    /// Deletes dead letters of this owner's queue that are older than `keep` by the platform's clock.
    fn purge(&self, platform_now: WallTime, keep: Duration) -> StoreFuture<()>;

    fn list(&self, query: EntryQuery) -> StoreFuture<Vec<OutboxEntry>>;

    /// The calls about a target, which has this lane: also dead letters, and messages that were isolated from the lane.
    fn of_target(&self, lane: String, target_id: String) -> StoreFuture<Vec<OutboxEntry>>;

    /// Makes a parked call or a dead letter due now, at the end of its lane, with a fresh history. Returns whether there is
    /// one.
    fn requeue(&self, id: CallId, now: WallTime) -> StoreFuture<bool>;

    /// Deletes the parked calls of a message that its caller has withdrawn: all of them, or none if one is not parked or
    /// another message was answered with its id. Returns whether they were deleted.
    fn withdraw(&self, ids: Vec<CallId>) -> StoreFuture<bool>;

    /// Deletes a parked call or a dead letter. Returns whether there was one.
    fn discard(&self, id: CallId) -> StoreFuture<bool>;

    /// How often the store was found to have been removed or replaced so far. Each time, calls may have been lost.
    fn replacements(&self) -> u64;

    fn stats(&self) -> StoreFuture<OutboxStats>;

    /// Gives the store up. The last user of a process closes it.
    fn close(&self) -> StoreFuture<()>;
}
