//! The messages of the credential actor.

use actix::Message;

use super::issued_credentials::IssuedCredentials;
use crate::error::CredentialError;

/// Asks a [`CredentialActor`](super::CredentialActor) for credentials to use now.
///
/// By default, the reply may contain cached credentials. [`replacing`](Self::replacing) requests a replacement for
/// rejected credentials.
///
/// Dropping the reply's future does not cancel a fetch: its result is cached for later requests.
///
/// ```
/// use result_poster::{Supervisor, credentials::{CredentialActor, GetCredentials, RuntimeCredentials}};
///
/// # actix_rt::System::new().block_on(async {
/// let actor = Supervisor::start(|_, _| CredentialActor::new(RuntimeCredentials::new("wkr_1", "token")));
///
/// let issued = actor.send(GetCredentials::default()).await??;
/// assert_eq!(issued.worker_id(), Some("wkr_1"));
///
/// // A request with this token was answered with 401.
/// let replacement = actor.send(GetCredentials::replacing(&issued)).await??;
/// // This provider has no other token.
/// assert_eq!(replacement.generation(), issued.generation());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Errors
///
/// [`CredentialError`] says why the last fetch failed. The error is returned only if no token is known to be valid and
/// the fixed token is missing or rejected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct GetCredentials {
    /// The generation that was rejected.
    pub(super) rejected: Option<u64>,
}

impl GetCredentials {
    /// Asks for a replacement of rejected credentials, which are taken out of use.
    ///
    /// Requests that replace the same credentials share one fetch. If the provider returns the same token again, the
    /// reply contains it.
    #[must_use]
    pub fn replacing(issued: &IssuedCredentials) -> Self {
        Self {
            rejected: Some(issued.generation),
        }
    }
}

impl Message for GetCredentials {
    type Result = Result<IssuedCredentials, CredentialError>;
}

/// Asks for the credentials of another worker than the one that the platform has rejected.
#[derive(Debug)]
pub(crate) struct GetOtherWorker {
    pub(super) rejected: String,
}

impl Message for GetOtherWorker {
    type Result = Result<IssuedCredentials, CredentialError>;
}

/// Tells a [`CredentialActor`](super::CredentialActor) that the platform has rejected these credentials.
///
/// They are taken out of use, and the next [`GetCredentials`] causes a fetch. Nothing happens if newer credentials are
/// in use already.
///
/// ```
/// use result_poster::{
///     Supervisor,
///     credentials::{CredentialActor, GetCredentials, InvalidateCredentials, RuntimeCredentials, provider_fn},
/// };
///
/// # actix_rt::System::new().block_on(async {
/// # let fetches = std::sync::atomic::AtomicUsize::new(0);
/// # let next_token = move || ["first", "second"][fetches.fetch_add(1, std::sync::atomic::Ordering::Relaxed)];
/// let provider = provider_fn(async move || Ok(RuntimeCredentials::new("wkr_1", next_token())));
/// let actor = Supervisor::start(|_, _| CredentialActor::new(provider));
///
/// let issued = actor.send(GetCredentials::default()).await??;
/// actor.send(InvalidateCredentials::new(&issued)).await?;
/// let replacement = actor.send(GetCredentials::default()).await??;
/// assert!(replacement.generation() > issued.generation());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InvalidateCredentials {
    pub(super) generation: u64,
}

impl InvalidateCredentials {
    /// Reports these credentials as rejected.
    #[must_use]
    pub fn new(issued: &IssuedCredentials) -> Self {
        Self {
            generation: issued.generation,
        }
    }
}

impl Message for InvalidateCredentials {
    type Result = ();
}

/// Tells a [`ResultPoster`](crate::ResultPoster) or a [`CredentialActor`](super::CredentialActor) that the credentials
/// have changed, such as after a registration: the provider is asked at once.
///
/// The reply contains the credentials that are in use from then on. Without a provider, these are the fixed pair. A
/// message that is sent to the poster after the reply is delivered, and stored in the outbox, with the new worker id,
/// unless the message names its own.
///
/// Dropping the reply's future does not cancel the fetch.
///
/// ```
/// use result_poster::{Options, ResultPoster, credentials::{RefreshCredentials, RuntimeTokenFile}};
///
/// # actix_rt::System::new().block_on(async {
/// # let file = tempfile::NamedTempFile::new()?;
/// # std::fs::write(&file, r#"{"workerId":"wkr_2","runtimeToken":"token"}"#)?;
/// # let path = file.path();
/// let options = Options::builder("https://app.example.com")
///     .credential_provider(RuntimeTokenFile::new(path))
///     .build()?;
/// let poster = ResultPoster::start_supervised(options);
///
/// // The daemon has registered a new worker, and has written its file.
/// let issued = poster.send(RefreshCredentials).await??;
/// assert_eq!(issued.worker_id(), Some("wkr_2"));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Errors
///
/// [`CredentialError`] says why the fetch failed. The credentials in use stay the same. Within a minute of a
/// [`CredentialError::WorkerGone`] from the platform's own endpoint
/// ([`OptionsBuilder::refresh_endpoint`](crate::OptionsBuilder::refresh_endpoint)), the same error is returned without a
/// fetch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct RefreshCredentials;

impl Message for RefreshCredentials {
    type Result = Result<IssuedCredentials, CredentialError>;
}
