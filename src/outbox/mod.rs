//! The durable outbox: a call is on disk before its first attempt, and is removed once the platform has acknowledged it.

mod authorization;
mod claims;
mod config;
mod counted;
mod dead_letter;
mod delays;
mod deliveries;
mod discard;
mod disposition;
mod drive;
mod entry;
mod failures;
mod faults;
mod health;
mod hold_back;
mod inflow;
mod insert;
mod inspector;
mod lease;
mod location;
mod message;
mod options;
mod overflow;
mod owner;
#[cfg(feature = "outbox-postgres")]
mod prepared;
mod record;
mod replay;
mod replayed;
mod route;
mod sending;
mod settle;
mod settlement_queue;
#[cfg(all(test, feature = "testing"))]
mod simulation;
#[cfg(test)]
mod stalled;
mod store;
mod stored;
mod track;
mod tracking;
mod unauthorized;
mod unstored;
mod unwritten;
mod write;

#[cfg(feature = "outbox-postgres")]
pub use self::location::PostgresOptions;
pub(crate) use self::{config::Config, owner::Outbox, route::Durable};
pub use self::{
    dead_letter::DeadLetter,
    discard::{DiscardTarget, DiscardedTarget},
    entry::{EntryOwner, EntryQuery, EntryState, OutboxEntry, OutboxStats},
    health::OutboxHealth,
    inspector::OutboxInspector,
    message::{Discard, GetOutboxStats, ListEntries, Requeue},
    options::{OutboxOptions, OutboxOptionsBuilder},
    record::{CallRecord, Imported},
    track::{AwaitDelivery, Delivery, DeliveryEnd, DeliveryState, GetDelivery, PendingDelivery},
};
pub use crate::{call_id::CallId, error::OutboxError};
