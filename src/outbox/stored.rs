//! The rows of one message, and their settlement.

use tokio_util::sync::CancellationToken;

use super::{
    process::{Inner, Outbox, lane},
    store::{self, FailureRecord, StoredCall, milliseconds_of},
    update::Update,
};
use crate::{
    call::Target,
    call_id::CallId,
    error::{CallError, CancelledBy, OutboxError, ParkReason, ParkedError, TransientError},
    receipt::{CallReceipt, Outcome},
};

/// The rows of a message: one per call.
pub(super) struct Stored {
    pub(super) outbox: Outbox,
    /// The id of the message's first call.
    pub(super) message: i64,
    pub(super) calls: Vec<StoredCall>,
}

impl Stored {
    /// The receipts of the calls, which are stored and not delivered yet.
    pub(super) fn receipts(&self) -> Vec<Outcome> {
        let receipt = |call: &StoredCall| Ok(CallReceipt::Stored { id: CallId(call.id) });
        self.calls.iter().map(receipt).collect()
    }

    /// The error of a call that was parked without an attempt.
    pub(super) fn parked(&self, index: usize, reason: ParkReason) -> CallError {
        match self.calls.get(index) {
            Some(call) => parked(call, reason),
            None => CallError::Overloaded,
        }
    }

    /// Releases the calls unchanged.
    pub(super) fn release(&self) {
        self.update_all(|call| Update::Release(call, 0));
    }

    /// Deletes the calls of a message that its caller has cancelled. `shutdown` ends the wait for the disk.
    pub(super) async fn withdraw(&self, shutdown: &CancellationToken) {
        for call in &self.calls {
            let deleted = self.outbox.0.update(Update::Delete(call.clone()));
            shutdown.run_until_cancelled(deleted).await;
        }
    }

    fn update_all(&self, update: impl Fn(StoredCall) -> Update) {
        for call in &self.calls {
            self.outbox.0.update(update(call.clone()));
        }
    }

    /// Whether the message must not be sent at its turn: an earlier message of its lane has been parked meanwhile, and this
    /// one is released with it, or another process has taken it over.
    pub(super) async fn is_blocked(&self, target: &Target) -> bool {
        let inner = &self.outbox.0;
        let (scope, owner, lane, message) = (inner.scope(), inner.owner, lane(target), self.message);
        let calls = self.calls.clone();
        let blocked_until = inner.writer.submit(move |connection| {
            for call in &calls {
                if store::owner(connection, call)?.is_some_and(|other| other != Some(owner)) {
                    return Ok(Some(0));
                }
            }
            store::blocked_until(connection, &scope, None, &lane, message)
        });
        // If the file can't be read the message is sent: better out of order than not at all.
        let blocked_until = blocked_until.committed().await.unwrap_or_default();
        if let Some(due_at) = blocked_until {
            self.update_all(|call| Update::Release(call, due_at));
            inner.wake_for_blocked_lane();
        }
        blocked_until.is_some()
    }

    /// Writes the outcome of a call, and returns the one to report. `shutdown` ends the wait for the disk, not the write.
    pub(super) async fn settle(&self, index: usize, outcome: Outcome, shutdown: &CancellationToken) -> Outcome {
        let Some(call) = self.calls.get(index) else {
            return outcome;
        };
        let inner = &self.outbox.0;
        let error = match outcome {
            Ok(receipt) => {
                // Not awaited: a crash repeats the call with the same key.
                inner.update(Update::Delete(call.clone()));
                return Ok(receipt);
            }
            Err(error) => error,
        };
        let Disposition { update, reply } = inner.disposition(call, &error);
        let exists = match update {
            // Awaited, so that the caller finds the call in the list, or gone.
            Some(update) => shutdown.run_until_cancelled(inner.update(update)).await,
            None => None,
        };
        match (exists, error) {
            // The file was removed meanwhile.
            (Some(Ok(false)), CallError::Transient(transient)) => Err(CallError::Transient(TransientError {
                outbox_error: Some(OutboxError::NoSuchCall),
                ..transient
            })),
            (Some(Ok(false)), error) => Err(error),
            (_, error) => Err(reply.unwrap_or(error)),
        }
    }
}

/// The update of a failed call's row, and the reply to its caller.
struct Disposition {
    /// `None`: its row is released with all others when the poster has shut down.
    update: Option<Update>,
    /// `None`: the error itself.
    reply: Option<CallError>,
}

impl Inner {
    fn disposition(&self, call: &StoredCall, error: &CallError) -> Disposition {
        let (attempts, status_code, retry_after, last) = match error {
            CallError::Cancelled {
                by,
                may_have_been_delivered,
            } => {
                return match by {
                    CancelledBy::Token => Disposition {
                        update: Some(Update::Delete(call.clone())),
                        reply: None,
                    },
                    CancelledBy::Shutdown => Disposition {
                        update: None,
                        reply: Some(CallError::Parked(ParkedError {
                            may_have_been_delivered: *may_have_been_delivered,
                            ..parked_error(call, ParkReason::Shutdown)
                        })),
                    },
                };
            }
            CallError::Permanent(rejection) => (rejection.attempts, Some(rejection.status_code), None, None),
            CallError::Transient(error) => (error.attempts, None, error.retry_after, Some(error.last.clone())),
            CallError::NoCredentials
            | CallError::Internal { .. }
            | CallError::Invalid(_)
            | CallError::Parked(_)
            | CallError::Overloaded
            | CallError::ShuttingDown => (0, None, None, None),
        };
        let wait = self.options.wait(call.times_parked, retry_after, rand::random());
        let mut call = call.clone();
        call.attempts = call.attempts.saturating_add(attempts);
        call.times_parked = call.times_parked.saturating_add(1);
        let is_rejected = status_code.is_some();
        let has_expired = !is_rejected && call.expires_at <= self.now();
        let failure = FailureRecord {
            status_code,
            error: format!("{}{}", if has_expired { "expired; " } else { "" }, error.without_body()),
        };
        // A panic would only repeat itself.
        if has_expired || is_rejected || matches!(error, CallError::Internal { .. }) {
            return Disposition {
                update: Some(Update::DeadLetter(call, failure)),
                reply: None,
            };
        }
        let reason = if *error == CallError::NoCredentials {
            ParkReason::NoCredentials
        } else {
            ParkReason::AttemptsFailed
        };
        let reply = CallError::Parked(ParkedError {
            attempts,
            last,
            may_have_been_delivered: error.may_have_been_delivered(),
            ..parked_error(&call, reason)
        });
        let due_at = self.now().saturating_add(milliseconds_of(wait));
        Disposition {
            update: Some(Update::Park(call, failure, due_at)),
            reply: Some(reply),
        }
    }
}

fn parked(call: &StoredCall, reason: ParkReason) -> CallError {
    CallError::Parked(parked_error(call, reason))
}

fn parked_error(call: &StoredCall, reason: ParkReason) -> ParkedError {
    ParkedError {
        id: CallId(call.id),
        reason,
        attempts: 0,
        last: None,
        may_have_been_delivered: false,
    }
}
