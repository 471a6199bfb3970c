//! One attempt: credentials, one exchange, and at most one re-authentication.

use std::{rc::Rc, time::UNIX_EPOCH};

use super::dispatcher::{CallState, Dispatcher};
use crate::{
    call::{Call, Endpoint},
    credentials::{GetCredentials, IssuedCredentials},
    error::{AttemptPhase, CallError, CredentialError, PermanentError},
    transport::HttpRequest,
    verdict::{Answer, Verdict, classify},
};

impl Dispatcher {
    /// Makes one attempt with the present credentials. If the platform rejects them and there are others, the request
    /// is sent once more, at once: at most once per call, so that a 401 never loops.
    pub(super) async fn attempt(&self, call: &Call, state: &CallState<'_>) -> Result<Verdict, CallError> {
        // Credentials are requested with the permit held, so that they are fresh. A fetch keeps the permit: without
        // credentials, no other call could use the permit either.
        let mut request = GetCredentials::default();
        let mut rejected: Option<(IssuedCredentials, PermanentError)> = None;
        loop {
            let credentials = match self.credentials.get(request).await {
                Ok(credentials) => credentials,
                Err(error) => {
                    return Ok(Verdict::Transient {
                        error: error.into(),
                        retry_after: None,
                    });
                }
            };
            if let Some((rejected, rejection)) = rejected {
                if rejected.token() == credentials.token() {
                    return Ok(Verdict::Permanent(rejection));
                }
                self.telemetry.reauthenticating(call.as_ref(), rejection.status_code);
            }
            let verdict = self.exchange(call, &credentials, state).await?;
            let Verdict::Unauthorized(rejection) = verdict else {
                return Ok(verdict);
            };
            if state.reauthenticated.replace(true) {
                // This call has used its re-authentication. The next call must not start with these credentials.
                self.credentials.invalidate(&credentials);
                return Ok(Verdict::Permanent(rejection));
            }
            request = GetCredentials::replacing(&credentials);
            rejected = Some((credentials, rejection));
        }
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
            return Err(CallError::NoCredentials);
        }
        let endpoint = call.kind.endpoint();
        if let Some(worker_id) = credentials.worker_id() {
            state.worker.set_from_credentials(worker_id);
        }
        let worker_id = state.worker.id();
        if self.token_required && worker_id.is_none() && endpoint == Endpoint::Session {
            // The platform would reject a result that no worker sends.
            return Ok(Verdict::Transient {
                error: CredentialError::NoWorkerId.into(),
                retry_after: None,
            });
        }
        let request = HttpRequest {
            url: &call.url,
            token,
            idempotency_key: Some(&call.idempotency_key),
            headers: &call.headers,
            body: call.encode(worker_id.as_deref().unwrap_or_default()),
            status_decides: endpoint == Endpoint::Session,
            phase: Rc::clone(&state.phase),
        };
        let verdict = match self.transport.post(&request).await {
            Ok(answer) => {
                self.note_platform_time(&answer);
                classify(endpoint, &answer, self.clock.now())
            }
            // Without a response the failure is never final.
            Err(error) => Verdict::Transient {
                error,
                retry_after: None,
            },
        };
        let this_attempt_may_have = match &verdict {
            Verdict::Delivered => true,
            Verdict::Transient { error, .. } => error.may_have_been_delivered(),
            Verdict::Permanent(_) | Verdict::Unauthorized(_) => false,
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
