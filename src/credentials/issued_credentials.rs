//! The credentials as a cache issues them.

use std::sync::Arc;

use secrecy::SecretString;

use super::runtime_credentials::RuntimeCredentials;

/// The generation of the fixed pair. The generations of fetched credentials start at 1.
pub(super) const FIXED_GENERATION: u64 = 0;

/// Credentials as a [`CredentialActor`](super::CredentialActor) issues them: validated, complete, and with a generation.
///
/// `Debug` does not show the token.
#[derive(Debug, Clone)]
pub struct IssuedCredentials {
    pub(super) credentials: Arc<RuntimeCredentials>,
    pub(super) generation: u64,
}

impl IssuedCredentials {
    /// The worker's id, if there is one.
    #[must_use]
    pub fn worker_id(&self) -> Option<&str> {
        Some(self.credentials.worker_id.as_str()).filter(|worker_id| !worker_id.is_empty())
    }

    /// The token, if there is one. It is a valid header value.
    #[must_use]
    pub fn auth_token(&self) -> Option<&SecretString> {
        self.token().map(|_| &self.credentials.auth_token)
    }

    /// The generation, from 1, which grows with each change of the worker id or the token; `None` for the fixed pair.
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        (self.generation != FIXED_GENERATION).then_some(self.generation)
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.credentials.token()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_field_is_issued_as_none() {
        let issued = IssuedCredentials {
            credentials: Arc::default(),
            generation: 0,
        };
        assert_eq!((issued.worker_id(), issued.token()), (None, None));
        assert!(issued.auth_token().is_none());
    }
}
