//! The rejection of a call.

use thiserror::Error;

use super::attempt::after_colon;

/// The error of a call that the platform rejected. The call is not retried, since the response would be the same.
///
/// The response was a 401, a 3xx, another 4xx (unless the platform asks for a retry), or a `success: false` of the
/// issue-tracker proxy, whose HTTP status is then a 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the platform rejected the call with status {status_code}{}", after_colon(.body))]
#[non_exhaustive]
pub struct PermanentError {
    /// The HTTP status of the response.
    pub status_code: u16,
    /// The first 4 KiB of the body at most, trimmed, with the token and the credentials of a forward proxy scrubbed.
    /// For a `success: false` of the issue-tracker proxy: the code and message of its error.
    pub body: String,
    /// How many attempts were made, including the rejected one.
    pub attempts: u32,
    /// Whether the platform may have processed an earlier attempt, whose response was lost or inconclusive.
    pub(crate) may_have_been_delivered: bool,
}

impl PermanentError {
    pub(crate) fn new(status_code: u16, body: String) -> Self {
        Self {
            status_code,
            body,
            attempts: 1,
            may_have_been_delivered: false,
        }
    }

    /// Whether the platform may have processed an earlier attempt, whose response was lost or inconclusive.
    #[must_use]
    pub fn may_have_been_delivered(&self) -> bool {
        self.may_have_been_delivered
    }

    /// A short hint for an operator, by the status: what to check or change.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self.status_code {
            200..=299 => "the issue tracker refused the call",
            300..=399 => {
                "redirects are not followed, since they may lead to a login page: check the token and the platform URL"
            }
            401 => "check or renew the worker's token",
            402 | 403 => "this worker is not permitted: check its organization and the owner of the session",
            404 | 410 => "check the session or issue id and the platform URL",
            407 => "the forward proxy requires credentials: check its URL",
            409 => "the session or issue is already in another state",
            413 => "shorten the summary or comment, or lower `max_text_bytes`",
            400 | 422 => "the platform does not accept this content: see the body of the response",
            408 | 425 | 429 => "the platform gave no usable `Retry-After`: send fewer calls, and this one later",
            _ => "sending the message again would not help",
        }
    }

    /// Whether the platform rejected the credentials rather than the call.
    pub(super) fn is_unauthorized(&self) -> bool {
        matches!(self.status_code, 401 | 302 | 303 | 307)
    }
}
