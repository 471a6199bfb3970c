//! The credentials as a provider returns them.

use std::{fmt, time::SystemTime};

use secrecy::{ExposeSecret as _, SecretString};

/// A worker id, its token, and the time when the token expires.
///
/// `RuntimeCredentials` also implement [`CredentialProvider`](super::CredentialProvider), as a provider that always returns this pair. `Debug`
/// does not show the token.
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// use result_poster::credentials::RuntimeCredentials;
///
/// let expires_at = SystemTime::now() + Duration::from_secs(3600);
/// let credentials = RuntimeCredentials::new("wkr_1", "s3cret").with_expires_at(expires_at);
/// assert!(!format!("{credentials:?}").contains("s3cret"));
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct RuntimeCredentials {
    /// The worker's id. If it is empty, the fixed pair's is used.
    pub worker_id: String,
    /// The bearer token. If it is empty, the fixed pair's is used.
    pub auth_token: SecretString,
    /// When the token expires, by this host's clock. `None` if unknown; so is a time before the year 2000. If the token is
    /// a JWT with an earlier `exp` claim, the claim applies; with an `iat` claim as well, the two claims alone apply.
    ///
    /// A token that was just fetched is always sent, whatever its expiry. The cache counts its life from the fetch, by
    /// the monotonic clock: `exp` minus `iat` if the token is a JWT with both claims, else the time until it expires, and
    /// 30 s if that time is over.
    pub expires_at: Option<SystemTime>,
}

impl RuntimeCredentials {
    /// Creates credentials without [`expires_at`](Self::expires_at).
    #[must_use]
    pub fn new(worker_id: impl Into<String>, auth_token: impl Into<SecretString>) -> Self {
        Self {
            worker_id: worker_id.into(),
            auth_token: auth_token.into(),
            expires_at: None,
        }
    }

    /// Sets [`expires_at`](Self::expires_at).
    #[must_use]
    pub fn with_expires_at(mut self, expires_at: SystemTime) -> Self {
        self.expires_at = Some(expires_at);
        self
    }

    /// The token, or `None` if it is empty.
    pub(crate) fn token(&self) -> Option<&str> {
        Some(self.auth_token.expose_secret()).filter(|token| !token.is_empty())
    }

    /// Checks that the token is a valid header value. The error completes the sentence "the token …".
    pub(crate) fn validate_token(&self) -> Result<(), &'static str> {
        let token = self.auth_token.expose_secret();
        if token.chars().any(char::is_control) {
            Err("contains a line break or another control character")
        } else if !token.is_ascii() {
            Err("contains characters that are not valid in a header")
        } else if token.trim() != token {
            Err("begins or ends with whitespace")
        } else {
            Ok(())
        }
    }

    pub(super) fn is_same_pair(&self, other: &Self) -> bool {
        self.worker_id == other.worker_id && self.token() == other.token()
    }
}

impl fmt::Debug for RuntimeCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeCredentials")
            .field("worker_id", &self.worker_id)
            .field("auth_token", &self.token().map(|_| "[REDACTED]"))
            .field("expires_at", &self.expires_at)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_debug_output_shows_whether_there_is_a_token() {
        let credentials = RuntimeCredentials::new("wkr_1", "s3cret");
        let debug = format!("{credentials:?}");
        assert!(debug.contains("wkr_1") && debug.contains("[REDACTED]"));
        assert!(format!("{:?}", RuntimeCredentials::default()).contains("auth_token: None"));
    }

    #[test]
    fn the_debug_output_does_not_show_the_token() {
        let credentials = RuntimeCredentials::new("wkr_1", "s3cret");
        assert!(!format!("{credentials:?}").contains("s3cret"));
    }

    #[test]
    fn tokens_that_are_not_valid_header_values_are_refused() {
        for token in ["a\nb", "a\r", "a\0", "\t", "\u{7f}", "ä", " a", "a "] {
            assert!(
                RuntimeCredentials::new("", token).validate_token().is_err(),
                "{token:?}"
            );
        }
    }

    #[test]
    fn tokens_that_are_valid_header_values_are_accepted() {
        for token in ["", "a", "a.b-c_d~e+f/g=", "with space"] {
            assert!(RuntimeCredentials::new("", token).validate_token().is_ok(), "{token:?}");
        }
    }
}
