//! Sends parked calls again: in order of arrival per target, as many at once as there are permits.

use std::{
    pin::pin,
    rc::{Rc, Weak},
};

use actix_rt::spawn;
use futures_util::{StreamExt as _, future::select, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;

use super::process::{ClaimedMessage, Outbox};
use crate::{
    backoff::RetryPolicy,
    call::Call,
    delivery::{Dispatcher, Job},
    queue::{Bound, LaneQueue},
};

/// Sends heartbeats as long as a call may be in flight: until the dispatcher is gone or this process has released its
/// calls.
pub(super) async fn send_heartbeats(outbox: Outbox, dispatcher: Weak<Dispatcher>) {
    while dispatcher.strong_count() > 0 && !outbox.is_released() {
        outbox.heartbeat().await;
        outbox.until_next_heartbeat().await;
    }
}

/// Claims and sends parked calls until `stop` is cancelled, and then until the claimed ones are done.
pub(super) async fn replay(outbox: Outbox, dispatcher: Rc<Dispatcher>, queue: Rc<LaneQueue>, stop: CancellationToken) {
    // Twice as many as can be sent at once, so that claims and sends overlap.
    let max_at_once = queue.max_in_flight().saturating_mul(2);
    let mut running = FuturesUnordered::new();
    while !stop.is_cancelled() {
        let room = max_at_once.saturating_sub(running.len());
        let mut next_due = None;
        // Not one by one, since each claim is a transaction.
        if room > max_at_once / 2 && outbox.ensure_worker_known(&dispatcher).await && !stop.is_cancelled() {
            let (claimed, due_in) = outbox.claim(room).await;
            next_due = due_in;
            running.extend(claimed.into_iter().map(|message| {
                spawn(resend(
                    outbox.clone(),
                    Rc::clone(&dispatcher),
                    Rc::clone(&queue),
                    message,
                ))
            }));
        }
        let wait = pin!(stop.run_until_cancelled(outbox.wait(next_due)));
        if running.is_empty() {
            wait.await;
        } else {
            select(running.next(), wait).await;
        }
    }
    running.for_each(async |_| {}).await;
}

/// Tries each call of a claimed message once.
async fn resend(outbox: Outbox, dispatcher: Rc<Dispatcher>, queue: Rc<LaneQueue>, message: ClaimedMessage) {
    let (claimed, calls): (ClaimedMessage, Vec<Call>) = message
        .into_iter()
        .filter_map(|claimed| {
            let key = claimed.idempotency_key().to_owned();
            match dispatcher.platform.restore(&claimed.target_id, key, &claimed.body) {
                Ok(call) => Some((claimed, call)),
                Err(error) => {
                    outbox.dead_letter_unreadable(&claimed, &error);
                    None
                }
            }
        })
        .unzip();
    let stored = outbox.claimed(&claimed);
    let Some(target) = calls.first().map(|call| call.target.clone()) else {
        return;
    };
    let Ok((ticket, permit)) = queue.admit(target, Bound::None) else {
        // The poster is shutting down.
        stored.release();
        return;
    };
    dispatcher.accept(&calls);
    let job = Box::new(Job {
        calls,
        cancellation: dispatcher.cancellation(None),
        permit,
        ticket,
    });
    outbox.drive(&dispatcher, job, &stored, &RetryPolicy::once()).await;
}
