//! The messages by which a runner follows a stored call, and their answers.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use actix::Message;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{call::CallKind, call_id::CallId, error::OutboxError};

/// The calls that a message is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum CallsOf {
    Call(CallId),
    Session(String),
    Issue(String),
}

/// Asks a [`ResultPoster`](crate::ResultPoster) what became of stored calls: of one by its id, or of all about a session or
/// an issue, by their ids in ascending order.
///
/// The answer is empty if nothing is known: the call was never stored, was discarded, was delivered by another process, or
/// was delivered before the last 10,000 calls of this poster, which it remembers.
///
/// ```
/// use result_poster::outbox::{DeliveryState, GetDelivery};
/// # use result_poster::ResultPoster;
///
/// # async fn ask(poster: actix::Addr<ResultPoster>) -> Result<(), Box<dyn std::error::Error>> {
/// for delivery in poster.send(GetDelivery::of_session("sess-1")).await?? {
///     if let DeliveryState::Parked { until, .. } = delivery.state {
///         println!("{:?} is tried again at {until:?}", delivery.kind);
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`OutboxError::NotConfigured`] without an outbox; any other [`OutboxError`] if the file can't be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetDelivery {
    pub(crate) which: CallsOf,
}

impl GetDelivery {
    /// Asks for the call with this id.
    #[must_use]
    pub fn of_call(id: CallId) -> Self {
        Self {
            which: CallsOf::Call(id),
        }
    }

    /// Asks for the calls about this session.
    #[must_use]
    pub fn of_session(session_id: impl Into<String>) -> Self {
        Self {
            which: CallsOf::Session(session_id.into()),
        }
    }

    /// Asks for the calls about this issue.
    #[must_use]
    pub fn of_issue(issue_id: impl Into<String>) -> Self {
        Self {
            which: CallsOf::Issue(issue_id.into()),
        }
    }
}

impl Message for GetDelivery {
    type Result = Result<Vec<Delivery>, OutboxError>;
}

/// The state of a stored call, or its end. As JSON, its names are in camel case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Delivery {
    /// The id of the call.
    pub id: CallId,
    /// The kind of the call. `None` if it can't be read: the file is damaged.
    pub kind: Option<CallKind>,
    /// The id of the session or issue that the call is about.
    pub target_id: String,
    /// The state of the call.
    #[serde(flatten)]
    pub state: DeliveryState,
}

/// The state of a stored call. As JSON, `state` is `delivered`, `live`, `parked` or `dead_letter`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum DeliveryState {
    /// The platform has acknowledged it, by this process.
    #[non_exhaustive]
    Delivered {
        /// How long ago.
        #[serde(rename = "agoSeconds", serialize_with = "crate::seconds::serialize")]
        ago: Duration,
    },
    /// A process sends it, or is about to.
    Live,
    /// It is tried again later.
    #[non_exhaustive]
    Parked {
        /// Since when the calls of its session or issue are parked, by the clock of the host.
        #[serde(serialize_with = "crate::timestamp::serialize_optional")]
        since: Option<SystemTime>,
        /// When they are tried again, by the clock of the host, though not before an earlier call of them.
        #[serde(serialize_with = "crate::timestamp::serialize_optional")]
        until: Option<SystemTime>,
        /// Why, as [`ParkReason`](crate::ParkReason) writes it: a damaged file may hold any text.
        reason: Option<String>,
        /// How many attempts were made.
        attempts: u32,
        /// Why the last attempt failed. `None` before the first.
        last_error: Option<String>,
    },
    /// It was rejected, has expired, or panicked: it is not tried again, unless it is requeued.
    #[non_exhaustive]
    DeadLetter {
        /// The HTTP status with which the platform rejected it.
        status_code: Option<u16>,
        /// Why the last attempt failed.
        last_error: Option<String>,
    },
}

/// Waits for the end of a stored call: the answer is a future of it.
///
/// At most 10,000 calls may be waited for at once. The end of a call that another process delivers is found within some
/// seconds.
///
/// ```
/// use result_poster::{CallError, PostError, outbox::AwaitDelivery};
/// # use result_poster::ResultPoster;
///
/// # async fn wait(poster: actix::Addr<ResultPoster>, id: result_poster::CallId) -> Result<(), Box<dyn std::error::Error>> {
/// let delivery = poster.send(AwaitDelivery::new(id)).await??;
/// println!("{:?}", delivery.await?);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`OutboxError::NoSuchCall`] if the poster knows no such call; [`OutboxError::TooManyWaits`];
/// [`OutboxError::NotConfigured`] without an outbox; any other [`OutboxError`] if the file can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwaitDelivery {
    pub(super) id: CallId,
}

impl AwaitDelivery {
    /// Waits for the end of this call.
    #[must_use]
    pub fn new(id: CallId) -> Self {
        Self { id }
    }

    /// The id of the call.
    #[must_use]
    pub fn id(&self) -> CallId {
        self.id
    }
}

impl Message for AwaitDelivery {
    type Result = Result<PendingDelivery, OutboxError>;
}

/// The end of a stored call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "end", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum DeliveryEnd {
    /// The platform has acknowledged it, by this process.
    Delivered,
    /// It is a dead letter.
    #[non_exhaustive]
    DeadLetter {
        /// The HTTP status with which the platform rejected it.
        status_code: Option<u16>,
        /// Why it was not delivered, without the body of a response.
        reason: Option<String>,
    },
    /// It was discarded, or withdrawn by its caller, in this process.
    Discarded,
    /// It has left the outbox by another process: delivered, or discarded.
    Gone,
}

/// The future end of a stored call. It may be sent to any thread. Dropping it ends the wait.
///
/// # Errors
///
/// [`OutboxError::Stopped`] if the poster shuts down first: the call stays in the outbox.
#[must_use = "a future does nothing until it is awaited"]
pub struct PendingDelivery(pub(super) oneshot::Receiver<DeliveryEnd>);

impl PendingDelivery {
    /// A call that has ended.
    pub(super) fn ended(end: DeliveryEnd) -> Self {
        let (sender, receiver) = oneshot::channel();
        // The receiver is there.
        let _ = sender.send(end);
        Self(receiver)
    }
}

impl Future for PendingDelivery {
    type Output = Result<DeliveryEnd, OutboxError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let end = Pin::new(&mut self.0).poll(context);
        end.map_err(|_| OutboxError::Stopped)
    }
}

impl fmt::Debug for PendingDelivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingDelivery").finish_non_exhaustive()
    }
}
