//! The platform's own endpoint for a new runtime token as a provider.

use std::{cell::Cell, fmt, rc::Rc};

use bytes::Bytes;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use thiserror::Error;

use super::{ProviderError, RuntimeCredentials, parse_object, parse_timestamp};
use crate::{
    error::{AttemptError, Stage},
    transport::{Request, Transport},
};

/// `POST {base}/api/workers/{worker_id}/refresh-token`, one attempt, on the poster's own client.
pub(crate) struct RefreshEndpoint {
    pub(crate) url: String,
    pub(crate) registration_token: SecretString,
    pub(crate) transport: Rc<Transport>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Renewed {
    runtime_token: SecretString,
    runtime_token_expires_at: Option<String>,
}

/// Never with the answer's body, which may hold a token.
#[derive(Debug, Error)]
enum RefreshError {
    #[error("the refresh endpoint gave no answer")]
    NoAnswer(#[source] AttemptError),
    #[error(
        "the refresh endpoint answered {0}: the worker is gone, or the platform has no such endpoint; register it anew"
    )]
    WorkerGone(u16),
    #[error("the refresh endpoint answered {0}: check the registration token")]
    Unauthorized(u16),
    #[error("the refresh endpoint answered {0}")]
    Refused(u16),
    #[error("the refresh endpoint's answer is not its JSON")]
    Unrecognized,
}

impl RefreshEndpoint {
    /// A new token for the same worker: the worker id is left to the fixed one.
    pub(crate) async fn credentials(&self) -> Result<RuntimeCredentials, ProviderError> {
        let request = Request {
            url: &self.url,
            token: Some(self.registration_token.expose_secret()),
            idempotency_key: None,
            body: Bytes::from_static(b"{}"),
            head_says_all: false,
            stage: Rc::new(Cell::new(Stage::Connecting)),
        };
        let answer = self.transport.post(&request).await.map_err(RefreshError::NoAnswer)?;
        match answer.status {
            200..=299 => {
                let renewed: Renewed = parse_object(&answer.body).ok_or(RefreshError::Unrecognized)?;
                let mut credentials = RuntimeCredentials::new("", renewed.runtime_token);
                credentials.expires_at = renewed.runtime_token_expires_at.as_deref().and_then(parse_timestamp);
                Ok(credentials)
            }
            status @ (404 | 405) => Err(RefreshError::WorkerGone(status).into()),
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
