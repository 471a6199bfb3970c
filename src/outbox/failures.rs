//! The log of a store that fails: one line for a cause, and one when the store works again.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use log::{info, warn};

use crate::{
    clock::Clock,
    error::OutboxError,
    util::{chain, ignore_panic},
};

/// How long a full file counts as full after the last message that did not fit: smaller ones may fit all the time.
const FULL_FOR: Duration = Duration::from_secs(60);

/// An operation of a store, as log lines name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Insert,
    Settle,
    Claim,
    Watch,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "store a message",
            Self::Settle => "write the outcome of a call",
            Self::Claim => "claim parked calls",
            Self::Watch => "look at the other processes",
        }
    }
}

/// Which operations fail, and why.
pub(super) struct Failures {
    clock: Clock,
    troubles: RefCell<Troubles>,
}

#[derive(Debug, Default)]
struct Troubles {
    /// How many operations have started.
    started: u64,
    /// Each operation that has succeeded, with the number of its last success.
    succeeded: Vec<(Operation, u64)>,
    /// The operations whose last use has failed.
    failed: Vec<Failed>,
}

/// The last failure of an operation.
#[derive(Debug)]
struct Failed {
    operation: Operation,
    cause: OutboxError,
    at: Instant,
}

/// An operation that was started.
pub(super) struct Started<'a> {
    failures: &'a Failures,
    operation: Operation,
    number: u64,
}

impl Failures {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            troubles: RefCell::default(),
        }
    }

    /// Why the first of the operations that fail does so.
    pub(super) fn cause(&self) -> Option<OutboxError> {
        let now = self.clock.instant();
        let state = self.troubles.borrow();
        let is_past =
            |failed: &Failed| failed.cause == OutboxError::Full && now.saturating_duration_since(failed.at) >= FULL_FOR;
        let present = state.failed.iter().find(|failed| !is_past(failed));
        present.map(|failed| failed.cause.clone())
    }

    pub(super) fn start(&self, operation: Operation) -> Started<'_> {
        let state = &mut *self.troubles.borrow_mut();
        state.started = state.started.saturating_add(1);
        Started {
            failures: self,
            operation,
            number: state.started,
        }
    }
}

impl Started<'_> {
    /// Notes the answer, and logs where a trouble begins or ends.
    pub(super) fn end<T>(self, answer: &Result<T, OutboxError>) {
        match answer {
            Ok(_) => self.succeed(),
            Err(error) => self.fail(error),
        }
    }

    /// Logs a failure unless another one with this cause has not ended yet.
    fn fail(self, error: &OutboxError) {
        let mut state = self.failures.troubles.borrow_mut();
        // It waited while the store failed, and others have succeeded since.
        let is_past = |(operation, started): &(Operation, u64)| {
            // A look at the others only reads, and a full file may have room for another operation.
            let says_nothing = *operation == Operation::Watch || *error == OutboxError::Full;
            (*operation == self.operation || !says_nothing) && self.number < *started
        };
        if state.succeeded.iter().any(is_past) {
            return;
        }
        let is_known = state.failed.iter().any(|known| is_same_trouble(&known.cause, error));
        state.failed.retain(|known| known.operation != self.operation);
        state.failed.push(Failed {
            operation: self.operation,
            cause: error.clone(),
            at: self.failures.clock.instant(),
        });
        drop(state);
        if !is_known {
            let operation = self.operation.as_str();
            ignore_panic(|| warn!("the outbox failed to {operation}: {}", chain(error)));
        }
    }

    /// Logs a success that ends the last failure. A write that succeeds ends the failures of all operations, except that a
    /// file that is full for one may have room for another, or for a smaller message. A look at the others only reads.
    fn succeed(self) {
        let now = self.failures.clock.instant();
        let mut state = self.failures.troubles.borrow_mut();
        // By its own number: when it is noted, others may have started that the store has not seen yet.
        state.succeeded.retain(|(operation, _)| *operation != self.operation);
        state.succeeded.push((self.operation, self.number));
        let only_reads = self.operation == Operation::Watch;
        let before = state.failed.len();
        state.failed.retain(|failed| {
            let is_same = failed.operation == self.operation;
            if failed.cause == OutboxError::Full {
                !is_same || now.saturating_duration_since(failed.at) < FULL_FOR
            } else {
                !is_same && only_reads
            }
        });
        let is_last = before > 0 && state.failed.is_empty();
        drop(state);
        if is_last {
            ignore_panic(|| info!("the outbox works again"));
        }
    }
}

/// Whether two failures have one cause. A server that stops, is gone and starts again fails with different texts.
fn is_same_trouble(one: &OutboxError, other: &OutboxError) -> bool {
    let is_gone = |error: &OutboxError| matches!(error, OutboxError::Unreachable(_) | OutboxError::TimedOut);
    one == other || (is_gone(one) && is_gone(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn failed(failures: &Failures) -> Vec<Operation> {
        let troubles = failures.troubles.borrow();
        troubles.failed.iter().map(|failed| failed.operation).collect()
    }

    fn fails(failures: &Failures, operation: Operation, error: OutboxError) {
        failures.start(operation).end::<()>(&Err(error));
    }

    #[test]
    fn a_failure_lasts_until_an_operation_succeeds() {
        let failures = Failures::new(Clock::system());
        fails(&failures, Operation::Insert, OutboxError::Locked);
        fails(&failures, Operation::Claim, OutboxError::Locked);
        assert_eq!(failed(&failures), [Operation::Insert, Operation::Claim]);
        failures.start(Operation::Watch).end(&Ok(()));
        assert_eq!(failed(&failures), [Operation::Insert, Operation::Claim]);
        failures.start(Operation::Settle).end(&Ok(()));
        assert_eq!(failed(&failures), []);
    }

    #[test]
    fn a_server_that_stops_and_starts_again_is_one_trouble() {
        let unreachable = |text: &str| OutboxError::Unreachable(text.into());
        for (one, other, is_same) in [
            (unreachable("refused"), unreachable("starting up"), true),
            (unreachable("refused"), OutboxError::TimedOut, true),
            (unreachable("refused"), OutboxError::Full, false),
            (OutboxError::Denied("a".into()), OutboxError::Denied("b".into()), false),
        ] {
            assert_eq!(is_same_trouble(&one, &other), is_same, "{one:?}, {other:?}");
        }
    }

    #[test]
    fn a_failure_that_was_overtaken_by_a_success_is_past() {
        let failures = Failures::new(Clock::system());
        let waiting = failures.start(Operation::Insert);
        failures.start(Operation::Settle).end(&Ok(()));
        waiting.end::<()>(&Err(OutboxError::Locked));
        assert_eq!(failed(&failures), []);
        fails(&failures, Operation::Insert, OutboxError::Locked);
        assert_eq!(failed(&failures), [Operation::Insert]);
    }

    #[test]
    fn the_success_of_an_earlier_operation_does_not_hide_a_failure() {
        let failures = Failures::new(Clock::system());
        let earlier = failures.start(Operation::Settle);
        let waiting = failures.start(Operation::Insert);
        earlier.end(&Ok(()));
        waiting.end::<()>(&Err(OutboxError::Locked));
        assert_eq!(failed(&failures), [Operation::Insert]);
    }

    #[test]
    fn a_look_meanwhile_does_not_hide_a_failure() {
        let failures = Failures::new(Clock::system());
        let waiting = failures.start(Operation::Insert);
        failures.start(Operation::Watch).end(&Ok(()));
        waiting.end::<()>(&Err(OutboxError::Locked));
        assert_eq!(failed(&failures), [Operation::Insert]);
    }

    #[test]
    fn a_full_file_is_full_for_inserts_whatever_else_succeeds() {
        let clock = ManualClock::new();
        let failures = Failures::new(clock.clone().into());
        let insert = failures.start(Operation::Insert);
        failures.start(Operation::Settle).end(&Ok(()));
        insert.end::<()>(&Err(OutboxError::Full));
        failures.start(Operation::Settle).end(&Ok(()));
        assert_eq!(failed(&failures), [Operation::Insert]);
        // A smaller message.
        failures.start(Operation::Insert).end(&Ok(()));
        assert_eq!(failed(&failures), [Operation::Insert]);
        clock.advance(FULL_FOR);
        failures.start(Operation::Settle).end(&Ok(()));
        assert_eq!(failed(&failures), [Operation::Insert]);
        failures.start(Operation::Insert).end(&Ok(()));
        assert_eq!(failed(&failures), []);
    }
}
