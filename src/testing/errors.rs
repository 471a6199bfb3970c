//! Errors for tests of a runner's own error handling.

use std::time::Duration;

use crate::{
    call_id::CallId,
    error::{AttemptError, ParkReason, ParkedError, PermanentError, TransientError},
};

/// The rejection of a call, after one attempt.
///
/// ```
/// use result_poster::{CallError, NextStep, testing::permanent_error};
///
/// let error = CallError::from(permanent_error(401, "expired"));
/// assert_eq!(error.next_step(), NextStep::RenewCredentials);
/// ```
#[must_use]
pub fn permanent_error(status_code: u16, body: impl Into<String>) -> PermanentError {
    PermanentError::new(status_code, body.into())
}

/// The error of a call whose attempts all failed, the last one with this error. The call may have been delivered if
/// that attempt may have been.
///
/// ```
/// use std::time::Duration;
///
/// use result_poster::{AttemptError, AttemptPhase, CallError, NextStep, testing::transient_error};
///
/// let last = AttemptError::Timeout { limit: Duration::from_secs(30), phase: AttemptPhase::Waiting };
/// let error = CallError::from(transient_error(3, last, None));
/// assert_eq!(error.next_step(), NextStep::RetryLater { after: Duration::from_secs(30) });
/// assert!(error.may_have_been_delivered());
/// ```
#[must_use]
pub fn transient_error(attempts: u32, last: AttemptError, retry_after: Option<Duration>) -> TransientError {
    let may_have_been_delivered = last.may_have_been_delivered();
    TransientError::new(attempts, last, retry_after, may_have_been_delivered)
}

/// The error of a call that was parked without an attempt.
///
/// ```
/// use result_poster::{CallError, NextStep, ParkReason, testing::parked_error};
///
/// let id = "01932b4c-7d5e-7a10-8c3f-2b9d4e6f8a01".parse()?;
/// let error = CallError::from(parked_error(id, ParkReason::QueueFull));
/// assert_eq!(error.next_step(), NextStep::Nothing);
/// # Ok::<_, result_poster::ParseCallIdError>(())
/// ```
#[must_use]
pub fn parked_error(id: CallId, reason: ParkReason) -> ParkedError {
    ParkedError {
        id,
        reason,
        attempts: 0,
        last: None,
        may_have_been_delivered: false,
    }
}
