//! Storing a message.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::{Either, select};

use super::{
    process::{ClaimedMessage, Outbox, lane},
    store::{self, NewCall, NewMessage, StoredCall, milliseconds_of},
    stored::Stored,
};
use crate::{
    call::{Call, Target},
    error::OutboxError,
};

/// How many messages without a place in the queue may wait for their insert.
const MAX_PENDING_INSERTS: usize = 10_000;

/// The result of storing a message.
pub(super) enum Inserted {
    /// It may be sent now.
    Live(Stored),
    /// It is parked behind another message of its lane.
    Parked(Stored),
    /// It was cancelled before.
    Cancelled,
    Failed(OutboxError),
}

/// Decides a race: either the writer begins an insert, or a cancellation prevents it.
#[derive(Clone, Default)]
struct InsertGuard(Arc<AtomicBool>);

impl InsertGuard {
    /// Returns whether the caller is the first.
    fn try_take(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }
}

impl Outbox {
    /// Stores a message. A message without a place in the queue is parked. If `cancelled` is ready first, the message is not
    /// stored.
    pub(super) async fn insert(
        &self,
        target: &Target,
        calls: &[Call],
        place: Place,
        cancelled: impl Future<Output = ()>,
    ) -> Inserted {
        let inner = &self.0;
        let (scope, owner) = (inner.scope(), (place != Place::None).then_some(inner.owner));
        let message = self.new_message(target, calls);
        let expected: Vec<_> = (message.calls.iter())
            .map(|call| (call.idempotency_key.clone(), message.expires_at))
            .collect();
        let guard = InsertGuard::default();
        let (writer_guard, mut begun, mut reassign_worker) = (guard.clone(), false, inner.reassign_worker());
        let submitted = inner.writer.submit(move |connection| {
            // A rolled back transaction is repeated.
            begun = begun || writer_guard.try_take();
            if !begun {
                return Ok(None);
            }
            reassign_worker(connection)?;
            store::insert(connection, &scope, owner, &message, place == Place::Head).map(Some)
        });
        let inserted = match select(pin!(submitted.committed()), pin!(cancelled)).await {
            Either::Left((inserted, _)) => inserted,
            Either::Right(_) if guard.try_take() => Ok(None),
            // The insert has begun. Its rows are settled like those of any other message.
            Either::Right((_, submitted)) => submitted.await,
        };
        match inserted {
            Ok(None) => Inserted::Cancelled,
            Err(error) => Inserted::Failed(error),
            Ok(Some((message, is_parked))) => {
                let stored = |(id, (idempotency_key, expires_at))| StoredCall {
                    id,
                    idempotency_key,
                    attempts: 0,
                    times_parked: 0,
                    expires_at,
                };
                let rows = Stored {
                    outbox: self.clone(),
                    message,
                    calls: (message..).zip(expected).map(stored).collect(),
                };
                if is_parked {
                    inner.wake_for_blocked_lane();
                    Inserted::Parked(rows)
                } else {
                    Inserted::Live(rows)
                }
            }
        }
    }

    fn new_message(&self, target: &Target, calls: &[Call]) -> NewMessage {
        let now = self.0.now();
        let new_call = |call: &Call| NewCall {
            kind: call.kind,
            target_id: call.target.id().to_string(),
            idempotency_key: call.idempotency_key.clone(),
            body: call.stored_body(),
        };
        NewMessage {
            lane: lane(target),
            calls: calls.iter().map(new_call).collect(),
            now,
            expires_at: now.saturating_add(milliseconds_of(self.0.options.expires_after())),
        }
    }

    /// The rows of a message that was claimed.
    pub(super) fn claimed(&self, message: &ClaimedMessage) -> Stored {
        Stored {
            outbox: self.clone(),
            message: message.first().map(|call| call.message).unwrap_or_default(),
            calls: message.iter().map(|call| call.stored.clone()).collect(),
        }
    }
}

/// The place of a message in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The first of its lane.
    Head,
    /// Behind other messages of its lane.
    Waiting,
    /// There was no room for it.
    None,
}

/// A message without a place in the queue whose insert is pending: these are counted, since nothing else bounds them.
pub(super) struct PendingInsert(Outbox);

impl PendingInsert {
    /// `None` if there are too many.
    pub(super) fn begin(outbox: &Outbox) -> Option<Self> {
        let pending = &outbox.0.pending_inserts;
        if pending.get() >= MAX_PENDING_INSERTS {
            return None;
        }
        pending.set(pending.get().saturating_add(1));
        Some(Self(outbox.clone()))
    }
}

impl Drop for PendingInsert {
    fn drop(&mut self) {
        let pending = &self.0.0.pending_inserts;
        pending.set(pending.get().saturating_sub(1));
    }
}
