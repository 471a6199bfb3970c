//! Who the calls are made as: a worker id and the token that goes with it, and where they come from.

mod actor;
pub(crate) mod jwt;
mod keeper;
mod refresh_endpoint;
pub(crate) mod token_file;

use std::{
    error::Error,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::LocalBoxFuture;
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use thiserror::Error;

pub(crate) use actor::Credentials;
pub use actor::{CredentialActor, GetCredentials, InvalidateCredentials};
pub(crate) use keeper::{CredentialSource, Settings};
pub(crate) use refresh_endpoint::RefreshEndpoint;
pub use token_file::RuntimeTokenFile;

/// A worker id, the token that goes with it, and until when the token is good.
///
/// It is a [`CredentialProvider`] too: a fixed pair. Its `Debug` shows no token.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct RuntimeCredentials {
    /// The worker's id. An empty one stands for the `worker_id` of the options.
    pub worker_id: String,
    /// The bearer token. An empty one stands for the `auth_token` of the options.
    pub auth_token: SecretString,
    /// When the token expires, if the provider knows. A JWT's own `exp` counts too; the earlier of both decides.
    pub expires_at: Option<SystemTime>,
}

impl RuntimeCredentials {
    /// Credentials that say nothing about their expiry.
    #[must_use]
    pub fn new(worker_id: impl Into<String>, auth_token: impl Into<SecretString>) -> Self {
        Self {
            worker_id: worker_id.into(),
            auth_token: auth_token.into(),
            expires_at: None,
        }
    }

    /// Sets [`expires_at`](Self::expires_at).
    #[must_use]
    pub fn with_expires_at(mut self, expires_at: SystemTime) -> Self {
        self.expires_at = Some(expires_at);
        self
    }

    /// Nothing in place of an empty one.
    pub(crate) fn token(&self) -> Option<&str> {
        Some(self.auth_token.expose_secret()).filter(|token| !token.is_empty())
    }

    /// What keeps the token from standing in a header, if anything.
    pub(crate) fn token_fault(&self) -> Option<&'static str> {
        let token = self.auth_token.expose_secret();
        if token.chars().any(char::is_control) {
            Some("holds a line break or another control character; trim it where it is read")
        } else if !token.is_ascii() {
            Some("holds characters that can't stand in a header")
        } else if token.trim() != token {
            Some("begins or ends with white space; trim it where it is read")
        } else {
            None
        }
    }
}

impl fmt::Debug for RuntimeCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeCredentials")
            .field("worker_id", &self.worker_id)
            .field("auth_token", &self.token().map(|_| "[REDACTED]"))
            .field("expires_at", &self.expires_at)
            .finish()
    }
}

/// Credentials for one attempt. Its `Debug` shows no token.
#[derive(Debug, Clone)]
pub struct CredentialLease {
    credentials: Arc<RuntimeCredentials>,
    generation: u64,
}

impl CredentialLease {
    /// The worker's id; empty if there is none.
    #[must_use]
    pub fn worker_id(&self) -> &str {
        &self.credentials.worker_id
    }

    /// The token, if there is one; fit for a header.
    #[must_use]
    pub fn auth_token(&self) -> Option<&SecretString> {
        self.token().map(|_| &self.credentials.auth_token)
    }

    /// Grows with every change of the worker id or the token.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.credentials.token()
    }
}

/// What a provider says when it has no credentials to give. Its message is logged, so it must not hold a token.
pub type ProviderError = Box<dyn Error + Send + Sync>;

/// Where a [`CredentialActor`] gets the freshest credentials from. Implement it, or use [`provider_fn`].
///
/// It is asked by one call at a time, has `credential_timeout` (10 s) to answer, and is not asked
/// again within the same fetch. If it fails, hangs, panics, or returns what can't be used, the calls
/// go on with the last token while that is valid, then with the fixed pair of the
/// options; without either, they fail with
/// [`AttemptError::Credentials`](crate::AttemptError::Credentials) and are tried again like after any other transient
/// failure.
pub trait CredentialProvider: Send + Sync + 'static {
    /// The freshest credentials known. The future runs on the actor's arbiter, and must not block it.
    ///
    /// # Errors
    ///
    /// Whatever kept it; the source of [`CredentialError::Provider`].
    fn credentials(&self) -> LocalBoxFuture<'_, Result<RuntimeCredentials, ProviderError>>;

    /// Whether credentials with a known expiry may be kept until shortly before it. By default, they
    /// may. A provider that is cheap to ask and must be followed at once says `false`, and is asked for every attempt.
    fn may_be_cached(&self) -> bool {
        true
    }
}

impl<P: CredentialProvider + ?Sized> CredentialProvider for Arc<P> {
    fn credentials(&self) -> LocalBoxFuture<'_, Result<RuntimeCredentials, ProviderError>> {
        (**self).credentials()
    }

    fn may_be_cached(&self) -> bool {
        (**self).may_be_cached()
    }
}

impl CredentialProvider for RuntimeCredentials {
    fn credentials(&self) -> LocalBoxFuture<'_, Result<RuntimeCredentials, ProviderError>> {
        Box::pin(async { Ok(self.clone()) })
    }
}

/// A provider made of an async closure.
///
/// ```
/// use result_poster::{Options, RuntimeCredentials, provider_fn};
///
/// # async fn ask_the_daemon() -> Result<String, std::io::Error> { Ok("token".into()) }
/// let provider = provider_fn(async || {
///     let token = ask_the_daemon().await?;
///     Ok::<_, std::io::Error>(RuntimeCredentials::new("wkr_1", token))
/// });
/// let options = Options::builder("https://app.example.com").credential_provider(provider).build()?;
/// # Ok::<_, result_poster::OptionsError>(())
/// ```
pub fn provider_fn<F, E>(fetch: F) -> impl CredentialProvider
where
    F: AsyncFn() -> Result<RuntimeCredentials, E> + Send + Sync + 'static,
    E: Into<ProviderError>,
{
    // A blanket implementation for closures would forbid the one for `Arc`.
    struct ProviderFn<F>(F);

    impl<F, E> CredentialProvider for ProviderFn<F>
    where
        F: AsyncFn() -> Result<RuntimeCredentials, E> + Send + Sync + 'static,
        E: Into<ProviderError>,
    {
        fn credentials(&self) -> LocalBoxFuture<'_, Result<RuntimeCredentials, ProviderError>> {
            Box::pin(async { (self.0)().await.map_err(Into::into) })
        }
    }

    ProviderFn(fetch)
}

/// A struct from a JSON object. Serde would take an array for one too, by the order of its fields.
fn parse_object<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    let is_object = json.trim_ascii_start().starts_with(b"{");
    is_object.then(|| serde_json::from_slice(json).ok()).flatten()
}

/// A point in time as RFC 3339 writes it, such as `2026-01-31T12:00:00Z`.
fn parse_timestamp(text: &str) -> Option<SystemTime> {
    Some(text.parse::<jiff::Timestamp>().ok()?.into())
}

/// Why there are no credentials for now.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The provider failed.
    #[error("the credential provider failed")]
    Provider(#[source] Arc<dyn Error + Send + Sync>),
    /// The provider did not answer within `credential_timeout`.
    #[error("the credential provider did not answer within {0:?}")]
    Timeout(Duration),
    /// The provider panicked, with this message.
    #[error("the credential provider panicked: {0}")]
    Panicked(String),
    /// The provider returned an empty token, and the options have none.
    #[error("the credential provider returned no token")]
    NoToken,
    /// The provider returned a token that had expired, by this host's clock.
    #[error("the credential provider returned an expired token")]
    Expired,
    /// The provider returned a token that can't be sent.
    #[error("the credential provider returned a token that {0}")]
    Unusable(&'static str),
    /// The [`CredentialActor`] that the options were given has stopped for good.
    #[error("the credential actor has stopped")]
    Stopped,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_shows_that_there_is_a_token_and_not_which() {
        let credentials = RuntimeCredentials::new("wkr_1", "s3cret");
        let debug = format!("{credentials:?}");
        assert!(debug.contains("wkr_1") && debug.contains("[REDACTED]") && !debug.contains("s3cret"));
        assert!(format!("{:?}", RuntimeCredentials::default()).contains("auth_token: None"));
    }

    #[test]
    fn timestamps_are_read_with_any_offset() {
        let expected = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500);
        for text in [
            "2023-11-14T22:13:20.5Z",
            "2023-11-14T23:13:20.500+01:00",
            "2023-11-14t22:13:20.5z",
        ] {
            assert_eq!(parse_timestamp(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "tomorrow",
            "2023-11-14",
            "1700000000",
            "2023-13-14T22:13:20Z",
            "99999-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
    }

    #[test]
    fn tokens_that_can_not_stand_in_a_header_have_a_fault() {
        for token in ["a\nb", "a\r", "a\0", "\t", "\u{7f}", "ä", " a", "a "] {
            assert!(RuntimeCredentials::new("", token).token_fault().is_some(), "{token:?}");
        }
        for token in ["", "a", "a.b-c_d~e+f/g=", "with space"] {
            assert!(RuntimeCredentials::new("", token).token_fault().is_none(), "{token:?}");
        }
    }
}
