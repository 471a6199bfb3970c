//! The only retry loop.

use std::time::Duration;

use super::dispatcher::{CallState, Dispatcher};
use crate::{
    backoff::RetryPolicy,
    call::Call,
    error::TransientError,
    queue::Permit,
    receipt::{CallReceipt, Outcome},
    verdict::Verdict,
};

impl Dispatcher {
    /// Makes attempts until the platform acknowledges the call, rejects it, or all attempts have failed.
    pub(super) async fn retry(
        &self,
        call: &Call,
        permit: &mut Permit,
        policy: &RetryPolicy,
        state: &CallState<'_>,
    ) -> Outcome {
        permit.acquire().await;
        let started = self.clock.instant();
        let mut attempts: u32 = 0;
        loop {
            attempts = attempts.saturating_add(1);
            self.telemetry.attempt_started(attempts);
            let (last, retry_after) = match self.attempt(call, state).await? {
                Verdict::Delivered => {
                    let elapsed = self.clock.instant().saturating_duration_since(started);
                    return Ok(CallReceipt::delivered(attempts, elapsed));
                }
                Verdict::Permanent(mut rejection) | Verdict::Unauthorized(mut rejection) => {
                    rejection.attempts = attempts;
                    rejection.may_have_been_delivered = state.may_have_been_delivered.get();
                    return Err(rejection.into());
                }
                Verdict::Transient { error, retry_after } => (error, retry_after),
            };
            let wait = policy.wait_after(attempts, retry_after, rand::random());
            self.telemetry
                .attempt_failed(call.as_ref(), attempts, policy.max_attempts, &last, wait);
            match wait {
                None => {
                    let may_have_been_delivered = state.may_have_been_delivered.get();
                    let error = TransientError::new(attempts, last, retry_after, may_have_been_delivered);
                    return Err(error.into());
                }
                Some(Duration::ZERO) => {}
                Some(wait) => {
                    permit.release();
                    self.clock.sleep(wait).await;
                    permit.acquire().await;
                }
            }
        }
    }
}
