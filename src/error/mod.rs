//! The errors of messages, of options, of credentials and of the outbox. (The errors of parsing a name or an id are
//! beside the types that are parsed.)
//!
//! *Permanent* means that the platform rejected the call and would reject it again. *Transient* means that the same
//! message may succeed later. Sending a [`PostResult`](crate::PostResult) again is safe on a platform that honours
//! `Idempotency-Key`: the same result carries the same keys.
//!
//! The `Display` of each error describes its own layer; the cause is its `source()`. Use a reporter that prints the
//! chain, such as `anyhow`'s `{:#}`.

mod attempt;
mod call;
mod config;
mod credentials;
mod invalid;
mod kind;
mod next_step;
mod options;
mod outbox;
mod parked;
mod permanent;
mod post;
mod shared;
mod transient;

pub(crate) use self::permanent::RejectionCause;
pub use self::{
    attempt::{AttemptError, AttemptPhase},
    call::{CallError, CancelledBy},
    config::ConfigError,
    credentials::CredentialError,
    invalid::InvalidMessageError,
    kind::FailureKind,
    next_step::NextStep,
    options::OptionsError,
    outbox::OutboxError,
    parked::{ParkReason, ParkedError},
    permanent::PermanentError,
    post::PostError,
    shared::SharedError,
    transient::TransientError,
};
