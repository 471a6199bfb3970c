//! A message that the outbox has not stored, as far as it knows: it is sent without being kept, or refused.

use std::{future::ready, pin::pin, rc::Rc, time::Instant};

use futures_util::future::{Either, select};

use super::{owner::Outbox, stored::noted};
use crate::{
    call::Call,
    delivery::{Dispatcher, Job, MaySend},
    error::{CallError, CancelledBy, OutboxError, ParkReason},
    receipt::Outcome,
};

impl Outbox {
    /// Sends a message that could not be stored, unless it has to be refused, since it would overtake stored calls.
    pub(super) async fn run_unstored(
        &self,
        dispatcher: &Dispatcher,
        mut job: Box<Job>,
        error: &OutboxError,
        refused: CallError,
    ) -> Vec<Outcome> {
        // Earlier messages of the lane may be parked until then.
        {
            let (cancelled, turn) = (pin!(job.cancellation.cancelled()), pin!(job.ticket.wait_turn()));
            select(cancelled, turn).await;
        }
        let has_calls = {
            let cancelled = pin!(job.cancellation.cancelled());
            let has_calls = pin!(self.0.has_calls(&job.calls));
            matches!(select(cancelled, has_calls).await, Either::Right((true, _)))
        };
        if has_calls {
            return end(dispatcher, &job.calls, |_| refused.clone());
        }
        let outcomes = dispatcher.run(job).await;
        outcomes.into_iter().map(|outcome| noted(outcome, error)).collect()
    }

    /// Lets a message be sent that may have been stored, as long as no other owner can have taken it since then.
    pub(super) fn may_send_in_doubt(&self, since: Instant) -> MaySend {
        let inner = Rc::clone(&self.0);
        Box::new(move |_| {
            let may_send = inner.is_sure_of_lanes(since).then_some(());
            Either::Left(ready(may_send.ok_or(CallError::Overloaded {
                may_have_been_delivered: true,
            })))
        })
    }
}

/// The error of a message that was not accepted and may have been stored nevertheless.
pub(super) fn refused_in_doubt(reason: ParkReason) -> CallError {
    if reason == ParkReason::Shutdown {
        CallError::Cancelled {
            by: CancelledBy::Shutdown,
            attempts: 0,
            may_have_been_delivered: true,
        }
    } else {
        CallError::Overloaded {
            may_have_been_delivered: true,
        }
    }
}

/// Ends calls that were not accepted.
pub(super) fn end(dispatcher: &Dispatcher, calls: &[Call], error: impl Fn(&Call) -> CallError) -> Vec<Outcome> {
    calls
        .iter()
        .map(|call| dispatcher.end_unsent(call.as_ref(), error(call)))
        .collect()
}
