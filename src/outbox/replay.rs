//! Sends parked calls again: in order per target, as many at once as there are permits.

use std::{
    iter::{once, repeat_with},
    mem,
    pin::pin,
    rc::Rc,
    time::{Duration, Instant},
};

use actix_rt::spawn;
use futures_util::{
    StreamExt as _,
    future::{Either, select},
    stream::FuturesUnordered,
};
use tokio_util::sync::CancellationToken;

use super::{
    disposition::outage_reason,
    owner::{Inner, Outbox},
    replayed::Replayed,
    store::{LOOK_INTERVAL, Which},
};
use crate::{
    call::{Endpoint, PlatformRoute},
    credentials::GetCredentials,
    delivery::{Dispatcher, Gates, Passage},
    error::ParkReason,
    queue::LaneQueue,
};

/// When to look although the store has not ticked: its thread may hang.
const WITHOUT_TICK: Duration = Duration::from_secs(3);

/// How many bytes of bodies the replay holds in memory for each endpoint.
const MAX_BYTES: usize = 24 * 1024 * 1024;

/// The shortest time between two claims.
const SHORTEST_WAIT: Duration = Duration::from_millis(3);

/// How often dead letters are purged.
const PURGE_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// The claims of one endpoint's lanes. Each endpoint has its own limits, since the calls of one that is paused would
/// otherwise keep those of the other waiting.
struct Share {
    endpoint: Endpoint,
    calls: usize,
    bytes: usize,
    may_have_due: bool,
    /// When a lane that another owner has parked is due.
    others_due_at: Option<Instant>,
}

impl Share {
    fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            calls: 0,
            bytes: 0,
            may_have_due: true,
            others_due_at: None,
        }
    }

    /// Starts to send a message that was claimed. The future ends with it, and returns what to subtract from the share.
    fn send(&mut self, message: Replayed) -> impl Future<Output = (Endpoint, usize, usize)> + use<> {
        let (calls, bytes) = message.size();
        self.calls = self.calls.saturating_add(calls);
        self.bytes = self.bytes.saturating_add(bytes);
        let endpoint = self.endpoint;
        let sent = spawn(message.run());
        async move {
            // A panic is caught within; a cancelled task belongs to a system that is stopping.
            let _ = sent.await;
            (endpoint, calls, bytes)
        }
    }

    /// How long it is until a lane is due.
    fn next_due(&self, inner: &Inner, now: Instant) -> Option<Duration> {
        let own = inner.delays.borrow().next(self.endpoint, now);
        let others = self.others_due_at.map(|at| at.saturating_duration_since(now));
        own.into_iter().chain(others).min()
    }
}

/// Claims and sends parked calls until `stop` is cancelled, and then until the claimed ones are done.
pub(super) async fn replay(outbox: Outbox, dispatcher: Rc<Dispatcher>, queue: Rc<LaneQueue>, stop: CancellationToken) {
    // Four times as many results as can be sent at once, so that enough are left to send while others are claimed. A
    // result has two calls.
    let max_at_once = queue.max_in_flight().saturating_mul(8);
    let inner = &outbox.0;
    let mut running = FuturesUnordered::new();
    let mut shares = [Endpoint::Session, Endpoint::Proxy].map(Share::new);
    let mut looked_at = None;
    let mut purged_at = None;
    let mut has_changed = true;
    let ticks = inner.store.tick();
    let mut saw_nothing = false;
    let longest_wait = ticks.as_ref().map_or(LOOK_INTERVAL, |_| WITHOUT_TICK);
    while !stop.is_cancelled() {
        let now = inner.clock.instant();
        if looked_at.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_INTERVAL) {
            looked_at = Some(now);
            has_changed |= inner.look(mem::take(&mut saw_nothing)).await;
        }
        if let Some(platform_now) = dispatcher.platform_time.get()
            && purged_at.is_none_or(|at| now.saturating_duration_since(at) >= PURGE_INTERVAL)
        {
            purged_at = Some(now);
            // Housekeeping, which is repeated.
            let _ = inner.store.purge(platform_now, inner.options.keep_dead_letters()).await;
        }
        let asks_platform = dispatcher.credentials.asks_platform();
        if inner.unauthorized.borrow_mut().must_ask(now, asks_platform) {
            // A failed fetch changes nothing.
            let _ = dispatcher.credentials.get(GetCredentials::default()).await;
        }
        has_changed |= inner.note_credentials(dispatcher.credentials.last_generation());
        inner.prepare_probe();
        for share in &mut shares {
            let since = inner.since();
            for route in dispatcher.gates.due_probes(share.endpoint, since.at) {
                if stop.is_cancelled() || inner.unauthorized.borrow().room(1, since.at) == 0 {
                    break;
                }
                let slot = dispatcher.gates.begin_probe(route, since.at, (inner.chance)());
                let outage = outage_reason(route);
                let round = queue.round().saturating_add(1);
                let claimed = inner
                    .claim(Which::Probe { outage }, share.endpoint, round, (1, MAX_BYTES))
                    .await;
                let passages = once(Passage::Probe { _slot: slot }).chain(repeat_with(|| Passage::FirstCall));
                for (message, passage) in claimed.messages.into_iter().zip(passages) {
                    running.push(share.send(Replayed::admit(&outbox, &dispatcher, &queue, message, passage, since)));
                }
                queue.end_round(round);
            }
            let is_due = share.next_due(inner, since.at).is_some_and(|wait| wait.is_zero());
            share.may_have_due |= has_changed || is_due;
            let free = max_at_once.saturating_sub(share.calls);
            let room = inner.unauthorized.borrow().room(free, since.at);
            if stop.is_cancelled() {
                // A claim behind the release of all lanes would keep its lanes until another owner takes them over.
                break;
            }
            // Not one by one, since each claim is a transaction.
            if !share.may_have_due || room == 0 || free <= max_at_once / 2 || share.bytes >= MAX_BYTES {
                continue;
            }
            let round = queue.round().saturating_add(1);
            let limits = (room, MAX_BYTES.saturating_sub(share.bytes));
            let which = Which::Due {
                outages: open_outages(&dispatcher.gates, share.endpoint),
            };
            let claimed = inner.claim(which, share.endpoint, round, limits).await;
            share.may_have_due = claimed.is_limited;
            share.others_due_at = claimed.next_due.and_then(|wait| since.at.checked_add(wait));
            for message in claimed.messages {
                let passage = Passage::FirstCall;
                running.push(share.send(Replayed::admit(&outbox, &dispatcher, &queue, message, passage, since)));
            }
            queue.end_round(round);
        }
        let now = inner.clock.instant();
        let due = shares.iter().map(|share| share.next_due(inner, now));
        let probe = dispatcher.gates.next_probe(now);
        let waits = due.chain([inner.unauthorized.borrow().next(now), probe]).flatten();
        // A lane that is due already has no room, and waits for a message to end.
        let wait = waits.filter(|wait| !wait.is_zero()).chain([longest_wait]).min();
        let wait = wait.unwrap_or(longest_wait).max(SHORTEST_WAIT);
        let tick = async {
            let Some(ticks) = &ticks else {
                return inner.clock.idle(wait).await;
            };
            if let Either::Left((in_vain, _)) = select(pin!(ticks.ticked()), pin!(inner.clock.idle(wait))).await {
                (looked_at, saw_nothing) = (None, in_vain);
            }
        };
        let woken = async {
            let (woken, gates) = (pin!(inner.wake_replay.notified()), pin!(dispatcher.gates.changed()));
            let (woken, tick) = (select(woken, gates), pin!(tick));
            matches!(select(woken, tick).await, Either::Left(_))
        };
        let waited = pin!(stop.run_until_cancelled(woken));
        let ended = async {
            match running.next().await {
                Some(ended) => ended,
                None => std::future::pending().await,
            }
        };
        has_changed = match select(pin!(ended), waited).await {
            Either::Left(((endpoint, calls, bytes), _)) => {
                for share in shares.iter_mut().filter(|share| share.endpoint == endpoint) {
                    share.calls = share.calls.saturating_sub(calls);
                    share.bytes = share.bytes.saturating_sub(bytes);
                }
                false
            }
            Either::Right((woken, _)) => woken.unwrap_or_default(),
        };
    }
    running.for_each(async |_| {}).await;
}

/// The outages that are over, or that there were none of: lanes that were parked because of them are due.
fn open_outages(gates: &Gates, endpoint: Endpoint) -> Vec<ParkReason> {
    let routes = PlatformRoute::ALL.into_iter();
    let open = routes.filter(|route| route.endpoint() == endpoint && !gates.is_closed(*route));
    open.map(outage_reason).collect()
}
