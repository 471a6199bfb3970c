//! The messages that a [`ResultPoster`](crate::ResultPoster) takes.

mod delivery_options;
mod headers;
mod issue;
mod lease;
mod post_result;
mod shutdown;
mod status_fields;

pub(crate) use self::{
    delivery_options::DeliveryOptions,
    headers::{Headers, check_headers},
    post_result::is_path_segment,
    status_fields::{StatusFields, is_known_field},
};
pub use self::{
    issue::{CreateComment, UpdateIssueStatus},
    lease::TerminalWorkareaLease,
    post_result::PostResult,
    shutdown::Shutdown,
};

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

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
        assert!(message.cancellation().is_some() && read.cancellation().is_none());
        assert!(read.replies_when_durable());

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
