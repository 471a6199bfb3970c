//! The calls of a store, and their lanes.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{call::CallKind, call_id::CallId, error::ParkReason};

/// A point in time by the host's clock, in milliseconds since 1970.
pub(in crate::outbox) type WallTime = i64;

/// A message to be stored: its calls, in the order in which they are sent.
#[derive(Debug, Clone)]
pub(in crate::outbox) struct NewMessage {
    /// The name of its lane.
    pub(in crate::outbox) lane: String,
    pub(in crate::outbox) calls: Vec<NewCall>,
    /// The worker on whose behalf the calls are made, if it is known.
    pub(in crate::outbox) worker_id: Option<String>,
    /// Why the message must not be sent now, if so.
    pub(in crate::outbox) park: Option<ParkReason>,
    /// The last round whose calls were given their places in this process before the message. If the lane was claimed in a
    /// later round, the claimed calls go first: then the message is parked behind them.
    pub(in crate::outbox) round: i64,
    /// If it is cancelled before the message is written, nothing is stored.
    pub(in crate::outbox) withdrawn: Option<CancellationToken>,
    pub(in crate::outbox) now: WallTime,
}

impl NewMessage {
    pub(super) fn is_withdrawn(&self) -> bool {
        self.withdrawn.as_ref().is_some_and(CancellationToken::is_cancelled)
    }
}

/// A call to be stored.
#[derive(Debug, Clone)]
pub(in crate::outbox) struct NewCall {
    pub(in crate::outbox) id: CallId,
    pub(in crate::outbox) kind: CallKind,
    pub(in crate::outbox) target_id: String,
    pub(in crate::outbox) idempotency_key: String,
    /// The headers that the message adds, as JSON.
    pub(in crate::outbox) headers: Option<String>,
    pub(in crate::outbox) body: String,
}

/// A lane under one claim: what an owner's changes are guarded by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::outbox) struct LaneClaim {
    pub(in crate::outbox) lane: String,
    pub(in crate::outbox) claim: i64,
}

/// A stored call, and its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::outbox) struct StoredCall {
    pub(in crate::outbox) id: CallId,
    /// A damaged file may hold any text.
    pub(in crate::outbox) kind: String,
    pub(in crate::outbox) target_id: String,
    pub(in crate::outbox) idempotency_key: String,
    pub(in crate::outbox) headers: Option<String>,
    pub(in crate::outbox) body: Vec<u8>,
    pub(in crate::outbox) worker_id: Option<String>,
    pub(in crate::outbox) history: History,
}

/// The counts and the age of a call, over all of its owners.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::outbox) struct History {
    pub(in crate::outbox) attempts: u32,
    /// How often the call was parked after an attempt.
    pub(in crate::outbox) parks: u32,
    /// How many answers say that the fault is the call's own.
    pub(in crate::outbox) faults: u32,
    /// How often the platform has rejected the call of a worker that its sender has replaced.
    pub(in crate::outbox) rejections: u32,
    /// Whether the platform has refused the whole body as too large.
    pub(in crate::outbox) is_reduced: bool,
    /// How often an owner died while it was sending the call. The first time counts for the first message of each of its
    /// lanes: only calls that may have killed an owner are noted before they are sent (`note_sending`).
    pub(in crate::outbox) takeovers: u32,
    /// How long the call was tried, by the monotonic clocks of its owners and the waits that they set.
    pub(in crate::outbox) age: Duration,
}
