//! The state of the cache, and how fetches and rejections change it. Pure: the time is passed in, and nothing waits.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    issued_credentials::{FIXED_GENERATION, IssuedCredentials},
    runtime_credentials::RuntimeCredentials,
};
use crate::error::CredentialError;

/// The result of a fetch, or of a request to the cache.
pub(super) type CacheResult = Result<IssuedCredentials, CredentialError>;

#[derive(Debug)]
pub(super) struct CacheState {
    fixed: IssuedCredentials,
    /// Whether the fixed pair was rejected and no fetch has succeeded since.
    fixed_rejected: bool,
    /// The newest credentials that were fetched.
    current: Option<CurrentCredentials>,
    last_fetch: Option<EndedFetch>,
    last_error: Option<CredentialError>,
    rejected_during_fetch: bool,
}

#[derive(Debug)]
struct CurrentCredentials {
    issued: IssuedCredentials,
    expires_at: Option<SystemTime>,
    rejected: bool,
}

#[derive(Debug)]
pub(super) struct EndedFetch {
    pub(super) ended_at: Instant,
    pub(super) result: CacheResult,
    /// Whether the fetch returned neither another worker id nor another token.
    pub(super) unchanged: bool,
}

impl CacheState {
    pub(super) fn new(fixed: RuntimeCredentials) -> Self {
        Self {
            fixed: IssuedCredentials {
                credentials: Arc::new(fixed),
                generation: FIXED_GENERATION,
            },
            fixed_rejected: false,
            current: None,
            last_fetch: None,
            last_error: None,
            rejected_during_fetch: false,
        }
    }

    pub(super) fn fixed(&self) -> &IssuedCredentials {
        &self.fixed
    }

    /// The last fetch. `None` if the platform has rejected its result since.
    pub(super) fn last_fetch(&self) -> Option<&EndedFetch> {
        self.last_fetch.as_ref()
    }

    /// Why the last fetch failed, if it did.
    pub(super) fn last_error(&self) -> Option<&CredentialError> {
        self.last_error.as_ref()
    }

    /// Whether the current credentials were rejected after the last fetch was started.
    pub(super) fn rejected_during_fetch(&self) -> bool {
        self.rejected_during_fetch
    }

    pub(super) fn is_current_rejected(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.rejected)
    }

    /// The current credentials if they are not rejected and are known to be valid for longer than `margin`.
    pub(super) fn valid(&self, now: SystemTime, margin: Duration) -> Option<&IssuedCredentials> {
        let current = self.current.as_ref().filter(|current| !current.rejected)?;
        let remaining = current.expires_at?.duration_since(now).ok()?;
        (remaining > margin).then_some(&current.issued)
    }

    /// The credentials to use when a fetch has failed: the last token while it is known to be valid, then the fixed
    /// pair. Rejected credentials are excluded.
    pub(super) fn fallback(&self, now: SystemTime) -> Option<&IssuedCredentials> {
        let fixed = (!self.fixed_rejected && self.fixed.token().is_some()).then_some(&self.fixed);
        self.valid(now, Duration::ZERO).or(fixed)
    }

    /// Takes the credentials of this generation out of use. Does nothing if they are out of use already.
    pub(super) fn reject(&mut self, generation: u64) {
        if generation == FIXED_GENERATION {
            self.fixed_rejected = true;
        }
        if let Some(current) = &mut self.current
            && current.issued.generation == generation
            && !current.rejected
        {
            current.rejected = true;
            // The last fetch returned these credentials, and a running one may return them again.
            self.last_fetch = None;
            self.rejected_during_fetch = true;
        }
    }

    pub(super) fn fetch_started(&mut self) {
        self.rejected_during_fetch = false;
    }

    /// Stores the result of a fetch.
    pub(super) fn fetch_ended(
        &mut self,
        fetched: Result<RuntimeCredentials, CredentialError>,
        ended_at: Instant,
    ) -> CacheResult {
        let previous = self.current_generation();
        let result = fetched.map(|credentials| self.publish(credentials));
        // A fetch that was started before the rejection does not show that the provider has no replacement.
        let is_inconclusive = self.rejected_during_fetch && self.is_current_rejected();
        self.last_fetch = (!is_inconclusive).then(|| EndedFetch {
            ended_at,
            result: result.clone(),
            unchanged: self.current_generation() == previous,
        });
        self.fixed_rejected &= result.is_err();
        self.last_error = result.as_ref().err().cloned();
        result
    }

    /// Makes these the current credentials, under a new generation if the worker id or the token has changed.
    fn publish(&mut self, credentials: RuntimeCredentials) -> IssuedCredentials {
        let expires_at = credentials.expires_at;
        if let Some(current) = &mut self.current
            && current.issued.credentials.is_same_pair(&credentials)
        {
            // A rejected token stays rejected; only its expiry is updated.
            current.expires_at = expires_at;
            return current.issued.clone();
        }
        let issued = IssuedCredentials {
            credentials: Arc::new(credentials),
            generation: self.current_generation().saturating_add(1),
        };
        self.current = Some(CurrentCredentials {
            issued: issued.clone(),
            expires_at,
            rejected: false,
        });
        issued
    }

    fn current_generation(&self) -> u64 {
        let current = self.current.as_ref();
        current.map_or(FIXED_GENERATION, |current| current.issued.generation)
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "the durations are small constants")]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;
    const HOUR: Duration = Duration::from_secs(3600);

    fn state() -> CacheState {
        CacheState::new(RuntimeCredentials::new("fixed", "fixed"))
    }

    fn credentials(token: &str, life: Duration) -> RuntimeCredentials {
        RuntimeCredentials::new("w", token).with_expires_at(NOW + life)
    }

    fn end_fetch(state: &mut CacheState, fetched: Result<RuntimeCredentials, CredentialError>) -> CacheResult {
        state.fetch_ended(fetched, Clock::default().instant())
    }

    fn fetch(state: &mut CacheState, token: &str) -> u64 {
        state.fetch_started();
        end_fetch(state, Ok(credentials(token, HOUR))).unwrap().generation
    }

    fn fail(state: &mut CacheState) {
        state.fetch_started();
        end_fetch(state, Err(CredentialError::NoToken)).unwrap_err();
    }

    fn fallback(state: &CacheState) -> Option<&str> {
        state.fallback(NOW).and_then(IssuedCredentials::token)
    }

    #[test]
    fn the_generation_grows_with_each_change() {
        let mut state = state();
        let generations = ["a", "a", "b", "a"].map(|token| fetch(&mut state, token));
        assert_eq!(generations, [1, 1, 2, 3]);
    }

    #[test]
    fn the_generation_grows_with_a_changed_worker_id() {
        let mut state = state();
        let first = end_fetch(&mut state, Ok(RuntimeCredentials::new("w1", "t"))).unwrap();
        let second = end_fetch(&mut state, Ok(RuntimeCredentials::new("w2", "t"))).unwrap();
        assert_eq!((first.generation, second.generation), (1, 2));
    }

    #[test]
    fn the_same_token_may_get_another_expiry() {
        let mut state = state();
        fetch(&mut state, "a");
        end_fetch(&mut state, Ok(credentials("a", 2 * HOUR))).unwrap();
        assert!(state.valid(NOW + HOUR, Duration::ZERO).is_some());
    }

    #[test]
    fn a_rejection_of_older_credentials_changes_nothing() {
        let mut state = state();
        fetch(&mut state, "a");
        fetch(&mut state, "b");
        state.reject(1);
        assert!(!state.is_current_rejected() && state.last_fetch().is_some());
    }

    #[test]
    fn the_fallback_is_the_current_token_then_the_fixed_pair_then_nothing() {
        let mut state = state();
        fetch(&mut state, "a");
        assert_eq!(fallback(&state), Some("a"));
        state.reject(1);
        assert_eq!(fallback(&state), Some("fixed"));
        state.reject(FIXED_GENERATION);
        assert_eq!(fallback(&state), None);
    }

    #[test]
    fn an_expired_token_is_no_fallback() {
        let mut state = state();
        fetch(&mut state, "a");
        let fallback = state.fallback(NOW + HOUR).and_then(IssuedCredentials::token);
        assert_eq!(fallback, Some("fixed"));
    }

    #[test]
    fn a_rejected_fixed_pair_is_a_fallback_again_after_a_successful_fetch() {
        let mut state = state();
        state.reject(FIXED_GENERATION);
        fail(&mut state);
        assert_eq!(fallback(&state), None);
        fetch(&mut state, "a");
        state.reject(1);
        assert_eq!(fallback(&state), Some("fixed"));
    }

    #[test]
    fn a_fetch_that_started_before_a_rejection_is_inconclusive() {
        let mut state = state();
        fetch(&mut state, "a");
        state.fetch_started();
        state.reject(1);
        end_fetch(&mut state, Ok(credentials("a", HOUR))).unwrap();
        assert!(state.last_fetch().is_none());
    }

    #[test]
    fn a_replacement_is_conclusive_even_if_its_fetch_started_before_the_rejection() {
        let mut state = state();
        fetch(&mut state, "a");
        state.fetch_started();
        state.reject(1);
        end_fetch(&mut state, Ok(credentials("b", HOUR))).unwrap();
        assert!(state.last_fetch().is_some_and(|fetch| !fetch.unchanged));
    }

    #[test]
    fn the_last_error_is_cleared_by_a_successful_fetch() {
        let mut state = state();
        fail(&mut state);
        assert!(state.last_error().is_some());
        fetch(&mut state, "a");
        assert!(state.last_error().is_none());
    }
}
