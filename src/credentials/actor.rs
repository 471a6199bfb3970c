//! The one owner of the credentials: a cache, a single fetch at a time, and generations, so that
//! whoever was rejected can say which credentials it means.

use std::{
    cell::RefCell,
    fmt,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use actix::{Actor, Addr, Context, Handler, Message, ResponseFuture, Supervised};
use actix_rt::time::timeout;
use futures_util::{
    FutureExt as _,
    future::{LocalBoxFuture, Shared},
};
use log::{debug, info, warn};
use secrecy::SecretString;

use super::{CredentialError, CredentialProvider, RefreshEndpoint, RuntimeCredentials, jwt};
#[cfg(feature = "testing")]
use crate::testing::Crash;
use crate::{clock::Clock, error::chain, panics::caught, supervise::Supervisor};

/// Refreshes that brought nothing new are at least so far apart.
const FUTILE_REFRESH_SPACING: Duration = Duration::from_secs(1);

/// The generation of the fixed pair; a provider's begin at 1.
const FIXED: u64 = 0;

/// Owns the credentials of one worker: caches them until shortly before they expire, and asks the
/// provider once for however many calls need them.
///
/// A [`ResultPoster`](crate::ResultPoster) starts one as its child, and hands out its address in reply to
/// [`GetCredentialActor`](crate::GetCredentialActor). To share one among posters and other parts of a
/// runner, start it (supervised, see [`Supervisor`]) and give its address to
/// [`OptionsBuilder::credential_actor`](crate::OptionsBuilder::credential_actor).
///
/// ```
/// use result_poster::{CredentialActor, GetCredentials, Options, RuntimeCredentials, Supervisor};
///
/// # actix_rt::System::new().block_on(async {
/// let provider = RuntimeCredentials::new("wkr_1", "token");
/// let credentials = Supervisor::start(|_| CredentialActor::new(provider));
/// let options = Options::builder("https://app.example.com").credential_actor(credentials.clone()).build()?;
///
/// let lease = credentials.send(GetCredentials::default()).await??;
/// assert_eq!(lease.worker_id(), "wkr_1");
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub struct CredentialActor(Rc<Keeper>);

impl CredentialActor {
    /// An actor that asks this provider, and is yet to be started.
    #[must_use]
    pub fn new(provider: impl CredentialProvider) -> Self {
        Self(Rc::new(Keeper::new(
            Settings::default(),
            Some(CredentialSource::Provider(Arc::new(provider))),
        )))
    }

    /// What stands in for a worker id or a token that the provider leaves empty, and for both when it fails.
    /// Default: nothing. A token that can't stand in a header is left out.
    #[must_use]
    pub fn with_fixed_pair(self, worker_id: impl Into<String>, auth_token: impl Into<SecretString>) -> Self {
        self.with(|settings| {
            let fixed = RuntimeCredentials::new(worker_id, auth_token);
            settings.fixed = match fixed.token_fault() {
                None => fixed,
                Some(_) => RuntimeCredentials::new(fixed.worker_id, ""),
            };
        })
    }

    /// How long before its expiry a token is renewed. Default: 60 s.
    #[must_use]
    pub fn with_refresh_margin(self, margin: Duration) -> Self {
        self.with(|settings| settings.refresh_margin = margin)
    }

    /// The time limit on one fetch, in real time. Default: 10 s.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.timeout = timeout)
    }

    /// The time that expiry goes by. Default: the host's clock.
    #[must_use]
    pub fn with_clock(self, clock: impl Into<Clock>) -> Self {
        self.with(|settings| settings.clock = clock.into())
    }

    fn with(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.0.settings.clone();
        change(&mut settings);
        Self(Rc::new(Keeper::new(settings, self.0.source.clone())))
    }
}

impl Actor for CredentialActor {
    type Context = Context<Self>;
}

// The cache and a fetch that is under way are not the context's: they survive a restart.
impl Supervised for CredentialActor {}

#[cfg(feature = "testing")]
impl Handler<Crash> for CredentialActor {
    type Result = ();

    fn handle(&mut self, crash: Crash, context: &mut Context<Self>) {
        crash.strike(context);
    }
}

impl fmt::Debug for CredentialActor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialActor").finish_non_exhaustive()
    }
}

/// Asks a [`CredentialActor`] for the credentials of this moment.
///
/// # Errors
///
/// [`CredentialError`], if the provider gave none and there is nothing to fall back to.
#[derive(Debug, Clone, Copy, Default)]
pub struct GetCredentials {
    rejected: Option<u64>,
}

impl GetCredentials {
    /// Asks for other credentials than these, which were rejected. All who were rejected with one
    /// lease cause one fetch; if it brings the same token again, the reply holds that.
    #[must_use]
    pub fn instead_of(lease: &CredentialLease) -> Self {
        Self {
            rejected: Some(lease.generation),
        }
    }
}

impl Message for GetCredentials {
    type Result = Result<CredentialLease, CredentialError>;
}

// A task of its own: whoever waits for a fetch holds up nobody, and outlives a restart.
impl Handler<GetCredentials> for CredentialActor {
    type Result = ResponseFuture<Result<CredentialLease, CredentialError>>;

    fn handle(&mut self, message: GetCredentials, _: &mut Context<Self>) -> Self::Result {
        let keeper = Rc::clone(&self.0);
        Box::pin(async move { keeper.get(message.rejected).await })
    }
}

/// Tells a [`CredentialActor`] that these credentials were rejected, so that it fetches new ones for the next
/// who asks. Older ones than the current are out of use already, and nothing happens.
#[derive(Debug, Clone, Copy)]
pub struct InvalidateCredentials {
    generation: u64,
}

impl InvalidateCredentials {
    /// These were rejected.
    #[must_use]
    pub fn new(lease: &CredentialLease) -> Self {
        Self {
            generation: lease.generation,
        }
    }
}

impl Message for InvalidateCredentials {
    type Result = ();
}

impl Handler<InvalidateCredentials> for CredentialActor {
    type Result = ();

    fn handle(&mut self, message: InvalidateCredentials, _: &mut Context<Self>) {
        self.0.state.borrow_mut().reject(message.generation);
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

type Outcome = Result<CredentialLease, CredentialError>;

/// All that the actor knows; a fetch that is under way shares it.
struct Keeper {
    settings: Settings,
    source: Option<CredentialSource>,
    fixed: CredentialLease,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    current: Option<Current>,
    fetch: Option<Shared<LocalBoxFuture<'static, Outcome>>>,
    last_fetch: Option<(Instant, Outcome)>,
    last_generation: u64,
    fetches: u64,
    /// The last fetch failed, and that was logged.
    failing: bool,
}

/// The newest credentials that the provider gave.
struct Current {
    lease: CredentialLease,
    expires_at: Option<SystemTime>,
    rejected: bool,
}

impl State {
    fn reject(&mut self, generation: u64) {
        if let Some(current) = &mut self.current
            && current.lease.generation == generation
            && !current.rejected
        {
            current.rejected = true;
            // What the last fetch brought is of no use any more.
            self.last_fetch = None;
        }
    }

    /// The newest credentials, as long as they are neither rejected nor known to have less than `margin` left.
    fn valid(&self, now: SystemTime, margin: Duration) -> Option<&CredentialLease> {
        let current = self.current.as_ref().filter(|current| !current.rejected)?;
        let left = current.expires_at?.duration_since(now).ok()?;
        (left > margin).then_some(&current.lease)
    }
}

impl Keeper {
    fn new(settings: Settings, source: Option<CredentialSource>) -> Self {
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

    async fn get(self: Rc<Self>, rejected: Option<u64>) -> Outcome {
        let Some(source) = &self.source else {
            return Ok(self.fixed.clone());
        };
        if let Some(generation) = rejected {
            self.state.borrow_mut().reject(generation);
        }
        let outcome = match self.without_fetch(source, rejected) {
            Some(outcome) => outcome,
            None => self.fetch(source).await,
        };
        outcome.or_else(|error| self.fallback(rejected).ok_or(error))
    }

    /// What can be answered at once.
    fn without_fetch(self: &Rc<Self>, source: &CredentialSource, rejected: Option<u64>) -> Option<Outcome> {
        let now = self.settings.clock.now();
        let state = self.state.borrow();
        if source.may_be_cached()
            && let Some(lease) = state.valid(now, self.settings.refresh_margin)
        {
            return Some(Ok(lease.clone()));
        }
        let recent = state.last_fetch.as_ref().filter(|(at, _)| {
            let age = self.settings.clock.instant().saturating_duration_since(*at);
            age < FUTILE_REFRESH_SPACING
        });
        let current = state.current.as_ref();
        // Rejected credentials, and a fetch just now that brought the same again, or nothing.
        if current.is_some_and(|current| current.rejected) {
            return recent.map(|(_, outcome)| outcome.clone());
        }
        // Rejected credentials, and a fetch just now that brought newer ones, for somebody else.
        if let (Some(rejected), Some((_, Ok(lease)))) = (rejected, recent)
            && lease.generation > rejected
        {
            return Some(Ok(lease.clone()));
        }
        // A provider in trouble holds up nobody while there is a valid token: it is asked beside the calls.
        if state.failing
            && let Some(lease) = state.valid(now, Duration::ZERO).cloned()
        {
            let ask = recent.is_none();
            drop(state);
            if ask {
                drop(self.fetch(source));
            }
            return Some(Ok(lease));
        }
        None
    }

    /// Joins the fetch that is under way, or begins one. It is a task: it ends by itself, whoever waits for it.
    fn fetch(self: &Rc<Self>, source: &CredentialSource) -> Shared<LocalBoxFuture<'static, Outcome>> {
        let begin = || {
            let (keeper, source) = (Rc::clone(self), source.clone());
            let task = actix_rt::spawn(async move {
                let limit = keeper.settings.timeout;
                let fetched = match timeout(limit, caught(source.credentials())).await {
                    Ok(Ok(fetched)) => fetched,
                    Ok(Err(message)) => Err(CredentialError::Panicked(message)),
                    Err(_) => Err(CredentialError::Timeout(limit)),
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
        }
        state.fetch.get_or_insert_with(begin).clone()
    }

    /// Takes in what a fetch brought.
    fn take(&self, fetched: Result<RuntimeCredentials, CredentialError>) -> Outcome {
        let checked = fetched.and_then(|fetched| self.check(fetched));
        let state = &mut *self.state.borrow_mut();
        let outcome = match checked {
            Ok((credentials, expires_at)) => {
                if std::mem::take(&mut state.failing) {
                    info!("the credential provider works again");
                }
                Ok(state.issue(credentials, expires_at))
            }
            Err(error) => {
                let line = chain(&error);
                if std::mem::replace(&mut state.failing, true) {
                    debug!("no fresh credentials again: {line}");
                } else {
                    warn!("no fresh credentials, going on with what there is: {line}");
                }
                Err(error)
            }
        };
        state.fetch = None;
        state.last_fetch = Some((self.settings.clock.instant(), outcome.clone()));
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

    /// What there is when a fetch failed: the last token while it is valid, then the fixed pair;
    /// neither to whom it was just rejected.
    fn fallback(&self, rejected: Option<u64>) -> Option<CredentialLease> {
        let now = self.settings.clock.now();
        let state = self.state.borrow();
        let fixed = || (rejected != Some(FIXED) && self.fixed.token().is_some()).then_some(&self.fixed);
        state.valid(now, Duration::ZERO).or_else(fixed).cloned()
    }
}

impl State {
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

/// How a poster reaches its credentials: through an actor, its own child or a shared one.
pub(crate) struct Credentials {
    actor: RefCell<Option<Addr<CredentialActor>>>,
    /// What a child is made of, and made of again when it is gone for good.
    own: Option<Rc<Keeper>>,
}

impl Credentials {
    /// A child of the poster's own.
    pub(crate) fn own(settings: Settings, source: Option<CredentialSource>) -> Self {
        Self {
            actor: RefCell::default(),
            own: Some(Rc::new(Keeper::new(settings, source))),
        }
    }

    pub(crate) fn shared(actor: Addr<CredentialActor>) -> Self {
        Self {
            actor: RefCell::new(Some(actor)),
            own: None,
        }
    }

    /// The actor's address; a child is started if there is none, or it is gone for good.
    pub(crate) fn actor(&self) -> Option<Addr<CredentialActor>> {
        let mut actor = self.actor.borrow_mut();
        if let Some(own) = &self.own
            && actor.as_ref().is_none_or(|actor| !actor.connected())
        {
            let own = Rc::clone(own);
            *actor = Some(Supervisor::start(|_| CredentialActor(own)));
        }
        actor.clone()
    }

    /// How often the poster's own actor has asked for credentials.
    pub(crate) fn fetches(&self) -> u64 {
        self.own.as_ref().map_or(0, |own| own.state.borrow().fetches)
    }

    pub(crate) async fn get(&self, message: GetCredentials) -> Outcome {
        let actor = self.actor().ok_or(CredentialError::Stopped)?;
        actor.send(message).await.unwrap_or(Err(CredentialError::Stopped))
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::credentials::provider_fn;

    /// A provider that counts how often it is asked, and answers once the gate is open.
    fn gated(gate: &watch::Sender<bool>) -> impl CredentialProvider {
        let gate = gate.subscribe();
        provider_fn(async move || {
            let _ = gate.clone().wait_for(|open| *open).await;
            Ok::<_, std::io::Error>(RuntimeCredentials::new("w", "t"))
        })
    }

    #[actix_rt::test]
    async fn a_restart_in_the_middle_of_a_fetch_leaves_nobody_without_an_answer() {
        for crash in [Crash::Stop, Crash::Terminate, Crash::Panic] {
            let gate = watch::Sender::new(false);
            let provider = gated(&gate);
            let actor = Supervisor::start(|_| CredentialActor::new(provider));
            let before = actix_rt::spawn(actor.send(GetCredentials::default()));
            actix_rt::task::yield_now().await;
            actor.do_send(crash);
            let after = actix_rt::spawn(actor.send(GetCredentials::default()));
            actix_rt::task::yield_now().await;
            gate.send_replace(true);
            for reply in [before, after] {
                assert_eq!(reply.await.unwrap().unwrap().unwrap().generation(), 1);
            }
        }
    }

    #[actix_rt::test]
    async fn a_child_that_is_gone_for_good_is_started_anew() {
        let provider: Arc<dyn CredentialProvider> = Arc::new(RuntimeCredentials::new("w", "t"));
        let credentials = Credentials::own(Settings::default(), Some(CredentialSource::Provider(provider)));
        let first = credentials.actor().unwrap();
        first.do_send(Crash::Ruin);
        while first.connected() {
            actix_rt::task::yield_now().await;
        }
        assert_eq!(
            credentials.get(GetCredentials::default()).await.unwrap().token(),
            Some("t")
        );
        assert_ne!(credentials.actor().unwrap(), first);
    }
}
