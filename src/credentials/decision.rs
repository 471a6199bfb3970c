//! The decision how a request for credentials is answered. Pure: the time is passed in, and nothing waits.

use std::time::{Duration, Instant};

use super::{
    issued_credentials::IssuedCredentials,
    state::{CacheResult, CacheState, EndedFetch, MIN_REFRESH_INTERVAL},
};
use crate::error::CredentialError;

/// How a request for credentials is answered.
#[derive(Debug)]
pub(super) enum Decision {
    /// With cached credentials.
    Use(IssuedCredentials),
    /// With cached credentials, while a fetch runs in the background.
    UseAndRefresh(IssuedCredentials),
    /// With the result of the last fetch, which has only just ended.
    Reuse(CacheResult),
    /// With the result of a new fetch.
    Fetch,
}

/// The inputs of a decision besides the state.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lookup {
    /// The generation that the platform rejected, if the request is for a replacement.
    pub(super) rejected: Option<u64>,
    /// Whether the source allows credentials to be cached.
    pub(super) may_be_cached: bool,
    pub(super) refresh_margin: Duration,
    pub(super) now: Instant,
}

impl CacheState {
    /// Decides how a request is answered. The first rule that applies wins.
    pub(super) fn decide(&self, lookup: &Lookup) -> Decision {
        if let Some(issued) = self.cached(lookup, lookup.refresh_margin) {
            return Decision::Use(issued.clone());
        }
        if let Some(error) = self.pause(lookup.now) {
            return Decision::Reuse(Err(error.clone()));
        }
        let recent = self.recent_fetch(lookup.now);
        if self.is_current_rejected() {
            // The last fetch failed or brought the rejected credentials again. Fetching again at once would not help.
            return recent.map_or(Decision::Fetch, |fetch| Decision::Reuse(fetch.result.clone()));
        }
        if let Some(issued) = recent.and_then(|fetch| self.settled_by_recent_fetch(fetch, lookup)) {
            return Decision::Use(issued.clone());
        }
        // A failing provider must not block calls that still have usable credentials: refresh in the background.
        match (self.usable_despite_error(lookup.now), recent) {
            (Some(issued), None) => Decision::UseAndRefresh(issued.clone()),
            (Some(issued), Some(_)) => Decision::Use(issued.clone()),
            (None, _) => Decision::Fetch,
        }
    }

    fn recent_fetch(&self, now: Instant) -> Option<&EndedFetch> {
        let fetch = self.last_fetch()?;
        (now.saturating_duration_since(fetch.ended_at) < MIN_REFRESH_INTERVAL).then_some(fetch)
    }

    /// The credentials that make another fetch unnecessary so soon after the last one.
    fn settled_by_recent_fetch<'a>(&'a self, recent: &'a EndedFetch, lookup: &Lookup) -> Option<&'a IssuedCredentials> {
        if let (Some(rejected), Ok(issued)) = (lookup.rejected, &recent.result)
            && issued.generation > rejected
        {
            // Another call was rejected too, and the fetch that it caused has already brought a replacement.
            return Some(issued);
        }
        // The token is about to expire, and the provider has just shown that it has no other.
        if recent.unchanged {
            self.cached(lookup, Duration::ZERO)
        } else {
            None
        }
    }

    /// The credentials to use without waiting for a fetch, if the last fetch failed.
    fn usable_despite_error(&self, now: Instant) -> Option<&IssuedCredentials> {
        match self.last_error()? {
            // A hanging provider would block each call for the whole time limit: even the fixed pair is better.
            CredentialError::Timeout(_) => self.fallback(now),
            CredentialError::Provider(_)
            | CredentialError::Panicked(_)
            | CredentialError::NoToken
            | CredentialError::NoWorkerId
            | CredentialError::Unusable(_)
            | CredentialError::WorkerGone { .. }
            | CredentialError::Stopped => self.valid(now, Duration::ZERO),
        }
    }

    fn cached(&self, lookup: &Lookup, margin: Duration) -> Option<&IssuedCredentials> {
        lookup.may_be_cached.then(|| self.valid(lookup.now, margin)).flatten()
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "the durations are small constants")]
mod tests {
    use super::*;
    use crate::{
        clock::Clock,
        credentials::{RuntimeCredentials, lifetime::Lifetime, state::Fetched},
    };

    const HOUR: Duration = Duration::from_secs(3600);
    const MARGIN: Duration = Duration::from_secs(60);
    const SECOND: Duration = Duration::from_secs(1);

    /// A state and its clock. The methods are the events that have led to the state.
    struct History {
        state: CacheState,
        now: Instant,
    }

    impl History {
        fn new() -> Self {
            Self::with_fixed_token("")
        }

        fn with_fixed_token(token: &str) -> Self {
            Self {
                state: CacheState::new(RuntimeCredentials::new("w", token)),
                now: Clock::default().instant(),
            }
        }

        /// A fetch returns a token with this lifetime.
        fn fetch(self, token: &str, life: Duration) -> Self {
            self.ended(Ok(fetched(token, Some(Lifetime::Rest(life)))))
        }

        fn fetch_without_expiry(self, token: &str) -> Self {
            self.ended(Ok(fetched(token, None)))
        }

        fn fail(self) -> Self {
            self.ended(Err(CredentialError::NoToken))
        }

        fn time_out(self) -> Self {
            self.ended(Err(CredentialError::Timeout(SECOND)))
        }

        fn ended(mut self, fetched: Result<Fetched, CredentialError>) -> Self {
            self.state.fetch_started();
            let _ = self.state.fetch_ended(fetched, self.now);
            self
        }

        fn wait(mut self, duration: Duration) -> Self {
            self.now += duration;
            self
        }

        fn reject(mut self, generation: u64) -> Self {
            self.state.reject(generation);
            self
        }

        fn lookup(&self) -> Lookup {
            Lookup {
                rejected: None,
                may_be_cached: true,
                refresh_margin: MARGIN,
                now: self.now,
            }
        }

        /// The decision as text, with the generation of the credentials.
        fn decide(&self, lookup: &Lookup) -> String {
            match self.state.decide(lookup) {
                Decision::Use(issued) => format!("use {}", issued.generation),
                Decision::UseAndRefresh(issued) => format!("use {} and refresh", issued.generation),
                Decision::Reuse(Ok(issued)) => format!("reuse {}", issued.generation),
                Decision::Reuse(Err(_)) => "reuse error".into(),
                Decision::Fetch => "fetch".into(),
            }
        }
    }

    fn fetched(token: &str, lifetime: Option<Lifetime>) -> Fetched {
        Fetched {
            credentials: RuntimeCredentials::new("w", token),
            lifetime,
        }
    }

    fn assert_decisions<const N: usize>(table: [(&str, History, &str); N]) {
        for (name, history, expected) in table {
            assert_eq!(history.decide(&history.lookup()), expected, "{name}");
        }
    }

    #[test]
    fn cached_credentials_are_used_until_the_refresh_margin() {
        let fetched = || History::new().fetch("a", HOUR);
        assert_decisions([
            ("empty cache", History::new(), "fetch"),
            ("fresh", fetched(), "use 1"),
            ("just above the margin", fetched().wait(HOUR - MARGIN - SECOND), "use 1"),
            ("at the margin", fetched().wait(HOUR - MARGIN), "fetch"),
            ("expired", fetched().wait(HOUR), "fetch"),
            ("unknown expiry", History::new().fetch_without_expiry("a"), "fetch"),
        ]);
    }

    #[test]
    fn credentials_of_a_source_that_forbids_caching_are_always_fetched() {
        let history = History::new().fetch("a", HOUR);
        let lookup = Lookup {
            may_be_cached: false,
            ..history.lookup()
        };
        assert_eq!(history.decide(&lookup), "fetch");
    }

    #[test]
    fn an_expiring_token_is_fetched_again_at_most_once_a_second() {
        let expiring = || History::new().fetch("a", 2 * MARGIN).wait(MARGIN);
        let unchanged = || expiring().fetch("a", MARGIN);
        assert_decisions([
            ("at the margin", expiring(), "fetch"),
            ("unchanged by a recent fetch", unchanged(), "use 1"),
            ("unchanged by an older fetch", unchanged().wait(SECOND), "fetch"),
        ]);
    }

    #[test]
    fn rejected_credentials_are_fetched_again_at_most_once_a_second() {
        let rejected = || History::new().fetch("a", HOUR).reject(1);
        assert_decisions([
            ("rejected", rejected(), "fetch"),
            ("the same token again", rejected().fetch("a", HOUR), "reuse 1"),
            (
                "the same token, a second ago",
                rejected().fetch("a", HOUR).wait(SECOND),
                "fetch",
            ),
            ("a failed fetch", rejected().fail(), "reuse error"),
            ("a failed fetch, a second ago", rejected().fail().wait(SECOND), "fetch"),
            ("another token", rejected().fetch("b", HOUR), "use 2"),
        ]);
    }

    #[test]
    fn a_recent_replacement_is_shared_by_calls_that_were_rejected_together() {
        let history = || {
            History::new()
                .fetch_without_expiry("a")
                .reject(1)
                .fetch_without_expiry("b")
        };
        for (name, rejected, history, expected) in [
            ("the older generation is rejected", Some(1), history(), "use 2"),
            ("the newer generation is rejected", Some(2), history(), "fetch"),
            ("nothing is rejected", None, history(), "fetch"),
            (
                "the replacement is a second old",
                Some(1),
                history().wait(SECOND),
                "fetch",
            ),
        ] {
            let lookup = Lookup {
                rejected,
                ..history.lookup()
            };
            assert_eq!(history.decide(&lookup), expected, "{name}");
        }
    }

    #[test]
    fn a_failing_provider_is_asked_in_the_background_while_a_token_is_valid() {
        let expiring = || History::new().fetch("a", 2 * MARGIN).wait(MARGIN);
        assert_decisions([
            ("failed", expiring().fail(), "use 1"),
            (
                "failed, a second ago",
                expiring().fail().wait(SECOND),
                "use 1 and refresh",
            ),
            (
                "failed, and the token has expired",
                expiring().fail().wait(MARGIN),
                "fetch",
            ),
            ("timed out", expiring().time_out(), "use 1"),
            (
                "timed out, a second ago",
                expiring().time_out().wait(SECOND),
                "use 1 and refresh",
            ),
        ]);
    }

    #[test]
    fn only_a_hanging_provider_is_asked_in_the_background_while_there_is_a_fixed_pair() {
        let fixed = || History::with_fixed_token("fixed");
        assert_decisions([
            ("failed", fixed().fail(), "fetch"),
            ("timed out", fixed().time_out(), "use 0"),
            (
                "timed out, a second ago",
                fixed().time_out().wait(SECOND),
                "use 0 and refresh",
            ),
            (
                "timed out, and the fixed pair is rejected",
                fixed().time_out().reject(0),
                "fetch",
            ),
            ("timed out, without a fixed token", History::new().time_out(), "fetch"),
        ]);
    }

    #[test]
    fn an_endpoint_without_the_worker_is_asked_again_after_a_minute() {
        let gone = |history: History| history.ended(Err(CredentialError::WorkerGone { status_code: 404 }));
        assert_decisions([
            ("gone", gone(History::new()), "reuse error"),
            (
                "gone, almost a minute ago",
                gone(History::new()).wait(59 * SECOND),
                "reuse error",
            ),
            ("gone, a minute ago", gone(History::new()).wait(60 * SECOND), "fetch"),
            (
                "gone, and the fixed pair is rejected",
                gone(History::with_fixed_token("fixed")).reject(0).wait(2 * SECOND),
                "reuse error",
            ),
            (
                "gone after a rejection",
                gone(History::new().fetch("a", HOUR).reject(1)).wait(2 * SECOND),
                "reuse error",
            ),
            (
                "gone, with a cached token",
                gone(History::new().fetch("a", HOUR)),
                "use 1",
            ),
        ]);
    }
}
