//! The delivery options that all messages have, their setters, and a check that all messages need.

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

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
            pub fn with_cancellation(mut self, token: tokio_util::sync::CancellationToken) -> Self {
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

pub(super) use delivery_setters;

pub(super) fn not_blank(field: &'static str, value: &str) -> Result<(), InvalidMessageError> {
    if value.trim().is_empty() {
        return Err(InvalidMessageError::new(field, "is empty or blank"));
    }
    Ok(())
}
