//! Counts, logs and publishes what happens to calls.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use actix::Recipient;
use log::{Level, debug, info, log, trace, warn};

use super::{
    authorization::Authorization,
    event::{DeliveryEvent, DeliveryEventKind, EventCall},
    messages::{Messages, Unanswered},
    metrics::{self, Label, count_in, record_in},
    reachability::Reachability,
    stats::PosterStats,
    subscribers::Subscribers,
};
use crate::{
    call::{CallRef, Endpoint},
    clock::Clock,
    error::{AttemptError, CallError, FailureKind},
    receipt::{CallReceipt, Outcome},
    util::ignore_panic,
    warning::Warning,
};

/// Keeps the counters, writes the log lines and sends the events.
pub(crate) struct Telemetry {
    pub(super) clock: Clock,
    pub(super) stats: RefCell<PosterStats>,
    subscribers: Subscribers,
    pub(super) authorization: RefCell<Authorization>,
    pub(super) reachability: RefCell<Reachability>,
    messages: Rc<Messages>,
}

/// An attempt that failed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FailedAttempt<'a> {
    /// Its number, from 1.
    pub(crate) attempt: u32,
    pub(crate) max_attempts: u32,
    pub(crate) duration: Duration,
    pub(crate) error: &'a AttemptError,
    pub(crate) retry_in: Option<Duration>,
    /// Whether the outage has its line in the log already.
    pub(crate) is_known_outage: bool,
}

/// When the delivery of a message began.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Begin {
    /// Its message arrived.
    Arrived(Instant),
    /// It was stored, and parked since.
    Stored(SystemTime),
}

impl Telemetry {
    pub(crate) fn new(clock: Clock, subscribers: Vec<Recipient<DeliveryEvent>>) -> Self {
        Self {
            clock,
            stats: RefCell::default(),
            subscribers: Subscribers::new(subscribers),
            authorization: RefCell::default(),
            reachability: RefCell::default(),
            messages: Rc::default(),
        }
    }

    /// The counters. The gauges are zero here: they belong to the queue.
    pub(crate) fn stats(&self) -> PosterStats {
        *self.stats.borrow()
    }

    pub(crate) fn subscribe(&self, subscriber: Recipient<DeliveryEvent>) {
        self.subscribers.add(subscriber);
    }

    pub(crate) fn restarted(&self) {
        count_in!(self, restarts, Label::None);
    }

    /// The time since the delivery of a message began.
    fn since(&self, begin: Begin) -> Duration {
        match begin {
            Begin::Arrived(at) => self.clock.instant().saturating_duration_since(at),
            Begin::Stored(at) => self.clock.now().duration_since(at).unwrap_or_default(),
        }
    }

    /// A message has arrived at this time. It is answered when the value is dropped.
    pub(crate) fn message_arrived(&self, at: Instant) -> Unanswered {
        self.messages.begin(at)
    }

    /// The age of the oldest message that is not answered.
    pub(crate) fn oldest_age(&self) -> Option<Duration> {
        let arrived = self.messages.oldest()?;
        Some(self.clock.instant().saturating_duration_since(arrived))
    }

    pub(crate) fn call_accepted(&self, call: CallRef<'_>) {
        count_in!(self, accepted, Label::Kind(call.kind));
        let CallRef { kind, target_id, .. } = call;
        ignore_panic(|| trace!(kind:%, target_id:?; "{call}: accepted"));
        self.emit(Some(call), || DeliveryEventKind::Accepted);
    }

    /// Reports what a call has lost.
    pub(crate) fn warned(&self, call: CallRef<'_>, warning: &Warning) {
        let CallRef { kind, target_id, .. } = call;
        ignore_panic(|| warn!(kind:%, target_id:?; "{call}: {warning}"));
    }

    pub(crate) fn attempt_started(&self, call: CallRef<'_>, attempt: u32) {
        count_in!(self, attempts, Label::Kind(call.kind));
        if attempt > 1 {
            count_in!(self, retries, Label::Kind(call.kind));
        }
    }

    /// Any end of an attempt.
    pub(crate) fn attempt_ended(&self, call: CallRef<'_>, duration: Duration) {
        record_in!(self, attempt_time, Label::Kind(call.kind), duration);
    }

    pub(crate) fn attempt_failed(&self, call: CallRef<'_>, failed: FailedAttempt<'_>) {
        let FailedAttempt {
            attempt,
            max_attempts,
            duration,
            error,
            retry_in,
            is_known_outage,
        } = failed;
        let level = if is_known_outage { Level::Debug } else { Level::Warn };
        let reason = error.without_body();
        let next = match retry_in {
            None => String::new(),
            Some(Duration::ZERO) => "; retrying at once".to_owned(),
            Some(wait) => format!("; retrying in {wait:?}"),
        };
        let CallRef { kind, target_id, .. } = call;
        ignore_panic(|| {
            log!(level, kind:%, target_id:?, attempt, retry_in:?;
                "{call}: attempt {attempt} of {max_attempts} failed: {reason}{next}");
        });
        self.emit(Some(call), || DeliveryEventKind::AttemptFailed {
            attempt,
            duration,
            reason,
            retry_in,
        });
    }

    /// The request is sent again, at once, in another form.
    pub(crate) fn resending(&self, call: CallRef<'_>, attempt: u32, status_code: u16) {
        let form = match status_code {
            403 => "rejected; sending it at once as the worker of the renewed credentials",
            413 => "too large; sending its reduced form at once",
            _ => "credentials rejected; sending it at once with renewed ones",
        };
        let CallRef { kind, target_id, .. } = call;
        ignore_panic(|| {
            info!(kind:%, target_id:?, status_code; "{call}: status {status_code}: {form}");
        });
        self.emit(Some(call), || DeliveryEventKind::Resending { attempt, status_code });
    }

    pub(crate) fn paused(&self, call: CallRef<'_>, pause: Duration) {
        count_in!(self, pauses, Label::Kind(call.kind));
        let CallRef { kind, target_id, .. } = call;
        let group = match kind.endpoint() {
            Endpoint::Session => "session",
            Endpoint::Proxy => "tracker",
        };
        ignore_panic(|| {
            warn!(kind:%, target_id:?, pause:?; "{call}: the platform asks for a pause; all {group} calls wait for {pause:?}");
        });
        self.emit(Some(call), || DeliveryEventKind::Paused { pause });
    }

    /// A call has ended. `begin` is that of its delivery; `None` if it was not to be sent now.
    pub(crate) fn call_ended(&self, call: CallRef<'_>, outcome: &Outcome, begin: Option<Begin>) {
        match outcome {
            Ok(receipt) => self.delivered(call, receipt, begin),
            Err(error) => self.failed(call, error, begin),
        }
    }

    fn delivered(&self, call: CallRef<'_>, receipt: &CallReceipt, begin: Option<Begin>) {
        let CallReceipt::Delivered { attempts, elapsed, .. } = *receipt else {
            return;
        };
        let total = begin.map_or(elapsed, |begin| self.since(begin));
        let label = Label::Kind(call.kind);
        count_in!(self, delivered, label);
        match begin {
            Some(Begin::Stored(_)) => record_in!(self, parked_time, label, total),
            Some(Begin::Arrived(_)) | None => record_in!(self, delivery_time, label, total),
        }
        let CallRef { kind, target_id, .. } = call;
        ignore_panic(|| {
            for warning in receipt.warnings() {
                warn!(kind:%, target_id:?; "{call}: delivered, but {warning}");
            }
            debug!(kind:%, target_id:?, attempts, elapsed:?;
                "{call}: delivered in {elapsed:?}, attempts: {attempts}");
        });
        self.emit(Some(call), || DeliveryEventKind::Delivered {
            attempts,
            elapsed,
            total,
        });
    }

    fn failed(&self, call: CallRef<'_>, error: &CallError, begin: Option<Begin>) {
        let failure = error.kind();
        let label = Label::Kind(call.kind);
        match failure {
            FailureKind::Invalid | FailureKind::Overloaded | FailureKind::ShuttingDown => {
                count_in!(self, refused, label);
            }
            FailureKind::NoCredentials | FailureKind::Permanent => count_in!(self, permanent, label),
            FailureKind::Parked => count_in!(self, parked, label),
            FailureKind::Transient => count_in!(self, transient, label),
            FailureKind::Internal => count_in!(self, internal_errors, label),
            FailureKind::Cancelled => count_in!(self, cancelled, label),
        }
        let level = level(error, begin);
        let CallRef { kind, target_id, .. } = call;
        let reason = error.without_body();
        ignore_panic(|| {
            log!(level, kind:%, target_id:?, failure:%; "{call}: {reason}");
        });
        self.emit(Some(call), || DeliveryEventKind::Failed {
            failure,
            reason,
            attempts: error.attempts(),
            may_have_been_delivered: error.may_have_been_delivered(),
        });
    }

    /// A call became a dead letter. `None` if its kind can't be read.
    #[cfg(feature = "outbox")]
    pub(crate) fn dead_letter(&self, call: Option<CallRef<'_>>, reason: &str, status_code: Option<u16>) {
        count_in!(
            self,
            dead_letters,
            call.map_or(Label::None, |call| Label::Kind(call.kind))
        );
        self.emit(call, || DeliveryEventKind::DeadLetter {
            reason: reason.to_owned(),
            status_code,
        });
    }

    pub(super) fn emit(&self, call: Option<CallRef<'_>>, event: impl FnOnce() -> DeliveryEventKind) {
        if self.subscribers.is_empty() {
            return;
        }
        let dropped = self.subscribers.send(&DeliveryEvent {
            time: self.clock.now(),
            call: call.map(EventCall::from),
            event: event(),
        });
        for _ in 0..dropped {
            count_in!(self, events_dropped, Label::None);
        }
    }
}

/// The level of the final line about a call. An outage must not write a line for each call that waits for its end, and a
/// call that was parked before has its line already.
fn level(error: &CallError, begin: Option<Begin>) -> Level {
    match error.kind() {
        FailureKind::Invalid | FailureKind::Overloaded | FailureKind::ShuttingDown => Level::Warn,
        FailureKind::NoCredentials | FailureKind::Permanent | FailureKind::Transient | FailureKind::Internal => {
            Level::Error
        }
        FailureKind::Cancelled => Level::Debug,
        FailureKind::Parked => match begin {
            Some(Begin::Arrived(_)) if error.attempts() > 0 => Level::Warn,
            Some(Begin::Arrived(_) | Begin::Stored(_)) | None => Level::Debug,
        },
    }
}
