//! The durable outbox: a call is on disk before its first attempt, and is removed once the platform has acknowledged it.

mod config;
mod drive;
mod entry;
mod error;
mod file;
mod insert;
mod inspector;
mod liveness;
mod message;
mod options;
mod process;
mod replay;
mod route;
mod store;
mod stored;
mod update;
mod writer;

#[cfg(feature = "__bridge")]
pub use self::store::written_and_read;
pub(crate) use self::{config::Config, process::Outbox, route::Durable};
pub use self::{
    entry::{EntryQuery, EntryState, OutboxEntry},
    inspector::OutboxInspector,
    message::{Discard, ListEntries, Requeue},
    options::{OutboxOptions, OutboxOptionsBuilder},
};
pub use crate::{call_id::CallId, error::OutboxError};
