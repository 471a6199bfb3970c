//! The platform's endpoint that issues runtime tokens.

use std::{cell::Cell, fmt, rc::Rc};

use bytes::Bytes;
use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;

use super::{
    parse::{parse_members, parse_time},
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
            200..=299 => Ok(parse(&answer.body).ok_or(RefreshError::Malformed)?),
            // A page comes from something in between, such as a router that has lost its backend.
            status_code @ (404 | 405 | 410) if !is_html(&answer) => {
                Err(CredentialError::WorkerGone { status_code }.into())
            }
            status @ (300..=399 | 401 | 403) => Err(RefreshError::Unauthorized(status).into()),
            status => Err(RefreshError::Refused(status).into()),
        }
    }
}

fn parse(body: &[u8]) -> Option<RuntimeCredentials> {
    let [token, expires_at] = parse_members(body, ["runtimeToken", "runtimeTokenExpiresAt"])?;
    let token: SecretString = serde_json::from_str(token?.get()).ok()?;
    let mut credentials = RuntimeCredentials::new("", token);
    credentials.expires_at = expires_at.as_deref().and_then(parse_time);
    Some(credentials)
}

impl fmt::Debug for RefreshEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshEndpoint")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_equal_members_counts() {
        let body = br#"{"runtimeToken":1,"runtimeTokenExpiresAt":1,"runtimeToken":"t","runtimeTokenExpiresAt":null}"#;
        let credentials = parse(body).unwrap();
        assert_eq!((credentials.token(), credentials.expires_at), (Some("t"), None));
    }
}
