//! Events for tests of a runner's own metrics and logs.

use std::time::{Duration, SystemTime};

use crate::{
    call::CallKind,
    error::FailureKind,
    telemetry::{DeliveryEvent, DeliveryEventKind, EventCall},
};

/// An event of this call, at the beginning of Unix time. Its call has no id and no idempotency key: both are public fields.
///
/// ```
/// use result_poster::{CallKind, testing::{delivered, event}};
///
/// let event = event(CallKind::Status, "sess-1", delivered(2, std::time::Duration::from_secs(1)));
/// assert_eq!(serde_json::to_value(&event)?["totalSeconds"], 1.0);
/// # Ok::<_, serde_json::Error>(())
/// ```
#[must_use]
pub fn event(kind: CallKind, target_id: impl Into<String>, event: DeliveryEventKind) -> DeliveryEvent {
    DeliveryEvent {
        time: SystemTime::UNIX_EPOCH,
        call: Some(EventCall {
            kind,
            target_id: target_id.into(),
            id: None,
            idempotency_key: None,
        }),
        event,
    }
}

/// An attempt failed, after a tenth of a second.
#[must_use]
pub fn attempt_failed(attempt: u32, reason: impl Into<String>, retry_in: Option<Duration>) -> DeliveryEventKind {
    DeliveryEventKind::AttemptFailed {
        attempt,
        duration: Duration::from_millis(100),
        reason: reason.into(),
        retry_in,
    }
}

/// The platform acknowledged the call, which had not waited before its first attempt.
#[must_use]
pub fn delivered(attempts: u32, elapsed: Duration) -> DeliveryEventKind {
    DeliveryEventKind::Delivered {
        attempts,
        elapsed,
        total: elapsed,
    }
}

/// The call ended with an error, and was not delivered.
#[must_use]
pub fn failed(failure: FailureKind, reason: impl Into<String>, attempts: u32) -> DeliveryEventKind {
    DeliveryEventKind::Failed {
        failure,
        reason: reason.into(),
        attempts,
        may_have_been_delivered: false,
    }
}

/// The call became a dead letter.
#[must_use]
pub fn dead_letter(reason: impl Into<String>, status_code: Option<u16>) -> DeliveryEventKind {
    DeliveryEventKind::DeadLetter {
        reason: reason.into(),
        status_code,
    }
}
