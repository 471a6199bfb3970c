//! The message that delivers a session's result.

use actix::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    delivery_options::{DeliveryOptions, check_id, delivery_accessors},
    headers::check_headers,
    lease::TerminalWorkareaLease,
    status_fields::{StatusFields, check_status_fields},
};
use crate::{
    error::{InvalidMessageError, PostError},
    receipt::PostReceipt,
    result::AgentResult,
};

/// Delivers the terminal result of a session: the completion (`POST …/api/sessions/{id}/completion`), then the status
/// (`POST …/api/sessions/{id}/status`), each with its own attempts.
///
/// The status is sent even if the completion failed, since it releases the session's lock; only a cancellation prevents
/// it. Results of one session are delivered in the order in which they arrived.
///
/// Both calls carry an `Idempotency-Key` that is derived from the session, the [run](Self::with_run) and the content, so
/// the platform can recognise the same result when it is sent again, from this process or another one.
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
/// let message = PostResult::new("sess-1", result).with_worker_id("wkr_1");
/// match poster.send(message).await? {
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
/// is `.` or `..` (which would change the path even if encoded), or is longer than 4096 bytes; a setter says so; or
/// `reply_when_durable` is set without an outbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[must_use]
pub struct PostResult {
    pub(crate) session_id: String,
    /// Boxed: the message is moved many times.
    pub(crate) result: Box<AgentResult>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) run: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) worker_id: Option<String>,
    #[serde(default, skip_serializing_if = "StatusFields::is_empty")]
    pub(crate) status_fields: StatusFields,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) terminal_workarea_lease: Option<TerminalWorkareaLease>,
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
            run: None,
            worker_id: None,
            status_fields: StatusFields::new(),
            terminal_workarea_lease: None,
            delivery: DeliveryOptions::default(),
        }
    }

    /// Sets the worker that claimed the session, which the platform compares with the session's owner. Default: the
    /// worker of the credentials with which the result is first sent or stored. The id of a message never changes, even
    /// if its token is renewed.
    ///
    /// A result is refused as invalid if the id is blank or longer than 4096 bytes; or if it has none and the options can't
    /// name one either, unless the platform is on loopback.
    pub fn with_worker_id(mut self, worker_id: impl Into<String>) -> Self {
        self.worker_id = Some(worker_id.into());
        self
    }

    /// Sets the number of the run, for a session that is run more than once: two runs that end alike then have different
    /// idempotency keys, and are not taken for one. Default: none.
    pub fn with_run(mut self, run: u64) -> Self {
        self.run = Some(run);
        self
    }

    /// Adds a field to the status, so that a runner can follow the platform without a release of this crate. It is not
    /// sent with [`WireFormat::Baseline`](crate::WireFormat::Baseline), nor if the body would be longer than 512 KiB.
    /// Default: none.
    ///
    /// The message is refused as invalid if the crate sends a field with this name itself, or if the value is nested
    /// deeper than 100 levels.
    pub fn with_status_field(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.status_fields.insert(name.into(), value.into());
        self
    }

    /// Sets the lease of the session's work area. The status is then sent without the `worktreePath`. It has no effect
    /// with [`WireFormat::Baseline`](crate::WireFormat::Baseline). Default: none.
    pub fn with_terminal_workarea_lease(mut self, lease: TerminalWorkareaLease) -> Self {
        self.terminal_workarea_lease = Some(lease);
        self
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

    /// The worker that the message names.
    #[must_use]
    pub fn worker_id(&self) -> Option<&str> {
        self.worker_id.as_deref()
    }

    /// The number of the run.
    #[must_use]
    pub fn run(&self) -> Option<u64> {
        self.run
    }

    /// The fields that the message adds to the status, ordered by name.
    pub fn status_fields(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.status_fields.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The lease of the session's work area.
    #[must_use]
    pub fn terminal_workarea_lease(&self) -> Option<&TerminalWorkareaLease> {
        self.terminal_workarea_lease.as_ref()
    }

    pub(crate) fn check(&self) -> Result<(), InvalidMessageError> {
        check_id("session_id", &self.session_id)?;
        if !is_path_segment(&self.session_id) {
            return Err(InvalidMessageError::new("session_id", "is a relative path"));
        }
        if let Some(worker_id) = &self.worker_id {
            check_id("worker_id", worker_id)?;
        }
        check_status_fields(&self.status_fields)?;
        check_headers(&self.delivery.headers)
    }
}

delivery_accessors!(PostResult);

/// Whether `id`, percent-encoded, is one segment of a path. `.` and `..` are not: URL parsers resolve them even if they
/// are encoded.
pub(crate) fn is_path_segment(id: &str) -> bool {
    !matches!(id, "" | "." | "..")
}
