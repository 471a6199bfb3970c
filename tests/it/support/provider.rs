//! A credential provider that follows a script.

use std::{
    collections::VecDeque,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use futures_util::future::LocalBoxFuture;
use result_poster::{
    credentials::{BoxError, CredentialProvider, RuntimeCredentials},
    testing::ManualClock,
};

/// The outcome of one fetch from a [`ScriptedProvider`].
#[derive(Clone)]
pub(crate) enum ProviderStep {
    Give(RuntimeCredentials),
    Fail,
    /// Fails with this message.
    FailWith(&'static str),
    Hang,
    /// Hangs, while this much time passes by the clock.
    HangFor(Duration, ManualClock),
    Panic,
    /// Panics with this message.
    PanicWith(&'static str),
}

/// A provider that follows a script, whose last step repeats, and counts the fetches.
#[derive(Clone)]
pub(crate) struct ScriptedProvider(Arc<Script>);

struct Script {
    steps: Mutex<VecDeque<ProviderStep>>,
    fetches: AtomicUsize,
}

impl ScriptedProvider {
    pub(crate) fn new(steps: impl IntoIterator<Item = ProviderStep>) -> Self {
        Self(Arc::new(Script {
            steps: Mutex::new(steps.into_iter().collect()),
            fetches: AtomicUsize::new(0),
        }))
    }

    /// Gives these tokens in turn, each for the worker `wkr_<token>`.
    pub(crate) fn tokens<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Self {
        let give = |token: &str| ProviderStep::Give(RuntimeCredentials::new(format!("wkr_{token}"), token));
        Self::new(tokens.into_iter().map(give))
    }

    /// The number of fetches so far.
    pub(crate) fn fetches(&self) -> usize {
        self.0.fetches.load(Ordering::Relaxed)
    }
}

impl CredentialProvider for ScriptedProvider {
    fn credentials(&self) -> LocalBoxFuture<'_, Result<RuntimeCredentials, BoxError>> {
        self.0.fetches.fetch_add(1, Ordering::Relaxed);
        let step = {
            let mut steps = self.0.steps.lock().unwrap();
            if steps.len() > 1 {
                steps.pop_front()
            } else {
                steps.front().cloned()
            }
        };
        Box::pin(async move {
            match step.unwrap() {
                ProviderStep::Give(credentials) => {
                    actix_rt::task::yield_now().await;
                    Ok(credentials)
                }
                ProviderStep::Fail => Err("the vault is sealed".into()),
                ProviderStep::FailWith(message) => Err(message.into()),
                ProviderStep::Hang => pending().await,
                ProviderStep::HangFor(duration, clock) => {
                    // The limit of the fetch begins after its first poll.
                    actix_rt::task::yield_now().await;
                    clock.advance(duration);
                    pending().await
                }
                ProviderStep::Panic => panic!("the vault is on fire"),
                ProviderStep::PanicWith(message) => panic!("{message}"),
            }
        })
    }
}

/// A JWT with this expiry, made unique by this name.
pub(crate) fn jwt(name: &str, expires_at: SystemTime) -> String {
    let exp = expires_at.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = BASE64_URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{exp}}}"#));
    format!("e30.{claims}.{name}")
}
