//! The outcomes of the calls of one stored message: in the store, and for their caller.

use std::{
    mem,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    dead_letter::Dead,
    disposition::{Disposition, disposition},
    faults::MAX_FAULTS,
    store::{Change, Failure, History, Settled, Then, is_isolated},
    stored::{Stored, noted},
};
use crate::{
    call::Call,
    call_id::CallId,
    delivery::Dispatcher,
    error::{AttemptError, CallError, CancelledBy, OutboxError, ParkReason, ParkedError},
    receipt::Outcome,
};

/// A call that stays in the store.
struct Kept {
    index: usize,
    id: CallId,
    reason: ParkReason,
    history: History,
    retry_after: Option<Duration>,
    /// The error for the caller if the store has lost the call.
    error: CallError,
}

/// Collects the outcomes of a message's calls. A delivered call is deleted at once; the others are written together when
/// the message ends, since its lane is released with them.
pub(super) struct Settling<'a> {
    stored: &'a Stored,
    /// Since when the message is tried.
    since: Instant,
    /// The worker id that the calls were sent with.
    worker_id: Option<String>,
    changes: Vec<(CallId, Change)>,
    kept: Vec<Kept>,
    dead: Vec<Dead>,
}

impl<'a> Settling<'a> {
    pub(super) fn new(stored: &'a Stored, since: Instant) -> Self {
        Self {
            stored,
            since,
            worker_id: stored.worker_id.clone(),
            changes: Vec::new(),
            kept: Vec::new(),
            dead: Vec::new(),
        }
    }

    /// Takes the outcome of a call, and returns the one to report. `outage` is the reason for parking the call if the platform
    /// can't be reached.
    pub(super) fn record(&mut self, index: usize, outcome: Outcome, outage: Option<ParkReason>) -> Outcome {
        let Some(row) = self.stored.calls.get(index) else {
            return outcome;
        };
        let inner = &self.stored.outbox.0;
        let target = &self.stored.target;
        let now = inner.clock.instant();
        inner.witnesses.borrow_mut().note(target, outcome.is_ok(), now);
        let error = match outcome {
            Ok(receipt) => {
                let is_last = self.stored.calls.len() <= index.saturating_add(1);
                self.delete_now(row.id, if is_last { Then::Continue } else { Then::Stay });
                return Ok(receipt);
            }
            // The lane is another owner's: the call is too.
            Err(error @ CallError::Parked(_)) => {
                if index > 0 {
                    // Unless the call itself is gone: then the lane may be empty.
                    let look = self.stored.settlement(Vec::new(), Then::Continue);
                    inner.settle_later(look);
                }
                return Err(error);
            }
            Err(error) => error,
        };
        match disposition(inner, self.stored, row, &error, outage, self.since, now) {
            Disposition::Delete => {
                self.changes.push((row.id, Change::Withdraw));
                Err(error)
            }
            Disposition::DeadLetter { history, is_expired } => {
                let mut failure = self.failure(&error, history);
                if is_expired {
                    failure.error = format!("expired; {}", failure.error);
                }
                self.dead.push(Dead {
                    index,
                    status_code: failure.status_code,
                    reason: failure.error.clone(),
                    attempts: failure.history.attempts,
                });
                self.changes.push((row.id, Change::DeadLetter(failure)));
                Err(error)
            }
            Disposition::Keep { reason, history } => {
                let failure = self.failure(&error, history.clone());
                self.changes.push((row.id, Change::Keep(failure)));
                let rejected = || Some(AttemptError::Rejected(error.permanent()?.clone()));
                let last = error.transient().map(|error| error.last.clone()).or_else(rejected);
                let retry_after = error.transient().and_then(|error| error.retry_after);
                let parked = ParkedError {
                    id: row.id,
                    reason,
                    attempts: error.attempts(),
                    last,
                    may_have_been_delivered: error.may_have_been_delivered(),
                };
                self.kept.push(Kept {
                    index,
                    id: row.id,
                    reason,
                    history,
                    retry_after,
                    error,
                });
                Err(CallError::Parked(parked))
            }
        }
    }

    /// Not awaited: a crash repeats the call with the same key.
    fn delete_now(&self, id: CallId, then: Then) {
        let settlement = self.stored.settlement(vec![(id, Change::Delete)], then);
        self.stored.outbox.0.settle_later(settlement);
    }

    fn failure(&self, error: &CallError, history: History) -> Failure {
        Failure {
            status_code: error.permanent().map(|rejection| rejection.status_code),
            error: error.stored_text(),
            worker_id: self.worker_id.clone(),
            history,
        }
    }

    /// Notes which calls the platform takes in reduced form only.
    fn note_reduced(&mut self, calls: &[Call]) {
        for (row, call) in self.stored.calls.iter().zip(calls) {
            let changes = self.changes.iter_mut().filter(|(id, _)| *id == row.id);
            for (_, change) in changes {
                if let Change::Keep(failure) | Change::DeadLetter(failure) = change {
                    failure.history.is_reduced |= call.is_reduced();
                }
            }
        }
    }

    /// Writes the outcomes that are left, and releases the lane if calls stay. A shutdown ends the wait for the disk, not
    /// the write. `worker_id` is the one that the calls were sent with. Corrects the outcomes of calls that the store has
    /// lost, since nobody will send them. Returns whether the lane is no longer this owner's.
    pub(super) async fn finish(
        mut self,
        dispatcher: &Dispatcher,
        calls: &[Call],
        worker_id: Option<&str>,
        outcomes: &mut [Outcome],
    ) -> bool {
        self.note_reduced(calls);
        self.withdraw_all(outcomes);
        if self.changes.is_empty() {
            return false;
        }
        // Boxed: few messages come here, and every one would reserve room for it.
        Box::pin(self.write(dispatcher, calls, worker_id, outcomes)).await
    }

    async fn write(
        mut self,
        dispatcher: &Dispatcher,
        calls: &[Call],
        worker_id: Option<&str>,
        outcomes: &mut [Outcome],
    ) -> bool {
        let inner = &self.stored.outbox.0;
        for (_, change) in &mut self.changes {
            if let Change::Keep(failure) | Change::DeadLetter(failure) = change {
                failure.worker_id = worker_id.map(str::to_owned).or_else(|| failure.worker_id.take());
            }
        }
        let then = self.then();
        let releases = matches!(then, Then::Park { .. });
        if let Then::Park { wait, .. } | Then::Isolate { wait, .. } = &then {
            for (_, change) in &mut self.changes {
                if let Change::Keep(failure) = change {
                    failure.history.age = failure.history.age.saturating_add(*wait);
                }
            }
        }
        let settlement = self.stored.settlement(mem::take(&mut self.changes), then);
        for letter in self.dead.drain(..).filter_map(|dead| dead.letter(calls)) {
            inner.unwritten_letters.add(&dispatcher.telemetry, letter);
        }
        let shutdown = &dispatcher.shutdown;
        match shutdown.run_until_cancelled(inner.settle(settlement)).await {
            Some(Ok(Settled::NotCurrent)) => {
                self.correct(shutdown, outcomes).await;
                true
            }
            Some(Err(_)) => {
                self.correct(shutdown, outcomes).await;
                releases
            }
            Some(Ok(Settled::Done { is_released })) => releases || is_released,
            None => releases,
        }
    }

    /// Withdraws the calls that would be kept if another call of the message was withdrawn: a token withdraws a message as a
    /// whole, and a clone of it that is told of one call takes the other for delivered.
    fn withdraw_all(&mut self, outcomes: &mut [Outcome]) {
        let is_withdrawn = self
            .changes
            .iter()
            .any(|(_, change)| matches!(change, Change::Withdraw));
        if !is_withdrawn {
            return;
        }
        for kept in self.kept.drain(..) {
            for (_, change) in self.changes.iter_mut().filter(|(id, _)| *id == kept.id) {
                *change = Change::Withdraw;
            }
            if let Some(outcome) = outcomes.get_mut(kept.index) {
                *outcome = Err(CallError::Cancelled {
                    by: CancelledBy::Token,
                    attempts: kept.error.transient().map_or(0, |error| error.attempts),
                    may_have_been_delivered: kept.error.may_have_been_delivered(),
                });
            }
        }
    }

    async fn correct(self, shutdown: &CancellationToken, outcomes: &mut [Outcome]) {
        for kept in self.kept {
            let is_lost = shutdown.run_until_cancelled(self.stored.outbox.0.has_lost(kept.id));
            if is_lost.await == Some(true)
                && let Some(outcome) = outcomes.get_mut(kept.index)
            {
                *outcome = noted(Err(kept.error), &OutboxError::NoSuchCall);
            }
        }
    }

    /// The state of the lane after the settlement.
    fn then(&self) -> Then {
        let options = &self.stored.outbox.0.options;
        let Some(reason) = self.kept.first().map(|kept| kept.reason) else {
            return Then::Continue;
        };
        let most = |of: fn(&History) -> u32| self.kept.iter().map(|kept| of(&kept.history)).max().unwrap_or_default();
        let (parks, faults) = (most(|h| h.parks), most(|h| h.faults));
        let retry_after = self.kept.iter().filter_map(|kept| kept.retry_after).max();
        let wait = match reason {
            ParkReason::Shutdown
            | ParkReason::CompletionOutage
            | ParkReason::StatusOutage
            | ParkReason::TrackerOutage => Duration::ZERO,
            ParkReason::TrackerUnauthorized => options.longest_delay(),
            _ if faults >= MAX_FAULTS => options.longest_delay(),
            ParkReason::AttemptsFailed
            | ParkReason::LaneParked
            | ParkReason::QueueFull
            | ParkReason::NoCredentials
            | ParkReason::Unauthorized
            | ParkReason::AlreadyStored
            | ParkReason::Requeued => {
                options.wait(parks.saturating_sub(1), retry_after, (self.stored.outbox.0.chance)())
            }
        };
        let must_isolate = faults >= MAX_FAULTS && !reason.is_outage();
        if must_isolate && !is_isolated(&self.stored.lane.lane) {
            Then::Isolate { wait, reason }
        } else {
            Then::Park { wait, reason }
        }
    }
}
