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
    /// The provider returned a token that had expired, by this host's clock.
    #[error("the credential provider returned an expired token")]
    Expired,
    /// The provider returned a token that is not a valid header value.
    #[error("the credential provider returned a token that {0}")]
    Unusable(&'static str),
    /// The [`CredentialActor`](crate::credentials::CredentialActor) given to the options has stopped permanently.
    #[error("the credential actor has stopped")]
    Stopped,
}
