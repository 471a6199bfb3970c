//! The access of a poster to its credentials.

use std::{cell::RefCell, rc::Rc};

use actix::Addr;

use super::{
    actor::CredentialActor,
    cache::{CredentialCache, CredentialConfig},
    issued_credentials::IssuedCredentials,
    messages::{GetCredentials, GetOtherWorker, InvalidateCredentials, RefreshCredentials},
    source::CredentialSource,
    state::CacheResult,
};
use crate::error::CredentialError;
use crate::supervisor::Supervisor;

/// How a poster gets its credentials: from a cache of its own, or from an actor that it shares with others.
pub(crate) struct Credentials {
    access: Access,
    last_issued: RefCell<Option<IssuedCredentials>>,
}

enum Access {
    /// The poster asks the cache directly, since both are on the same arbiter (measured: 10 µs per attempt instead of
    /// 13.5 µs by message). The actor over the cache is for other parts of the runner.
    Own {
        cache: Rc<CredentialCache>,
        actor: RefCell<Option<Addr<CredentialActor>>>,
    },
    Shared(Addr<CredentialActor>),
}

impl Credentials {
    /// Creates a cache for this poster alone. Without a source, there is only the fixed pair.
    pub(crate) fn own(config: CredentialConfig, source: Option<CredentialSource>) -> Self {
        Self::new(Access::Own {
            cache: Rc::new(CredentialCache::new(config, source)),
            actor: RefCell::default(),
        })
    }

    pub(crate) fn shared(actor: Addr<CredentialActor>) -> Self {
        Self::new(Access::Shared(actor))
    }

    fn new(access: Access) -> Self {
        Self {
            access,
            last_issued: RefCell::default(),
        }
    }

    /// Returns credentials to use now.
    pub(crate) async fn get(&self, request: GetCredentials) -> CacheResult {
        let issued = match &self.access {
            Access::Own { cache, .. } => cache.get(request.rejected).await?,
            Access::Shared(actor) => actor.send(request).await.unwrap_or(Err(CredentialError::Stopped))?,
        };
        self.last_issued.replace(Some(issued.clone()));
        Ok(issued)
    }

    /// Returns the result of a fetch that begins now.
    pub(crate) async fn refresh(&self) -> CacheResult {
        let issued = match &self.access {
            Access::Own { cache, .. } => cache.refresh().await?,
            Access::Shared(actor) => actor
                .send(RefreshCredentials)
                .await
                .unwrap_or(Err(CredentialError::Stopped))?,
        };
        self.last_issued.replace(Some(issued.clone()));
        Ok(issued)
    }

    /// Returns the credentials of another worker than the one that the platform has rejected, or of the same if no other is
    /// known.
    pub(crate) async fn other_worker(&self, rejected: &str) -> CacheResult {
        let issued = match &self.access {
            Access::Own { cache, .. } => cache.other_worker(rejected).await?,
            Access::Shared(actor) => {
                let request = GetOtherWorker {
                    rejected: rejected.to_owned(),
                };
                actor.send(request).await.unwrap_or(Err(CredentialError::Stopped))?
            }
        };
        self.last_issued.replace(Some(issued.clone()));
        Ok(issued)
    }

    /// Reports these credentials as rejected.
    pub(crate) fn invalidate(&self, issued: &IssuedCredentials) {
        match &self.access {
            Access::Own { cache, .. } => cache.reject(issued.generation),
            Access::Shared(actor) => actor.do_send(InvalidateCredentials::new(issued)),
        }
    }

    /// The generation of the last credentials that this poster got. `None` before the first.
    pub(crate) fn last_generation(&self) -> Option<u64> {
        Some(self.last_issued.borrow().as_ref()?.generation)
    }

    /// Whether the credentials come from the platform's own endpoint.
    pub(crate) fn asks_platform(&self) -> bool {
        match &self.access {
            Access::Own { cache, .. } => cache.asks_platform(),
            Access::Shared(_) => false,
        }
    }

    /// The worker id of the last credentials that this poster got. `None` before the first, and if they had none.
    pub(crate) fn last_worker_id(&self) -> Option<String> {
        let last = self.last_issued.borrow();
        last.as_ref()?.worker_id().map(str::to_owned)
    }

    /// Why the last fetch of the poster's own cache failed, if it did.
    pub(crate) fn last_fetch_error(&self) -> Option<CredentialError> {
        match &self.access {
            Access::Own { cache, .. } => cache.last_error(),
            Access::Shared(_) => None,
        }
    }

    /// The number of fetches by the poster's own cache, if it has one.
    pub(crate) fn fetches(&self) -> Option<u64> {
        match &self.access {
            Access::Own { cache, .. } => Some(cache.fetches()),
            Access::Shared(_) => None,
        }
    }

    /// The address of the actor. A poster's own is started if there is none yet, or if its supervisor has given it up.
    pub(crate) fn actor(&self) -> Addr<CredentialActor> {
        match &self.access {
            Access::Shared(actor) => actor.clone(),
            Access::Own { cache, actor } => {
                let actor = &mut *actor.borrow_mut();
                let running = actor.take().filter(Addr::connected);
                let start = || Supervisor::start(|_, _| CredentialActor::with_cache(Rc::clone(cache)));
                actor.insert(running.unwrap_or_else(start)).clone()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::credentials::{CredentialProvider, RuntimeCredentials, provider_fn};

    fn own(provider: impl CredentialProvider) -> Credentials {
        let source = CredentialSource::Provider(Arc::new(provider));
        Credentials::own(CredentialConfig::default(), Some(source))
    }

    #[actix_rt::test]
    async fn the_last_worker_id_is_that_of_the_last_credentials() {
        let provider = || RuntimeCredentials::new("w", "t");
        let shared = Supervisor::start(|_, _| CredentialActor::new(provider()));
        for credentials in [own(provider()), Credentials::shared(shared)] {
            assert_eq!(credentials.last_worker_id(), None);
            credentials.get(GetCredentials::default()).await.unwrap();
            assert_eq!(credentials.last_worker_id().as_deref(), Some("w"));
        }
    }

    #[actix_rt::test]
    async fn a_refresh_sets_the_last_worker_id() {
        let shared = Supervisor::start(|_, _| CredentialActor::new(RuntimeCredentials::new("w", "t")));
        for credentials in [own(RuntimeCredentials::new("w", "t")), Credentials::shared(shared)] {
            credentials.refresh().await.unwrap();
            assert_eq!(credentials.last_worker_id().as_deref(), Some("w"));
        }
    }

    #[actix_rt::test]
    async fn credentials_without_a_worker_id_have_no_last_worker_id() {
        let credentials = own(RuntimeCredentials::new("", "t"));
        credentials.get(GetCredentials::default()).await.unwrap();
        assert_eq!(credentials.last_worker_id(), None);
    }

    #[actix_rt::test]
    async fn a_failed_request_keeps_the_last_worker_id() {
        let fetches = std::sync::atomic::AtomicUsize::new(0);
        let credentials = own(provider_fn(async move || {
            match fetches.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
                0 => Ok(RuntimeCredentials::new("w", "t")),
                _ => Err("sealed".into()),
            }
        }));
        credentials.get(GetCredentials::default()).await.unwrap();
        credentials.get(GetCredentials::default()).await.unwrap_err();
        assert_eq!(credentials.last_worker_id().as_deref(), Some("w"));
    }

    #[cfg(feature = "testing")]
    #[actix_rt::test]
    async fn an_actor_that_its_supervisor_has_given_up_is_replaced() {
        let credentials = own(RuntimeCredentials::new("w", "t"));
        let first = credentials.actor();
        first.do_send(crate::testing::Crash::PanicRepeatedly);
        while first.connected() {
            actix_rt::task::yield_now().await;
        }
        let second = credentials.actor();
        assert_ne!(second, first);
        let issued = second.send(GetCredentials::default()).await.unwrap().unwrap();
        assert_eq!(issued.token(), Some("t"));
    }
}
