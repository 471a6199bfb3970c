//! The state of the cache, and how fetches and rejections change it. Pure: the time is passed in, and nothing waits.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    issued_credentials::{FIXED_GENERATION, IssuedCredentials},
    lifetime::Lifetime,
    runtime_credentials::RuntimeCredentials,
};
use crate::error::CredentialError;

/// How long a refresh endpoint is not asked after it has answered that the worker no longer exists.
const PAUSE_IF_WORKER_GONE: Duration = Duration::from_secs(60);

/// The shortest interval between two fetches when the first one changed nothing.
pub(super) const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// How long a refresh endpoint is not asked for another worker after a fetch that named one.
const WORKER_INTERVAL: Duration = Duration::from_secs(60);

/// The difference between two ends of a life that are the same by an inexact clock.
const SAME_END: Duration = Duration::from_secs(1);

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
    /// The last fetch, if it ended with `CredentialError::WorkerGone`.
    worker_gone: Option<(CredentialError, Instant)>,
    rejected_during_fetch: bool,
}

#[derive(Debug)]
struct CurrentCredentials {
    issued: IssuedCredentials,
    /// When these credentials were fetched first.
    fetched_at: Instant,
    life: Option<Life>,
    rejected: bool,
}

/// The life of a token, as far as it is known, by the monotonic clock.
#[derive(Debug, Clone, Copy)]
struct Life {
    starts_at: Instant,
    ends_at: Instant,
}

impl Life {
    fn new(starts_at: Instant, length: Duration) -> Option<Self> {
        let ends_at = starts_at.checked_add(length)?;
        Some(Self { starts_at, ends_at })
    }

    /// The life with this rest at `now`. It is another life if it ends later than this one: a provider that repeats a
    /// token, always with the same rest, would otherwise make its life, and with it the margin, longer and longer.
    fn with_rest(self, now: Instant, rest: Duration) -> Option<Self> {
        let other = Self::new(now, rest)?;
        let is_same = other.ends_at.saturating_duration_since(self.ends_at) <= SAME_END;
        let starts_at = if is_same { self.starts_at } else { now };
        Some(Self { starts_at, ..other })
    }

    /// The time until which the token is used without another fetch: `margin` before the end, or half of the life
    /// before it if that is later.
    fn fresh_until(&self, margin: Duration) -> Option<Instant> {
        let length = self.ends_at.saturating_duration_since(self.starts_at);
        let half = length.checked_div(2).unwrap_or_default();
        self.ends_at.checked_sub(margin.min(half))
    }
}

/// Validated credentials, and the life of their token. `None` if it is unknown.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) credentials: RuntimeCredentials,
    pub(super) lifetime: Option<Lifetime>,
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
            worker_gone: None,
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

    /// The current credentials if they are not rejected and are known to live for longer than `margin`.
    pub(super) fn valid(&self, now: Instant, margin: Duration) -> Option<&IssuedCredentials> {
        let current = self.current.as_ref().filter(|current| !current.rejected)?;
        (now < current.life?.fresh_until(margin)?).then_some(&current.issued)
    }

    /// Why the source must not be asked now: it has answered within the last minute that the worker no longer exists.
    pub(super) fn pause(&self, now: Instant) -> Option<&CredentialError> {
        let (error, since) = self.worker_gone.as_ref()?;
        (now.saturating_duration_since(*since) < PAUSE_IF_WORKER_GONE).then_some(error)
    }

    /// The result of the last fetch, if it was so recent that the platform's endpoint is not asked for another worker.
    pub(super) fn recent_worker(&self, now: Instant) -> Option<CacheResult> {
        if let Some(error) = self.pause(now) {
            return Some(Err(error.clone()));
        }
        let fetch = self.last_fetch.as_ref()?;
        let interval = if fetch.result.is_ok() {
            WORKER_INTERVAL
        } else {
            MIN_REFRESH_INTERVAL
        };
        let is_recent = now.saturating_duration_since(fetch.ended_at) < interval;
        is_recent.then(|| fetch.result.clone())
    }

    /// The credentials to use when a fetch has failed: the last token while it is known to be valid, then the fixed
    /// pair. Rejected credentials are excluded.
    pub(super) fn fallback(&self, now: Instant) -> Option<&IssuedCredentials> {
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
    pub(super) fn fetch_ended(&mut self, fetched: Result<Fetched, CredentialError>, ended_at: Instant) -> CacheResult {
        let previous = self.current_generation();
        let result = fetched.map(|fetched| self.publish(fetched, ended_at));
        // A fetch that was started before the rejection does not show that the provider has no replacement.
        let is_inconclusive = self.rejected_during_fetch && self.is_current_rejected();
        self.last_fetch = (!is_inconclusive).then(|| EndedFetch {
            ended_at,
            result: result.clone(),
            unchanged: self.current_generation() == previous,
        });
        self.fixed_rejected &= result.is_err();
        self.last_error = result.as_ref().err().cloned();
        let is_gone = matches!(self.last_error, Some(CredentialError::WorkerGone { .. }));
        self.worker_gone = self
            .last_error
            .clone()
            .filter(|_| is_gone)
            .map(|error| (error, ended_at));
        result
    }

    /// Makes these the current credentials, under a new generation if the worker id or the token has changed.
    fn publish(&mut self, fetched: Fetched, now: Instant) -> IssuedCredentials {
        let Fetched { credentials, lifetime } = fetched;
        if let Some(current) = &mut self.current
            && current.issued.credentials.is_same_pair(&credentials)
        {
            // A rejected token stays rejected; only its life is updated.
            current.life = match (lifetime, current.life) {
                (Some(Lifetime::Whole(whole)), _) => Life::new(current.fetched_at, whole),
                (Some(Lifetime::Rest(rest)), Some(life)) => life.with_rest(now, rest),
                (Some(Lifetime::Rest(rest)), None) => Life::new(now, rest),
                (None, _) => None,
            };
            return current.issued.clone();
        }
        let issued = IssuedCredentials {
            credentials: Arc::new(credentials),
            generation: self.current_generation().saturating_add(1),
        };
        self.current = Some(CurrentCredentials {
            issued: issued.clone(),
            fetched_at: now,
            life: match lifetime {
                Some(Lifetime::Whole(life) | Lifetime::Rest(life)) => Life::new(now, life),
                None => None,
            },
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
mod tests {
    use super::*;
    use crate::clock::Clock;

    const HOUR: Duration = Duration::from_secs(3600);
    const MINUTE: Duration = Duration::from_secs(60);
    const SECOND: Duration = Duration::from_secs(1);

    /// A state, and the time.
    struct Cache {
        state: CacheState,
        now: Instant,
    }

    impl Cache {
        fn new() -> Self {
            Self {
                state: CacheState::new(RuntimeCredentials::new("fixed", "fixed")),
                now: Clock::default().instant(),
            }
        }

        fn end_fetch(&mut self, fetched: Result<Fetched, CredentialError>) -> CacheResult {
            self.state.fetch_ended(fetched, self.now)
        }

        fn fetch_with(&mut self, token: &str, lifetime: Option<Lifetime>) -> u64 {
            self.state.fetch_started();
            let credentials = RuntimeCredentials::new("w", token);
            self.end_fetch(Ok(Fetched { credentials, lifetime }))
                .unwrap()
                .generation
        }

        fn fetch(&mut self, token: &str) -> u64 {
            self.fetch_with(token, Some(Lifetime::Rest(HOUR)))
        }

        fn fail(&mut self, error: CredentialError) {
            self.state.fetch_started();
            self.end_fetch(Err(error)).unwrap_err();
        }

        fn fallback(&self) -> Option<&str> {
            self.state.fallback(self.now).and_then(IssuedCredentials::token)
        }

        fn is_valid(&self, margin: Duration) -> bool {
            self.state.valid(self.now, margin).is_some()
        }

        fn is_paused(&self) -> bool {
            self.state.pause(self.now).is_some()
        }
    }

    #[test]
    fn the_generation_grows_with_each_change() {
        let mut cache = Cache::new();
        let generations = ["a", "a", "b", "a"].map(|token| cache.fetch(token));
        assert_eq!(generations, [1, 1, 2, 3]);
    }

    #[test]
    fn the_generation_grows_with_a_changed_worker_id() {
        let mut cache = Cache::new();
        let generations = ["w1", "w2"].map(|worker_id| {
            let credentials = RuntimeCredentials::new(worker_id, "t");
            let fetched = Fetched {
                credentials,
                lifetime: None,
            };
            cache.end_fetch(Ok(fetched)).unwrap().generation
        });
        assert_eq!(generations, [1, 2]);
    }

    #[test]
    fn a_token_is_fresh_until_the_margin_before_the_end_of_its_life() {
        let mut cache = Cache::new();
        cache.fetch("a");
        cache.now += HOUR - MINUTE - Duration::from_nanos(1);
        assert!(cache.is_valid(MINUTE));
        cache.now += Duration::from_nanos(1);
        assert!(!cache.is_valid(MINUTE) && cache.is_valid(Duration::ZERO));
        cache.now += MINUTE;
        assert!(!cache.is_valid(Duration::ZERO));
    }

    #[test]
    fn the_margin_is_at_most_half_of_the_tokens_life() {
        for lifetime in [Lifetime::Rest, Lifetime::Whole] {
            let mut cache = Cache::new();
            cache.fetch_with("a", Some(lifetime(MINUTE)));
            cache.now += MINUTE / 2 - Duration::from_nanos(1);
            assert!(cache.is_valid(MINUTE));
            cache.now += Duration::from_nanos(1);
            assert!(!cache.is_valid(MINUTE));
        }
    }

    #[test]
    fn the_margin_of_a_token_that_is_repeated_with_the_same_rest_stays_half_of_it() {
        let mut cache = Cache::new();
        for _ in 0..10 {
            cache.fetch_with("a", Some(Lifetime::Rest(45 * SECOND)));
            cache.now += 45 * SECOND / 2 - Duration::from_nanos(1);
            assert!(cache.is_valid(MINUTE));
            cache.now += Duration::from_nanos(1);
            assert!(!cache.is_valid(MINUTE));
        }
    }

    #[test]
    fn the_margin_of_a_token_that_is_repeated_with_the_same_end_is_measured_from_its_first_fetch() {
        let mut cache = Cache::new();
        cache.fetch("a");
        cache.now += HOUR - MINUTE;
        // Inexact, since the rest and the monotonic time are not read at once.
        cache.fetch_with("a", Some(Lifetime::Rest(MINUTE + SECOND / 2)));
        cache.now += SECOND;
        assert!(!cache.is_valid(MINUTE) && cache.is_valid(Duration::ZERO));
    }

    #[test]
    fn the_same_token_may_get_a_longer_life() {
        let mut cache = Cache::new();
        cache.fetch("a");
        cache.now += HOUR / 2;
        cache.fetch("a");
        cache.now += HOUR / 2;
        assert!(cache.is_valid(MINUTE));
    }

    #[test]
    fn the_whole_life_of_a_token_begins_with_its_first_fetch() {
        let mut cache = Cache::new();
        cache.fetch_with("a", Some(Lifetime::Whole(HOUR)));
        cache.now += HOUR / 2;
        cache.fetch_with("a", Some(Lifetime::Whole(HOUR)));
        cache.now += HOUR / 2;
        assert!(!cache.is_valid(Duration::ZERO));
    }

    #[test]
    fn a_token_of_unknown_life_is_never_cached() {
        let mut cache = Cache::new();
        cache.fetch_with("a", None);
        assert!(!cache.is_valid(Duration::ZERO));
        cache.fetch_with("b", Some(Lifetime::Whole(Duration::MAX)));
        assert!(!cache.is_valid(Duration::ZERO));
    }

    #[test]
    fn a_rejection_of_older_credentials_changes_nothing() {
        let mut cache = Cache::new();
        cache.fetch("a");
        cache.fetch("b");
        cache.state.reject(1);
        assert!(!cache.state.is_current_rejected() && cache.state.last_fetch().is_some());
    }

    #[test]
    fn the_fallback_is_the_current_token_then_the_fixed_pair_then_nothing() {
        let mut cache = Cache::new();
        cache.fetch("a");
        assert_eq!(cache.fallback(), Some("a"));
        cache.state.reject(1);
        assert_eq!(cache.fallback(), Some("fixed"));
        cache.state.reject(FIXED_GENERATION);
        assert_eq!(cache.fallback(), None);
    }

    #[test]
    fn a_token_is_no_fallback_after_its_life() {
        let mut cache = Cache::new();
        cache.fetch("a");
        cache.now += HOUR;
        assert_eq!(cache.fallback(), Some("fixed"));
    }

    #[test]
    fn a_rejected_fixed_pair_is_a_fallback_again_after_a_successful_fetch() {
        let mut cache = Cache::new();
        cache.state.reject(FIXED_GENERATION);
        cache.fail(CredentialError::NoToken);
        assert_eq!(cache.fallback(), None);
        cache.fetch("a");
        cache.state.reject(1);
        assert_eq!(cache.fallback(), Some("fixed"));
    }

    #[test]
    fn a_fetch_that_started_before_a_rejection_is_inconclusive() {
        let mut cache = Cache::new();
        cache.fetch("a");
        cache.state.fetch_started();
        cache.state.reject(1);
        let credentials = RuntimeCredentials::new("w", "a");
        cache
            .end_fetch(Ok(Fetched {
                credentials,
                lifetime: None,
            }))
            .unwrap();
        assert!(cache.state.last_fetch().is_none());
    }

    #[test]
    fn a_replacement_is_conclusive_even_if_its_fetch_started_before_the_rejection() {
        let mut cache = Cache::new();
        cache.fetch("a");
        cache.state.fetch_started();
        cache.state.reject(1);
        let credentials = RuntimeCredentials::new("w", "b");
        cache
            .end_fetch(Ok(Fetched {
                credentials,
                lifetime: None,
            }))
            .unwrap();
        assert!(cache.state.last_fetch().is_some_and(|fetch| !fetch.unchanged));
    }

    #[test]
    fn the_last_error_is_cleared_by_a_successful_fetch() {
        let mut cache = Cache::new();
        cache.fail(CredentialError::NoToken);
        assert!(cache.state.last_error().is_some());
        cache.fetch("a");
        assert!(cache.state.last_error().is_none());
    }

    #[test]
    fn the_source_is_not_asked_for_a_minute_after_it_has_said_that_the_worker_is_gone() {
        let gone = CredentialError::WorkerGone { status_code: 404 };
        let mut cache = Cache::new();
        cache.fail(CredentialError::NoToken);
        assert!(!cache.is_paused());
        cache.fail(gone.clone());
        cache.state.reject(FIXED_GENERATION);
        cache.now += MINUTE - Duration::from_nanos(1);
        assert_eq!(cache.state.pause(cache.now), Some(&gone));
        cache.now += Duration::from_nanos(1);
        assert!(!cache.is_paused());
    }
}
