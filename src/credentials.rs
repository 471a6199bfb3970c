//! Who the calls are made as.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};

/// A worker id and the token that goes with it. Its `Debug` shows no token.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    pub(crate) worker_id: String,
    /// Never empty, and always fit for a header.
    auth_token: Option<SecretString>,
}

impl Credentials {
    /// The error is what is wrong with the token.
    pub(crate) fn new(worker_id: String, auth_token: SecretString) -> Result<Self, &'static str> {
        let token = auth_token.expose_secret();
        if token.chars().any(char::is_control) {
            return Err("holds a line break or another control character; trim it where it is read");
        }
        if !token.is_ascii() {
            return Err("holds characters that can't stand in a header");
        }
        if token.trim() != token {
            return Err("begins or ends with white space; trim it where it is read");
        }
        Ok(Self {
            worker_id,
            auth_token: Some(auth_token).filter(|token| !token.expose_secret().is_empty()),
        })
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.auth_token.as_ref().map(|token| token.expose_secret())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("worker_id", &self.worker_id)
            .field("auth_token", &self.token().map(|_| "[REDACTED]"))
            .finish()
    }
}
