//! The only retry loop.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use super::{
    attempt::Attempt,
    dispatcher::{CallState, Dispatcher},
    gate::{Change, Ended},
};
use crate::{
    backoff::{Hint, RetryPolicy},
    call::{Call, PlatformRoute},
    error::{AttemptError, AttemptPhase, CallError, PermanentError, TransientError},
    queue::Permit,
    receipt::{CallReceipt, Outcome},
    telemetry::FailedAttempt,
};

impl Dispatcher {
    /// Makes attempts until the platform acknowledges the call, rejects it, or all attempts have failed. A call that the
    /// outage gate holds back fails with the attempts that it has had, which may be none.
    ///
    /// Rejected credentials fail an attempt: the next one asks for credentials again, and is sent with what it gets.
    pub(super) async fn retry(
        &self,
        call: &Call,
        permit: &mut Permit,
        policy: &RetryPolicy,
        state: &CallState<'_>,
    ) -> Outcome {
        let admission = state.admission;
        let mut started = None;
        let mut attempts: u32 = 0;
        let mut unauthorized: Option<PermanentError> = None;
        loop {
            let pass = match self.gates.enter(call, admission, permit, &self.clock).await {
                Ok(pass) => pass,
                Err(cause) => return Err(state.given_up(attempts, cause, None, unauthorized)),
            };
            attempts = attempts.saturating_add(1);
            state.attempts.set(attempts);
            self.telemetry.attempt_started(call.as_ref(), attempts);
            let began = pass.began();
            let started = *started.get_or_insert(began);
            let attempt = {
                // Pinned first, since passing a future on copies it. In a block, so that its memory is free for the sleep.
                let attempt = pin!(self.attempt(call, state));
                pass.run(permit, &state.phase, attempt, |changes| self.report(changes))
                    .await?
            };
            let now = self.clock.instant();
            let duration = now.saturating_duration_since(began);
            self.telemetry.attempt_ended(call.as_ref(), duration);
            self.note_authorization(&attempt);
            let is_known_outage = self.gates.is_known_outage(call, admission);
            let ended = self.ended(&attempt, policy, attempts);
            self.note_answer(ended, attempt.error(), now);
            let changes = pass.ended(ended, attempt.error(), now);
            if let Some(pause) = changes.pause {
                self.telemetry.paused(call.as_ref(), pause);
            }
            let (last, hint) = match attempt {
                Attempt::Delivered { warnings } => {
                    self.report(&changes.outages);
                    let elapsed = now.saturating_duration_since(started);
                    return Ok(CallReceipt::delivered(attempts, elapsed, warnings));
                }
                Attempt::Rejected(rejection) => {
                    self.report(&changes.outages);
                    return Err(state.rejected(rejection, attempts));
                }
                Attempt::Failed { error, hint } => (error, hint),
            };
            if let AttemptError::Rejected(rejection) = &last {
                unauthorized = Some(rejection.clone());
            }
            let wait = if self.gates.holds(call, admission) {
                None
            } else {
                policy.wait_after(attempts, hint, (self.chance)())
            };
            self.telemetry.attempt_failed(
                call.as_ref(),
                FailedAttempt {
                    attempt: attempts,
                    max_attempts: policy.max_attempts,
                    duration,
                    error: &last,
                    retry_in: wait,
                    is_known_outage,
                },
            );
            self.report(&changes.outages);
            match wait {
                None => return Err(state.given_up(attempts, last, hint, unauthorized)),
                Some(Duration::ZERO) => {}
                Some(wait) => {
                    permit.release();
                    // Boxed: most calls never sleep, and every one would reserve room for it.
                    Box::pin(self.gates.sleep(call, admission, self.clock.sleep(wait))).await;
                }
            }
        }
    }

    /// Notes what the end of an attempt says about the platform.
    fn note_answer(&self, ended: Ended, error: Option<&AttemptError>, now: Instant) {
        match ended {
            Ended::Handled | Ended::RateLimited(_) | Ended::Answered => self.telemetry.platform_answered(now),
            Ended::Busy(_) | Ended::Unavailable | Ended::Unanswered | Ended::Unconnected => {
                if let Some(error) = error {
                    self.telemetry.platform_failed(error, now);
                }
            }
            Ended::NotTried => {}
        }
    }

    /// Notes what the end of an attempt says about its credentials.
    fn note_authorization(&self, attempt: &Attempt) {
        match attempt {
            Attempt::Rejected(rejection)
            | Attempt::Failed {
                error: AttemptError::Rejected(rejection),
                ..
            } if rejection.is_unauthorized() => self.telemetry.credentials_rejected(|| rejection.without_body()),
            Attempt::Delivered { .. } | Attempt::Rejected(_) => self.telemetry.credentials_accepted(),
            // Something else may have answered.
            Attempt::Failed { .. } => {}
        }
    }

    /// The end of an attempt, for the gates.
    fn ended(&self, attempt: &Attempt, policy: &RetryPolicy, attempts: u32) -> Ended {
        let (error, hint) = match attempt {
            Attempt::Delivered { .. } | Attempt::Rejected(_) => return Ended::Handled,
            Attempt::Failed { error, hint } => (error, *hint),
        };
        let asked = hint.map(|hint| hint.duration().min(policy.max_retry_after));
        match error {
            AttemptError::RetryableResponse { status_code: 429, .. } => {
                Ended::RateLimited(asked.unwrap_or_else(|| policy.backoff(attempts, (self.chance)())))
            }
            AttemptError::RetryableResponse { status_code: 503, .. } if asked.is_some() => {
                Ended::Busy(asked.unwrap_or_default())
            }
            AttemptError::RetryableResponse {
                status_code: 502..=504, ..
            }
            | AttemptError::UnexpectedResponse { .. } => Ended::Unavailable,
            AttemptError::RetryableResponse { .. } | AttemptError::Rejected(_) => Ended::Answered,
            AttemptError::ConnectionLost(_) | AttemptError::StreamRefused(_) => Ended::Unanswered,
            AttemptError::Timeout { phase, .. } if *phase != AttemptPhase::Connecting => Ended::Unanswered,
            AttemptError::Connect(_) | AttemptError::Timeout { .. } => Ended::Unconnected,
            AttemptError::Credentials(_) => Ended::NotTried,
        }
    }

    /// Reports the outage gates that were opened or closed.
    pub(crate) fn report(&self, changes: &[(PlatformRoute, Change)]) {
        for (route, change) in changes {
            match change {
                Change::Closed => self.telemetry.gate_closed(*route, self.gates.cause(*route).as_ref()),
                Change::Opened { closed_for } => self.telemetry.gate_opened(*route, *closed_for),
            }
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
