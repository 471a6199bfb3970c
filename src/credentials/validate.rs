//! The validation of fetched credentials. Pure.

use super::runtime_credentials::RuntimeCredentials;
use crate::error::CredentialError;

/// Fills empty fields from the fixed pair, and refuses credentials that can't be used.
pub(super) fn validate(
    mut fetched: RuntimeCredentials,
    fixed: &RuntimeCredentials,
) -> Result<RuntimeCredentials, CredentialError> {
    if fetched.worker_id.is_empty() {
        fetched.worker_id.clone_from(&fixed.worker_id);
    }
    if fetched.token().is_none() {
        fetched.auth_token = fixed.auth_token.clone();
        // The expiry belonged to the missing token, not to the fixed one.
        fetched.expires_at = None;
    }
    fetched.token().ok_or(CredentialError::NoToken)?;
    fetched.validate_token().map_err(CredentialError::Unusable)?;
    Ok(fetched)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn validated(fetched: RuntimeCredentials) -> Result<RuntimeCredentials, CredentialError> {
        validate(fetched, &RuntimeCredentials::new("fixed-id", "fixed-token"))
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
        let credentials = validated(RuntimeCredentials::new("w", "").with_expires_at(SystemTime::UNIX_EPOCH)).unwrap();
        assert_eq!(credentials.expires_at, None);
    }

    #[test]
    fn a_token_that_is_no_header_value_is_refused() {
        let fetched = RuntimeCredentials::new("w", "t\n");
        assert!(matches!(validated(fetched), Err(CredentialError::Unusable(_))));
    }

    #[test]
    fn a_missing_token_is_refused_without_a_fixed_token() {
        let result = validate(RuntimeCredentials::default(), &RuntimeCredentials::default());
        assert!(matches!(result, Err(CredentialError::NoToken)));
    }
}
