//! Claiming parked calls.

use std::rc::Rc;

use super::{
    failures::Operation,
    owner::Inner,
    store::{Change, ClaimRequest, Claimed, Settlement, Then, Which},
};
use crate::call::Endpoint;

/// How many lanes of its own an owner names in one claim.
const MAX_DUE: usize = 256;

impl Inner {
    /// Claims lanes of an endpoint, with about `max_calls` calls and at most about `max_bytes` of bodies. An error claims
    /// nothing.
    pub(super) async fn claim(
        self: &Rc<Self>,
        which: Which,
        endpoint: Endpoint,
        round: i64,
        (max_calls, max_bytes): (usize, usize),
    ) -> Claimed {
        let now = self.clock.instant();
        let (due, delayed) = {
            let delays = self.delays.borrow();
            let due = match which {
                Which::Due { .. } => delays.due(endpoint, now, MAX_DUE),
                Which::Probe { .. } => Vec::new(),
            };
            (due, delays.names())
        };
        let request = ClaimRequest {
            round,
            now: self.now(),
            which,
            endpoint,
            due: due.clone(),
            delayed,
            max_calls,
            max_bytes,
        };
        let started = self.failures.start(Operation::Claim);
        let claimed = self.while_running(self.store.claim(request)).await;
        started.end(&claimed);
        let Ok(mut claimed) = claimed else {
            // There may be something to claim nevertheless.
            return Claimed {
                is_limited: true,
                ..Claimed::default()
            };
        };
        let mut delays = self.delays.borrow_mut();
        for message in &mut claimed.messages {
            // The age holds the whole wait of the message that has parked the lane, its first.
            let rest = delays.rest(&message.lane.lane, now);
            for call in &mut message.calls {
                call.history.age = call.history.age.saturating_sub(rest);
            }
            delays.remove(&message.lane.lane);
        }
        if !claimed.is_limited {
            // The lanes that were not claimed are not free, or no longer exist.
            for lane in due {
                delays.remove(&lane);
            }
        }
        drop(delays);
        self.delete_ended(&mut claimed);
        claimed
    }

    /// Takes the calls out of a claim that the platform has acknowledged, but whose settlement could not be written.
    fn delete_ended(self: &Rc<Self>, claimed: &mut Claimed) {
        let deleted = self.unwritten.deleted();
        if deleted.is_empty() {
            return;
        }
        for message in &mut claimed.messages {
            let ended = message.calls.extract_if(.., |call| deleted.contains(&call.id));
            let changes: Vec<_> = ended.map(|call| (call.id, Change::Delete)).collect();
            if !changes.is_empty() {
                self.settle_later(Settlement {
                    lane: message.lane.clone(),
                    changes,
                    then: Then::Continue,
                    now: self.now(),
                });
            }
        }
        claimed.messages.retain(|message| !message.calls.is_empty());
    }
}
