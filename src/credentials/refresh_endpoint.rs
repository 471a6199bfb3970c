//! The platform's endpoint that issues runtime tokens.

use std::{cell::Cell, fmt, rc::Rc};

use bytes::Bytes;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use super::{
    parse::{parse_object, parse_time},
    provider::BoxError,
    runtime_credentials::RuntimeCredentials,
};
use crate::{
    error::{AttemptError, AttemptPhase, CredentialError},
    message::Headers,
    transport::{HttpRequest, Transport},
    verdict::is_html,
};

/// Gets a runtime token from `POST {base}/api/workers/{worker_id}/refresh-token`, through the poster's HTTP client.
pub(crate) struct RefreshEndpoint {
    pub(crate) url: String,
    pub(crate) registration_token: SecretString,
    pub(crate) transport: Rc<dyn Transport>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RefreshResponse {
    runtime_token: SecretString,
    runtime_token_expires_at: Option<Box<RawValue>>,
}

/// The response's body is never part of the error, since it may contain a token.
#[derive(Debug, Error)]
enum RefreshError {
    #[error("no response from the refresh endpoint")]
    NoResponse(#[source] AttemptError),
    #[error("the refresh endpoint rejected the registration token with status {0}")]
    Unauthorized(u16),
    #[error("the refresh endpoint answered {0}")]
    Refused(u16),
    #[error("the refresh endpoint's response is not the expected JSON")]
    Malformed,
}

impl RefreshEndpoint {
    /// Sends one request. The returned worker id is empty: the token is for the worker of the fixed pair.
    pub(super) async fn credentials(&self) -> Result<RuntimeCredentials, BoxError> {
        let headers = Headers::new();
        let request = HttpRequest {
            headers: &headers,
            url: &self.url,
            token: Some(self.registration_token.expose_secret()),
            idempotency_key: None,
            body: Bytes::from_static(b"{}"),
            status_decides: false,
            phase: Rc::new(Cell::new(AttemptPhase::Connecting)),
        };
        let answer = self.transport.post(&request).await.map_err(RefreshError::NoResponse)?;
        match answer.status {
            200..=299 => {
                let response: RefreshResponse = parse_object(&answer.body).ok_or(RefreshError::Malformed)?;
                let mut credentials = RuntimeCredentials::new("", response.runtime_token);
                credentials.expires_at = response.runtime_token_expires_at.as_deref().and_then(parse_time);
                Ok(credentials)
            }
            // A page comes from something in between, such as a router that has lost its backend.
            status_code @ (404 | 405 | 410) if !is_html(&answer) => {
                Err(CredentialError::WorkerGone { status_code }.into())
            }
            status @ (300..=399 | 401 | 403) => Err(RefreshError::Unauthorized(status).into()),
            status => Err(RefreshError::Refused(status).into()),
        }
    }
}

impl fmt::Debug for RefreshEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshEndpoint")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}
