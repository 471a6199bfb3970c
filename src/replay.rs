//! What is parked in the outbox, sent again: in order of arrival per key, as many at once as there are slots for.

use std::{pin::pin, rc::Rc};

use futures_util::{StreamExt as _, future::select, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;

use crate::{
    delivery::Courier,
    lanes::Lanes,
    outbox::{Claimed, ClaimedCall},
    retry::RetryPolicy,
    wire::Call,
};

/// Runs until `stop` is cancelled, and what it has begun is done.
pub(crate) async fn replay(courier: Rc<Courier>, lanes: Rc<Lanes>, stop: CancellationToken) {
    // Twice as many as can be sent at once, so that the file is read while they are.
    let max_at_once = lanes.max_in_flight().saturating_mul(2);
    let mut running = FuturesUnordered::new();
    while !stop.is_cancelled() {
        courier.outbox.beat().await;
        let room = max_at_once.saturating_sub(running.len());
        let mut next_due = None;
        // Not one by one, since each look at the file is a transaction.
        if room > max_at_once / 2 {
            let (claimed, due_in) = courier.outbox.claim(room).await;
            next_due = due_in;
            running.extend(claimed.into_iter().map(|message| deliver(&courier, &lanes, message)));
        }
        let wait = pin!(stop.run_until_cancelled(courier.outbox.wait(next_due)));
        if running.is_empty() {
            wait.await;
        } else {
            select(running.next(), wait).await;
        }
    }
    running.collect::<()>().await;
}

/// Tries each call of a message once.
async fn deliver(courier: &Courier, lanes: &Rc<Lanes>, message: Claimed) {
    let calls: Vec<(ClaimedCall, Call)> = message
        .into_iter()
        .filter_map(|claimed| match courier.platform.restore(&claimed) {
            Ok(call) => Some((claimed, call)),
            Err(error) => {
                courier.outbox.bury(&claimed, format!("it can't be read: {error}"));
                None
            }
        })
        .collect();
    let Some((_, first)) = calls.first() else { return };
    let Ok(mut turn) = lanes.admit_anyway(first.key()) else {
        // The poster is shutting down.
        calls.iter().for_each(|(claimed, _)| courier.outbox.give_back(claimed));
        return;
    };
    let (never, once) = (CancellationToken::new(), RetryPolicy::once());
    for (claimed, call) in &calls {
        courier.journal.accepted(call.subject());
        let outcome = courier.call(call, &mut turn, &never, &once).await;
        let outcome = courier.outbox.settle(claimed, outcome);
        courier.journal.ended(call.subject(), &outcome);
    }
}
