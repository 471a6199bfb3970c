//! Follows stored calls: their states, their ends, and their removal by target.

use std::rc::Rc;

use super::{
    dead_letter::DeadLetter,
    deliveries::Delivered,
    entry::{EntryQuery, EntryState, OutboxEntry},
    owner::{Inner, Outbox, lane},
    stored::Stored,
    track::{CallsOf, Delivery, DeliveryEnd, DeliveryState, PendingDelivery},
};
use crate::{
    call::{Call, CallKind, CallRef, Endpoint, Target},
    call_id::CallId,
    error::{CallError, CancelledBy, OutboxError},
    receipt::{CallReceipt, Outcome},
    telemetry::Telemetry,
};

/// How many of the calls that are waited for are looked up at once.
const MAX_LOOKED_UP: usize = 100;

impl CallsOf {
    pub(super) fn target(&self) -> Option<Target> {
        match self {
            Self::Call(_) => None,
            Self::Session(id) => Some(Target::Session(id.as_str().into())),
            Self::Issue(id) => Some(Target::Issue(id.as_str().into())),
        }
    }

    pub(super) fn matches(&self, delivered: &Delivered) -> bool {
        let is = |endpoint, id: &str| delivered.kind.endpoint() == endpoint && *delivered.target_id == *id;
        match self {
            Self::Call(id) => delivered.id == *id,
            Self::Session(id) => is(Endpoint::Session, id),
            Self::Issue(id) => is(Endpoint::Proxy, id),
        }
    }
}

impl Outbox {
    /// The states of stored calls, and the ends of those that were delivered.
    pub(crate) async fn deliveries(self, which: CallsOf) -> Result<Vec<Delivery>, OutboxError> {
        let inner = &self.0;
        let stored = match (&which, which.target()) {
            (_, Some(target)) => inner.of_target(&target).await?,
            (CallsOf::Call(id), None) => inner.entry(*id).await?.into_iter().collect(),
            (CallsOf::Session(_) | CallsOf::Issue(_), None) => Vec::new(),
        };
        // After the store: a call that was delivered meanwhile is in it no longer, or is known to be delivered.
        let now = inner.clock.instant();
        let delivered = inner.deliveries.borrow().find(|delivered| which.matches(delivered));
        let known = |id| delivered.iter().any(|delivered| delivered.id == id);
        let mut deliveries: Vec<Delivery> = stored
            .into_iter()
            .filter(|entry| !known(entry.id))
            .map(delivery)
            .collect();
        deliveries.extend(delivered.iter().map(|delivered| Delivery {
            id: delivered.id,
            kind: Some(delivered.kind),
            target_id: delivered.target_id.to_string(),
            state: DeliveryState::Delivered {
                ago: now.saturating_duration_since(delivered.at),
            },
        }));
        deliveries.sort_by_key(|delivery| delivery.id);
        Ok(deliveries)
    }

    /// The future end of a call.
    pub(crate) async fn await_delivery(self, id: CallId) -> Result<PendingDelivery, OutboxError> {
        // Before the store is asked, so that no end is missed.
        let end = self.0.deliveries.borrow_mut().watch(id);
        let pending = PendingDelivery(end.ok_or(OutboxError::TooManyWaits)?);
        let state = self
            .deliveries(CallsOf::Call(id))
            .await?
            .pop()
            .map(|delivery| delivery.state);
        match state {
            Some(DeliveryState::Live | DeliveryState::Parked { .. }) => Ok(pending),
            Some(DeliveryState::Delivered { .. }) => Ok(PendingDelivery::ended(DeliveryEnd::Delivered)),
            Some(DeliveryState::DeadLetter {
                status_code,
                last_error,
            }) => Ok(PendingDelivery::ended(DeliveryEnd::DeadLetter {
                status_code,
                reason: last_error,
            })),
            None => Err(OutboxError::NoSuchCall),
        }
    }

    /// Notes that the platform has acknowledged a call, if it has: before the call leaves the store.
    pub(super) fn note_delivered(&self, stored: &Stored, index: usize, kind: Option<&CallKind>, outcome: &Outcome) {
        let delivered = matches!(outcome, Ok(CallReceipt::Delivered { .. }));
        if let (true, Some(row), Some(kind)) = (delivered, stored.calls.get(index), kind) {
            self.0.deliveries.borrow_mut().delivered(Delivered {
                id: row.id,
                kind: *kind,
                target_id: Rc::clone(stored.target.id()),
                at: self.0.clock.instant(),
            });
        }
    }

    /// Notes which calls of a message were withdrawn or discarded.
    pub(super) fn note_withdrawn(&self, calls: &[Call], outcomes: &[Outcome]) {
        for (call, outcome) in calls.iter().zip(outcomes) {
            if let Some(id) = call.id
                && let Err(CallError::Cancelled {
                    by: CancelledBy::Token | CancelledBy::Discard,
                    ..
                }) = outcome
            {
                self.0.deliveries.borrow_mut().ended(id, &DeliveryEnd::Discarded);
            }
        }
    }
}

impl Inner {
    /// Reports a new dead letter: counts it, sends the event, and calls the closure, whose panic costs nothing.
    pub(super) fn report_dead(&self, telemetry: &Telemetry, letter: &DeadLetter) {
        let call = letter.kind.map(|kind| CallRef {
            kind,
            target_id: &letter.target_id,
            id: Some(letter.id),
            idempotency_key: Some(&letter.idempotency_key),
        });
        telemetry.dead_letter(call, &letter.reason, letter.status_code);
        let end = DeliveryEnd::DeadLetter {
            status_code: letter.status_code,
            reason: Some(letter.reason.clone()),
        };
        self.deliveries.borrow_mut().ended(letter.id, &end);
        self.options.on_dead_letter().call(letter);
    }

    pub(super) async fn of_target(&self, target: &Target) -> Result<Vec<OutboxEntry>, OutboxError> {
        self.store.of_target(lane(target), target.id().to_string()).await
    }

    async fn entry(&self, id: CallId) -> Result<Option<OutboxEntry>, OutboxError> {
        let query = EntryQuery::all().after(id.previous()).limit(1);
        let mut entries = self.store.list(query).await?;
        entries.retain(|entry| entry.id == id);
        Ok(entries.pop())
    }

    /// Looks up some of the calls that are waited for: another process may have ended them.
    pub(super) async fn look_for_ends(&self) {
        let mut watched = self.deliveries.borrow_mut().watched();
        // Others each time.
        let first = rand::random_range(0..=watched.len());
        watched.rotate_left(first);
        for id in watched.into_iter().take(MAX_LOOKED_UP) {
            let end = match self.entry(id).await {
                Ok(None) => DeliveryEnd::Gone,
                Ok(Some(entry)) if entry.state == EntryState::DeadLetter => DeliveryEnd::DeadLetter {
                    status_code: entry.status_code,
                    reason: entry.last_error,
                },
                Ok(Some(_)) | Err(_) => continue,
            };
            self.deliveries.borrow_mut().ended(id, &end);
        }
    }
}

fn delivery(entry: OutboxEntry) -> Delivery {
    Delivery {
        id: entry.id,
        kind: entry.kind.parse().ok(),
        target_id: entry.target_id,
        state: match entry.state {
            EntryState::Live => DeliveryState::Live,
            EntryState::Parked => DeliveryState::Parked {
                since: entry.parked_at,
                until: entry.next_attempt_at,
                reason: entry.reason,
                attempts: entry.attempts,
                last_error: entry.last_error,
            },
            EntryState::DeadLetter => DeliveryState::DeadLetter {
                status_code: entry.status_code,
                last_error: entry.last_error,
            },
        },
    }
}
