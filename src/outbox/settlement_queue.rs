//! The settlements that wait for those before them.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
};

use tokio::sync::oneshot;

use super::store::{Settled, Settlement};
use crate::error::OutboxError;

/// How many settlements may share a job of the store.
const MAX_BATCH: usize = 1024;

/// Takes what became of a settlement.
pub(super) type Answer = oneshot::Sender<Result<Settled, OutboxError>>;

/// Settlements in the order in which they were given, each with whom to answer.
#[derive(Default)]
pub(super) struct SettlementQueue {
    settlements: RefCell<Vec<(Settlement, Option<Answer>)>>,
    is_writing: Cell<bool>,
}

/// Settlements that are written together.
pub(super) struct Batch {
    pub(super) settlements: Arc<[Settlement]>,
    pub(super) answers: Vec<Option<Answer>>,
}

impl SettlementQueue {
    /// Adds a settlement. Returns whether the caller has to start the writing, since nobody writes now.
    pub(super) fn add(&self, settlement: Settlement, answer: Option<Answer>) -> bool {
        self.settlements.borrow_mut().push((settlement, answer));
        !self.is_writing.replace(true)
    }

    /// Takes the next settlements to write.
    pub(super) fn next(&self) -> Option<Batch> {
        let mut settlements = self.settlements.borrow_mut();
        let count = settlements.len().min(MAX_BATCH);
        let (settlements, answers): (Vec<_>, Vec<_>) = settlements.drain(..count).unzip();
        let batch = Batch {
            settlements: settlements.into(),
            answers,
        };
        (count > 0).then_some(batch)
    }

    pub(super) fn end_writing(&self) {
        self.is_writing.set(false);
    }
}
