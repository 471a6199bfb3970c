//! A message that can't be sent.

use std::borrow::Cow;

use thiserror::Error;

/// A message that was refused before anything was sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{field}` {reason}")]
#[non_exhaustive]
pub struct InvalidMessageError {
    /// The name of the invalid field, as it is spelled in the message.
    pub field: &'static str,
    /// Why the value is invalid.
    pub reason: Cow<'static, str>,
}

impl InvalidMessageError {
    pub(crate) fn new(field: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            field,
            reason: reason.into(),
        }
    }
}
