//! The messages that a [`ResultPoster`](crate::ResultPoster) takes.

mod delivery_options;
mod headers;
mod issue;
mod lease;
mod platform_reachable;
mod post_result;
mod shutdown;
mod status_fields;

pub(crate) use self::{
    delivery_options::{DeliveryOptions, MAX_ID_BYTES},
    headers::{Headers, check_headers},
    post_result::is_path_segment,
    status_fields::{StatusFields, is_known_field},
};
pub use self::{
    issue::{CreateComment, UpdateIssueStatus},
    lease::TerminalWorkareaLease,
    platform_reachable::PlatformReachable,
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
    fn every_part_of_a_result_survives_serialization() {
        let lease = TerminalWorkareaLease::new("twl_1", "wa_1", "tr_1", "2026-10-01T12:30:00Z");
        let message = PostResult::new("s", AgentResult::new(SessionStatus::Stopped))
            .with_worker_id("w")
            .with_run(7)
            .with_header("TraceParent", "00-1")
            .with_status_field("laterField", 1)
            .with_terminal_workarea_lease(lease.clone());
        let read: PostResult = serde_json::from_value(serde_json::to_value(&message).unwrap()).unwrap();
        assert_eq!(read, message);
        assert_eq!((read.worker_id(), read.run()), (Some("w"), Some(7)));
        assert_eq!(read.headers().collect::<Vec<_>>(), [("traceparent", "00-1")]);
        assert_eq!(read.status_fields().collect::<Vec<_>>(), [("laterField", &1.into())]);
        assert_eq!(read.terminal_workarea_lease(), Some(&lease));
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
