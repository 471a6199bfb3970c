//! Why options were refused.

use thiserror::Error;

use super::SharedError;

/// An option that [`OptionsBuilder::build`](crate::OptionsBuilder::build) or another builder refused, and why.
///
/// No part of it holds a credential.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("option `{option}` {reason}")]
#[non_exhaustive]
pub struct OptionsError {
    /// The name of the option, as it is spelled in the builder; an option of the outbox begins with `outbox.`.
    pub option: &'static str,
    /// Why the value is invalid.
    pub reason: String,
    source: Option<SharedError>,
}

impl OptionsError {
    pub(crate) fn new(option: &'static str, reason: impl Into<String>) -> Self {
        Self {
            option,
            reason: reason.into(),
            source: None,
        }
    }

    pub(crate) fn with_source(self, source: impl Into<SharedError>) -> Self {
        Self {
            source: Some(source.into()),
            ..self
        }
    }
}
