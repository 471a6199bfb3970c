//! Why a configuration was refused.

use thiserror::Error;

use super::SharedError;

/// A key of a configuration, or a variable of the environment, that was refused, and why.
///
/// No part of it holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{name}`: {reason}")]
#[non_exhaustive]
pub struct ConfigError {
    /// The key, such as `outbox.path`, or the variable, such as `RESULT_POSTER_OUTBOX_PATH`.
    pub name: String,
    /// Why the value is refused.
    pub reason: String,
    source: Option<SharedError>,
}

impl ConfigError {
    pub(crate) fn new(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            reason: reason.into(),
            source: None,
        }
    }

    /// Two keys that exclude each other have a value.
    pub(crate) fn excluded(name: &str, by: &str) -> Self {
        Self::new(name, format!("is set together with `{by}`"))
    }

    pub(crate) fn with_source(self, source: impl Into<SharedError>) -> Self {
        Self {
            source: Some(source.into()),
            ..self
        }
    }
}
