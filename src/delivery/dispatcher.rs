//! The types of a delivery: the dispatcher, the job of a message, and the state of one call.

use std::{cell::Cell, future::Ready, rc::Rc};

use futures_util::future::{Either, LocalBoxFuture};
use tokio_util::sync::CancellationToken;

use super::{
    cancel::Cancellation,
    gate::{Admission, Gates, Passage},
    worker::Worker,
};
use crate::{
    backoff::RetryPolicy,
    call::{Call, Platform},
    clock::Clock,
    credentials::Credentials,
    error::{AttemptPhase, CallError, CancelledBy},
    queue::{Permit, Ticket},
    telemetry::{Begin, Telemetry},
    transport::Transport,
    verdict::Alternatives,
};

/// The dependencies of a delivery. The dispatcher and the running calls survive a restart of the actor.
pub(crate) struct Dispatcher {
    pub(crate) platform: Platform,
    pub(crate) credentials: Credentials,
    /// Whether a request needs a token: `false` for a platform on loopback.
    pub(crate) token_required: bool,
    pub(crate) transport: Rc<dyn Transport>,
    pub(crate) retry_policy: RetryPolicy,
    pub(crate) clock: Clock,
    /// A random number from 0 to 1.
    pub(crate) chance: fn() -> f64,
    pub(crate) telemetry: Rc<Telemetry>,
    pub(crate) gates: Rc<Gates>,
    /// Cancelled when the time limit of a shutdown expires.
    pub(crate) shutdown: CancellationToken,
    /// The `Date` of the platform's last response, in milliseconds since 1970.
    pub(crate) platform_time: Cell<Option<i64>>,
}

/// Asks whether a call of a message, which has this index, may still be sent. An error ends the call instead.
pub(crate) type MaySend = Box<dyn Fn(usize) -> Either<Ready<MaySendResult>, LocalBoxFuture<'static, MaySendResult>>>;

pub(crate) type MaySendResult = Result<(), CallError>;

/// A message with a place in the queue. In one box, since an `async fn` holds its arguments twice.
pub(crate) struct Job {
    pub(crate) calls: Vec<Call>,
    pub(crate) worker: Worker,
    pub(crate) cancellation: Cancellation,
    /// How the outage gates treat it.
    pub(crate) passage: Passage,
    pub(crate) begin: Begin,
    /// Asked right before each request.
    pub(crate) may_send: Option<MaySend>,
    // Released before the ticket wakes the next message of the lane.
    pub(crate) permit: Permit,
    pub(crate) ticket: Ticket,
}

/// The state of one call that a cancellation has to report.
pub(super) struct CallState<'a> {
    pub(super) cancellation: &'a Cancellation,
    pub(super) worker: &'a Worker,
    pub(super) may_send: Option<&'a MaySend>,
    pub(super) admission: Admission,
    /// The place of the call in its message.
    pub(super) index: usize,
    /// How many attempts were begun.
    pub(super) attempts: Cell<u32>,
    /// Whether the platform may have processed one of the attempts that have ended.
    pub(super) may_have_been_delivered: Cell<bool>,
    /// The phase of the attempt that is running.
    pub(super) phase: Rc<Cell<AttemptPhase>>,
    pub(super) reauthenticated: Cell<bool>,
    pub(super) asked_for_other_worker: Cell<bool>,
}

impl CallState<'_> {
    /// The forms of the call that are left to try.
    pub(super) fn alternatives(&self, is_reduced: bool) -> Alternatives {
        Alternatives {
            other_worker: self.worker.is_replaceable() && !self.asked_for_other_worker.get(),
            reduced: !is_reduced,
        }
    }

    /// Checks that the call may still be sent.
    pub(super) async fn check(&self) -> Result<(), CallError> {
        let Some(may_send) = self.may_send else { return Ok(()) };
        may_send(self.index).await.map_err(|mut error| {
            if let CallError::Parked(parked) = &mut error {
                // The present attempt is not made.
                parked.attempts = self.attempts.get().saturating_sub(1);
                parked.may_have_been_delivered = self.may_have_been_delivered.get();
            }
            error
        })
    }

    pub(super) fn cancelled(&self, by: CancelledBy) -> CallError {
        CallError::Cancelled {
            by,
            attempts: self.attempts.get(),
            may_have_been_delivered: self.may_have_been_delivered.get() || self.phase.get() != AttemptPhase::Connecting,
        }
    }
}
