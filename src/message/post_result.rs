//! The message that delivers a session's result.

use actix::Message;
use serde::{Deserialize, Serialize};

use super::delivery_options::{DeliveryOptions, delivery_setters, not_blank};
use crate::{
    error::{InvalidMessageError, PostError},
    receipt::PostReceipt,
    result::AgentResult,
};

/// The longest session id, in bytes. A longer id, percent-encoded, would not fit into a URL.
const MAX_SESSION_ID_BYTES: usize = 4096;

/// Delivers the terminal result of a session: the completion (`POST …/api/sessions/{id}/completion`), then the status
/// (`POST …/api/sessions/{id}/status`), each with its own attempts.
///
/// The status is sent even if the completion failed, since it releases the session's lock; only a cancellation prevents
/// it. Results of one session are delivered in the order in which they arrived.
///
/// Both calls carry an `Idempotency-Key` that is derived from the session and the result, so the platform can recognise
/// the same result when it is sent again, from this process or another one.
///
/// Dropping the future of [`send`](actix::Addr::send) does not cancel a message that the actor has accepted; the token
/// given to [`with_cancellation`](Self::with_cancellation) does. If the future is dropped before the actor has accepted
/// the message, actix drops the message too.
///
/// ```
/// use result_poster::{AgentResult, NextStep, PostResult, SessionStatus};
/// # use result_poster::{Options, ResultPoster};
///
/// # async fn post(poster: actix::Addr<ResultPoster>) -> Result<(), actix::MailboxError> {
/// let result = AgentResult::new(SessionStatus::Completed).with_summary("Added the cache.");
/// match poster.send(PostResult::new("sess-1", result)).await? {
///     Ok(receipt) => println!("delivered: {receipt:?}"),
///     Err(error) => match error.next_step() {
///         NextStep::RetryLater { after } => println!("send it again after {after:?}: {error}"),
///         step => println!("{step:?}: {error}"),
///     },
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`PostError`] says which of the two calls failed, and why. [`PostError::Invalid`]: the session id is empty or blank,
/// is `.` or `..` (which would change the path even if encoded), or is longer than 4096 bytes; a cost is not a
/// finite number; or `reply_when_durable` is set without an outbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[must_use]
pub struct PostResult {
    pub(crate) session_id: String,
    /// Boxed: the message is moved many times.
    pub(crate) result: Box<AgentResult>,
    #[serde(flatten)]
    pub(crate) delivery: DeliveryOptions,
}

impl Message for PostResult {
    type Result = Result<PostReceipt, PostError>;
}

impl PostResult {
    /// The result of the session with this id.
    pub fn new(session_id: impl Into<String>, result: AgentResult) -> Self {
        Self {
            session_id: session_id.into(),
            result: Box::new(result),
            delivery: DeliveryOptions::default(),
        }
    }

    /// The id of the session.
    #[must_use]
    pub fn session_id(&self) -> &str {
        &self.session_id
    }

    /// The result.
    #[must_use]
    pub fn result(&self) -> &AgentResult {
        &self.result
    }

    pub(crate) fn check(&self) -> Result<(), InvalidMessageError> {
        not_blank("session_id", &self.session_id)?;
        let invalid = |field, reason| Err(InvalidMessageError::new(field, reason));
        if !is_path_segment(&self.session_id) {
            return invalid("session_id", "is a relative path");
        }
        if self.session_id.len() > MAX_SESSION_ID_BYTES {
            return invalid("session_id", "is longer than 4096 bytes");
        }
        match self.result.cost.as_ref().and_then(|cost| cost.total_cost_usd) {
            Some(usd) if !usd.is_finite() => invalid("cost.total_cost_usd", "is not a finite number"),
            Some(_) | None => Ok(()),
        }
    }
}

delivery_setters!(PostResult);

/// Whether `id`, percent-encoded, is one segment of a path. `.` and `..` are not: URL parsers resolve them even if they
/// are encoded.
pub(crate) fn is_path_segment(id: &str) -> bool {
    !matches!(id, "" | "." | "..")
}
