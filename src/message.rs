//! The messages that a [`ResultPoster`](crate::ResultPoster) takes, and the receipts that it gives.

use std::time::Duration;

use actix::{Addr, Message};
use tokio_util::sync::CancellationToken;

#[cfg(feature = "outbox")]
use crate::outbox::{DeliveryId, OutboxError};
use crate::{
    credentials::CredentialActor,
    error::{CallError, InvalidMessage, PostError},
    outbox::Note,
    result::AgentResult,
    wire::{Method, is_segment},
};

/// More would not fit into a URL, percent-encoded.
const MAX_SESSION_ID_BYTES: usize = 4096;

/// Deliver a session's terminal result: the completion (`POST …/api/sessions/{id}/completion`),
/// then the status (`POST …/api/sessions/{id}/status`), each with attempts of its own.
///
/// The status is sent whatever became of the completion, since it releases the session's lock;
/// only a cancellation stops it. Results of one session are delivered in the order they arrived.
///
/// Both calls carry an `Idempotency-Key` made from the session and the result, so that sending the
/// same result again, from here or from another process, can be recognised by the platform.
///
/// Once the poster has taken the message, dropping the future of
/// [`send`](actix::Addr::send) cancels nothing; the token given to
/// [`with_cancellation`](Self::with_cancellation) does. Before that, actix drops the message with the future.
///
/// # Errors
///
/// [`PostError`] says which of the two calls failed, and how. [`PostError::Invalid`]: an empty or
/// blank session id, one that is `.` or `..` (which no encoding keeps from reaching another
/// route) or longer than 4096 bytes, or a cost that is not a finite number.
#[derive(Debug, Clone)]
#[must_use]
pub struct PostResult {
    pub(crate) session_id: String,
    /// Boxed, since a message goes through many hands.
    pub(crate) result: Box<AgentResult>,
    pub(crate) cancellation: Option<CancellationToken>,
    pub(crate) reply_when_durable: bool,
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
            cancellation: None,
            reply_when_durable: false,
        }
    }

    /// Stops the delivery, wherever it is, once `token` is cancelled; the reply is then
    /// [`CallError::Cancelled`] for each call that was not done. One token may go with many messages. A clone
    /// of the message has the same token, so give it another one to repeat what was cancelled.
    pub fn with_cancellation(mut self, token: CancellationToken) -> Self {
        self.cancellation = Some(token);
        self
    }

    /// Replies as soon as both calls are in the outbox, with receipts that say so
    /// ([`CallReceipt::queued`]). The delivery goes on, in this process or, if that ends, in another one with the same
    /// outbox: for a runner that must exit now. What can't be kept is answered when it is delivered, as without this.
    ///
    /// Without an outbox the message is refused as [`PostError::Invalid`].
    #[cfg(feature = "outbox")]
    pub fn reply_when_durable(mut self) -> Self {
        self.reply_when_durable = true;
        self
    }

    pub(crate) fn check(&self) -> Result<(), InvalidMessage> {
        not_blank("session_id", &self.session_id)?;
        let invalid = |field, reason| Err(InvalidMessage { field, reason });
        if !is_segment(&self.session_id) {
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

/// Move an issue to a workflow status by its name, such as `Finished`
/// (`POST …/api/issue-tracker-proxy`).
///
/// Calls for one issue, of this kind and [`CreateComment`], run one after another in the order they
/// arrived. Each message has an `Idempotency-Key` of its own, which a clone shares; so send a clone
/// to repeat a call, and a new message to make another. Cancellation and drop are as for [`PostResult`].
///
/// # Errors
///
/// [`CallError`]; [`CallError::Invalid`] for an empty or blank issue id or status.
#[derive(Debug, Clone)]
#[must_use]
pub struct UpdateIssueStatus(pub(crate) IssueCall);

impl Message for UpdateIssueStatus {
    type Result = Result<CallReceipt, CallError>;
}

impl UpdateIssueStatus {
    /// Moves the issue with this id to the status with this name.
    pub fn new(issue_id: impl Into<String>, status: impl Into<String>) -> Self {
        Self(IssueCall::new(
            Method::UpdateIssueStatus,
            "status",
            issue_id.into(),
            status.into(),
        ))
    }

    /// As [`PostResult::with_cancellation`].
    pub fn with_cancellation(mut self, token: CancellationToken) -> Self {
        self.0.cancellation = Some(token);
        self
    }

    /// As [`PostResult::reply_when_durable`]; without an outbox it is refused as [`CallError::Invalid`].
    #[cfg(feature = "outbox")]
    pub fn reply_when_durable(mut self) -> Self {
        self.0.reply_when_durable = true;
        self
    }
}

/// Write a comment on an issue (`POST …/api/issue-tracker-proxy`).
///
/// Order, idempotency, cancellation and drop are as for [`UpdateIssueStatus`].
///
/// # Errors
///
/// [`CallError`]; [`CallError::Invalid`] for an empty or blank issue id or body.
#[derive(Debug, Clone)]
#[must_use]
pub struct CreateComment(pub(crate) IssueCall);

impl Message for CreateComment {
    type Result = Result<CallReceipt, CallError>;
}

impl CreateComment {
    /// A comment on the issue with this id; the body is the issue tracker's own markup, and sent as it is.
    pub fn new(issue_id: impl Into<String>, body: impl Into<String>) -> Self {
        Self(IssueCall::new(
            Method::CreateComment,
            "body",
            issue_id.into(),
            body.into(),
        ))
    }

    /// As [`PostResult::with_cancellation`].
    pub fn with_cancellation(mut self, token: CancellationToken) -> Self {
        self.0.cancellation = Some(token);
        self
    }

    /// As [`PostResult::reply_when_durable`]; without an outbox it is refused as [`CallError::Invalid`].
    #[cfg(feature = "outbox")]
    pub fn reply_when_durable(mut self) -> Self {
        self.0.reply_when_durable = true;
        self
    }
}

/// What the two issue messages have in common: all but their names.
#[derive(Debug, Clone)]
pub(crate) struct IssueCall {
    pub(crate) method: Method,
    /// What `text` is called in the message.
    text_field: &'static str,
    pub(crate) issue_id: String,
    pub(crate) text: String,
    pub(crate) idempotency_key: String,
    pub(crate) cancellation: Option<CancellationToken>,
    pub(crate) reply_when_durable: bool,
}

impl IssueCall {
    fn new(method: Method, text_field: &'static str, issue_id: String, text: String) -> Self {
        Self {
            method,
            text_field,
            issue_id,
            text,
            idempotency_key: format!("{:032x}", rand::random::<u128>()),
            cancellation: None,
            reply_when_durable: false,
        }
    }

    pub(crate) fn check(&self) -> Result<(), InvalidMessage> {
        not_blank("issue_id", &self.issue_id)?;
        not_blank(self.text_field, &self.text)
    }
}

fn not_blank(field: &'static str, value: &str) -> Result<(), InvalidMessage> {
    if value.trim().is_empty() {
        return Err(InvalidMessage {
            field,
            reason: "is empty or blank",
        });
    }
    Ok(())
}

/// Shuts a [`ResultPoster`](crate::ResultPoster) down: what it has taken goes on until the platform has acknowledged
/// it, new messages are refused with [`CallError::ShuttingDown`], and when all is done the actor stops for good.
///
/// When the time is over, what is not done is cancelled: each message gets its reply, [`CallError::Cancelled`], or if
/// it is in an outbox, where it stays, [`CallError::Transient`] that is parked. The reply to
/// this message comes after all of theirs. Another one meanwhile does no harm; the shortest time counts.
///
/// Under a [`Supervisor`](crate::Supervisor) the actor is not restarted after it, and senders get
/// [`MailboxError::Closed`](actix::MailboxError::Closed); actix's own supervisor would restart it, still shut.
#[derive(Debug, Clone, Copy)]
pub struct Shutdown {
    pub(crate) within: Duration,
}

impl Shutdown {
    /// Lets what was taken go on for so long, by the poster's [`clock`](crate::OptionsBuilder::clock).
    #[must_use]
    pub fn within(within: Duration) -> Self {
        Self { within }
    }
}

impl Message for Shutdown {
    type Result = ShutdownReport;
}

/// What became of the calls that a poster had taken and not finished when it was told to shut down. A result is two
/// calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Calls that the platform has taken.
    pub delivered: u64,
    /// Calls that failed by themselves.
    pub failed: u64,
    /// Calls that were cancelled, because the time was over or by their token.
    pub cancelled: u64,
    /// Calls that are in the outbox, and will be delivered by whoever opens it next.
    pub parked: u64,
}

/// Asks a [`ResultPoster`](crate::ResultPoster) for the address of its [`CredentialActor`], so that other parts of a
/// runner can share the worker's credentials: its child's, or the one that the options gave it.
#[derive(Debug, Clone, Copy)]
pub struct GetCredentialActor;

impl Message for GetCredentialActor {
    type Result = Addr<CredentialActor>;
}

/// A call was delivered; or, with `reply_when_durable`, is on disk and yet to be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallReceipt {
    /// Attempts that it took, at least one; 0 if it is only on disk yet. Being sent once more with new credentials is
    /// part of an attempt.
    pub attempts: u32,
    /// Time that it took from its first step to the platform's answer, waits between attempts included; not the
    /// time that it waited behind other calls of its key, or for one of `max_in_flight` slots to begin with. Zero if it
    /// is only on disk yet.
    pub elapsed: Duration,
    pub(crate) outbox: Note,
}

#[cfg(feature = "outbox")]
impl CallReceipt {
    /// The call's number in the outbox, if it is on disk and yet to be delivered: see
    /// [`PostResult::reply_when_durable`]. There were no attempts then.
    #[must_use]
    pub fn queued(&self) -> Option<DeliveryId> {
        self.outbox.kept()
    }

    /// Why the call was not kept in the outbox before it was delivered, if so: had the process ended meanwhile, it
    /// would have been lost.
    #[must_use]
    pub fn outbox_error(&self) -> Option<&OutboxError> {
        self.outbox.not_kept()
    }
}

/// A result was delivered whole; or, with `reply_when_durable`, both of its calls are on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PostReceipt {
    /// The completion's receipt.
    pub completion: CallReceipt,
    /// The status's receipt.
    pub status: CallReceipt,
}
