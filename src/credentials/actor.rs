//! The actor that owns a credential cache, and its builder.

use std::{fmt, rc::Rc, sync::Arc, time::Duration};

use actix::{Actor, Addr, Context, Handler, Message, ResponseFuture, Supervised};
use secrecy::SecretString;

use super::{
    cache::{CredentialCache, CredentialConfig},
    messages::{GetCredentials, GetOtherWorker, InvalidateCredentials, RefreshCredentials},
    provider::CredentialProvider,
    runtime_credentials::RuntimeCredentials,
    source::CredentialSource,
    state::CacheResult,
};
use crate::{
    clock::Clock,
    error::{CredentialError, OptionsError},
    supervisor::check_runtime,
    util::catch_panic,
};

/// An actor that caches the credentials of one worker and shares each fetch among all waiting requests.
///
/// A [`ResultPoster`](crate::ResultPoster) has one of its own and returns its address in reply to
/// [`GetCredentialActor`]. To share one among several posters and other parts of a runner,
/// start it under a [`Supervisor`](crate::Supervisor) and pass its address to
/// [`OptionsBuilder::credential_actor`](crate::OptionsBuilder::credential_actor).
///
/// It handles [`GetCredentials`], [`RefreshCredentials`] and [`InvalidateCredentials`]. Credentials without a known
/// expiry are fetched for each request; others are cached until 60 s before the end of their life (`refresh_margin`), or
/// until half of their life is over if that is later. The cache and a running fetch survive a
/// restart. The actor stops when its last address is dropped; a running fetch ends on its own.
///
/// ```
/// use result_poster::{Options, Supervisor, credentials::{CredentialActor, GetCredentials, RuntimeCredentials}};
///
/// # actix_rt::System::new().block_on(async {
/// let provider = RuntimeCredentials::new("wkr_1", "token");
/// let actor = Supervisor::start(|_, _| CredentialActor::new(provider));
/// let options = Options::builder("https://app.example.com").credential_actor(actor.clone()).build()?;
///
/// let issued = actor.send(GetCredentials::default()).await??;
/// assert_eq!(issued.worker_id(), Some("wkr_1"));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub struct CredentialActor(Rc<CredentialCache>);

impl CredentialActor {
    /// Creates an actor with the default settings of [`CredentialActorBuilder`].
    #[must_use]
    pub fn new(provider: impl CredentialProvider) -> Self {
        Self::builder(provider).into_actor()
    }

    /// Returns a builder with the default settings.
    pub fn builder(provider: impl CredentialProvider) -> CredentialActorBuilder {
        CredentialActorBuilder {
            provider: Arc::new(provider),
            fixed: None,
            config: CredentialConfig::default(),
        }
    }

    /// Creates an actor over an existing cache.
    pub(super) fn with_cache(cache: Rc<CredentialCache>) -> Self {
        Self(cache)
    }
}

impl fmt::Debug for CredentialActor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialActor").finish_non_exhaustive()
    }
}

impl Actor for CredentialActor {
    type Context = Context<Self>;

    fn start(self) -> Addr<Self> {
        check_runtime();
        Context::new().run(self)
    }

    fn create<F: FnOnce(&mut Context<Self>) -> Self>(create: F) -> Addr<Self> {
        check_runtime();
        let mut context = Context::new();
        let actor = create(&mut context);
        context.run(actor)
    }
}

// There is nothing to restore after a restart: neither the cache nor a running fetch belongs to the context.
impl Supervised for CredentialActor {}

impl Handler<GetCredentials> for CredentialActor {
    // A task of its own: a request that waits for a fetch blocks no other request, and survives a restart.
    type Result = ResponseFuture<CacheResult>;

    fn handle(&mut self, message: GetCredentials, _: &mut Context<Self>) -> Self::Result {
        let cache = Rc::clone(&self.0);
        Box::pin(async move {
            let result = catch_panic(cache.get(message.rejected)).await;
            result.unwrap_or_else(|panic| Err(CredentialError::Panicked(panic)))
        })
    }
}

impl Handler<RefreshCredentials> for CredentialActor {
    type Result = ResponseFuture<CacheResult>;

    fn handle(&mut self, _: RefreshCredentials, _: &mut Context<Self>) -> Self::Result {
        let cache = Rc::clone(&self.0);
        Box::pin(async move {
            let result = catch_panic(cache.refresh()).await;
            result.unwrap_or_else(|panic| Err(CredentialError::Panicked(panic)))
        })
    }
}

impl Handler<GetOtherWorker> for CredentialActor {
    type Result = ResponseFuture<CacheResult>;

    fn handle(&mut self, message: GetOtherWorker, _: &mut Context<Self>) -> Self::Result {
        let cache = Rc::clone(&self.0);
        Box::pin(async move {
            let result = catch_panic(cache.other_worker(&message.rejected)).await;
            result.unwrap_or_else(|panic| Err(CredentialError::Panicked(panic)))
        })
    }
}

impl Handler<InvalidateCredentials> for CredentialActor {
    type Result = ();

    fn handle(&mut self, message: InvalidateCredentials, _: &mut Context<Self>) {
        self.0.reject(message.generation);
    }
}

/// Configures a [`CredentialActor`].
///
/// | setting | default |
/// |---|---|
/// | [`fixed_pair`](Self::fixed_pair) | none |
/// | [`refresh_margin`](Self::refresh_margin) | 60 s |
/// | [`timeout`](Self::timeout) | 10 s |
/// | [`clock`](Self::clock) | the host's clock |
///
/// ```
/// use std::time::Duration;
///
/// use result_poster::{Supervisor, credentials::{CredentialActor, RuntimeTokenFile}};
///
/// # actix_rt::System::new().block_on(async {
/// let actor = CredentialActor::builder(RuntimeTokenFile::new("/var/lib/daemon/runtime-token.json"))
///     .fixed_pair("wkr_1", "token")
///     .timeout(Duration::from_secs(5))
///     .build()?;
/// let address = Supervisor::start(|_, _| actor);
/// # Ok::<_, result_poster::OptionsError>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
#[must_use]
pub struct CredentialActorBuilder {
    provider: Arc<dyn CredentialProvider>,
    fixed: Option<RuntimeCredentials>,
    config: CredentialConfig,
}

impl CredentialActorBuilder {
    /// Sets the worker id and the token that fill the fields a provider leaves empty, and that are used if the provider
    /// fails. Default: none.
    pub fn fixed_pair(mut self, worker_id: impl Into<String>, auth_token: impl Into<SecretString>) -> Self {
        self.fixed = Some(RuntimeCredentials::new(worker_id, auth_token));
        self
    }

    /// Sets how long before the end of its life a token is renewed, at most half of its life. Default: 60 s.
    pub fn refresh_margin(mut self, margin: Duration) -> Self {
        self.config.refresh_margin = margin;
        self
    }

    /// Sets the time limit of one fetch, which is always measured in real time. Default: 10 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.config.timeout = timeout;
        self
    }

    /// Sets the clock that tells how long a token lives. Default: the host's clock.
    pub fn clock(mut self, clock: impl Into<Clock>) -> Self {
        self.config.clock = clock.into();
        self
    }

    /// Builds the actor, which is then ready to be started.
    ///
    /// # Errors
    ///
    /// [`OptionsError`], which names the setting:
    ///
    /// - `fixed_pair`: its token is empty, or not a valid header value; its worker id is blank, though not empty.
    /// - `timeout`: it is zero.
    pub fn build(self) -> Result<CredentialActor, OptionsError> {
        if let Some(fixed) = &self.fixed {
            let refuse = |fault| OptionsError::new("fixed_pair", fault);
            fixed.token().ok_or_else(|| refuse("has an empty token"))?;
            fixed.validate_token().map_err(refuse)?;
            let is_blank = !fixed.worker_id.is_empty() && fixed.worker_id.trim().is_empty();
            if is_blank {
                return Err(refuse("has a blank worker id"));
            }
        }
        if self.config.timeout.is_zero() {
            return Err(OptionsError::new("timeout", "is zero"));
        }
        Ok(self.into_actor())
    }

    fn into_actor(self) -> CredentialActor {
        let source = CredentialSource::Provider(self.provider);
        let config = CredentialConfig {
            fixed: self.fixed.unwrap_or_default(),
            ..self.config
        };
        CredentialActor::with_cache(Rc::new(CredentialCache::new(config, Some(source))))
    }
}

impl fmt::Debug for CredentialActorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialActorBuilder")
            .field("fixed", &self.fixed)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Asks a [`ResultPoster`](crate::ResultPoster) for the address of its [`CredentialActor`], so that other parts of a
/// runner can share the worker's credentials: the poster's own child, or the actor given to the options.
///
/// ```
/// use result_poster::credentials::{GetCredentialActor, GetCredentials};
/// # use result_poster::ResultPoster;
///
/// # async fn token(poster: actix::Addr<ResultPoster>) -> Result<(), Box<dyn std::error::Error>> {
/// let actor = poster.send(GetCredentialActor).await?;
/// let issued = actor.send(GetCredentials::default()).await??;
/// println!("worker {:?}", issued.worker_id());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetCredentialActor;

impl Message for GetCredentialActor {
    type Result = Addr<CredentialActor>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> CredentialActorBuilder {
        CredentialActor::builder(RuntimeCredentials::new("w", "t"))
    }

    #[test]
    fn a_zero_timeout_is_refused() {
        let error = builder().timeout(Duration::ZERO).build().unwrap_err();
        assert_eq!(error.to_string(), "option `timeout` is zero");
    }

    #[test]
    fn a_fixed_token_that_is_no_header_value_is_refused() {
        let error = builder().fixed_pair("w", "to\nken").build().unwrap_err();
        assert_eq!(error.option, "fixed_pair");
    }

    #[test]
    fn the_debug_output_of_a_builder_shows_no_token() {
        let builder = builder().fixed_pair("w", "s3cret");
        assert!(!format!("{builder:?}").contains("s3cret"));
    }
}

#[cfg(all(test, feature = "testing"))]
mod restart_tests {
    use actix::Addr;
    use actix_rt::task::JoinHandle;
    use tokio::sync::watch;

    use super::*;
    use crate::{credentials::provider_fn, supervisor::Supervisor, testing::Crash};

    /// A fetch is running when the actor crashes, and a second request follows the crash.
    async fn replies_around(crash: Crash) -> [Option<u64>; 2] {
        let gate = watch::Sender::new(false);
        let opened = gate.subscribe();
        let provider = provider_fn(async move || {
            opened.clone().wait_for(|open| *open).await?;
            Ok(RuntimeCredentials::new("w", "t"))
        });
        let actor = Supervisor::start(|_, _| CredentialActor::new(provider));
        let before = request(&actor).await;
        actor.do_send(crash);
        let after = request(&actor).await;
        gate.send_replace(true);
        [before.await.ok().flatten(), after.await.ok().flatten()]
    }

    /// Sends a request and lets the actor take it. The task's output is the generation in the reply.
    async fn request(actor: &Addr<CredentialActor>) -> JoinHandle<Option<u64>> {
        let reply = actor.send(GetCredentials::default());
        let task = actix_rt::spawn(async move { reply.await.ok()?.ok()?.generation() });
        actix_rt::task::yield_now().await;
        task
    }

    #[actix_rt::test]
    async fn a_stop_during_a_fetch_loses_no_reply() {
        assert_eq!(replies_around(Crash::Stop).await, [Some(1); 2]);
    }

    #[actix_rt::test]
    async fn a_termination_during_a_fetch_loses_no_reply() {
        assert_eq!(replies_around(Crash::Terminate).await, [Some(1); 2]);
    }

    #[actix_rt::test]
    async fn a_panic_during_a_fetch_loses_no_reply() {
        assert_eq!(replies_around(Crash::Panic).await, [Some(1); 2]);
    }
}
