//! The next step of a runner after an error.

use std::time::Duration;

use serde::Serialize;

/// The next step of a runner after an error. A message that is sent again must be a clone, so that its calls keep their
/// idempotency keys.
///
/// A result can't be sent in part: a clone has both of its calls. The outbox recognises a call that it holds
/// ([`PostError::parked`](crate::PostError::parked)) by its key, and does not store the clone again.
///
/// The variants are in order of precedence: if both calls of a result failed, the first of their two steps is the step
/// of the result.
///
/// In JSON, an object such as `{"step": "give_up"}` or `{"step": "retry_later", "afterSeconds": 2.5}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum NextStep {
    /// Give the message to the next poster: this one has been shut down.
    UseNextPoster,
    /// Renew the worker's credentials. Then send the message again, unless its call is parked in the outbox, which sends it
    /// itself ([`PostError::parked`](crate::PostError::parked)): then the session is done, and only whoever renews the
    /// credentials has to know.
    RenewCredentials,
    /// Send the message again after this time.
    RetryLater {
        /// How long to wait: at most a day, even if the platform asks for a longer pause.
        #[serde(rename = "afterSeconds", serialize_with = "crate::seconds::serialize")]
        after: Duration,
    },
    /// Report the error: the same message would fail again.
    GiveUp,
    /// No action is needed: the call is parked in the outbox, or was cancelled by the message's token or by a discard.
    Nothing,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_step_is_serialized_as_it_is_documented() {
        let after = Duration::from_millis(2500);
        for (step, expected) in [
            (NextStep::GiveUp, json!({"step": "give_up"})),
            (NextStep::UseNextPoster, json!({"step": "use_next_poster"})),
            (
                NextStep::RetryLater { after },
                json!({"step": "retry_later", "afterSeconds": 2.5}),
            ),
        ] {
            assert_eq!(serde_json::to_value(step).unwrap(), expected);
        }
    }
}
