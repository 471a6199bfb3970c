//! What is parked in the outbox, sent again: in order of arrival per key, as many at once as there are slots for.

use std::{
    pin::pin,
    rc::{Rc, Weak},
};

use actix_rt::spawn;
use futures_util::{StreamExt as _, future::select, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;

use crate::{
    delivery::{Courier, Outgoing},
    lanes::Lanes,
    outbox::{Claimed, Outbox},
    retry::RetryPolicy,
    wire::Call,
};

/// Shows signs of life for as long as there may be a call on its way: until the courier is gone, or has left the
/// outbox.
pub(crate) async fn beat(outbox: Outbox, courier: Weak<Courier>) {
    while courier.strong_count() > 0 && !outbox.has_left() {
        outbox.beat().await;
        outbox.until_next_beat().await;
    }
}

/// Runs until `stop` is cancelled, and what it has begun is done.
pub(crate) async fn replay(courier: Rc<Courier>, lanes: Rc<Lanes>, stop: CancellationToken) {
    // Twice as many as can be sent at once, so that the file is read while they are.
    let max_at_once = lanes.max_in_flight().saturating_mul(2);
    let mut running = FuturesUnordered::new();
    while !stop.is_cancelled() {
        let room = max_at_once.saturating_sub(running.len());
        let mut next_due = None;
        // Not one by one, since each look at the file is a transaction.
        if room > max_at_once / 2 && courier.learn_its_worker().await && !stop.is_cancelled() {
            let (claimed, due_in) = courier.outbox.claim(room).await;
            next_due = due_in;
            running.extend(
                claimed
                    .into_iter()
                    .map(|message| spawn(deliver(Rc::clone(&courier), Rc::clone(&lanes), message))),
            );
        }
        let wait = pin!(stop.run_until_cancelled(courier.outbox.wait(next_due)));
        if running.is_empty() {
            wait.await;
        } else {
            select(running.next(), wait).await;
        }
    }
    running.for_each(async |_| {}).await;
}

/// Tries each call of a message once.
async fn deliver(courier: Rc<Courier>, lanes: Rc<Lanes>, message: Claimed) {
    let (kept, calls): (Claimed, Vec<Call>) = message
        .into_iter()
        .filter_map(|claimed| match courier.platform.restore(&claimed) {
            Ok(call) => Some((claimed, call)),
            Err(error) => {
                courier.outbox.bury(&claimed, &error);
                None
            }
        })
        .unzip();
    let entry = courier.outbox.resume(&kept);
    let Some(key) = calls.first().map(Call::key) else {
        return;
    };
    let Ok(turn) = lanes.admit_anyway(key.clone()) else {
        // The poster is shutting down.
        entry.give_back();
        return;
    };
    for call in &calls {
        courier.journal.accepted(call.subject());
    }
    let mut message = Outgoing {
        key,
        turn: Ok(turn),
        stop: courier.stop(None),
        reply_when_durable: false,
        calls,
        entry,
    };
    courier.send_calls(&mut message, &RetryPolicy::once()).await;
}
