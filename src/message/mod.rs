//! The messages that a [`ResultPoster`](crate::ResultPoster) takes.

mod issue;
mod post_result;
mod shutdown;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub(crate) use self::post_result::is_path_segment;
pub use self::{
    issue::{CreateComment, UpdateIssueStatus},
    post_result::PostResult,
    shutdown::Shutdown,
};
use crate::error::InvalidMessageError;

/// The delivery options that all messages have.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DeliveryOptions {
    #[serde(skip)]
    pub(crate) cancellation: Option<CancellationToken>,
    pub(crate) reply_when_durable: bool,
}

impl PartialEq for DeliveryOptions {
    /// Tokens have no equality.
    fn eq(&self, other: &Self) -> bool {
        self.reply_when_durable == other.reply_when_durable
    }
}

/// The setters that all messages have.
macro_rules! delivery_setters {
    ($($message:ident),+) => {$(
        impl $message {
            /// Sets the token that cancels the delivery at any point. Each call that was not delivered by then ends
            /// with [`CallError::Cancelled`](crate::CallError::Cancelled). Messages may share a token. A clone of the
            /// message has the same token: to repeat a cancelled message, give the clone another token. The token is
            /// neither serialized nor compared. Default: none.
            pub fn with_cancellation(mut self, token: CancellationToken) -> Self {
                self.delivery.cancellation = Some(token);
                self
            }

            /// Replies as soon as the outbox has stored the message, with a [`CallId`](crate::CallId) per call
            /// ([`CallReceipt::Stored`](crate::CallReceipt::Stored)). The delivery continues in this process or, if
            /// this process ends, in another process with the same outbox: for a runner that must exit now. If the
            /// message can't be stored, the reply is the outcome of its delivery. Default: off.
            ///
            /// Without an outbox the message is refused as invalid.
            pub fn reply_when_durable(mut self) -> Self {
                self.delivery.reply_when_durable = true;
                self
            }
        }
    )+};
}

delivery_setters!(PostResult, UpdateIssueStatus, CreateComment);

fn not_blank(field: &'static str, value: &str) -> Result<(), InvalidMessageError> {
    if value.trim().is_empty() {
        return Err(InvalidMessageError::new(field, "is empty or blank"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{AgentResult, SessionStatus};

    #[test]
    fn a_message_survives_serialization_without_its_token() {
        let result = AgentResult::new(SessionStatus::Completed).with_summary("Done.");
        let message = PostResult::new("sess-1", result)
            .with_cancellation(CancellationToken::new())
            .reply_when_durable();
        let json = serde_json::to_string(&message).unwrap();
        assert_eq!(
            json,
            r#"{"sessionId":"sess-1","result":{"status":"completed","summary":"Done."},"replyWhenDurable":true}"#
        );
        let read: PostResult = serde_json::from_str(&json).unwrap();
        assert_eq!(read, message);
        assert!(read.delivery.cancellation.is_none());

        let comment = CreateComment::new("i", "text");
        let read: CreateComment = serde_json::from_str(&serde_json::to_string(&comment).unwrap()).unwrap();
        assert_eq!((read.idempotency_key(), &read), (comment.idempotency_key(), &comment));
        assert_ne!(CreateComment::new("i", "text"), comment);
    }

    #[test]
    fn an_idempotency_key_from_outside_must_be_a_header_value() {
        let with_key = |key: &str| UpdateIssueStatus {
            idempotency_key: key.into(),
            ..UpdateIssueStatus::new("i", "Finished")
        };
        assert_eq!(with_key("a-b_c").check(), Ok(()));
        for key in ["", "a b", "a\nb", "ä", &"x".repeat(256)] {
            assert_eq!(with_key(key).check().unwrap_err().field, "idempotency_key", "{key:?}");
        }
    }
}
