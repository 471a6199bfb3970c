//! The log of a store that fails: one line for a cause, and one when the store works again.

use std::cell::RefCell;

use log::{info, warn};

use crate::{
    error::OutboxError,
    util::{chain, ignore_panic},
};

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

/// The operations whose last use has failed, and why.
#[derive(Debug, Default)]
pub(super) struct Failures(RefCell<Vec<(Operation, OutboxError)>>);

impl Failures {
    /// Notes a failure. It is logged unless another one with this cause has not ended yet.
    pub(super) fn begin(&self, operation: Operation, error: &OutboxError) {
        let mut failures = self.0.borrow_mut();
        let is_known = failures.iter().any(|(_, known)| known == error);
        failures.retain(|(failed, _)| *failed != operation);
        failures.push((operation, error.clone()));
        if !is_known {
            ignore_panic(|| warn!("the outbox failed to {}: {}", operation.as_str(), chain(error)));
        }
    }

    /// Notes a success. It is logged if it ends the last failure. A file that is full for one operation may have room for
    /// another; other causes end for all operations.
    pub(super) fn end(&self, operation: Operation) {
        let mut failures = self.0.borrow_mut();
        let before = failures.len();
        failures.retain(|(failed, cause)| *failed != operation && *cause == OutboxError::Full);
        if before > 0 && failures.is_empty() {
            ignore_panic(|| info!("the outbox works again"));
        }
    }
}
