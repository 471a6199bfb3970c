//! The messages about issues.

use actix::Message;
use serde::{Deserialize, Serialize};

use super::{
    delivery_options::{DeliveryOptions, check_id, delivery_accessors, not_blank},
    headers::check_headers,
};
use crate::{
    error::{CallError, InvalidMessageError},
    receipt::CallReceipt,
};

/// The longest idempotency key that is accepted, in bytes. The crate's own keys are shorter.
const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;

/// Moves an issue to a workflow status, such as `Finished` (`POST …/api/issue-tracker-proxy`).
///
/// The calls about one issue, of this type and [`CreateComment`], are delivered in the order in which they arrived.
/// Each message has its own `Idempotency-Key`, which its clones share: send a clone to repeat a call, and a new message
/// to make another one. Cancellation and drop are as for [`PostResult`](crate::PostResult).
///
/// ```
/// use result_poster::UpdateIssueStatus;
/// # use result_poster::{CallError, ResultPoster};
///
/// # async fn update(poster: actix::Addr<ResultPoster>) -> Result<(), Box<dyn std::error::Error>> {
/// let message = UpdateIssueStatus::new("issue-1", "Finished");
/// // A clone can be sent again with the same idempotency key.
/// let receipt = poster.send(message.clone()).await??;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`CallError`] says why the call was not delivered. [`CallError::Invalid`]: the issue id or the status is empty, blank
/// or longer than 4096 bytes, an idempotency key in deserialized JSON is not 1 to 255 visible ASCII characters, or
/// `reply_when_durable` is set without an outbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[must_use]
pub struct UpdateIssueStatus {
    pub(crate) issue_id: String,
    pub(crate) status: String,
    pub(crate) idempotency_key: String,
    #[serde(flatten)]
    pub(crate) delivery: DeliveryOptions,
}

impl Message for UpdateIssueStatus {
    type Result = Result<CallReceipt, CallError>;
}

impl UpdateIssueStatus {
    /// Moves the issue with this id to the status with this name.
    pub fn new(issue_id: impl Into<String>, status: impl Into<String>) -> Self {
        Self {
            issue_id: issue_id.into(),
            status: status.into(),
            idempotency_key: new_idempotency_key(),
            delivery: DeliveryOptions::default(),
        }
    }

    /// The id of the issue.
    #[must_use]
    pub fn issue_id(&self) -> &str {
        &self.issue_id
    }

    /// The name of the status.
    #[must_use]
    pub fn status(&self) -> &str {
        &self.status
    }

    /// The `Idempotency-Key` of the call.
    #[must_use]
    pub fn idempotency_key(&self) -> &str {
        &self.idempotency_key
    }

    pub(crate) fn check(&self) -> Result<(), InvalidMessageError> {
        check_id("issue_id", &self.issue_id)?;
        check_id("status", &self.status)?;
        check_headers(&self.delivery.headers)?;
        check_idempotency_key(&self.idempotency_key)
    }
}

/// Writes a comment on an issue (`POST …/api/issue-tracker-proxy`).
///
/// Order, idempotency, cancellation and drop are as for [`UpdateIssueStatus`].
///
/// ```
/// use result_poster::CreateComment;
/// # use result_poster::ResultPoster;
///
/// # async fn comment(poster: actix::Addr<ResultPoster>) -> Result<(), Box<dyn std::error::Error>> {
/// let receipt = poster.send(CreateComment::new("issue-1", "The build is green.")).await??;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`CallError`] says why the call was not delivered. [`CallError::Invalid`]: the issue id or the body is empty or
/// blank, the id is longer than 4096 bytes, an idempotency key in deserialized JSON is not 1 to 255 visible ASCII
/// characters, or `reply_when_durable` is set without an outbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[must_use]
pub struct CreateComment {
    pub(crate) issue_id: String,
    pub(crate) body: String,
    pub(crate) idempotency_key: String,
    #[serde(flatten)]
    pub(crate) delivery: DeliveryOptions,
}

impl Message for CreateComment {
    type Result = Result<CallReceipt, CallError>;
}

impl CreateComment {
    /// A comment on the issue with this id. The body is sent as it is, in the issue tracker's own markup.
    pub fn new(issue_id: impl Into<String>, body: impl Into<String>) -> Self {
        Self {
            issue_id: issue_id.into(),
            body: body.into(),
            idempotency_key: new_idempotency_key(),
            delivery: DeliveryOptions::default(),
        }
    }

    /// The id of the issue.
    #[must_use]
    pub fn issue_id(&self) -> &str {
        &self.issue_id
    }

    /// The text of the comment.
    #[must_use]
    pub fn body(&self) -> &str {
        &self.body
    }

    /// The `Idempotency-Key` of the call.
    #[must_use]
    pub fn idempotency_key(&self) -> &str {
        &self.idempotency_key
    }

    pub(crate) fn check(&self) -> Result<(), InvalidMessageError> {
        check_id("issue_id", &self.issue_id)?;
        not_blank("body", &self.body)?;
        check_headers(&self.delivery.headers)?;
        check_idempotency_key(&self.idempotency_key)
    }
}

delivery_accessors!(UpdateIssueStatus, CreateComment);

fn new_idempotency_key() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Checks a key, which may come from outside, in a deserialized message.
fn check_idempotency_key(key: &str) -> Result<(), InvalidMessageError> {
    let is_header_value = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_header_value || key.len() > MAX_IDEMPOTENCY_KEY_BYTES {
        return Err(InvalidMessageError::new(
            "idempotency_key",
            "is not 1 to 255 visible ASCII characters",
        ));
    }
    Ok(())
}
