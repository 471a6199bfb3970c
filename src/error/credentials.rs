//! Why there are no credentials.

use std::time::Duration;

use thiserror::Error;

use super::SharedError;

/// Why no credentials are available at the moment. The next attempt asks the provider again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The provider failed.
    #[error("the credential provider failed")]
    Provider(#[source] SharedError),
    /// The provider did not answer within `credential_timeout`.
    #[error("the credential provider did not answer within {0:?}")]
    Timeout(Duration),
    /// The provider panicked, with this message.
    #[error("the credential provider panicked: {0}")]
    Panicked(String),
    /// The provider returned an empty token, and there is no fixed one.
    #[error("the credential provider returned no token")]
    NoToken,
    /// The refresh endpoint answered 404, 405 or 410: the platform no longer knows the worker, or has no such endpoint.
    /// Register the worker again. The endpoint is asked again after a minute at the earliest.
    ///
    /// A provider may return this error too, as its own: it is then treated alike.
    #[error(
        "the refresh endpoint answered {status_code}: the worker no longer exists, or the platform has no such endpoint"
    )]
    WorkerGone {
        /// The status of the answer.
        status_code: u16,
    },
    /// Neither the provider nor the fixed pair names a worker, and a result must name one.
    #[error("there is no worker id")]
    NoWorkerId,
    /// The provider returned a token that is not a valid header value.
    #[error("the credential provider returned a token that {0}")]
    Unusable(&'static str),
    /// The [`CredentialActor`](crate::credentials::CredentialActor) given to the options has stopped permanently.
    #[error("the credential actor has stopped")]
    Stopped,
}

impl CredentialError {
    /// The text of this error alone, without that of a provider's panic.
    pub(super) fn without_provider_text(&self) -> String {
        match self {
            Self::Panicked(_) => "the credential provider panicked".to_owned(),
            Self::Provider(_)
            | Self::Timeout(_)
            | Self::NoToken
            | Self::NoWorkerId
            | Self::WorkerGone { .. }
            | Self::Unusable(_)
            | Self::Stopped => self.to_string(),
        }
    }
}
