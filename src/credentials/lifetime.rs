//! How long a token is used, counted from its fetch. Pure.
//!
//! The platform's clock decides when a token expires. The host's clock may be wrong, so a token that was just fetched is
//! always used, and its life is counted by the monotonic clock.

use std::time::{Duration, SystemTime};

use super::{jwt, parse::is_set, runtime_credentials::RuntimeCredentials};

/// The life of a token that has expired by this host's clock.
const LIFE_IF_EXPIRED: Duration = Duration::from_secs(30);

/// The life of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lifetime {
    /// The whole life, by the clock of its issuer. It ends at the same time however often the token is fetched.
    Whole(Duration),
    /// The rest of its life, by this host's clock at the time of the fetch.
    Rest(Duration),
}

impl Lifetime {
    /// The lifetime of fetched credentials, or `None` if their expiry is unknown:
    ///
    /// 1. the difference of the claims `exp` and `iat`, if the token is a JWT with both;
    /// 2. else the time from `now` to the earlier of `expires_at` and the `exp` claim;
    /// 3. else 30 s, if that time is in the past.
    pub(super) fn of(credentials: &RuntimeCredentials, now: SystemTime) -> Option<Self> {
        let validity = credentials.token().and_then(jwt::validity);
        if let Some(validity) = validity
            && let Some(life) = validity.issued_at.and_then(|issued| since(issued, validity.expires_at))
        {
            return Some(Self::Whole(life));
        }
        let given = credentials.expires_at.filter(|expires_at| is_set(*expires_at));
        let claimed = validity.map(|validity| validity.expires_at);
        let expires_at = [given, claimed].into_iter().flatten().min()?;
        Some(Self::Rest(since(now, expires_at).unwrap_or(LIFE_IF_EXPIRED)))
    }
}

/// The time from `start` to `end`, unless it is zero or negative.
fn since(start: SystemTime, end: SystemTime) -> Option<Duration> {
    end.duration_since(start).ok().filter(|duration| !duration.is_zero())
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "the numbers are small constants")]
mod tests {
    use std::time::UNIX_EPOCH;

    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NOW: u64 = 1_700_000_000;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn lifetime(token: &str, expires_at: Option<u64>) -> Option<Lifetime> {
        let mut credentials = RuntimeCredentials::new("w", token);
        credentials.expires_at = expires_at.map(at);
        Lifetime::of(&credentials, at(NOW))
    }

    fn jwt(claims: &str) -> String {
        format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn a_jwt_lives_from_its_issue_to_its_expiry_whatever_the_hosts_clock_says() {
        let expected = Some(Lifetime::Whole(45 * SECOND));
        for issued_at in [NOW - 1_000_000, NOW - 10, NOW, NOW + 1_000_000] {
            let token = jwt(&format!(r#"{{"iat":{issued_at},"exp":{}}}"#, issued_at + 45));
            assert_eq!(lifetime(&token, None), expected, "{issued_at}");
            assert_eq!(lifetime(&token, Some(NOW + 10)), expected, "{issued_at}");
        }
    }

    #[test]
    fn the_earlier_of_the_expiry_and_the_exp_claim_applies_without_the_time_of_issue() {
        let token = jwt(&format!(r#"{{"exp":{}}}"#, NOW + 30));
        for (expires_at, seconds) in [(None, 30), (Some(NOW + 20), 20), (Some(NOW + 40), 30)] {
            assert_eq!(lifetime(&token, expires_at), Some(Lifetime::Rest(seconds * SECOND)));
        }
    }

    #[test]
    fn a_token_that_has_expired_by_the_hosts_clock_lives_for_thirty_seconds() {
        for expires_at in [NOW, NOW - 10, 946_684_800] {
            assert_eq!(lifetime("t", Some(expires_at)), Some(Lifetime::Rest(30 * SECOND)));
        }
        let issued_after_expiry = jwt(&format!(r#"{{"iat":{NOW},"exp":{}}}"#, NOW - 10));
        assert_eq!(lifetime(&issued_after_expiry, None), Some(Lifetime::Rest(30 * SECOND)));
    }

    #[test]
    fn an_unset_expiry_is_unknown() {
        for expires_at in [None, Some(0), Some(946_684_799)] {
            assert_eq!(lifetime("t", expires_at), None, "{expires_at:?}");
        }
        let go_zero_time = UNIX_EPOCH.checked_sub(Duration::from_secs(62_135_596_800)).unwrap();
        let credentials = RuntimeCredentials::new("w", "t").with_expires_at(go_zero_time);
        assert_eq!(Lifetime::of(&credentials, at(NOW)), None);
    }

    #[test]
    fn an_unset_expiry_leaves_that_of_the_token() {
        let token = jwt(&format!(r#"{{"exp":{}}}"#, NOW + 30));
        assert_eq!(lifetime(&token, Some(0)), Some(Lifetime::Rest(30 * SECOND)));
    }
}
