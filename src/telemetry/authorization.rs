//! Whether the calls of a poster can be authorized. Pure.

use std::time::{Duration, Instant};

/// The state of the credentials, as the attempts of a poster have found them.
#[derive(Debug, Default)]
pub(super) struct Authorization {
    failing: Option<Failing>,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    reason: String,
    /// Whether the platform has rejected the credentials; otherwise there were none.
    is_rejected: bool,
}

impl Authorization {
    /// There were no credentials for an attempt. Returns whether they begin to fail.
    pub(super) fn unavailable(&mut self, reason: impl FnOnce() -> String, now: Instant) -> bool {
        self.fail(reason, now, false)
    }

    /// An attempt has ended with the platform's rejection of its credentials. Returns whether they begin to fail.
    pub(super) fn rejected(&mut self, reason: impl FnOnce() -> String, now: Instant) -> bool {
        self.fail(reason, now, true)
    }

    fn fail(&mut self, reason: impl FnOnce() -> String, now: Instant, is_rejected: bool) -> bool {
        if let Some(failing) = &mut self.failing {
            if is_rejected || !failing.is_rejected {
                failing.reason = reason();
                failing.is_rejected = is_rejected;
            }
            return false;
        }
        self.failing = Some(Failing {
            since: now,
            reason: reason(),
            is_rejected,
        });
        true
    }

    /// There are credentials. Returns how long there were none, if this ends that.
    pub(super) fn available(&mut self, now: Instant) -> Option<Duration> {
        // The platform has not accepted them yet.
        let failing = self.failing.take_if(|failing| !failing.is_rejected)?;
        Some(now.saturating_duration_since(failing.since))
    }

    /// The platform has accepted credentials. Returns how long they failed, if this ends that.
    pub(super) fn accepted(&mut self, now: Instant) -> Option<Duration> {
        let failing = self.failing.take()?;
        Some(now.saturating_duration_since(failing.since))
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing.is_some()
    }

    /// How long the credentials fail, and why.
    pub(super) fn failing(&self, now: Instant) -> Option<(Duration, &str)> {
        let failing = self.failing.as_ref()?;
        Some((now.saturating_duration_since(failing.since), &failing.reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const SECOND: Duration = Duration::from_secs(1);

    fn reason(text: &str) -> impl FnOnce() -> String {
        let text = text.to_owned();
        move || text
    }

    #[test]
    fn an_outage_begins_and_ends_once() {
        let now = Clock::system().instant();
        let mut state = Authorization::default();
        assert!(state.unavailable(reason("a"), now));
        assert!(!state.unavailable(reason("b"), now + SECOND));
        assert_eq!(state.failing(now + 2 * SECOND), Some((2 * SECOND, "b")));
        assert_eq!(state.available(now + 3 * SECOND), Some(3 * SECOND));
        assert_eq!(state.available(now + 4 * SECOND), None);
        assert_eq!(state.accepted(now + 4 * SECOND), None);
        assert!(!state.is_failing());
    }

    #[test]
    fn rejected_credentials_fail_until_the_platform_accepts_some() {
        let now = Clock::system().instant();
        let mut state = Authorization::default();
        assert!(state.rejected(reason("401"), now));
        assert_eq!(state.available(now), None);
        assert!(!state.unavailable(reason("the provider failed"), now));
        assert_eq!(state.failing(now), Some((Duration::ZERO, "401")));
        assert_eq!(state.accepted(now + SECOND), Some(SECOND));
    }

    #[test]
    fn a_rejection_replaces_missing_credentials_as_the_reason() {
        let now = Clock::system().instant();
        let mut state = Authorization::default();
        assert!(state.unavailable(reason("the provider failed"), now));
        assert!(!state.rejected(reason("401"), now + SECOND));
        assert_eq!(state.failing(now + SECOND), Some((SECOND, "401")));
        assert_eq!(state.available(now + SECOND), None);
    }
}
