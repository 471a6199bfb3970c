//! The tokens that a cache has seen, and their removal from the texts of others.

use std::{collections::VecDeque, error::Error};

use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;

use crate::{
    error::{CredentialError, SharedError},
    redact::Redactor,
};

/// How many tokens are kept. With a token a minute, these are the tokens of more than four hours.
const MAX_TOKENS: usize = 256;

/// The shortest token that is removed from a text, in bytes. A shorter one is no secret, and is part of many words.
const MIN_LENGTH: usize = 4;

/// The newest tokens that a cache has seen, without duplicates.
#[derive(Default)]
pub(super) struct SeenTokens(VecDeque<SecretString>);

impl SeenTokens {
    pub(super) fn add(&mut self, token: &SecretString) {
        let text = token.expose_secret();
        // From the newest: most fetches return the token of the last one.
        if text.len() < MIN_LENGTH || self.0.iter().rev().any(|seen| seen.expose_secret() == text) {
            return;
        }
        if self.0.len() == MAX_TOKENS {
            self.0.pop_front();
        }
        self.0.push_back(token.clone());
    }

    /// The error without any of these tokens. An error of a provider keeps its type if no text of it has a token.
    pub(super) fn scrub_error(&self, error: CredentialError) -> CredentialError {
        match error {
            CredentialError::Provider(source) => CredentialError::Provider(self.scrub_source(source)),
            CredentialError::Panicked(message) => CredentialError::Panicked(self.scrub(&message)),
            CredentialError::Timeout(_)
            | CredentialError::NoToken
            | CredentialError::NoWorkerId
            | CredentialError::WorkerGone { .. }
            | CredentialError::Unusable(_)
            | CredentialError::Stopped => error,
        }
    }

    fn scrub_source(&self, error: SharedError) -> SharedError {
        let scrubbed = self.scrub_chain(&*error);
        // `Debug` may show more than `Display`.
        let is_clean = scrubbed.is_same_as(&*error) && !self.is_in(&format!("{error:?}"));
        if is_clean { error } else { scrubbed.into() }
    }

    fn scrub_chain(&self, error: &(dyn Error + 'static)) -> ScrubbedError {
        ScrubbedError {
            text: self.scrub(&error.to_string()),
            source: error.source().map(|source| Box::new(self.scrub_chain(source))),
        }
    }

    fn scrub(&self, text: &str) -> String {
        let tokens = self.0.iter().map(SecretString::expose_secret);
        tokens.fold(text.to_owned(), |text, token| {
            Redactor::new(Some(token), None).scrub(&text)
        })
    }

    fn is_in(&self, text: &str) -> bool {
        self.0.iter().any(|token| text.contains(token.expose_secret()))
    }
}

/// An error of which only the texts are left.
#[derive(Debug, Error)]
#[error("{text}")]
struct ScrubbedError {
    text: String,
    source: Option<Box<ScrubbedError>>,
}

impl ScrubbedError {
    fn is_same_as(&self, error: &(dyn Error + 'static)) -> bool {
        self.text == error.to_string()
            && match (&self.source, error.source()) {
                (Some(scrubbed), Some(source)) => scrubbed.is_same_as(source),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::util::chain;

    fn seen(tokens: &[&str]) -> SeenTokens {
        let mut seen = SeenTokens::default();
        for token in tokens {
            seen.add(&SecretString::from(*token));
        }
        seen
    }

    fn scrubbed(seen: &SeenTokens, error: impl Into<SharedError>) -> CredentialError {
        seen.scrub_error(CredentialError::Provider(error.into()))
    }

    #[derive(Debug, Error)]
    #[error("refused {0}")]
    struct Refused(&'static str, #[source] io::Error);

    #[test]
    fn every_seen_token_is_removed_from_an_error_and_its_sources() {
        let seen = seen(&["s3cret-1", "s3cret/2"]);
        let error = Refused("s3cret-1", io::Error::other(r"after s3cret\/2, again s3cret-1"));
        assert_eq!(
            chain(&scrubbed(&seen, error)),
            "the credential provider failed: refused [REDACTED]: after [REDACTED], again [REDACTED]"
        );
    }

    #[test]
    fn a_token_that_only_the_debug_output_shows_is_removed() {
        #[derive(Debug, Error)]
        #[error("refused")]
        struct Holder {
            token: &'static str,
        }
        let error = scrubbed(&seen(&["s3cret"]), Holder { token: "s3cret" });
        assert!(!format!("{error:?}").contains("s3cret"));
    }

    #[test]
    fn a_seen_token_is_removed_from_the_message_of_a_panic() {
        let error = seen(&["s3cret"]).scrub_error(CredentialError::Panicked("no s3cret, please".into()));
        assert_eq!(error, CredentialError::Panicked("no [REDACTED], please".into()));
    }

    #[test]
    fn an_error_without_a_token_keeps_its_type() {
        let CredentialError::Provider(source) = scrubbed(&seen(&["s3cret"]), Refused("it", io::Error::other("sealed")))
        else {
            panic!("the variant has changed");
        };
        assert!(source.is::<Refused>());
    }

    #[test]
    fn a_token_of_three_letters_is_part_of_many_words() {
        let error = scrubbed(&seen(&["the", ""]), io::Error::other("the vault is sealed"));
        assert_eq!(chain(&error), "the credential provider failed: the vault is sealed");
    }

    #[test]
    fn the_oldest_tokens_are_dropped() {
        let mut seen = seen(&["first-token"]);
        for number in 0..MAX_TOKENS {
            seen.add(&format!("token-{number}").into());
            seen.add(&format!("token-{number}").into());
        }
        assert_eq!(seen.0.len(), MAX_TOKENS);
        assert!(!seen.is_in("first-token") && seen.is_in("token-0"));
    }
}
