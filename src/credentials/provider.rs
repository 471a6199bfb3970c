//! Credential providers: the trait, and an implementation for async closures.

use std::{error::Error, sync::Arc};

use futures_util::future::LocalBoxFuture;

use super::runtime_credentials::RuntimeCredentials;

/// A boxed error: the reason why a [`CredentialProvider`] returned no credentials.
///
/// The error's message is logged and kept in the errors of calls, without the tokens that the cache has seen. It must not
/// contain any other secret. It is not written into the outbox.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A source of credentials for a [`CredentialActor`](super::CredentialActor) or a poster.
///
/// Implement this trait, or turn an async closure into a provider with [`provider_fn`].
/// [`RuntimeCredentials`] are a provider too, which always returns the same credentials.
///
/// - At most one fetch runs at a time, and its result is shared by all calls that wait for it.
/// - A fetch may take 10 s by default
///   ([`OptionsBuilder::credential_timeout`](crate::OptionsBuilder::credential_timeout)).
/// - A fetch is never retried. If it fails, panics, times out, or returns unusable credentials, calls use the last
///   token while it is known to be valid, then the fixed pair of the options. Without either, the attempts fail with
///   [`AttemptError::Credentials`](crate::AttemptError::Credentials), which is retried like any other transient error.
pub trait CredentialProvider: Send + Sync + 'static {
    /// Returns the freshest credentials known.
    ///
    /// The future runs on the actor's arbiter and must not block it. It is dropped when its time limit has passed.
    /// A call that is cancelled does not cancel the fetch, whose result is cached for later calls.
    ///
    /// # Errors
    ///
    /// Any error; it becomes the source of [`CredentialError::Provider`](crate::CredentialError::Provider). A
    /// [`CredentialError::WorkerGone`](crate::CredentialError::WorkerGone) stays what it is.
    fn credentials(&self) -> LocalBoxFuture<'_, Result<RuntimeCredentials, BoxError>>;

    /// Whether credentials with a known expiry may be cached until shortly before they expire. Default: `true`.
    ///
    /// Return `false` if a change must take effect at once and a fetch is cheap: the provider is then asked before
    /// each attempt.
    fn may_be_cached(&self) -> bool {
        true
    }
}

impl<P: CredentialProvider + ?Sized> CredentialProvider for Arc<P> {
    fn credentials(&self) -> LocalBoxFuture<'_, Result<RuntimeCredentials, BoxError>> {
        (**self).credentials()
    }

    fn may_be_cached(&self) -> bool {
        (**self).may_be_cached()
    }
}

impl CredentialProvider for RuntimeCredentials {
    fn credentials(&self) -> LocalBoxFuture<'_, Result<RuntimeCredentials, BoxError>> {
        Box::pin(async { Ok(self.clone()) })
    }
}

/// Creates a provider from an async closure.
///
/// The closure must be `Send + Sync`; its future may be `!Send`, so it can use an awc client. Any error converts into
/// [`BoxError`] with `?` or `into()`.
///
/// ```
/// use result_poster::{Options, credentials::{RuntimeCredentials, provider_fn}};
///
/// # async fn ask_the_daemon() -> std::io::Result<String> { Ok("token".into()) }
/// let provider = provider_fn(async || {
///     let token = ask_the_daemon().await?;
///     Ok(RuntimeCredentials::new("wkr_1", token))
/// });
/// let options = Options::builder("https://app.example.com").credential_provider(provider).build()?;
/// # Ok::<_, result_poster::OptionsError>(())
/// ```
///
/// An awc client is itself `!Send`, so the closure can't own one. It creates one for each fetch, or, to keep connections,
/// uses one in a thread-local variable:
///
/// ```
/// use result_poster::credentials::{RuntimeCredentials, provider_fn};
///
/// thread_local! {
///     static CLIENT: awc::Client = awc::Client::default();
/// }
///
/// let provider = provider_fn(async || {
///     let request = CLIENT.with(|client| client.get("http://127.0.0.1:8181/token"));
///     // awc's errors are `!Send`, too: pass their text on.
///     let mut response = request.send().await.map_err(|error| error.to_string())?;
///     if !response.status().is_success() {
///         return Err(format!("the daemon answered {}", response.status()).into());
///     }
///     let token = String::from_utf8(response.body().await?.to_vec())?;
///     Ok(RuntimeCredentials::new("wkr_1", token.trim()))
/// });
/// # let _ = provider;
/// ```
pub fn provider_fn<F>(fetch: F) -> impl CredentialProvider
where
    // With a concrete error type, `Ok(…)` and `?` need no annotation in the closure.
    F: AsyncFn() -> Result<RuntimeCredentials, BoxError> + Send + Sync + 'static,
{
    ProviderFn(fetch)
}

/// A wrapper, since an implementation for all closures would conflict with the one for [`Arc`].
struct ProviderFn<F>(F);

impl<F> CredentialProvider for ProviderFn<F>
where
    F: AsyncFn() -> Result<RuntimeCredentials, BoxError> + Send + Sync + 'static,
{
    fn credentials(&self) -> LocalBoxFuture<'_, Result<RuntimeCredentials, BoxError>> {
        Box::pin((self.0)())
    }
}

#[cfg(test)]
mod tests {
    use std::{io, rc::Rc};

    use super::*;

    #[actix_rt::test]
    async fn a_closure_without_type_annotations_is_a_provider() {
        let provider = provider_fn(async || Ok(RuntimeCredentials::new("w", "t")));
        assert_eq!(provider.credentials().await.unwrap().worker_id, "w");
    }

    #[actix_rt::test]
    async fn a_closure_that_returns_an_async_block_is_a_provider() {
        let provider = provider_fn(move || async move { Ok(RuntimeCredentials::new("w", "t")) });
        assert_eq!(provider.credentials().await.unwrap().worker_id, "w");
    }

    #[actix_rt::test]
    async fn the_question_mark_converts_errors_of_different_types() {
        let provider = provider_fn(async || {
            let id = String::from_utf8(vec![b'w'])?;
            Err(io::Error::other("sealed"))?;
            Ok(RuntimeCredentials::new(id, "t"))
        });
        assert_eq!(provider.credentials().await.unwrap_err().to_string(), "sealed");
    }

    #[actix_rt::test]
    async fn the_future_of_a_closure_may_be_not_send() {
        let provider = provider_fn(async || {
            let token = Rc::new("t");
            actix_rt::task::yield_now().await;
            Ok(RuntimeCredentials::new("w", *token))
        });
        assert_eq!(provider.credentials().await.unwrap().token(), Some("t"));
    }

    #[actix_rt::test]
    async fn a_shared_provider_is_a_provider() {
        let provider: Arc<dyn CredentialProvider> = Arc::new(RuntimeCredentials::new("w", "t"));
        let credentials = CredentialProvider::credentials(&provider).await.unwrap();
        assert_eq!(credentials.token(), Some("t"));
    }
}
