//! Checking options by one request that changes nothing.

mod outcome;
mod step;

use std::{cell::Cell, rc::Rc, sync::Arc};

use bytes::Bytes;

use self::outcome::{Identity, connection_steps, steps_of_answer, steps_without_answer};
pub use self::step::{CheckOutcome, CheckStep, CheckedStep};
use super::{outbox::OpenOutbox, validated::Options};
use crate::{credentials::GetCredentials, error::AttemptPhase, message::Headers, transport::HttpRequest, util::chain};

/// The session of the request. The platform has none with this id.
const SESSION: &str = "result-poster-check";

impl Options {
    /// Checks whether a poster with these options could deliver: by one request over the transport that a poster uses, to
    /// be awaited on an actix arbiter. The outbox is not touched.
    ///
    /// The request is a `POST` to `{base}/api/sessions/result-poster-check/status` that names the worker and no status. No
    /// session has this id, so the platform refuses the request, and changes nothing; it may log it. Credentials are
    /// fetched as before a call: a provider is asked, a token file is read, and a refresh endpoint issues a token.
    ///
    /// A refusal that says nothing about the token or the worker (400, 404, 409, 410, 422) is the expected answer. A wrong
    /// path in the platform's URL gives the same outcome if the server there answers in JSON. The worker is only compared
    /// by a platform that does so before it looks for the session.
    ///
    /// Takes as long as one attempt and one fetch of credentials at most. Dropping the future ends the check.
    pub async fn check(mut self) -> Vec<CheckedStep> {
        self.outbox = OpenOutbox::default();
        let (upstream, clock) = (Arc::clone(&self.transport.upstream), self.clock.clone());
        let dispatcher = self.into_parts().dispatcher;
        let credentials = dispatcher.credentials.get(GetCredentials::default()).await;
        let issued = credentials.as_ref().ok();
        let (token, worker_id) = (
            issued.and_then(|issued| issued.token()),
            issued.and_then(|issued| issued.worker_id()),
        );
        let url = [&dispatcher.platform.base, "/api/sessions/", SESSION, "/status"].concat();
        let body = serde_json::json!({ "workerId": worker_id.unwrap_or_default() });
        let request = HttpRequest {
            url: &url,
            token,
            idempotency_key: None,
            headers: &Headers::new(),
            body: Bytes::from(body.to_string()),
            status_decides: true,
            phase: Rc::new(Cell::new(AttemptPhase::Connecting)),
        };
        let answer = dispatcher.transport.post(&request).await;

        let mut steps = connection_steps(&upstream, answer.as_ref().err());
        let identity = Identity {
            worker_id,
            has_token: token.is_some(),
            is_token_required: dispatcher.token_required,
            fault: credentials.as_ref().err().map(|error| chain(error)),
        };
        let after = match &answer {
            Ok(answer) => steps_of_answer(&identity, answer, clock.now()),
            Err(error) => steps_without_answer(&identity, error),
        };
        steps.extend(after.map(|(step, outcome)| CheckedStep { step, outcome }));
        steps
    }
}
