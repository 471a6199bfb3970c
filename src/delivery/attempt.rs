//! One attempt: credentials, one exchange, and at most one re-authentication.

use std::{rc::Rc, time::UNIX_EPOCH};

use super::dispatcher::{CallState, Dispatcher};
use crate::{
    backoff::Hint,
    call::{Call, Endpoint},
    credentials::{GetCredentials, IssuedCredentials},
    error::{AttemptError, AttemptPhase, CallError, CredentialError, PermanentError},
    transport::HttpRequest,
    util::chain,
    verdict::{Answer, Resend, Verdict, classify},
    warning::Warning,
};

/// The end of one attempt.
pub(super) enum Attempt {
    Delivered {
        warnings: Vec<Warning>,
    },
    /// The platform rejected the call.
    Rejected(PermanentError),
    /// The call may be attempted again.
    Failed {
        error: AttemptError,
        hint: Option<Hint>,
    },
}

impl Attempt {
    pub(super) fn error(&self) -> Option<&AttemptError> {
        match self {
            Self::Failed { error, .. } => Some(error),
            Self::Delivered { .. } | Self::Rejected(_) => None,
        }
    }

    /// Another attempt may have other credentials.
    fn unauthorized(rejection: PermanentError) -> Self {
        Self::Failed {
            error: AttemptError::Rejected(rejection),
            hint: None,
        }
    }
}

impl Dispatcher {
    /// Makes one attempt with the present credentials.
    ///
    /// The request is sent once more, at once, with other credentials if the platform rejects these: at most once per
    /// call, so that a 401 never loops.
    pub(super) async fn attempt(&self, call: &Call, state: &CallState<'_>) -> Result<Attempt, CallError> {
        // Credentials are requested with the permit held, so that they are fresh. A fetch keeps the permit: without
        // credentials, no other call could use the permit either.
        let mut credentials = match self.credentials.get(GetCredentials::default()).await {
            Ok(credentials) => credentials,
            Err(error) => {
                self.telemetry.no_credentials(|| chain(&error));
                return Ok(Attempt::Failed {
                    error: error.into(),
                    hint: None,
                });
            }
        };
        loop {
            let mut verdict = self.exchange(call, &credentials, state).await?;
            if let Verdict::Resend(Resend::OtherWorker { otherwise }) = verdict {
                // Boxed: nearly no call comes here, and every one would reserve room for it.
                if let Some(others) = Box::pin(self.other_worker(state)).await {
                    credentials = others;
                    self.telemetry.resending(call.as_ref(), state.attempts.get(), 403);
                    continue;
                }
                verdict = *otherwise;
            }
            let rejection = match verdict {
                Verdict::Delivered { warnings } => return Ok(Attempt::Delivered { warnings }),
                Verdict::Permanent(rejection) => return Ok(Attempt::Rejected(rejection)),
                Verdict::Transient { error, hint } => return Ok(Attempt::Failed { error, hint }),
                Verdict::Resend(_) => {
                    call.reduce();
                    self.telemetry.resending(call.as_ref(), state.attempts.get(), 413);
                    continue;
                }
                Verdict::Unauthorized(rejection) => rejection,
            };
            if state.reauthenticated.replace(true) {
                // The next attempt, or the next call, must not use these credentials without asking.
                self.credentials.invalidate(&credentials);
                return Ok(Attempt::unauthorized(rejection));
            }
            match self.credentials.get(GetCredentials::replacing(&credentials)).await {
                Ok(others) if others.token() != credentials.token() => credentials = others,
                // A fixed pair that no provider has replaced: there is nobody who could be late.
                Ok(same) if same.generation().is_none() && credentials.generation().is_none() => {
                    return Ok(Attempt::Rejected(rejection));
                }
                // The provider may be late. A failed refresh does not hide the platform's response.
                Ok(_) | Err(_) => {
                    state.reauthenticated.set(false);
                    return Ok(Attempt::unauthorized(rejection));
                }
            }
            self.telemetry
                .resending(call.as_ref(), state.attempts.get(), rejection.status_code);
        }
    }

    /// Asks the provider for the credentials of another worker, which the message keeps. At most once per call.
    async fn other_worker(&self, state: &CallState<'_>) -> Option<IssuedCredentials> {
        state.asked_for_other_worker.set(true);
        let rejected = state.worker.id()?;
        // The platform's response counts, not a failed fetch.
        let others = self.credentials.other_worker(&rejected).await.ok()?;
        let other = others.worker_id().filter(|id| **id != *rejected)?;
        state.worker.replace(other).await;
        Some(others)
    }

    /// Sends one request and classifies the response. An error ends the call; the request was not sent.
    async fn exchange(
        &self,
        call: &Call,
        credentials: &IssuedCredentials,
        state: &CallState<'_>,
    ) -> Result<Verdict, CallError> {
        // The credentials may have arrived together with a cancellation that was not polled yet.
        if let Some(by) = state.cancellation.by() {
            return Err(state.cancelled(by));
        }
        let token = credentials.token();
        if self.token_required && token.is_none() {
            self.telemetry.no_credentials(|| CallError::NoCredentials.to_string());
            return Err(CallError::NoCredentials);
        }
        let endpoint = call.kind.endpoint();
        if let Some(worker_id) = credentials.worker_id() {
            state.worker.set_from_credentials(worker_id).await;
        }
        let worker_id = state.worker.id();
        if self.token_required && worker_id.is_none() && endpoint == Endpoint::Session {
            // The platform would reject a result that no worker sends.
            self.telemetry
                .no_credentials(|| CredentialError::NoWorkerId.to_string());
            return Ok(Verdict::Transient {
                error: CredentialError::NoWorkerId.into(),
                hint: None,
            });
        }
        self.telemetry.credentials_available();
        // The process may have been stopped since: during a wait, or while the credentials were fetched.
        state.check().await?;
        let form = call.form();
        let request = HttpRequest {
            url: &self.platform.url(call),
            token,
            idempotency_key: Some(&form.idempotency_key),
            headers: &call.headers,
            body: form.encode(worker_id.as_deref().unwrap_or_default()),
            status_decides: endpoint == Endpoint::Session,
            phase: Rc::clone(&state.phase),
        };
        let verdict = match self.transport.post(&request).await {
            Ok(answer) => {
                let alternatives = state.alternatives(call.is_reduced());
                let verdict = classify(endpoint, &answer, alternatives, self.clock.now());
                // Other responses may come from something in between.
                if let Verdict::Delivered { .. } = verdict {
                    self.note_platform_time(&answer);
                }
                verdict
            }
            // Without a response the failure is never final.
            Err(error) => Verdict::Transient { error, hint: None },
        };
        let this_attempt_may_have = match &verdict {
            Verdict::Delivered { .. } => true,
            Verdict::Transient { error, .. } => error.may_have_been_delivered(),
            Verdict::Permanent(_) | Verdict::Unauthorized(_) | Verdict::Resend(_) => false,
        };
        state.phase.set(AttemptPhase::Connecting);
        if this_attempt_may_have {
            state.may_have_been_delivered.set(true);
        }
        Ok(verdict)
    }

    fn note_platform_time(&self, answer: &Answer<'_>) {
        let date = answer
            .date
            .as_deref()
            .and_then(|date| httpdate::parse_http_date(date).ok());
        let since_epoch = date.and_then(|date| date.duration_since(UNIX_EPOCH).ok());
        if let Some(since_epoch) = since_epoch {
            let milliseconds = i64::try_from(since_epoch.as_millis()).ok();
            self.platform_time.set(milliseconds);
        }
    }
}
