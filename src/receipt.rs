//! The replies to delivered messages.

use std::time::Duration;

use serde::Serialize;

use crate::{
    call_id::CallId,
    error::{CallError, OutboxError},
    util::chain,
    warning::Warning,
};

/// How one call ended.
pub(crate) type Outcome = Result<CallReceipt, CallError>;

/// The receipt of one call: the platform acknowledged it or, with `reply_when_durable`, the outbox stored it. In JSON,
/// the elapsed time is `elapsedSeconds`, a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum CallReceipt {
    /// The platform acknowledged the call.
    #[non_exhaustive]
    Delivered {
        /// How many attempts were made, at least one. A request that was sent again with renewed credentials is part of
        /// its attempt.
        attempts: u32,
        /// The time from the first attempt to the platform's response, including the waits between attempts, but not
        /// the time that the message waited for its turn and for its first permit.
        #[serde(rename = "elapsedSeconds", serialize_with = "crate::seconds::serialize")]
        elapsed: Duration,
        /// Why the outbox could not store the call before it was sent; a crash would have lost the call. `None`
        /// without an outbox, or if the call was stored.
        #[serde(serialize_with = "as_text", skip_serializing_if = "Option::is_none")]
        outbox_error: Option<OutboxError>,
        /// The fields that the call lost on its way, and the platform's remarks on its acknowledgement.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<Warning>,
    },
    /// The call is in the outbox, which will deliver it; see
    /// [`reply_when_durable`](crate::PostResult::reply_when_durable).
    #[non_exhaustive]
    Stored {
        /// The id of the call in the outbox.
        id: CallId,
        /// The fields that the call lost before it was stored.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<Warning>,
    },
}

impl CallReceipt {
    pub(crate) fn delivered(attempts: u32, elapsed: Duration, warnings: Vec<Warning>) -> Self {
        Self::Delivered {
            attempts,
            elapsed,
            outbox_error: None,
            warnings,
        }
    }

    #[cfg(feature = "outbox")]
    pub(crate) fn note_outbox_error(&mut self, error: OutboxError) {
        if let Self::Delivered { outbox_error, .. } = self {
            *outbox_error = Some(error);
        }
    }

    pub(crate) fn stored(id: CallId) -> Self {
        Self::Stored {
            id,
            warnings: Vec::new(),
        }
    }

    /// Puts warnings of the message before those of its delivery.
    pub(crate) fn warn_first(&mut self, mut earlier: Vec<Warning>) {
        let (Self::Delivered { warnings, .. } | Self::Stored { warnings, .. }) = self;
        earlier.append(warnings);
        *warnings = earlier;
    }

    /// How many attempts the delivery took; `None` for a call that was only stored.
    #[must_use]
    pub fn attempts(&self) -> Option<u32> {
        match self {
            Self::Delivered { attempts, .. } => Some(*attempts),
            Self::Stored { .. } => None,
        }
    }

    /// The time that the delivery took; `None` for a call that was only stored.
    #[must_use]
    pub fn elapsed(&self) -> Option<Duration> {
        match self {
            Self::Delivered { elapsed, .. } => Some(*elapsed),
            Self::Stored { .. } => None,
        }
    }

    /// The id of a call that is in the outbox and not delivered yet.
    #[must_use]
    pub fn call_id(&self) -> Option<CallId> {
        match self {
            Self::Delivered { .. } => None,
            Self::Stored { id, .. } => Some(*id),
        }
    }

    /// Why the outbox could not store a call that was delivered nevertheless.
    #[must_use]
    pub fn outbox_error(&self) -> Option<&OutboxError> {
        match self {
            Self::Delivered { outbox_error, .. } => outbox_error.as_ref(),
            Self::Stored { .. } => None,
        }
    }

    /// The fields that the call lost on its way, such as one of the runner's JSON that can't be sent, and the platform's
    /// remarks on its acknowledgement.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        let (Self::Delivered { warnings, .. } | Self::Stored { warnings, .. }) = self;
        warnings
    }
}

/// The receipt of a result: the platform acknowledged both of its calls or, with `reply_when_durable`, the outbox
/// stored them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PostReceipt {
    /// The receipt of the completion.
    pub completion: CallReceipt,
    /// The receipt of the status.
    pub status: CallReceipt,
}

impl PostReceipt {
    /// The warnings of the completion, then those of the status.
    pub fn warnings(&self) -> impl Iterator<Item = &Warning> {
        [&self.completion, &self.status]
            .into_iter()
            .flat_map(CallReceipt::warnings)
    }
}

/// The outcomes of the calls that were queued or in flight when [`Shutdown`](crate::Shutdown) arrived. A result has two
/// calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Calls that the platform acknowledged.
    pub delivered: u64,
    /// Calls that ended with `Permanent`, `NoCredentials`, `Transient` or `Internal`.
    pub failed: u64,
    /// Calls that were cancelled, by their token, a discard, or because the shutdown's time limit expired.
    pub cancelled: u64,
    /// Calls that were parked in the outbox by the time of the report. Those that were parked before the `Shutdown` arrived
    /// are not counted. The next poster with this outbox delivers all of them.
    pub parked: u64,
    /// Whether the outbox was still open when the time limit expired, for example because the disk hangs. It is closed later,
    /// by a thread that is left behind; a process that ends before loses nothing.
    pub outbox_is_open: bool,
}

fn as_text<S: serde::Serializer>(error: &Option<OutboxError>, serializer: S) -> Result<S::Ok, S::Error> {
    error.as_ref().map(|error| chain(error)).serialize(serializer)
}
