//! What becomes of every call: counted, logged, and told to subscribers, in one place.

use std::{cell::RefCell, time::Duration};

use actix::{Message, Recipient, prelude::SendError};
use log::{Level, debug, info, log, trace, warn};

use crate::{
    error::{AttemptError, CallError},
    message::{CallReceipt, ShutdownReport},
    panics::quietly,
};

/// Something that happened to a call, for metrics and logs; see [`Subscribe`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliveryEvent {
    /// The call: `completion`, `status`, `updateIssueStatus` or `createComment`.
    pub call: &'static str,
    /// The id of the session or issue that it is about.
    pub subject: String,
    /// What happened.
    pub kind: DeliveryEventKind,
}

impl Message for DeliveryEvent {
    type Result = ();
}

/// What happened to a call. It begins with `Accepted` and ends with `Delivered` or `Failed`; one that is refused only
/// fails.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeliveryEventKind {
    /// The call has its place.
    Accepted,
    /// An attempt failed.
    #[non_exhaustive]
    AttemptFailed {
        /// Its number, from 1.
        attempt: u32,
        /// Why, without the body of an answer.
        reason: String,
        /// How long the call waits before its next attempt; `None` if there is none.
        wait: Option<Duration>,
    },
    /// The platform rejected the credentials, and the call is sent again, at once, with others.
    #[non_exhaustive]
    Reauthenticating {
        /// The HTTP status of the answer.
        status_code: u16,
    },
    /// The platform has taken the call.
    #[non_exhaustive]
    Delivered {
        /// As in [`CallReceipt`].
        attempts: u32,
        /// As in [`CallReceipt`].
        elapsed: Duration,
    },
    /// The call ended with a [`CallError`].
    #[non_exhaustive]
    Failed {
        /// Which one.
        failure: Failure,
        /// As in [`CallError::may_have_been_delivered`].
        may_have_been_delivered: bool,
    },
}

/// The kinds of [`CallError`], without what they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// [`CallError::Invalid`]
    Invalid,
    /// [`CallError::NoCredentials`]
    NoCredentials,
    /// [`CallError::Permanent`]
    Permanent,
    /// [`CallError::Transient`]
    Transient,
    /// [`CallError::Transient`], of a call that is in the outbox.
    Parked,
    /// [`CallError::Cancelled`]
    Cancelled,
    /// [`CallError::Overloaded`]
    Overloaded,
    /// [`CallError::ShuttingDown`]
    ShuttingDown,
    /// [`CallError::Internal`]
    Internal,
}

/// Sends every [`DeliveryEvent`] from now on to an actor.
///
/// It costs the poster nothing if that is slow or gone: an event that does not fit into its mailbox is dropped
/// and counted in [`PosterStats::events_missed`] (actix's mailboxes hold 16 by default, see
/// [`Context::set_mailbox_capacity`](actix::Context::set_mailbox_capacity)), and one that is gone is forgotten.
///
/// The poster keeps the address: an actor that subscribes and holds the poster's ends only by a
/// [`Shutdown`](crate::Shutdown).
#[derive(Debug)]
pub struct Subscribe(pub Recipient<DeliveryEvent>);

impl Message for Subscribe {
    type Result = ();
}

/// Asks a poster for its [`PosterStats`]: cheap enough for every second.
#[derive(Debug, Clone, Copy)]
pub struct GetStats;

impl Message for GetStats {
    type Result = PosterStats;
}

/// What a poster has done since it was started, restarts included, and what it is doing.
///
/// The unit is the call: a result is two. An accepted call ends as exactly one of `delivered`, `permanent`,
/// `transient`, `parked`, `cancelled` and `panics`. What comes back from the outbox is accepted anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PosterStats {
    /// Calls that got their place.
    pub accepted: u64,
    /// Calls that the platform has taken.
    pub delivered: u64,
    /// Calls that the platform rejected, or that had neither a token nor a provider of one.
    pub permanent: u64,
    /// Calls whose attempts are spent.
    pub transient: u64,
    /// Calls that were left to the outbox, to be sent again later.
    pub parked: u64,
    /// Calls that were cancelled, by their token or by a shutdown.
    pub cancelled: u64,
    /// Calls that were refused without being accepted: invalid, overloaded, shutting down.
    pub refused: u64,
    /// Calls that ended with [`CallError::Internal`].
    pub panics: u64,
    /// Attempts that were begun.
    pub attempts: u64,
    /// Attempts after the first of a call.
    pub retries: u64,
    /// Times that the provider was asked for credentials, by the poster's own actor: for every attempt, if they may not
    /// be cached. 0 with [`credential_actor`](crate::OptionsBuilder::credential_actor).
    pub refreshes: u64,
    /// Restarts of the poster.
    pub restarts: u64,
    /// Events that a subscriber had no room for.
    pub events_missed: u64,
    /// Gauge: messages that have a slot, which is for one attempt at a time.
    pub running: usize,
    /// Gauge: messages that wait for their turn, for a slot, or for their next attempt.
    pub waiting: usize,
    /// Gauge: sessions and issues with a message that runs or waits.
    pub lanes: usize,
}

impl PosterStats {
    /// What ended between an earlier count and this one.
    pub(crate) fn since(&self, before: &Self) -> ShutdownReport {
        let failed = |stats: &Self| {
            [stats.permanent, stats.transient, stats.panics]
                .into_iter()
                .fold(0, u64::saturating_add)
        };
        ShutdownReport {
            delivered: self.delivered.saturating_sub(before.delivered),
            failed: failed(self).saturating_sub(failed(before)),
            cancelled: self.cancelled.saturating_sub(before.cancelled),
            parked: self.parked.saturating_sub(before.parked),
        }
    }
}

/// Keeps the counters, writes the log lines, and tells the subscribers.
#[derive(Default)]
pub(crate) struct Journal {
    stats: RefCell<PosterStats>,
    subscribers: RefCell<Vec<Recipient<DeliveryEvent>>>,
}

/// Of which call something is told: its name, and the id of its session or issue.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a>(pub(crate) &'static str, pub(crate) &'a str);

impl Journal {
    /// The counters so far; the gauges are not its own.
    pub(crate) fn stats(&self) -> PosterStats {
        *self.stats.borrow()
    }

    pub(crate) fn subscribe(&self, subscriber: Recipient<DeliveryEvent>) {
        self.subscribers.borrow_mut().push(subscriber);
    }

    pub(crate) fn restarted(&self) {
        count(&mut self.stats.borrow_mut().restarts);
    }

    pub(crate) fn accepted(&self, Subject(call, subject): Subject<'_>) {
        count(&mut self.stats.borrow_mut().accepted);
        quietly(|| trace!(call, subject:?; "accepted"));
        self.tell(call, subject, || DeliveryEventKind::Accepted);
    }

    pub(crate) fn attempt(&self, number: u32) {
        let stats = &mut *self.stats.borrow_mut();
        count(&mut stats.attempts);
        if number > 1 {
            count(&mut stats.retries);
        }
    }

    pub(crate) fn attempt_failed(
        &self,
        Subject(call, subject): Subject<'_>,
        attempt: u32,
        cause: &AttemptError,
        wait: Option<Duration>,
    ) {
        let reason = cause.without_body();
        let verdict = "transient";
        quietly(|| warn!(call, subject:?, attempt, verdict, wait:?; "attempt failed: {reason}"));
        self.tell(call, subject, || DeliveryEventKind::AttemptFailed {
            attempt,
            reason,
            wait,
        });
    }

    pub(crate) fn reauthenticating(&self, Subject(call, subject): Subject<'_>, status_code: u16) {
        quietly(|| info!(call, subject:?, status_code; "the credentials were rejected, sending it again with others"));
        self.tell(call, subject, || DeliveryEventKind::Reauthenticating { status_code });
    }

    pub(crate) fn ended(&self, subject: Subject<'_>, outcome: &Result<CallReceipt, CallError>) {
        match outcome {
            Ok(receipt) => self.delivered(subject, receipt),
            Err(error) => self.failed(subject, error),
        }
    }

    fn delivered(&self, Subject(call, subject): Subject<'_>, receipt: &CallReceipt) {
        let &CallReceipt { attempts, elapsed, .. } = receipt;
        count(&mut self.stats.borrow_mut().delivered);
        quietly(|| debug!(call, subject:?, attempts, elapsed:?; "delivered"));
        self.tell(call, subject, || DeliveryEventKind::Delivered { attempts, elapsed });
    }

    fn failed(&self, Subject(call, subject): Subject<'_>, error: &CallError) {
        let (failure, level) = {
            let stats = &mut *self.stats.borrow_mut();
            let (failure, level, counter) = match error {
                CallError::Invalid(_) => (Failure::Invalid, Level::Warn, &mut stats.refused),
                CallError::Overloaded => (Failure::Overloaded, Level::Warn, &mut stats.refused),
                CallError::ShuttingDown => (Failure::ShuttingDown, Level::Warn, &mut stats.refused),
                CallError::NoCredentials => (Failure::NoCredentials, Level::Error, &mut stats.permanent),
                CallError::Permanent(_) => (Failure::Permanent, Level::Error, &mut stats.permanent),
                CallError::Transient(error) if error.is_parked() => (Failure::Parked, Level::Warn, &mut stats.parked),
                CallError::Transient(_) => (Failure::Transient, Level::Error, &mut stats.transient),
                CallError::Internal { .. } => (Failure::Internal, Level::Error, &mut stats.panics),
                CallError::Cancelled { .. } => (Failure::Cancelled, Level::Debug, &mut stats.cancelled),
            };
            count(counter);
            (failure, level)
        };
        quietly(|| log!(level, call, subject:?, failure:?; "not delivered: {}", error.without_body()));
        self.tell(call, subject, || DeliveryEventKind::Failed {
            failure,
            may_have_been_delivered: error.may_have_been_delivered(),
        });
    }

    fn tell(&self, call: &'static str, subject: &str, kind: impl FnOnce() -> DeliveryEventKind) {
        let mut subscribers = self.subscribers.borrow_mut();
        if subscribers.is_empty() {
            return;
        }
        let event = DeliveryEvent {
            call,
            subject: subject.to_owned(),
            kind: kind(),
        };
        subscribers.retain(|subscriber| match subscriber.try_send(event.clone()) {
            Ok(()) => true,
            Err(SendError::Full(_)) => {
                count(&mut self.stats.borrow_mut().events_missed);
                true
            }
            Err(SendError::Closed(_)) => false,
        });
    }
}

fn count(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}
