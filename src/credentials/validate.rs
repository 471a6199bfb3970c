//! The validation of fetched credentials. Pure.

use std::time::SystemTime;

use super::{jwt, runtime_credentials::RuntimeCredentials};
use crate::error::CredentialError;

/// Fills empty fields from the fixed pair, sets the effective expiry, and refuses credentials that can't be used.
pub(super) fn validate(
    mut fetched: RuntimeCredentials,
    fixed: &RuntimeCredentials,
    now: SystemTime,
) -> Result<RuntimeCredentials, CredentialError> {
    if fetched.worker_id.is_empty() {
        fetched.worker_id.clone_from(&fixed.worker_id);
    }
    if fetched.token().is_none() {
        fetched.auth_token = fixed.auth_token.clone();
        // The expiry belonged to the missing token, not to the fixed one.
        fetched.expires_at = None;
    }
    let token = fetched.token().ok_or(CredentialError::NoToken)?;
    let expires_at = [fetched.expires_at, jwt::expiry(token)].into_iter().flatten().min();
    fetched.validate_token().map_err(CredentialError::Unusable)?;
    if expires_at.is_some_and(|expires_at| expires_at <= now) {
        return Err(CredentialError::Expired);
    }
    fetched.expires_at = expires_at;
    Ok(fetched)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;
    const SECOND: Duration = Duration::from_secs(1);

    fn validated(fetched: RuntimeCredentials) -> Result<RuntimeCredentials, CredentialError> {
        validate(fetched, &RuntimeCredentials::new("fixed-id", "fixed-token"), NOW)
    }

    #[test]
    fn empty_fields_are_filled_from_the_fixed_pair() {
        for (worker_id, token, expected) in [
            ("w", "t", ("w", Some("t"))),
            ("", "t", ("fixed-id", Some("t"))),
            ("w", "", ("w", Some("fixed-token"))),
            ("", "", ("fixed-id", Some("fixed-token"))),
        ] {
            let credentials = validated(RuntimeCredentials::new(worker_id, token)).unwrap();
            assert_eq!((credentials.worker_id.as_str(), credentials.token()), expected);
        }
    }

    #[test]
    fn the_expiry_of_an_empty_token_does_not_apply_to_the_fixed_token() {
        let credentials = validated(RuntimeCredentials::new("w", "").with_expires_at(NOW)).unwrap();
        assert_eq!(credentials.expires_at, None);
    }

    #[test]
    fn the_earlier_of_the_expiry_and_the_exp_claim_applies() {
        // {"exp":3}
        let jwt = RuntimeCredentials::new("w", "e30.eyJleHAiOjN9.c2ln");
        for (expires_at, expected) in [(None, 3), (Some(2), 2), (Some(4), 3)] {
            let mut fetched = jwt.clone();
            fetched.expires_at = expires_at.map(|seconds| NOW + seconds * SECOND);
            assert_eq!(validated(fetched).unwrap().expires_at, Some(NOW + expected * SECOND));
        }
    }

    #[test]
    fn an_expired_token_is_refused() {
        let expired = RuntimeCredentials::new("w", "t").with_expires_at(NOW);
        assert!(matches!(validated(expired), Err(CredentialError::Expired)));
    }

    #[test]
    fn a_token_that_is_no_header_value_is_refused() {
        let fetched = RuntimeCredentials::new("w", "t\n");
        assert!(matches!(validated(fetched), Err(CredentialError::Unusable(_))));
    }

    #[test]
    fn a_missing_token_is_refused_without_a_fixed_token() {
        let result = validate(RuntimeCredentials::default(), &RuntimeCredentials::default(), NOW);
        assert!(matches!(result, Err(CredentialError::NoToken)));
    }
}
