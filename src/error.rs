//! Every error that a caller can get, and what each says to do.
//!
//! Permanent means that the platform said no and would say so again; transient means that the same
//! message may well succeed later. Sending a [`PostResult`](crate::PostResult) again is safe for a
//! platform that honours `Idempotency-Key`: the same result carries the same keys.

use std::{fmt, io, time::Duration};

use thiserror::Error;

#[cfg(feature = "outbox")]
use crate::outbox::{DeliveryId, OutboxError};
use crate::{credentials::CredentialError, outbox::Note, text::printable};

/// An option that [`OptionsBuilder::build`](crate::OptionsBuilder::build) refused, and why.
///
/// Neither field ever holds a credential.
#[derive(Debug, Error)]
#[error("option `{option}` {reason}")]
#[non_exhaustive]
pub struct OptionsError {
    /// The option's name, as it is spelt in the builder.
    pub option: &'static str,
    /// What is wrong with its value.
    pub reason: String,
}

impl OptionsError {
    pub(crate) fn new(option: &'static str, reason: impl Into<String>) -> Self {
        Self {
            option,
            reason: reason.into(),
        }
    }
}

/// A message that was refused before anything was sent: the field at fault, and why.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{field}` {reason}")]
#[non_exhaustive]
pub struct InvalidMessage {
    /// The field's name, as it is spelt in the message.
    pub field: &'static str,
    /// What is wrong with its value.
    pub reason: &'static str,
}

/// The platform said no. The call was not retried, since the answer would be the same.
///
/// Any 401, any 3xx, any other 4xx (unless the platform asks for a retry), and a `success: false` of
/// the issue-tracker proxy, whose HTTP status is then a 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the platform rejected the call with status {status_code} ({}){}", self.advice(), after_colon(.body))]
#[non_exhaustive]
pub struct PermanentError {
    /// The HTTP status of the answer.
    pub status_code: u16,
    /// At most the first 4 KiB of the answer's body, trimmed, with the token and the forward proxy's credentials
    /// scrubbed from it. Of a proxy's `success: false`, its error's code and message.
    pub body: String,
    /// Attempts that were made, with the one that was rejected.
    pub attempts: u32,
    /// By an earlier attempt, whose answer never came or did not say.
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

    /// What to do about this status, in a few words.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self.status_code {
            200..=299 => "the issue tracker refused the call",
            300..=399 => {
                "a redirect is not followed; it may lead to a login page: check the token and the platform URL"
            }
            401 => "check or renew the worker's token",
            402 | 403 => "this worker may not do this: check its organization and the session's owner",
            404 | 410 => "check the session or issue id and the platform URL",
            407 => "the proxy asks for credentials: check those in its URL",
            409 => "the session or issue is in another state already",
            413 => "shorten the summary or comment, or lower `max_summary_bytes`",
            400 | 422 => "the platform does not accept this content: read its answer",
            408 | 425 | 429 => "the platform names no time to try again: slow down and send it later",
            _ => "sending it again would not help",
        }
    }
}

/// The call's attempts are spent, the platform asked for a longer pause than `max_retry_after` allows, or the call was
/// left to the outbox. [`source`](std::error::Error::source) is the last attempt's own error.
#[derive(Debug, Error)]
#[error("gave up after {attempts} attempt{}; {}", if *.attempts == 1 { "" } else { "s" }, self.what_next())]
#[non_exhaustive]
pub struct TransientError {
    /// Attempts that were made: at least one, or 0 if the call was left to the outbox at once or by a shutdown.
    pub attempts: u32,
    /// Why the last attempt failed.
    #[source]
    pub last: AttemptError,
    /// The pause that the platform asked for in its last answer, if it did.
    pub retry_after: Option<Duration>,
    pub(crate) may_have_been_delivered: bool,
    pub(crate) outbox: Note,
}

impl TransientError {
    /// Whether the call is in the outbox, and delivered from there as soon as that can be done: then do not send it
    /// again. Never so without an outbox.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.outbox.is_kept()
    }

    /// The call's number in the outbox, if it is parked.
    #[cfg(feature = "outbox")]
    #[must_use]
    pub fn delivery_id(&self) -> Option<DeliveryId> {
        self.outbox.kept()
    }

    /// Why the call could not be kept in the outbox, if so.
    #[cfg(feature = "outbox")]
    #[must_use]
    pub fn outbox_error(&self) -> Option<&OutboxError> {
        self.outbox.not_kept()
    }

    fn what_next(&self) -> &'static str {
        if self.is_parked() {
            "it is in the outbox, and will be sent again from there"
        } else {
            "send it again later"
        }
    }
}

/// Why one attempt brought no final word from the platform.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AttemptError {
    /// The call was left to the outbox: at once, or by a shutdown, which may have broken off its attempts (see
    /// [`CallError::may_have_been_delivered`]).
    #[error("not attempted: {reason}")]
    NotAttempted {
        /// Why.
        reason: &'static str,
    },
    /// There were no credentials to be had. Nothing was sent.
    #[error("no credentials for now, nothing was sent")]
    Credentials(#[source] CredentialError),
    /// There was no connection: name not resolved, refused, unreachable, proxy, TLS, `connect_timeout`. Its source says
    /// how far it got.
    /// Nothing was sent.
    #[error("no connection to the platform, nothing was sent")]
    Connect(#[source] io::Error),
    /// The deadline of one attempt (`timeout`) passed.
    #[error("the deadline of {limit:?} passed {stage}, {}", stage.reach())]
    Timeout {
        /// The deadline.
        limit: Duration,
        /// Where the attempt had got stuck.
        stage: Stage,
    },
    /// The connection failed while the request was sent or the answer awaited, or the answer
    /// was not HTTP.
    #[error("the connection failed before an answer came, the platform may have taken the request")]
    Disconnected(#[source] io::Error),
    /// The platform gave the request back untouched, as HTTP/2 lets it (a refused stream, or the end of the
    /// connection).
    #[error("the platform gave the request back, nothing was done")]
    Refused(#[source] io::Error),
    /// The platform answered that it can't now: a 5xx, a 4xx that asks for a retry, or the
    /// proxy's `success: false` with `retryable: true`.
    #[error("the platform answered {status_code}{}", after_colon(.body))]
    Unavailable {
        /// The HTTP status of the answer.
        status_code: u16,
        /// As in [`PermanentError::body`].
        body: String,
    },
    /// An answer that the platform itself does not give: HTML in place of JSON, a proxy's envelope
    /// cut short, a 1xx as the final answer. Something in between may have answered.
    #[error("the answer with status {status_code} is not the platform's: {reason}{}", after_colon(.body))]
    Unrecognized {
        /// The HTTP status of the answer.
        status_code: u16,
        /// What is wrong with it.
        reason: &'static str,
        /// As in [`PermanentError::body`].
        body: String,
    },
}

/// How far an attempt had got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// There was no connection yet. Nothing was sent.
    Connecting,
    /// The request was being sent: the platform, or something in between, did not read it.
    Sending,
    /// The request was sent, as far as the client knows.
    Waiting,
}

impl Stage {
    /// What the platform may have of the request.
    fn reach(self) -> &'static str {
        match self {
            Self::Connecting => "nothing was sent",
            Self::Sending | Self::Waiting => "the platform may have taken the request",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "while connecting",
            Self::Sending => "while sending the request",
            Self::Waiting => "while waiting for the answer",
        })
    }
}

impl AttemptError {
    /// Whether the platform may have carried the call out in this attempt.
    #[must_use]
    pub fn may_have_been_delivered(&self) -> bool {
        match self {
            Self::NotAttempted { .. } | Self::Credentials(_) | Self::Connect(_) | Self::Refused(_) => false,
            // These say that it was not done, and when to come back.
            Self::Unavailable { status_code, .. } => *status_code >= 500,
            Self::Timeout { stage, .. } => *stage != Stage::Connecting,
            Self::Disconnected(_) | Self::Unrecognized { .. } => true,
        }
    }

    /// For log lines, which hold no answer's body.
    pub(crate) fn without_body(&self) -> String {
        match self {
            Self::Unavailable { status_code, .. } => format!("the platform answered {status_code}"),
            Self::Unrecognized {
                status_code, reason, ..
            } => format!("the answer with status {status_code} is not the platform's: {reason}"),
            Self::NotAttempted { .. }
            | Self::Credentials(_)
            | Self::Connect(_)
            | Self::Timeout { .. }
            | Self::Disconnected(_)
            | Self::Refused(_) => chain(self),
        }
    }
}

/// Why one call (an [`UpdateIssueStatus`](crate::UpdateIssueStatus), a
/// [`CreateComment`](crate::CreateComment), or one half of a [`PostResult`](crate::PostResult)) was
/// not delivered.
///
/// Its `Display` is its own layer's; the cause of a [`Transient`](Self::Transient) is in the chain of
/// [`source`](std::error::Error::source), as usual.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CallError {
    /// The message was refused; nothing was sent. Mend the field that it names.
    #[error("the message is invalid, nothing was sent: {0}")]
    Invalid(#[from] InvalidMessage),
    /// There is neither a token nor a provider of one, and the platform is not on loopback; nothing was sent.
    #[error("there is no token for this platform, nothing was sent: set `auth_token` or a credential provider")]
    NoCredentials,
    /// The platform said no.
    #[error(transparent)]
    Permanent(#[from] PermanentError),
    /// The attempts are spent, or the call was left to the outbox.
    #[error(transparent)]
    Transient(#[from] TransientError),
    /// The message's cancellation token was cancelled, or the time of a [`Shutdown`](crate::Shutdown) was over, before
    /// the call was done.
    #[error("cancelled{}", if *.may_have_been_delivered { ", the platform may have taken the request" } else { ", the platform has not taken it" })]
    Cancelled {
        /// Whether an attempt had been started that the platform may have acted upon.
        may_have_been_delivered: bool,
    },
    /// `max_queued` messages wait already, and there is no outbox to take it; nothing was sent. Send it again when some
    /// have ended.
    #[error("too many messages are waiting, nothing was sent: send it again later")]
    Overloaded,
    /// The poster was told to shut down before it had the message; nothing was sent.
    #[error("the poster is shutting down, nothing was sent")]
    ShuttingDown,
    /// A bug in this crate, or a panic in a closure that was given to it: the panic's message.
    #[error("internal error, please report it: {message}")]
    Internal {
        /// The message of the panic.
        message: String,
    },
}

impl CallError {
    /// The platform's refusal, if it was one.
    #[must_use]
    pub fn permanent(&self) -> Option<&PermanentError> {
        if let Self::Permanent(error) = self {
            Some(error)
        } else {
            None
        }
    }

    /// The spent attempts, if that was it.
    #[must_use]
    pub fn transient(&self) -> Option<&TransientError> {
        if let Self::Transient(error) = self {
            Some(error)
        } else {
            None
        }
    }

    /// Whether the same message (a clone of it), sent again later to the same poster, may succeed: after `Transient`,
    /// unless it is parked, and `Overloaded`. What was `Cancelled` by a shutdown, or came too late (`ShuttingDown`), is
    /// for the next poster.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Transient(error) => !error.is_parked(),
            Self::Overloaded => true,
            Self::Invalid(_)
            | Self::NoCredentials
            | Self::Permanent(_)
            | Self::Cancelled { .. }
            | Self::ShuttingDown
            | Self::Internal { .. } => false,
        }
    }

    /// Whether the platform may have carried the call out all the same: some attempt was sent and its
    /// answer never came, or it failed in a way that does not say.
    #[must_use]
    pub fn may_have_been_delivered(&self) -> bool {
        match self {
            Self::Permanent(error) => error.may_have_been_delivered,
            Self::Transient(error) => error.may_have_been_delivered,
            Self::Cancelled {
                may_have_been_delivered,
            } => *may_have_been_delivered,
            Self::Internal { .. } => true,
            Self::Invalid(_) | Self::NoCredentials | Self::Overloaded | Self::ShuttingDown => false,
        }
    }

    /// For log lines, which hold no answer's body.
    pub(crate) fn without_body(&self) -> String {
        match self {
            Self::Permanent(error) => format!("rejected with status {} ({})", error.status_code, error.advice()),
            Self::Transient(error) if error.attempts == 0 => error.last.without_body(),
            Self::Transient(error) => format!("attempts spent: {}", error.last.without_body()),
            Self::Invalid(_)
            | Self::NoCredentials
            | Self::Cancelled { .. }
            | Self::Overloaded
            | Self::ShuttingDown
            | Self::Internal { .. } => chain(self),
        }
    }
}

/// Why a [`PostResult`](crate::PostResult) was not delivered whole: which of its two calls failed,
/// and how.
///
/// Its `Display` names the calls and holds the messages of all causes, so that one log line is enough. What
/// never got as far as the first call ([`CallError::Overloaded`], [`CallError::ShuttingDown`], a cancellation) is
/// [`Both`](Self::Both).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PostError {
    /// The message was refused; nothing was sent. Mend the field that it names.
    #[error("the result is invalid, nothing was sent: {0}")]
    Invalid(#[from] InvalidMessage),
    /// The completion failed; the status was delivered: the session's lock is released, the issue
    /// has no comment.
    #[error("completion failed: {}; status was delivered", chain(.0))]
    Completion(#[source] CallError),
    /// The completion was delivered; the status failed: the session's lock may still be held.
    #[error("completion was delivered; status failed: {}", chain(.0))]
    Status(#[source] CallError),
    /// Both failed, or were never sent.
    #[error("completion failed: {}; status failed: {}", chain(.completion), chain(.status))]
    Both {
        /// Why the completion failed.
        #[source]
        completion: CallError,
        /// Why the status failed.
        status: CallError,
    },
}

impl PostError {
    pub(crate) fn internal(message: String) -> Self {
        Self::Both {
            completion: CallError::Internal {
                message: message.clone(),
            },
            status: CallError::Internal { message },
        }
    }

    /// Why the completion failed, if it did.
    #[must_use]
    pub fn completion(&self) -> Option<&CallError> {
        match self {
            Self::Completion(error) | Self::Both { completion: error, .. } => Some(error),
            Self::Invalid(_) | Self::Status(_) => None,
        }
    }

    /// Why the status failed, if it did.
    #[must_use]
    pub fn status(&self) -> Option<&CallError> {
        match self {
            Self::Status(error) | Self::Both { status: error, .. } => Some(error),
            Self::Invalid(_) | Self::Completion(_) => None,
        }
    }

    fn calls(&self) -> impl Iterator<Item = &CallError> {
        self.completion().into_iter().chain(self.status())
    }

    /// The platform's refusal of the completion or else of the status, if there was one.
    #[must_use]
    pub fn permanent(&self) -> Option<&PermanentError> {
        self.calls().find_map(CallError::permanent)
    }

    /// The spent attempts of the completion or else of the status, if that was it.
    #[must_use]
    pub fn transient(&self) -> Option<&TransientError> {
        self.calls().find_map(CallError::transient)
    }

    /// Whether the same message, sent again later, may deliver a call that failed now: if either is retryable.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.calls().any(CallError::is_retryable)
    }

    /// Whether the platform may have carried out a call that failed here.
    #[must_use]
    pub fn may_have_been_delivered(&self) -> bool {
        self.calls().any(CallError::may_have_been_delivered)
    }
}

/// An error with all its sources, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}

/// A body as the end of a line: what would break the line, or steer a terminal, is escaped.
fn after_colon(body: &str) -> String {
    if body.is_empty() {
        String::new()
    } else {
        format!(": {}", printable(body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(status_code: u16) -> CallError {
        CallError::Permanent(PermanentError::new(status_code, "no".into()))
    }

    fn late(stage: Stage) -> AttemptError {
        AttemptError::Timeout {
            limit: Duration::from_secs(30),
            stage,
        }
    }

    fn spent(last: AttemptError, may_have_been_delivered: bool) -> CallError {
        CallError::Transient(TransientError {
            attempts: 3,
            last,
            retry_after: None,
            may_have_been_delivered,
            outbox: Note::default(),
        })
    }

    #[test]
    fn errors_are_send_sync_and_static() {
        fn check<T: std::error::Error + Send + Sync + 'static>() {}
        check::<OptionsError>();
        check::<InvalidMessage>();
        check::<PermanentError>();
        check::<TransientError>();
        check::<AttemptError>();
        check::<CallError>();
        check::<PostError>();
    }

    #[test]
    fn sources_lead_to_the_first_cause() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = PostError::Status(spent(AttemptError::Connect(refused), false));
        let mut causes = Vec::new();
        let mut next: Option<&dyn std::error::Error> = Some(&error);
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        assert_eq!(
            causes,
            [
                "completion was delivered; status failed: gave up after 3 attempts; \
                 send it again later: no connection to the platform, nothing was sent: connection refused",
                "gave up after 3 attempts; send it again later",
                "no connection to the platform, nothing was sent",
                "connection refused",
            ]
        );
    }

    #[test]
    fn both_names_both_calls_and_holds_both_messages() {
        let error = PostError::Both {
            completion: rejected(422),
            status: spent(late(Stage::Waiting), true),
        };
        let line = error.to_string();
        assert!(line.starts_with("completion failed: the platform rejected the call with status 422"));
        assert!(line.contains("; status failed: gave up after 3 attempts"));
        assert_eq!(error.permanent().map(|e| e.status_code), Some(422));
        assert_eq!(error.transient().map(|e| e.attempts), Some(3));
        assert!(error.is_retryable());
        assert!(error.may_have_been_delivered());
    }

    #[test]
    fn a_body_can_not_break_the_line_or_steer_a_terminal() {
        let body = "one\ntwo\r\u{1b}[31mred\u{9b}\u{202e}naïve 日本";
        let error = PermanentError::new(400, body.into());
        assert!(
            error
                .to_string()
                .ends_with(r": one\ntwo\r\u{1b}[31mred\u{9b}\u{202e}naïve 日本"),
            "{error}"
        );
        assert_eq!(error.body, body);
    }

    #[test]
    fn an_attempt_may_have_been_delivered_unless_it_is_known_not_to_be() {
        let io = || io::Error::other("broken");
        let unavailable = |status_code| AttemptError::Unavailable {
            status_code,
            body: String::new(),
        };
        let unrecognized = AttemptError::Unrecognized {
            status_code: 200,
            reason: "it is an HTML page",
            body: String::new(),
        };
        for (error, expected) in [
            (AttemptError::Credentials(CredentialError::NoToken), false),
            (AttemptError::Connect(io()), false),
            (late(Stage::Connecting), false),
            (late(Stage::Sending), true),
            (late(Stage::Waiting), true),
            (AttemptError::Disconnected(io()), true),
            (AttemptError::Refused(io()), false),
            (unavailable(200), false),
            (unavailable(429), false),
            (unavailable(500), true),
            (unavailable(503), true),
            (unrecognized, true),
        ] {
            assert_eq!(error.may_have_been_delivered(), expected, "{error:?}");
        }
    }

    #[test]
    fn each_call_error_says_whether_to_try_again_and_whether_it_may_have_been_delivered() {
        let invalid = InvalidMessage {
            field: "issue_id",
            reason: "is empty or blank",
        };
        let after_doubt = PermanentError {
            may_have_been_delivered: true,
            ..PermanentError::new(409, String::new())
        };
        let cancelled = |may_have_been_delivered| CallError::Cancelled {
            may_have_been_delivered,
        };
        // It may have been sent, and been refused for now.
        assert_eq!(cancelled(false).to_string(), "cancelled, the platform has not taken it");
        let internal = CallError::Internal {
            message: "oh".to_owned(),
        };
        let last = || late(Stage::Waiting);
        for (error, retryable, delivered) in [
            (CallError::Invalid(invalid), false, false),
            (CallError::NoCredentials, false, false),
            (rejected(404), false, false),
            (CallError::Permanent(after_doubt), false, true),
            (spent(last(), true), true, true),
            (spent(last(), false), true, false),
            (cancelled(true), false, true),
            (cancelled(false), false, false),
            (CallError::Overloaded, true, false),
            (CallError::ShuttingDown, false, false),
            (internal, false, true),
        ] {
            assert_eq!(error.is_retryable(), retryable, "{error:?}");
            assert_eq!(error.may_have_been_delivered(), delivered, "{error:?}");
            assert_eq!(error.permanent().is_some(), matches!(error, CallError::Permanent(_)));
            assert_eq!(error.transient().is_some(), matches!(error, CallError::Transient(_)));
            assert!(!error.to_string().ends_with('.') && !error.without_body().is_empty());
        }
    }
}
