//! The reports about the platform: whether it answers, and its outages, once for each route.

use std::time::{Duration, Instant};

use log::{info, warn};

use super::{
    event::DeliveryEventKind,
    metrics::{self, Label, count_in},
    reachability::Reached,
    recorder::Telemetry,
};
use crate::{call::PlatformRoute, error::AttemptError, util::ignore_panic};

impl Telemetry {
    /// The outage gate of a route was closed, after this failure.
    pub(crate) fn gate_closed(&self, route: PlatformRoute, error: Option<&AttemptError>) {
        let reason = error.map(AttemptError::without_body).unwrap_or_default();
        ignore_panic(|| {
            warn!(route:%; "the platform can't be reached for {route} calls, which are parked until it answers: {reason}");
        });
        count_in!(self, outages, Label::Route(route));
        self.emit(None, || DeliveryEventKind::GateClosed { route, reason });
    }

    /// The outage gate of a route was opened.
    pub(crate) fn gate_opened(&self, route: PlatformRoute, closed_for: Duration) {
        ignore_panic(|| {
            info!(route:%, closed_for:?;
                "the platform can be reached again for {route} calls, after {closed_for:?}; parked calls are sent");
        });
        self.emit(None, || DeliveryEventKind::GateOpened { route, closed_for });
    }

    /// The platform has answered an attempt.
    pub(crate) fn platform_answered(&self, now: Instant) {
        self.reachability.borrow_mut().answered(now);
    }

    /// An attempt got no answer of the platform.
    pub(crate) fn platform_failed(&self, error: &AttemptError, now: Instant) {
        self.reachability.borrow_mut().failed(error.without_body(), now);
    }

    /// Whether the platform can be reached.
    pub(crate) fn reached(&self) -> Reached {
        self.reachability.borrow().state(self.clock.instant())
    }
}
