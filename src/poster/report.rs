//! The answer to a question about the poster's health.

use std::{rc::Rc, time::Duration};

use actix::{Context, Handler, ResponseFuture};

use super::{
    actor::ResultPoster,
    health::{CredentialsHealth, GetHealth, Health, PlatformHealth, ShutdownProgress},
};
use crate::{
    call::Endpoint,
    delivery::Dispatcher,
    telemetry::{GateState, GateStatus, Reached},
    util::chain,
};

impl Handler<GetHealth> for ResultPoster {
    type Result = ResponseFuture<Health>;

    fn handle(&mut self, _: GetHealth, _: &mut Context<Self>) -> Self::Result {
        Box::pin(self.health())
    }
}

impl ResultPoster {
    pub(super) fn health(&self) -> impl Future<Output = Health> + use<> {
        let (dispatcher, queue) = (Rc::clone(&self.parts.dispatcher), Rc::clone(&self.parts.queue));
        let shutdown_at = self.shutdown_at;
        #[cfg(feature = "outbox")]
        let outbox = self.parts.outbox.clone();
        async move {
            #[cfg(feature = "outbox")]
            let outbox = match outbox {
                Some(outbox) => Some(outbox.health().await),
                None => None,
            };
            let now = dispatcher.clock.instant();
            let gauges = queue.gauges();
            let in_hand = number(gauges.in_flight.saturating_add(gauges.queued));
            let gates: Vec<GateStatus> = dispatcher.gates.statuses(now).into();
            let oldest_age = dispatcher.telemetry.oldest_age();
            #[cfg(feature = "outbox")]
            let oldest_age = {
                let counted = outbox.as_ref().and_then(|outbox| outbox.stats.as_ref());
                oldest_age.max(counted.and_then(|stats| stats.oldest_age))
            };
            Health {
                platform: platform(&dispatcher, &gates),
                gates,
                session_pause: dispatcher.gates.pause(Endpoint::Session, now),
                tracker_pause: dispatcher.gates.pause(Endpoint::Proxy, now),
                credentials: credentials(&dispatcher),
                in_hand,
                free_places: number(queue.free_places()),
                oldest_age,
                #[cfg(feature = "outbox")]
                outbox,
                shutdown: queue.is_closed().then(|| ShutdownProgress {
                    left: in_hand,
                    remaining: shutdown_at.map_or(Duration::MAX, |at| at.saturating_duration_since(now)),
                }),
            }
        }
    }
}

fn number(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

fn platform(dispatcher: &Dispatcher, gates: &[GateStatus]) -> PlatformHealth {
    let closed = gates.iter().filter(|gate| gate.state == GateState::Closed);
    let longest = closed.max_by_key(|gate| gate.closed_for);
    match (dispatcher.telemetry.reached(), longest) {
        (Reached::Unreachable { outage, reason }, _) => PlatformHealth::Unreachable { outage, reason },
        (_, Some(gate)) => PlatformHealth::Unreachable {
            outage: gate.closed_for.unwrap_or_default(),
            reason: gate
                .last_error
                .as_ref()
                .map(|error| error.without_body())
                .unwrap_or_default(),
        },
        (Reached::Answered { ago }, None) => PlatformHealth::Reachable { answered_ago: ago },
        (Reached::Unknown, None) => PlatformHealth::Unknown,
    }
}

fn credentials(dispatcher: &Dispatcher) -> CredentialsHealth {
    let (outage, reason) = dispatcher.telemetry.authorization_outage().unzip();
    let provider_error = dispatcher.credentials.last_fetch_error();
    CredentialsHealth {
        outage,
        reason,
        provider_error: provider_error.as_ref().map(|error| chain(error)),
    }
}
