//! A stored message that this owner sends, and what its caller is told of it.

use super::{
    owner::{Outbox, Since},
    store::{Change, History, LaneClaim, Settlement, StoredCall, Then},
};
use crate::{
    call::Target,
    call_id::CallId,
    error::{CallError, OutboxError, ParkReason, ParkedError},
    receipt::{CallReceipt, Outcome},
};

/// A stored message that this owner sends.
pub(super) struct Stored {
    pub(super) outbox: Outbox,
    pub(super) target: Target,
    pub(super) lane: LaneClaim,
    pub(super) calls: Vec<StoredRow>,
    /// The worker id of the store, if it has one.
    pub(super) worker_id: Option<String>,
    pub(super) since: Since,
    pub(super) origin: Origin,
}

/// One call of the message.
#[derive(Debug, Clone)]
pub(super) struct StoredRow {
    pub(super) id: CallId,
    pub(super) history: History,
}

impl From<&StoredCall> for StoredRow {
    fn from(call: &StoredCall) -> Self {
        Self {
            id: call.id,
            history: call.history.clone(),
        }
    }
}

/// Where a stored message comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A message that was just stored.
    Live,
    /// A claimed message.
    Replay {
        /// Whether its worker id is the present one.
        is_own_worker: bool,
    },
}

impl Stored {
    pub(super) fn ids(&self) -> Vec<CallId> {
        self.calls.iter().map(|call| call.id).collect()
    }

    /// Whether an owner has died that may have been sending it.
    pub(super) fn is_suspect(&self) -> bool {
        self.calls.iter().any(|call| call.history.takeovers > 0)
    }

    pub(super) fn settlement(&self, changes: Vec<(CallId, Change)>, then: Then) -> Settlement {
        Settlement {
            lane: self.lane.clone(),
            changes,
            then,
            now: self.outbox.0.now(),
        }
    }
}

/// The outcome of a call that the outbox could not store, or has lost.
pub(super) fn noted(outcome: Outcome, error: &OutboxError) -> Outcome {
    match outcome {
        Ok(mut receipt) => {
            receipt.note_outbox_error(error.clone());
            Ok(receipt)
        }
        Err(CallError::Transient(mut transient)) => {
            transient.outbox_error = Some(error.clone());
            Err(CallError::Transient(transient))
        }
        outcome => outcome,
    }
}

/// The receipts of stored calls.
pub(super) fn receipts(ids: impl IntoIterator<Item = CallId>) -> Vec<Outcome> {
    ids.into_iter().map(|id| Ok(CallReceipt::stored(id))).collect()
}

/// The error of a call that was parked without an attempt.
pub(super) fn parked(id: CallId, reason: ParkReason) -> CallError {
    parked_error(id, reason).into()
}

pub(super) fn parked_error(id: CallId, reason: ParkReason) -> ParkedError {
    ParkedError {
        id,
        reason,
        attempts: 0,
        last: None,
        may_have_been_delivered: false,
    }
}
