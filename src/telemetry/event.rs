//! Events about calls, for subscribers.

use std::time::Duration;

use actix::{Message, Recipient};
use serde::Serialize;

use crate::{call::CallKind, error::FailureKind};

/// An event of a call, for metrics and logs; see [`Subscribe`]. In JSON, a duration is a number of seconds:
/// `elapsedSeconds`, `pauseSeconds`, `retryInSeconds`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct DeliveryEvent {
    /// The kind of the call.
    pub kind: CallKind,
    /// The id of the session or issue that the call is about.
    pub target_id: String,
    /// The kind of the event, with its data.
    #[serde(flatten)]
    pub event: DeliveryEventKind,
}

impl Message for DeliveryEvent {
    type Result = ();
}

/// The kind of an event. The events of a call begin with `Accepted` and end with `Delivered` or `Failed`; a refused
/// call has only `Failed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum DeliveryEventKind {
    /// The call was admitted to the queue or stored in the outbox.
    Accepted,
    /// An attempt failed.
    #[non_exhaustive]
    AttemptFailed {
        /// The number of the attempt, from 1.
        attempt: u32,
        /// The error and its sources, without the body of a response.
        reason: String,
        /// The wait before the next attempt; `None` if there is no next attempt.
        #[serde(rename = "retryInSeconds", serialize_with = "crate::seconds::serialize_optional")]
        retry_in: Option<Duration>,
    },
    /// The request is sent again at once: with renewed credentials (after a 401, 302, 303 or 307), as the worker of the
    /// renewed credentials (after a 403), or in its reduced form (after a 413). Each happens at most once in a call, and
    /// belongs to the same attempt.
    #[non_exhaustive]
    Resending {
        /// The HTTP status of the response.
        status_code: u16,
    },
    /// The response to this call makes all calls of its group wait: those of sessions, or those of the issue tracker.
    /// When the pause is over, one call is sent first, and then as many at once as have succeeded since.
    #[non_exhaustive]
    Paused {
        /// The length of the pause. Further responses may lengthen it.
        #[serde(rename = "pauseSeconds", serialize_with = "crate::seconds::serialize")]
        pause: Duration,
    },
    /// The platform acknowledged the call.
    #[non_exhaustive]
    Delivered {
        /// As in [`CallReceipt::attempts`](crate::CallReceipt::attempts).
        attempts: u32,
        /// As in [`CallReceipt::elapsed`](crate::CallReceipt::elapsed).
        #[serde(rename = "elapsedSeconds", serialize_with = "crate::seconds::serialize")]
        elapsed: Duration,
    },
    /// The call ended with a [`CallError`](crate::CallError).
    #[non_exhaustive]
    Failed {
        /// The kind of the error.
        failure: FailureKind,
        /// As in [`CallError::may_have_been_delivered`](crate::CallError::may_have_been_delivered).
        may_have_been_delivered: bool,
    },
}

/// Sends each [`DeliveryEvent`] from now on to an actor.
///
/// A slow or stopped subscriber never blocks the poster. An event that does not fit into the subscriber's mailbox is
/// dropped and counted in [`PosterStats::events_dropped`](super::PosterStats::events_dropped) (actix's mailboxes hold
/// 16 messages by default, see [`Context::set_mailbox_capacity`](actix::Context::set_mailbox_capacity)). A stopped
/// subscriber is removed.
///
/// The poster keeps the address of its subscribers: if a subscriber also holds the address of the poster, both end only
/// by a [`Shutdown`](crate::Shutdown).
///
/// ```
/// use actix::{Actor, Addr, Context, Handler};
/// use result_poster::events::{DeliveryEvent, Subscribe};
/// # use result_poster::ResultPoster;
///
/// struct EventLog;
///
/// impl Actor for EventLog {
///     type Context = Context<Self>;
///
///     fn started(&mut self, context: &mut Context<Self>) {
///         context.set_mailbox_capacity(1024);
///     }
/// }
///
/// impl Handler<DeliveryEvent> for EventLog {
///     type Result = ();
///
///     fn handle(&mut self, event: DeliveryEvent, _: &mut Context<Self>) {
///         println!("{} of {}: {:?}", event.kind, event.target_id, event.event);
///     }
/// }
///
/// # async fn subscribe(poster: Addr<ResultPoster>) -> Result<(), actix::MailboxError> {
/// poster.send(Subscribe::new(EventLog.start().recipient())).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Subscribe {
    pub(crate) subscriber: Recipient<DeliveryEvent>,
}

impl Subscribe {
    /// Subscribes this actor.
    #[must_use]
    pub fn new(subscriber: Recipient<DeliveryEvent>) -> Self {
        Self { subscriber }
    }
}

impl Message for Subscribe {
    type Result = ();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_serialized_as_they_are_documented() {
        let seconds = Duration::from_millis(1500);
        for (event, expected) in [
            (DeliveryEventKind::Accepted, json!({"event": "accepted"})),
            (
                DeliveryEventKind::AttemptFailed {
                    attempt: 1,
                    reason: "lost".into(),
                    retry_in: Some(seconds),
                },
                json!({"event": "attempt_failed", "attempt": 1, "reason": "lost", "retryInSeconds": 1.5}),
            ),
            (
                DeliveryEventKind::Resending { status_code: 401 },
                json!({"event": "resending", "statusCode": 401}),
            ),
            (
                DeliveryEventKind::Paused { pause: seconds },
                json!({"event": "paused", "pauseSeconds": 1.5}),
            ),
            (
                DeliveryEventKind::Delivered {
                    attempts: 2,
                    elapsed: seconds,
                },
                json!({"event": "delivered", "attempts": 2, "elapsedSeconds": 1.5}),
            ),
            (
                DeliveryEventKind::Failed {
                    failure: FailureKind::Transient,
                    may_have_been_delivered: true,
                },
                json!({"event": "failed", "failure": "transient", "mayHaveBeenDelivered": true}),
            ),
        ] {
            assert_eq!(serde_json::to_value(event).unwrap(), expected);
        }
    }
}
