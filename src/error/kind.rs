//! The kinds of errors, as labels.

use crate::label::labels;

/// The kind of a [`CallError`](crate::CallError), for metrics and events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// [`CallError::Invalid`](crate::CallError::Invalid)
    Invalid,
    /// [`CallError::NoCredentials`](crate::CallError::NoCredentials)
    NoCredentials,
    /// [`CallError::Permanent`](crate::CallError::Permanent)
    Permanent,
    /// [`CallError::Transient`](crate::CallError::Transient)
    Transient,
    /// [`CallError::Parked`](crate::CallError::Parked)
    Parked,
    /// [`CallError::Cancelled`](crate::CallError::Cancelled)
    Cancelled,
    /// [`CallError::Overloaded`](crate::CallError::Overloaded)
    Overloaded,
    /// [`CallError::ShuttingDown`](crate::CallError::ShuttingDown)
    ShuttingDown,
    /// [`CallError::Internal`](crate::CallError::Internal)
    Internal,
}

labels!(FailureKind, "kind of failure", {
    Invalid => "invalid",
    NoCredentials => "no_credentials",
    Permanent => "permanent",
    Transient => "transient",
    Parked => "parked",
    Cancelled => "cancelled",
    Overloaded => "overloaded",
    ShuttingDown => "shutting_down",
    Internal => "internal",
});
