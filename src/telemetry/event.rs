//! Events about calls, for subscribers.

use std::time::{Duration, SystemTime};

use actix::{Message, Recipient};
use serde::Serialize;

use crate::{
    call::{CallKind, CallRef, PlatformRoute},
    call_id::CallId,
    error::FailureKind,
};

/// An event of a poster, for metrics and logs; see [`Subscribe`]. In JSON, it is one object with the fields of its
/// [`call`](Self::call), in camel case; `time` is a text as in RFC 3339, and a duration is a number of seconds, such as
/// `elapsedSeconds`.
///
/// ```
/// use result_poster::events::{DeliveryEvent, DeliveryEventKind};
///
/// /// A line for each call that ended without a delivery.
/// fn line(event: &DeliveryEvent) -> Option<String> {
///     let call = event.call.as_ref()?;
///     match &event.event {
///         DeliveryEventKind::Failed { reason, .. } => Some(format!("{} of {}: {reason}", call.kind, call.target_id)),
///         _ => None,
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct DeliveryEvent {
    /// When it happened, by the poster's clock.
    #[serde(serialize_with = "crate::timestamp::serialize")]
    pub time: SystemTime,
    /// The call. `None` for an event of the poster as a whole.
    #[serde(flatten)]
    pub call: Option<EventCall>,
    /// The kind of the event, with its data.
    #[serde(flatten)]
    pub event: DeliveryEventKind,
}

/// The call of a [`DeliveryEvent`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct EventCall {
    /// The kind of the call.
    pub kind: CallKind,
    /// The id of the session or issue that the call is about.
    pub target_id: String,
    /// The id of the call in the outbox, if it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<CallId>,
    /// The call's `Idempotency-Key`, without the suffix of its reduced form. `None` for a call that was refused before it
    /// was built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

impl From<CallRef<'_>> for EventCall {
    fn from(call: CallRef<'_>) -> Self {
        Self {
            kind: call.kind,
            target_id: call.target_id.to_owned(),
            id: call.id,
            idempotency_key: call.idempotency_key.map(str::to_owned),
        }
    }
}

impl Message for DeliveryEvent {
    type Result = ();
}

/// The kind of an event. The events of a call begin with `Accepted` and end with `Delivered` or `Failed`; a refused
/// call has only `Failed`. A call that becomes a dead letter has `DeadLetter` after its `Failed`.
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
        /// The time of the attempt, with its credential fetch.
        #[serde(rename = "durationSeconds", serialize_with = "crate::seconds::serialize")]
        duration: Duration,
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
        /// The number of the attempt, from 1.
        attempt: u32,
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
        /// The time since the message arrived, with all waits; for a call that was parked, the time since it was stored, by
        /// the clock of the host.
        #[serde(rename = "totalSeconds", serialize_with = "crate::seconds::serialize")]
        total: Duration,
    },
    /// The call ended with a [`CallError`](crate::CallError).
    #[non_exhaustive]
    Failed {
        /// The kind of the error.
        failure: FailureKind,
        /// The error and its sources, without the body of a response.
        reason: String,
        /// How many attempts were made. 0 if none was, or if it is not known.
        attempts: u32,
        /// As in [`CallError::may_have_been_delivered`](crate::CallError::may_have_been_delivered).
        may_have_been_delivered: bool,
    },
    /// The call is a dead letter in the outbox: it is not tried again unless it is requeued. The event of a damaged call
    /// whose kind can't be read has no [`call`](DeliveryEvent::call).
    #[non_exhaustive]
    DeadLetter {
        /// Why it was not delivered.
        reason: String,
        /// The HTTP status with which the platform rejected it, if it did.
        status_code: Option<u16>,
    },
    /// The platform can't be reached by a route: its outage gate is closed, and calls are parked until it answers. With an
    /// outbox only.
    #[non_exhaustive]
    GateClosed {
        /// The route.
        route: PlatformRoute,
        /// The last failure, without the body of a response.
        reason: String,
    },
    /// The platform answers again by a route: parked calls are sent.
    #[non_exhaustive]
    GateOpened {
        /// The route.
        route: PlatformRoute,
        /// For how long the gate was closed.
        #[serde(rename = "closedForSeconds", serialize_with = "crate::seconds::serialize")]
        closed_for: Duration,
    },
    /// No call can be authorized: there are no credentials, or the platform rejects them. Sent once, when that begins.
    #[non_exhaustive]
    CredentialsFailed {
        /// The failure, without the body of a response.
        reason: String,
    },
    /// Credentials are there again, or the platform accepts them again.
    #[non_exhaustive]
    CredentialsRecovered {
        /// How long they failed.
        #[serde(rename = "outageSeconds", serialize_with = "crate::seconds::serialize")]
        outage: Duration,
    },
}

/// Sends each [`DeliveryEvent`] from now on to an actor. A subscriber of the options
/// ([`OptionsBuilder::subscriber`](crate::OptionsBuilder::subscriber)) misses none.
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
///         println!("{:?}: {:?}", event.call, event.event);
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
                    duration: seconds,
                    reason: "lost".into(),
                    retry_in: Some(seconds),
                },
                json!({"event": "attempt_failed", "attempt": 1, "durationSeconds": 1.5, "reason": "lost", "retryInSeconds": 1.5}),
            ),
            (
                DeliveryEventKind::Resending {
                    attempt: 2,
                    status_code: 401,
                },
                json!({"event": "resending", "attempt": 2, "statusCode": 401}),
            ),
            (
                DeliveryEventKind::Paused { pause: seconds },
                json!({"event": "paused", "pauseSeconds": 1.5}),
            ),
            (
                DeliveryEventKind::Delivered {
                    attempts: 2,
                    elapsed: seconds,
                    total: 2 * seconds,
                },
                json!({"event": "delivered", "attempts": 2, "elapsedSeconds": 1.5, "totalSeconds": 3.0}),
            ),
            (
                DeliveryEventKind::Failed {
                    failure: FailureKind::Transient,
                    reason: "lost".into(),
                    attempts: 3,
                    may_have_been_delivered: true,
                },
                json!({"event": "failed", "failure": "transient", "reason": "lost", "attempts": 3, "mayHaveBeenDelivered": true}),
            ),
            (
                DeliveryEventKind::DeadLetter {
                    reason: "rejected".into(),
                    status_code: Some(404),
                },
                json!({"event": "dead_letter", "reason": "rejected", "statusCode": 404}),
            ),
            (
                DeliveryEventKind::GateClosed {
                    route: PlatformRoute::Status,
                    reason: "lost".into(),
                },
                json!({"event": "gate_closed", "route": "status", "reason": "lost"}),
            ),
            (
                DeliveryEventKind::GateOpened {
                    route: PlatformRoute::Tracker,
                    closed_for: seconds,
                },
                json!({"event": "gate_opened", "route": "tracker", "closedForSeconds": 1.5}),
            ),
            (
                DeliveryEventKind::CredentialsFailed { reason: "gone".into() },
                json!({"event": "credentials_failed", "reason": "gone"}),
            ),
            (
                DeliveryEventKind::CredentialsRecovered { outage: seconds },
                json!({"event": "credentials_recovered", "outageSeconds": 1.5}),
            ),
        ] {
            assert_eq!(serde_json::to_value(event).unwrap(), expected);
        }
    }

    #[test]
    fn an_event_is_one_object_with_the_fields_of_its_call() {
        let mut event = DeliveryEvent {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_500),
            call: Some(EventCall {
                kind: CallKind::Status,
                target_id: "s".into(),
                id: Some(CallId::from_parts(1, 7)),
                idempotency_key: Some("key".into()),
            }),
            event: DeliveryEventKind::Accepted,
        };
        assert_eq!(
            serde_json::to_value(&event).unwrap(),
            json!({
                "time": "1970-01-01T00:00:01.5Z", "kind": "status", "targetId": "s", "idempotencyKey": "key",
                "id": CallId::from_parts(1, 7), "event": "accepted",
            })
        );
        event.call = None;
        let json = json!({"time": "1970-01-01T00:00:01.5Z", "event": "accepted"});
        assert_eq!(serde_json::to_value(event).unwrap(), json);
    }
}
