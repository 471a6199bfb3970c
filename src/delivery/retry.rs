//! The only retry loop.

use std::time::Duration;

use super::{
    attempt::Attempt,
    dispatcher::{CallState, Dispatcher},
    gate::Ended,
};
use crate::{
    backoff::{Hint, RetryPolicy},
    call::Call,
    error::{AttemptError, CallError, PermanentError, TransientError},
    queue::Permit,
    receipt::{CallReceipt, Outcome},
};

impl Dispatcher {
    /// Makes attempts until the platform acknowledges the call, rejects it, or all attempts have failed.
    ///
    /// Rejected credentials fail an attempt: the next one asks for credentials again, and is sent with what it gets.
    pub(super) async fn retry(
        &self,
        call: &Call,
        permit: &mut Permit,
        policy: &RetryPolicy,
        state: &CallState<'_>,
    ) -> Outcome {
        let endpoint = call.kind.endpoint();
        let mut pass = self.pauses.enter(endpoint, permit, &self.clock).await;
        let started = self.clock.instant();
        let mut attempts: u32 = 0;
        let mut unauthorized: Option<PermanentError> = None;
        loop {
            attempts = attempts.saturating_add(1);
            state.attempts.set(attempts);
            self.telemetry.attempt_started(attempts);
            let attempt = self.attempt(call, state).await?;
            let pause = pass.ended(self.ended(call, &attempt, policy, attempts));
            if let Some(pause) = pause {
                self.telemetry.paused(call.as_ref(), pause);
            }
            let (last, hint) = match attempt {
                Attempt::Delivered { warnings } => {
                    let elapsed = self.clock.instant().saturating_duration_since(started);
                    return Ok(CallReceipt::delivered(attempts, elapsed, warnings));
                }
                Attempt::Rejected(rejection) => return Err(state.rejected(rejection, attempts)),
                Attempt::Failed { error, hint } => (error, hint),
            };
            if let AttemptError::Rejected(rejection) = &last {
                unauthorized = Some(rejection.clone());
            }
            let wait = policy.wait_after(attempts, hint, rand::random());
            self.telemetry
                .attempt_failed(call.as_ref(), attempts, policy.max_attempts, &last, wait);
            match wait {
                None => return Err(state.given_up(attempts, last, hint, unauthorized)),
                Some(Duration::ZERO) => {}
                Some(wait) => {
                    permit.release();
                    self.clock.sleep(wait).await;
                }
            }
            pass = self.pauses.enter(endpoint, permit, &self.clock).await;
        }
    }

    /// The end of an attempt, for the gate of its group.
    fn ended<'a>(&self, call: &'a Call, attempt: &Attempt, policy: &RetryPolicy, attempts: u32) -> Ended<'a> {
        let (error, hint) = match attempt {
            Attempt::Delivered { .. } | Attempt::Rejected(_) => return Ended::Handled,
            Attempt::Failed { error, hint } => (error, *hint),
        };
        let asked = hint.map(|hint| hint.duration().min(policy.max_retry_after));
        match error {
            AttemptError::RetryableResponse { status_code: 429, .. } => {
                Ended::RateLimited(asked.unwrap_or_else(|| policy.backoff(attempts, rand::random())))
            }
            AttemptError::RetryableResponse { status_code: 503, .. } if asked.is_some() => {
                Ended::Busy(&call.target, asked.unwrap_or_default())
            }
            AttemptError::RetryableResponse { .. }
            | AttemptError::UnexpectedResponse { .. }
            | AttemptError::Rejected(_) => Ended::Answered,
            AttemptError::Credentials(_)
            | AttemptError::Connect(_)
            | AttemptError::Timeout { .. }
            | AttemptError::ConnectionLost(_)
            | AttemptError::StreamRefused(_) => Ended::Unanswered,
        }
    }
}

impl CallState<'_> {
    fn rejected(&self, mut rejection: PermanentError, attempts: u32) -> CallError {
        rejection.attempts = attempts;
        rejection.may_have_been_delivered = self.may_have_been_delivered.get();
        rejection.into()
    }

    /// The error of a call whose last attempt failed. Credentials that the platform has rejected are the cause if that
    /// attempt was rejected as well, or if there was none to be had for it.
    fn given_up(
        &self,
        attempts: u32,
        last: AttemptError,
        hint: Option<Hint>,
        unauthorized: Option<PermanentError>,
    ) -> CallError {
        match (last, unauthorized) {
            (AttemptError::Rejected(rejection), _) | (AttemptError::Credentials(_), Some(rejection)) => {
                self.rejected(rejection, attempts)
            }
            (last, _) => {
                let retry_after = hint.map(Hint::duration);
                TransientError::new(attempts, last, retry_after, self.may_have_been_delivered.get()).into()
            }
        }
    }
}
