//! The credential cache: answers from its state where it can, and otherwise shares one fetch among all callers.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{LocalBoxFuture, Shared},
};
use log::{debug, info, warn};

use super::{
    decision::{Decision, Lookup},
    issued_credentials::{FIXED_GENERATION, IssuedCredentials},
    lifetime::Lifetime,
    runtime_credentials::RuntimeCredentials,
    seen_tokens::SeenTokens,
    source::CredentialSource,
    state::{CacheResult, CacheState, Fetched},
    validate::validate,
};
use crate::{
    clock::Clock,
    error::CredentialError,
    util::{catch_panic, chain, ignore_panic},
};

pub(crate) const DEFAULT_REFRESH_MARGIN: Duration = Duration::from_secs(60);
pub(crate) const DEFAULT_FETCH_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub(crate) struct CredentialConfig {
    /// Fills the fields that a provider leaves empty, and is used when the provider fails.
    pub(crate) fixed: RuntimeCredentials,
    pub(crate) refresh_margin: Duration,
    /// The time limit of one fetch.
    pub(crate) timeout: Duration,
    pub(crate) clock: Clock,
}

impl Default for CredentialConfig {
    fn default() -> Self {
        Self {
            fixed: RuntimeCredentials::default(),
            refresh_margin: DEFAULT_REFRESH_MARGIN,
            timeout: DEFAULT_FETCH_TIMEOUT,
            clock: Clock::default(),
        }
    }
}

pub(super) struct CredentialCache {
    config: CredentialConfig,
    /// `None` if there is only the fixed pair.
    source: Option<CredentialSource>,
    state: RefCell<CacheState>,
    seen_tokens: RefCell<SeenTokens>,
    running_fetch: RefCell<Option<FetchHandle>>,
    fetches: Cell<u64>,
}

impl CredentialCache {
    pub(super) fn new(config: CredentialConfig, source: Option<CredentialSource>) -> Self {
        let mut seen_tokens = SeenTokens::default();
        seen_tokens.add(&config.fixed.auth_token);
        Self {
            state: RefCell::new(CacheState::new(config.fixed.clone())),
            seen_tokens: RefCell::new(seen_tokens),
            config,
            source,
            running_fetch: RefCell::default(),
            fetches: Cell::default(),
        }
    }

    /// Returns credentials to use now. A `rejected` generation is taken out of use first.
    ///
    /// Dropping the future does not cancel a fetch: its result is stored for later requests.
    pub(super) async fn get(self: &Rc<Self>, rejected: Option<u64>) -> CacheResult {
        let Some(source) = &self.source else {
            return Ok(self.state.borrow().fixed().clone());
        };
        if let Some(generation) = rejected {
            self.reject(generation);
        }
        let decision = self.decide(source, rejected);
        let result = match decision {
            Decision::Use(issued) => Ok(issued),
            Decision::UseAndRefresh(issued) => {
                // The fetch is a task, so its handle need not be awaited.
                let _not_awaited = self.submit_fetch(source);
                Ok(issued)
            }
            Decision::Reuse(result) => result,
            // Boxed: most calls never wait here, and every one would reserve room for it.
            Decision::Fetch => Box::pin(self.fetch_after_rejection(source, rejected)).await,
        };
        result.or_else(|error| self.fallback().ok_or(error))
    }

    /// Returns the result of a fetch that begins now, for credentials that are known to have changed.
    pub(super) async fn refresh(self: &Rc<Self>) -> CacheResult {
        let Some(source) = &self.source else {
            return Ok(self.state.borrow().fixed().clone());
        };
        // A fetch that is running may have begun before the change.
        let running = self.running_fetch.borrow().clone();
        if let Some(running) = running {
            let _before_the_change = running.result().await;
        }
        let pause = match source {
            CredentialSource::Endpoint(_) => self.state.borrow().pause(self.config.clock.instant()).cloned(),
            // Only the platform's own endpoint must not be asked too often.
            CredentialSource::Provider(_) => None,
        };
        match pause {
            Some(error) => Err(error),
            None => self.submit_fetch(source).result().await,
        }
    }

    /// Returns the credentials of another worker than the rejected one, or of the same if the source knows no other. A
    /// source is asked once for all that are rejected together, and the platform's own endpoint once a minute.
    pub(super) async fn other_worker(self: &Rc<Self>, rejected: &str) -> CacheResult {
        let Some(source) = &self.source else {
            return Ok(self.state.borrow().fixed().clone());
        };
        // A fetch that is running may have begun before the platform has replaced the worker.
        let running = self.running_fetch.borrow().clone();
        let fetched = match running {
            Some(running) => running.result().await.ok(),
            None => None,
        };
        let is_other = |issued: &IssuedCredentials| issued.worker_id().is_some_and(|id| id != rejected);
        let now = self.config.clock.instant();
        let known = self.state.borrow().valid(now, Duration::ZERO).cloned();
        if let Some(other) = fetched.into_iter().chain(known).find(is_other) {
            return Ok(other);
        }
        let recent = match source {
            CredentialSource::Endpoint(_) => self.state.borrow().recent_worker(now),
            // Only the platform's own endpoint must not be asked too often.
            CredentialSource::Provider(_) => None,
        };
        match recent {
            Some(result) => result,
            None => self.submit_fetch(source).result().await,
        }
    }

    /// Takes the credentials of this generation out of use. Does nothing if they are out of use already.
    pub(super) fn reject(&self, generation: u64) {
        self.state.borrow_mut().reject(generation);
    }

    pub(super) fn asks_platform(&self) -> bool {
        matches!(self.source, Some(CredentialSource::Endpoint(_)))
    }

    /// Why the last fetch failed, if it did.
    pub(super) fn last_error(&self) -> Option<CredentialError> {
        self.state.borrow().last_error().cloned()
    }

    /// The number of fetches so far.
    pub(super) fn fetches(&self) -> u64 {
        self.fetches.get()
    }

    fn decide(&self, source: &CredentialSource, rejected: Option<u64>) -> Decision {
        let lookup = Lookup {
            rejected,
            may_be_cached: source.may_be_cached(),
            refresh_margin: self.config.refresh_margin,
            now: self.config.clock.instant(),
        };
        self.state.borrow().decide(&lookup)
    }

    fn fallback(&self) -> Option<IssuedCredentials> {
        let now = self.config.clock.instant();
        self.state.borrow().fallback(now).cloned()
    }

    /// Returns the result of a fetch. If a fetch that was started before the rejection returns the rejected
    /// credentials, they may have been replaced since, so a second fetch follows.
    async fn fetch_after_rejection(self: &Rc<Self>, source: &CredentialSource, rejected: Option<u64>) -> CacheResult {
        let started_before_rejection =
            self.running_fetch.borrow().is_some() && self.state.borrow().rejected_during_fetch();
        let result = self.submit_fetch(source).result().await;
        match &result {
            Ok(issued) if started_before_rejection && rejected == Some(issued.generation) => {
                self.submit_fetch(source).result().await
            }
            Ok(_) | Err(_) => result,
        }
    }

    /// Starts a fetch, or joins the running fetch.
    fn submit_fetch(self: &Rc<Self>, source: &CredentialSource) -> FetchHandle {
        let mut running = self.running_fetch.borrow_mut();
        if let Some(handle) = &*running {
            return handle.clone();
        }
        self.fetches.update(|fetches| fetches.saturating_add(1));
        self.state.borrow_mut().fetch_started();
        let (cache, source) = (Rc::clone(self), source.clone());
        let handle = FetchHandle::spawn(async move {
            let fetched = cache.ask(&source).await;
            cache.store_fetched(fetched)
        });
        running.insert(handle).clone()
    }

    async fn ask(&self, source: &CredentialSource) -> Result<RuntimeCredentials, CredentialError> {
        let limit = self.config.timeout;
        // The time limit is inside, so that a panic while the provider's future is dropped is caught too; and so is the
        // scrubbing, since the provider's error may panic when it is formatted.
        let asking = async {
            let fetched = self.config.clock.within(limit, source.credentials()).await;
            let fetched = fetched.unwrap_or(Err(CredentialError::Timeout(limit)));
            fetched.map_err(|error| self.seen_tokens.borrow().scrub_error(error))
        };
        let panicked = |message| {
            Err(self
                .seen_tokens
                .borrow()
                .scrub_error(CredentialError::Panicked(message)))
        };
        catch_panic(asking).await.unwrap_or_else(panicked)
    }

    fn store_fetched(&self, fetched: Result<RuntimeCredentials, CredentialError>) -> CacheResult {
        // First, so that no panic below can leave a dead fetch that later requests would join.
        self.running_fetch.take();
        if let Ok(fetched) = &fetched {
            self.seen_tokens.borrow_mut().add(&fetched.auth_token);
        }
        let clock = &self.config.clock;
        let validated = fetched.and_then(|fetched| validate(fetched, &self.config.fixed));
        let validated = validated.map(|credentials| Fetched {
            lifetime: Lifetime::of(&credentials, clock.now()),
            credentials,
        });
        let failed_before = self.state.borrow().last_error().is_some();
        let result = self.state.borrow_mut().fetch_ended(validated, clock.instant());
        // A panicking logger, or error message, must not fail a call.
        ignore_panic(|| self.log_change(&result, failed_before));
        result
    }

    /// Logs the start and the end of an outage of the provider, and each failure between them at debug level.
    fn log_change(&self, result: &CacheResult, failed_before: bool) {
        match result {
            Ok(_) if failed_before => info!("credential refresh recovered"),
            Ok(_) => {}
            Err(error) if failed_before => debug!("credential refresh still failing: {}", chain(error)),
            Err(error) => {
                let in_use = match self.fallback().map(|issued| issued.generation) {
                    Some(FIXED_GENERATION) => "using the fixed token",
                    Some(_) => "using the current token",
                    None => "no usable token left",
                };
                warn!("credential refresh failed, {in_use}: {}", chain(error));
            }
        }
    }
}

/// A fetch that runs as a task of its own: to its end, even if all of its handles are dropped.
#[derive(Clone)]
struct FetchHandle(Shared<LocalBoxFuture<'static, CacheResult>>);

impl FetchHandle {
    fn spawn(fetch: impl Future<Output = CacheResult> + 'static) -> Self {
        let task = actix_rt::spawn(fetch);
        let result = async move {
            let panicked = |error: tokio::task::JoinError| Err(CredentialError::Panicked(error.to_string()));
            task.await.unwrap_or_else(panicked)
        };
        Self(result.boxed_local().shared())
    }

    async fn result(self) -> CacheResult {
        self.0.await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::watch;

    use super::*;
    use crate::credentials::provider_fn;

    /// A cache whose provider answers once the gate is open.
    fn gated() -> (Rc<CredentialCache>, watch::Sender<bool>) {
        let gate = watch::Sender::new(false);
        let opened = gate.subscribe();
        let provider = provider_fn(async move || {
            opened.clone().wait_for(|open| *open).await?;
            Ok(RuntimeCredentials::new("w", "t"))
        });
        let source = CredentialSource::Provider(Arc::new(provider));
        let cache = CredentialCache::new(CredentialConfig::default(), Some(source));
        (Rc::new(cache), gate)
    }

    #[actix_rt::test]
    async fn concurrent_requests_share_a_fetch() {
        let (cache, gate) = gated();
        let open = async { gate.send_replace(true) };
        let (first, second, _) = tokio::join!(cache.get(None), cache.get(None), open);
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(cache.fetches(), 1);
    }

    #[actix_rt::test]
    async fn a_dropped_request_does_not_cancel_its_fetch() {
        let (cache, gate) = gated();
        assert!(cache.get(None).now_or_never().is_none());
        gate.send_replace(true);
        assert!(cache.get(None).await.is_ok());
        assert_eq!(cache.fetches(), 1);
    }

    #[actix_rt::test]
    async fn a_refresh_begins_after_a_running_fetch() {
        let (cache, gate) = gated();
        assert!(cache.get(None).now_or_never().is_none());
        let open = async { gate.send_replace(true) };
        let (first, second, _) = tokio::join!(cache.refresh(), cache.refresh(), open);
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(cache.fetches(), 2);
    }

    #[actix_rt::test]
    async fn workers_that_are_rejected_together_share_two_fetches() {
        let (cache, gate) = gated();
        gate.send_replace(true);
        let rejected = ["w"; 9].map(|worker| cache.other_worker(worker));
        let results = futures_util::future::join_all(rejected).await;
        assert!(results.iter().all(Result::is_ok));
        // The first fetch may have begun before the other workers were rejected.
        assert_eq!(cache.fetches(), 2);
        // The worker that the provider has named is another one already.
        let other = cache.other_worker("former").await.unwrap();
        assert_eq!((other.worker_id(), cache.fetches()), (Some("w"), 3));
    }

    #[actix_rt::test]
    async fn a_fetch_that_started_before_a_rejection_is_followed_by_another() {
        let (cache, gate) = gated();
        gate.send_replace(true);
        let issued = cache.get(None).await.unwrap();
        gate.send_replace(false);
        assert!(cache.get(None).now_or_never().is_none());
        let open = async { gate.send_replace(true) };
        let (replacement, _) = tokio::join!(cache.get(Some(issued.generation)), open);
        assert!(replacement.is_ok());
        assert_eq!(cache.fetches(), 3);
    }
}
