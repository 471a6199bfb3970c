//! The cache behind the actor: one fetch at a time, and generations, so that whoever was rejected can
//! say which credentials it means.

use std::{
    cell::RefCell,
    mem,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use actix_rt::time::timeout;
use futures_util::{
    FutureExt as _,
    future::{LocalBoxFuture, Shared},
};
use log::{debug, info, warn};

use super::{CredentialError, CredentialLease, CredentialProvider, RefreshEndpoint, RuntimeCredentials, jwt};
use crate::{
    clock::Clock,
    error::chain,
    panics::{caught, quietly},
};

/// Refreshes that brought nothing new are at least so far apart.
const FUTILE_REFRESH_SPACING: Duration = Duration::from_secs(1);

/// The generation of the fixed pair; a provider's begin at 1.
const FIXED: u64 = 0;

/// Where the credentials come from, if they are not fixed.
#[derive(Clone)]
pub(crate) enum CredentialSource {
    Provider(Arc<dyn CredentialProvider>),
    Endpoint(Rc<RefreshEndpoint>),
}

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) fixed: RuntimeCredentials,
    pub(crate) refresh_margin: Duration,
    pub(crate) timeout: Duration,
    pub(crate) clock: Clock,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            fixed: RuntimeCredentials::default(),
            refresh_margin: Duration::from_secs(60),
            timeout: Duration::from_secs(10),
            clock: Clock::default(),
        }
    }
}

pub(super) type Outcome = Result<CredentialLease, CredentialError>;

/// All that the actor knows; a fetch that is under way shares it.
pub(crate) struct Keeper {
    pub(super) settings: Settings,
    pub(super) source: Option<CredentialSource>,
    fixed: CredentialLease,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    current: Option<Current>,
    fetch: Option<Shared<LocalBoxFuture<'static, Outcome>>>,
    last_fetch: Option<LastFetch>,
    last_generation: u64,
    fetches: u64,
    /// The fixed pair was rejected, and the provider has brought nothing since.
    fixed_rejected: bool,
    /// The current credentials were rejected since the last fetch was begun.
    rejected_meanwhile: bool,
    /// Why the last fetch failed, if it did.
    trouble: Option<CredentialError>,
}

struct LastFetch {
    at: Instant,
    outcome: Outcome,
    /// It brought neither another worker id nor another token.
    futile: bool,
}

/// The newest credentials that the provider gave.
struct Current {
    lease: CredentialLease,
    expires_at: Option<SystemTime>,
    rejected: bool,
}

impl State {
    fn reject(&mut self, generation: u64) {
        if generation == FIXED {
            self.fixed_rejected = true;
        }
        if let Some(current) = &mut self.current
            && current.lease.generation == generation
            && !current.rejected
        {
            current.rejected = true;
            // What the last fetch brought is of no use any more, and what the running one brings may be no better.
            self.last_fetch = None;
            self.rejected_meanwhile = true;
        }
    }

    fn is_rejected(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.rejected)
    }

    /// The newest credentials, as long as they are neither rejected nor known to have less than `margin` left.
    fn valid(&self, now: SystemTime, margin: Duration) -> Option<&CredentialLease> {
        let current = self.current.as_ref().filter(|current| !current.rejected)?;
        let left = current.expires_at?.duration_since(now).ok()?;
        (left > margin).then_some(&current.lease)
    }

    fn issue(&mut self, credentials: RuntimeCredentials, expires_at: Option<SystemTime>) -> CredentialLease {
        if let Some(current) = &mut self.current
            && current.lease.credentials.worker_id == credentials.worker_id
            && current.lease.credentials.token() == credentials.token()
        {
            current.expires_at = expires_at;
            return current.lease.clone();
        }
        self.last_generation = self.last_generation.saturating_add(1);
        let lease = CredentialLease {
            credentials: Arc::new(credentials),
            generation: self.last_generation,
        };
        self.current = Some(Current {
            lease: lease.clone(),
            expires_at,
            rejected: false,
        });
        lease
    }
}

impl Keeper {
    pub(super) fn new(settings: Settings, source: Option<CredentialSource>) -> Self {
        Self {
            fixed: CredentialLease {
                credentials: Arc::new(settings.fixed.clone()),
                generation: FIXED,
            },
            settings,
            source,
            state: RefCell::default(),
        }
    }

    pub(super) async fn get(self: Rc<Self>, rejected: Option<u64>) -> Outcome {
        let Some(source) = &self.source else {
            return Ok(self.fixed.clone());
        };
        if let Some(generation) = rejected {
            self.reject(generation);
        }
        let outcome = match self.without_fetch(source, rejected) {
            Some(outcome) => outcome,
            None => self.fetch_since(source, rejected).await,
        };
        outcome.or_else(|error| self.fallback(&self.state.borrow()).ok_or(error))
    }

    /// Takes the credentials of this generation out of use, if they are still the current ones.
    pub(super) fn reject(&self, generation: u64) {
        self.state.borrow_mut().reject(generation);
    }

    /// How often the provider was asked.
    pub(super) fn fetches(&self) -> u64 {
        self.state.borrow().fetches
    }

    /// What can be answered at once.
    fn without_fetch(self: &Rc<Self>, source: &CredentialSource, rejected: Option<u64>) -> Option<Outcome> {
        let now = self.settings.clock.now();
        let state = self.state.borrow();
        let cached = |margin| source.may_be_cached().then(|| state.valid(now, margin)).flatten();
        if let Some(lease) = cached(self.settings.refresh_margin) {
            return Some(Ok(lease.clone()));
        }
        let recent = state.last_fetch.as_ref().filter(|fetch| {
            let age = self.settings.clock.instant().saturating_duration_since(fetch.at);
            age < FUTILE_REFRESH_SPACING
        });
        // Rejected credentials, and a fetch just now that brought the same again, or nothing.
        if state.is_rejected() {
            return recent.map(|fetch| fetch.outcome.clone());
        }
        if let Some(recent) = recent {
            // Rejected credentials, and a fetch just now that brought newer ones, for somebody else.
            if let (Some(rejected), Ok(lease)) = (rejected, &recent.outcome)
                && lease.generation > rejected
            {
                return Some(Ok(lease.clone()));
            }
            // About to expire, and a fetch just now that did not change that.
            if recent.futile
                && let Some(lease) = cached(Duration::ZERO)
            {
                return Some(Ok(lease.clone()));
            }
        }
        // A provider in trouble holds up nobody who has a valid token, and one that hangs nobody who has anything
        // to go on with: it is asked beside the calls.
        let lease = match state.trouble {
            None => None,
            Some(CredentialError::Timeout(_)) => self.fallback(&state),
            Some(_) => state.valid(now, Duration::ZERO).cloned(),
        }?;
        let ask = recent.is_none();
        drop(state);
        if ask {
            drop(self.fetch(source));
        }
        Some(Ok(lease))
    }

    /// What a fetch brings that was begun after the rejection: an earlier one may bring what was rejected, and
    /// proves nothing.
    async fn fetch_since(self: &Rc<Self>, source: &CredentialSource, rejected: Option<u64>) -> Outcome {
        let begun_before = {
            let state = self.state.borrow();
            state.fetch.is_some() && state.rejected_meanwhile
        };
        let outcome = self.fetch(source).await;
        match &outcome {
            Ok(lease) if begun_before && rejected == Some(lease.generation) => self.fetch(source).await,
            Ok(_) | Err(_) => outcome,
        }
    }

    /// Joins the fetch that is under way, or begins one. It is a task: it ends by itself, whoever waits for it.
    fn fetch(self: &Rc<Self>, source: &CredentialSource) -> Shared<LocalBoxFuture<'static, Outcome>> {
        let begin = || {
            let (keeper, source) = (Rc::clone(self), source.clone());
            let task = actix_rt::spawn(async move {
                let limit = keeper.settings.timeout;
                // The provider's future is dropped within, too, when its time is over.
                let asked = caught(async { timeout(limit, source.credentials()).await });
                let fetched = match asked.await {
                    Ok(Ok(fetched)) => fetched,
                    Ok(Err(_)) => Err(CredentialError::Timeout(limit)),
                    Err(message) => Err(CredentialError::Panicked(message)),
                };
                keeper.take(fetched)
            });
            let joined =
                task.map(|done| done.unwrap_or_else(|error| Err(CredentialError::Panicked(error.to_string()))));
            joined.boxed_local().shared()
        };
        let state = &mut *self.state.borrow_mut();
        if state.fetch.is_none() {
            state.fetches = state.fetches.saturating_add(1);
            state.rejected_meanwhile = false;
        }
        state.fetch.get_or_insert_with(begin).clone()
    }

    /// Takes in what a fetch brought.
    fn take(&self, fetched: Result<RuntimeCredentials, CredentialError>) -> Outcome {
        let checked = fetched.and_then(|fetched| self.check(fetched));
        let (outcome, trouble_before) = {
            let state = &mut *self.state.borrow_mut();
            state.fetch = None;
            let generation = state.last_generation;
            let outcome = checked.map(|(credentials, expires_at)| state.issue(credentials, expires_at));
            let proves_nothing = state.rejected_meanwhile && state.is_rejected();
            state.last_fetch = (!proves_nothing).then(|| LastFetch {
                at: self.settings.clock.instant(),
                outcome: outcome.clone(),
                futile: state.last_generation == generation,
            });
            state.fixed_rejected &= outcome.is_err();
            let trouble = outcome.as_ref().err().cloned();
            (outcome, mem::replace(&mut state.trouble, trouble))
        };
        quietly(|| match (&outcome, trouble_before) {
            (Ok(_), None) => {}
            (Ok(_), Some(_)) => info!("the credential provider works again"),
            (Err(error), Some(_)) => debug!("no fresh credentials again: {}", chain(error)),
            (Err(error), None) => warn!("no fresh credentials, going on with what there is: {}", chain(error)),
        });
        outcome
    }

    /// Fills what the provider left empty, and refuses what can't be used.
    fn check(
        &self,
        mut fetched: RuntimeCredentials,
    ) -> Result<(RuntimeCredentials, Option<SystemTime>), CredentialError> {
        let fixed = &self.settings.fixed;
        if fetched.worker_id.is_empty() {
            fetched.worker_id.clone_from(&fixed.worker_id);
        }
        if fetched.token().is_none() {
            fetched.auth_token = fixed.auth_token.clone();
            fetched.expires_at = None;
        }
        let token = fetched.token().ok_or(CredentialError::NoToken)?;
        let expires_at = [fetched.expires_at, jwt::expiry(token)].into_iter().flatten().min();
        if let Some(fault) = fetched.token_fault() {
            return Err(CredentialError::Unusable(fault));
        }
        if expires_at.is_some_and(|expires_at| expires_at <= self.settings.clock.now()) {
            return Err(CredentialError::Expired);
        }
        Ok((fetched, expires_at))
    }

    /// What there is when a fetch failed: the last token while it is valid, then the fixed pair; neither once it was
    /// rejected.
    fn fallback(&self, state: &State) -> Option<CredentialLease> {
        let now = self.settings.clock.now();
        let fixed = || (!state.fixed_rejected && self.fixed.token().is_some()).then_some(&self.fixed);
        state.valid(now, Duration::ZERO).or_else(fixed).cloned()
    }
}

impl CredentialSource {
    fn may_be_cached(&self) -> bool {
        match self {
            Self::Provider(provider) => provider.may_be_cached(),
            Self::Endpoint(_) => true,
        }
    }

    async fn credentials(&self) -> Result<RuntimeCredentials, CredentialError> {
        let credentials = match self {
            Self::Provider(provider) => provider.credentials().await,
            Self::Endpoint(endpoint) => endpoint.credentials().await,
        };
        credentials.map_err(|error| CredentialError::Provider(error.into()))
    }
}
