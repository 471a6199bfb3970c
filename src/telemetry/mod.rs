//! The outcome of each call: counted, logged and sent to subscribers, in one place.

mod event;
mod gate;
mod stats;

use std::{cell::RefCell, time::Duration};

use actix::{Recipient, prelude::SendError};
use log::{Level, debug, info, log, trace, warn};

pub use self::{
    event::{DeliveryEvent, DeliveryEventKind, Subscribe},
    gate::{GateState, GateStatus},
    stats::{GetStats, Metric, MetricKind, PosterStats},
};
use crate::{
    call::{CallRef, Endpoint, PlatformRoute},
    error::{AttemptError, CallError, FailureKind},
    receipt::{CallReceipt, Outcome},
    util::ignore_panic,
    warning::Warning,
};

/// Keeps the counters, writes the log lines and sends the events.
#[derive(Default)]
pub(crate) struct Telemetry {
    stats: RefCell<PosterStats>,
    subscribers: RefCell<Vec<Recipient<DeliveryEvent>>>,
}

impl Telemetry {
    /// The counters. The gauges are zero here: they belong to the queue.
    pub(crate) fn stats(&self) -> PosterStats {
        *self.stats.borrow()
    }

    pub(crate) fn subscribe(&self, subscriber: Recipient<DeliveryEvent>) {
        self.subscribers.borrow_mut().push(subscriber);
    }

    pub(crate) fn restarted(&self) {
        count(&mut self.stats.borrow_mut().restarts);
    }

    pub(crate) fn call_accepted(&self, call: CallRef<'_>) {
        count(&mut self.stats.borrow_mut().accepted);
        let CallRef { kind, target_id } = call;
        ignore_panic(|| trace!(kind:%, target_id:?; "{call}: accepted"));
        self.emit(call, || DeliveryEventKind::Accepted);
    }

    /// Reports what a call has lost.
    pub(crate) fn warned(&self, call: CallRef<'_>, warning: &Warning) {
        let CallRef { kind, target_id } = call;
        ignore_panic(|| warn!(kind:%, target_id:?; "{call}: {warning}"));
    }

    pub(crate) fn attempt_started(&self, attempt: u32) {
        let stats = &mut *self.stats.borrow_mut();
        count(&mut stats.attempts);
        if attempt > 1 {
            count(&mut stats.retries);
        }
    }

    pub(crate) fn attempt_failed(
        &self,
        call: CallRef<'_>,
        attempt: u32,
        max_attempts: u32,
        error: &AttemptError,
        retry_in: Option<Duration>,
    ) {
        let reason = error.without_body();
        let next = match retry_in {
            None => String::new(),
            Some(Duration::ZERO) => "; retrying at once".to_owned(),
            Some(wait) => format!("; retrying in {wait:?}"),
        };
        let CallRef { kind, target_id } = call;
        ignore_panic(|| {
            warn!(kind:%, target_id:?, attempt, retry_in:?;
                "{call}: attempt {attempt} of {max_attempts} failed: {reason}{next}");
        });
        self.emit(call, || DeliveryEventKind::AttemptFailed {
            attempt,
            reason,
            retry_in,
        });
    }

    /// The request is sent again, at once, in another form.
    pub(crate) fn resending(&self, call: CallRef<'_>, status_code: u16) {
        let form = match status_code {
            403 => "rejected; sending it at once as the worker of the renewed credentials",
            413 => "too large; sending its reduced form at once",
            _ => "credentials rejected; sending it at once with renewed ones",
        };
        let CallRef { kind, target_id } = call;
        ignore_panic(|| {
            info!(kind:%, target_id:?, status_code; "{call}: status {status_code}: {form}");
        });
        self.emit(call, || DeliveryEventKind::Resending { status_code });
    }

    pub(crate) fn paused(&self, call: CallRef<'_>, pause: Duration) {
        count(&mut self.stats.borrow_mut().pauses);
        let CallRef { kind, target_id } = call;
        let group = match kind.endpoint() {
            Endpoint::Session => "session",
            Endpoint::Proxy => "tracker",
        };
        ignore_panic(|| {
            warn!(kind:%, target_id:?, pause:?; "{call}: the platform asks for a pause; all {group} calls wait for {pause:?}");
        });
        self.emit(call, || DeliveryEventKind::Paused { pause });
    }

    /// The outage gate of a route was closed, after this failure.
    pub(crate) fn gate_closed(&self, route: PlatformRoute, error: Option<&AttemptError>) {
        let reason = error.map(AttemptError::without_body).unwrap_or_default();
        ignore_panic(|| {
            warn!(route:%; "the platform can't be reached for {route} calls, which are parked until it answers: {reason}");
        });
    }

    /// The outage gate of a route was opened.
    pub(crate) fn gate_opened(&self, route: PlatformRoute, closed_for: Duration) {
        ignore_panic(|| {
            info!(route:%, closed_for:?;
                "the platform can be reached again for {route} calls, after {closed_for:?}; parked calls are sent");
        });
    }

    pub(crate) fn call_ended(&self, call: CallRef<'_>, outcome: &Outcome) {
        match outcome {
            Ok(receipt) => self.delivered(call, receipt),
            Err(error) => self.failed(call, error),
        }
    }

    fn delivered(&self, call: CallRef<'_>, receipt: &CallReceipt) {
        let CallReceipt::Delivered { attempts, elapsed, .. } = *receipt else {
            return;
        };
        count(&mut self.stats.borrow_mut().delivered);
        let CallRef { kind, target_id } = call;
        ignore_panic(|| {
            for warning in receipt.warnings() {
                warn!(kind:%, target_id:?; "{call}: delivered, but {warning}");
            }
            debug!(kind:%, target_id:?, attempts, elapsed:?;
                "{call}: delivered in {elapsed:?}, attempts: {attempts}");
        });
        self.emit(call, || DeliveryEventKind::Delivered { attempts, elapsed });
    }

    fn failed(&self, call: CallRef<'_>, error: &CallError) {
        let failure = error.kind();
        let level = {
            let stats = &mut *self.stats.borrow_mut();
            let (level, counter) = match failure {
                FailureKind::Invalid | FailureKind::Overloaded | FailureKind::ShuttingDown => {
                    (Level::Warn, &mut stats.refused)
                }
                FailureKind::NoCredentials | FailureKind::Permanent => (Level::Error, &mut stats.permanent),
                FailureKind::Parked => (Level::Warn, &mut stats.parked),
                FailureKind::Transient => (Level::Error, &mut stats.transient),
                FailureKind::Internal => (Level::Error, &mut stats.internal_errors),
                FailureKind::Cancelled => (Level::Debug, &mut stats.cancelled),
            };
            count(counter);
            level
        };
        let CallRef { kind, target_id } = call;
        ignore_panic(|| {
            log!(level, kind:%, target_id:?, failure:%; "{call}: {}", error.without_body());
        });
        self.emit(call, || DeliveryEventKind::Failed {
            failure,
            may_have_been_delivered: error.may_have_been_delivered(),
        });
    }

    fn emit(&self, call: CallRef<'_>, event: impl FnOnce() -> DeliveryEventKind) {
        let mut subscribers = self.subscribers.borrow_mut();
        if subscribers.is_empty() {
            return;
        }
        let event = DeliveryEvent {
            kind: call.kind,
            target_id: call.target_id.to_owned(),
            event: event(),
        };
        subscribers.retain(|subscriber| match subscriber.try_send(event.clone()) {
            Ok(()) => true,
            Err(SendError::Full(_)) => {
                count(&mut self.stats.borrow_mut().events_dropped);
                true
            }
            Err(SendError::Closed(_)) => false,
        });
    }
}

fn count(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}
