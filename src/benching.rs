//! A way in for `benches/`, to what is not public. No part of the interface: it may change at any time.

use std::{convert::Infallible, fmt, rc::Rc, sync::Arc, time::Duration};

use crate::{
    classify::{self, Answer, Endpoint, Verdict},
    clock::Clock,
    credentials::{CredentialSource, Credentials, GetCredentials, RuntimeCredentials, Settings, provider_fn},
    lanes::{Key, Lanes, Limits, Turn},
    options::Options,
    result::AgentResult,
    wire::Platform,
};

/// A poster with these options sends nothing: each call is answered with 200 at once.
#[must_use]
pub fn without_network(options: Options) -> Options {
    options.without_network()
}

/// Makes the two calls of a result, and their bodies; how long those are.
#[must_use]
pub fn encode(session_id: &str, result: AgentResult) -> usize {
    let platform = Platform {
        base: "https://app.example.com".into(),
        organization_id: None,
        max_summary_bytes: 1 << 20,
    };
    let calls = platform.session_calls(&session_id.into(), Box::new(result));
    let length = |body: Vec<u8>| body.len();
    calls
        .iter()
        .filter_map(|call| call.encode("wkr_1").ok().map(length))
        .sum()
}

/// Whether an answer of the proxy's means that it has the call.
#[must_use]
pub fn is_delivered(status: u16, body: &[u8]) -> bool {
    let answer = Answer {
        status,
        body: body.to_vec(),
        ..Answer::default()
    };
    let verdict = classify::classify(Endpoint::Proxy, &answer, &["token"], Clock::host().now());
    matches!(verdict, Verdict::Delivered)
}

/// So many sessions, each with a message that is being sent.
#[derive(Debug)]
pub struct BusyLanes {
    lanes: Rc<Lanes>,
    turns: Vec<Option<Turn>>,
    next: usize,
}

impl BusyLanes {
    /// With so many sessions.
    #[must_use]
    pub fn new(sessions: usize) -> Self {
        let lanes = Lanes::new(Limits {
            max_in_flight: sessions,
            max_queued: 0,
        });
        let mut lanes = Self {
            lanes,
            turns: std::iter::repeat_with(|| None).take(sessions).collect(),
            next: 0,
        };
        (0..sessions).for_each(|_| lanes.pass());
        lanes
    }

    /// In one session after the other, a message ends, and another one gets its place.
    pub fn pass(&mut self) {
        let session = self.next;
        if let Some(turn) = self.turns.get_mut(session) {
            *turn = None;
            *turn = self.lanes.admit(Key::Session(format!("session-{session}").into())).ok();
        }
        self.next = session
            .wrapping_add(1)
            .checked_rem(self.turns.len())
            .unwrap_or_default();
    }
}

/// What a poster asks before each attempt: credentials of a provider's, good for an hour.
pub struct CachedCredentials(Credentials);

impl Default for CachedCredentials {
    fn default() -> Self {
        let expires_at = Clock::host().now().checked_add(Duration::from_secs(3600));
        let provider = provider_fn(move || async move {
            let mut credentials = RuntimeCredentials::new("wkr_1", "token");
            credentials.expires_at = expires_at;
            Ok::<_, Infallible>(credentials)
        });
        let source = CredentialSource::Provider(Arc::new(provider));
        Self(Credentials::own(Settings::default(), Some(source)))
    }
}

impl fmt::Debug for CachedCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedCredentials").finish_non_exhaustive()
    }
}

impl CachedCredentials {
    /// Whether there are any.
    pub async fn get(&self) -> bool {
        self.0.get(GetCredentials::default()).await.is_ok()
    }
}
