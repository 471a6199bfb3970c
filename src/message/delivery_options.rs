//! The delivery options that all messages have, their setters, and the checks that all messages need.

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::headers::Headers;
use crate::{error::InvalidMessageError, util::trimmed};

/// The delivery options that all messages have.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DeliveryOptions {
    #[serde(skip)]
    pub(crate) cancellation: Option<CancellationToken>,
    pub(crate) reply_when_durable: bool,
    #[serde(skip_serializing_if = "Headers::is_empty")]
    pub(crate) headers: Headers,
}

impl PartialEq for DeliveryOptions {
    /// Tokens have no equality.
    fn eq(&self, other: &Self) -> bool {
        (self.reply_when_durable, &self.headers) == (other.reply_when_durable, &other.headers)
    }
}

/// The setters and getters that all messages have.
macro_rules! delivery_accessors {
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

            /// Adds a header to the requests of this message, such as `traceparent`. The header is stored with the calls
            /// in the outbox. A header with the same name is replaced. Default: none.
            ///
            /// The message is refused as invalid if the header is `Authorization`, `Cookie`, `Proxy-Authorization`, one
            /// that frames an HTTP message, or one that the crate sets; if it is not a valid header; or if the headers
            /// are longer than 4096 bytes.
            pub fn with_header(mut self, name: impl AsRef<str>, value: impl Into<String>) -> Self {
                let name = name.as_ref().to_ascii_lowercase();
                self.delivery.headers.insert(name, value.into());
                self
            }

            /// Replies as soon as the outbox has stored the message, with a [`CallId`](crate::CallId) per call
            /// ([`CallReceipt::Stored`](crate::CallReceipt::Stored)). The delivery continues in this process or, if
            /// this process ends, in another process with the same outbox: for a runner that must exit now. If the
            /// message can't be stored, the reply is the outcome of its delivery. The calls of a message are stored
            /// together, or none of them. Default: off.
            ///
            /// Without an outbox the message is refused as invalid.
            pub fn reply_when_durable(mut self) -> Self {
                self.delivery.reply_when_durable = true;
                self
            }

            /// The token that cancels the delivery, if there is one.
            #[must_use]
            pub fn cancellation(&self) -> Option<&tokio_util::sync::CancellationToken> {
                self.delivery.cancellation.as_ref()
            }

            /// The headers that the message adds, with their names in lower case, ordered by name.
            pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
                let headers = self.delivery.headers.iter();
                headers.map(|(name, value)| (name.as_str(), value.as_str()))
            }

            /// Whether the reply is sent as soon as the outbox has stored the message.
            #[must_use]
            pub fn replies_when_durable(&self) -> bool {
                self.delivery.reply_when_durable
            }
        }
    )+};
}

pub(super) use delivery_accessors;

/// The longest id, and the longest name of a status, in bytes.
pub(crate) const MAX_ID_BYTES: usize = 4096;

/// Refuses an id that is blank, or that would not fit into a body beside its texts.
pub(super) fn check_id(field: &'static str, id: &str) -> Result<(), InvalidMessageError> {
    not_blank(field, id)?;
    if id.len() > MAX_ID_BYTES {
        return Err(InvalidMessageError::new(field, "is longer than 4096 bytes"));
    }
    Ok(())
}

pub(super) fn not_blank(field: &'static str, value: &str) -> Result<(), InvalidMessageError> {
    if trimmed(value).is_empty() {
        return Err(InvalidMessageError::new(field, "is empty or blank"));
    }
    Ok(())
}
