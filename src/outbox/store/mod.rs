//! The stores: what a store is, and its implementations.

mod calls;
mod contract;
mod due_by;
mod inspector;
mod lane_name;
mod lane_set;
#[cfg(test)]
mod memory;
#[cfg(feature = "outbox-postgres")]
mod postgres;
mod room;
mod sqlite;
#[cfg(test)]
mod suite;
mod tick;

#[cfg(any(test, feature = "outbox-postgres"))]
use self::contract::MAX_PER_LANE;
#[cfg(test)]
pub(super) use self::memory::{MemoryStore, Tables};
#[cfg(feature = "outbox-postgres")]
pub(super) use self::postgres::{PostgresStore, prepare as prepare_server};
pub(super) use self::{
    calls::{History, LaneClaim, NewCall, NewMessage, StoredCall, WallTime},
    contract::{
        Change, ClaimRequest, Claimed, ClaimedMessage, Failure, Inserted, LOOK_INTERVAL, Settled, Settlement, Store,
        StoreFuture, Then, Watched, Which,
    },
    inspector::{Inspector, check, open_inspector},
    lane_name::{ISSUE_LANE, endpoint, is_isolated, isolated_lane},
    lane_set::LaneSet,
    sqlite::{SqliteStore, prepare},
    tick::Tick,
};
