//! The one owner of the credentials, as an actor, and how a poster reaches it.

use std::{cell::RefCell, fmt, rc::Rc, sync::Arc, time::Duration};

use actix::{Actor, Addr, Context, Handler, Message, ResponseFuture, Supervised};
use secrecy::SecretString;

use super::{
    CredentialError, CredentialLease, CredentialProvider, CredentialSource, RuntimeCredentials, Settings,
    keeper::{Keeper, Outcome},
};
#[cfg(feature = "testing")]
use crate::testing::Crash;
use crate::{clock::Clock, error::OptionsError, panics::caught, supervise::Supervisor};

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
    /// Default: nothing.
    ///
    /// # Errors
    ///
    /// The token can't stand in a header.
    pub fn with_fixed_pair(
        self,
        worker_id: impl Into<String>,
        auth_token: impl Into<SecretString>,
    ) -> Result<Self, OptionsError> {
        let fixed = RuntimeCredentials::new(worker_id, auth_token);
        match fixed.token_fault() {
            Some(fault) => Err(OptionsError::new("auth_token", fault)),
            None => Ok(self.with(|settings| settings.fixed = fixed)),
        }
    }

    /// How long before its expiry a token is renewed. Default: 60 s.
    #[must_use]
    pub fn with_refresh_margin(self, margin: Duration) -> Self {
        self.with(|settings| settings.refresh_margin = margin)
    }

    /// The time limit on one fetch, in real time. Default: 10 s.
    ///
    /// # Errors
    ///
    /// It is zero.
    pub fn with_timeout(self, timeout: Duration) -> Result<Self, OptionsError> {
        if timeout.is_zero() {
            return Err(OptionsError::new("credential_timeout", "is zero"));
        }
        Ok(self.with(|settings| settings.timeout = timeout))
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

/// Asks a [`CredentialActor`] for the credentials of this moment. A fetch that was begun for it goes on, and is
/// kept for the next, if nobody waits for it any more.
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
    type Result = ResponseFuture<Outcome>;

    fn handle(&mut self, message: GetCredentials, _: &mut Context<Self>) -> Self::Result {
        let keeper = Rc::clone(&self.0);
        Box::pin(async move {
            let outcome = caught(keeper.get(message.rejected)).await;
            outcome.unwrap_or_else(|message| Err(CredentialError::Panicked(message)))
        })
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
        self.0.reject(message.generation);
    }
}

/// How a poster reaches its credentials.
pub(crate) enum Credentials {
    /// A child of the poster's, for others to ask, and its cache, which the poster asks itself: they are on the
    /// same arbiter, and a message for each attempt was a quarter of what a result costs above its HTTP.
    Own(Rc<Keeper>, RefCell<Option<Addr<CredentialActor>>>),
    Shared(Addr<CredentialActor>),
}

impl Credentials {
    pub(crate) fn own(settings: Settings, source: Option<CredentialSource>) -> Self {
        Self::Own(Rc::new(Keeper::new(settings, source)), RefCell::default())
    }

    /// The actor's address; a child is started if there is none, or it is gone for good.
    pub(crate) fn actor(&self) -> Addr<CredentialActor> {
        match self {
            Self::Shared(actor) => actor.clone(),
            Self::Own(keeper, child) => {
                let child = &mut *child.borrow_mut();
                let running = child.take().filter(Addr::connected);
                let start = || Supervisor::start(|_| CredentialActor(Rc::clone(keeper)));
                child.insert(running.unwrap_or_else(start)).clone()
            }
        }
    }

    /// How often the poster's own actor has asked for credentials.
    pub(crate) fn fetches(&self) -> u64 {
        match self {
            Self::Own(keeper, _) => keeper.fetches(),
            Self::Shared(_) => 0,
        }
    }

    pub(crate) async fn get(&self, message: GetCredentials) -> Outcome {
        match self {
            Self::Own(keeper, _) => Rc::clone(keeper).get(message.rejected).await,
            Self::Shared(actor) => actor.send(message).await.unwrap_or(Err(CredentialError::Stopped)),
        }
    }

    pub(crate) fn invalidate(&self, lease: &CredentialLease) {
        match self {
            Self::Own(keeper, _) => keeper.reject(lease.generation),
            Self::Shared(actor) => actor.do_send(InvalidateCredentials::new(lease)),
        }
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
        let first = credentials.actor();
        first.do_send(Crash::Ruin);
        while first.connected() {
            actix_rt::task::yield_now().await;
        }
        assert_eq!(
            credentials.get(GetCredentials::default()).await.unwrap().token(),
            Some("t")
        );
        assert_ne!(credentials.actor(), first);
    }
}
