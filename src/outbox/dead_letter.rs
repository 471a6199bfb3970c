//! A call that became a dead letter, and the closure that is called with it.

use std::{cell::RefCell, collections::HashMap, fmt, rc::Rc, sync::Arc};

use serde::Serialize;

use super::store::{Change, Settlement};
use crate::{
    call::{Call, CallKind},
    call_id::CallId,
    telemetry::Telemetry,
    util::ignore_panic,
};

/// A call that became a dead letter: it was rejected, has expired, panicked, or can't be read, and is not tried again
/// unless it is requeued. For [`OutboxOptionsBuilder::on_dead_letter`](super::OutboxOptionsBuilder::on_dead_letter). As
/// JSON, its names are in camel case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct DeadLetter {
    /// The id of the call.
    pub id: CallId,
    /// The kind of the call. `None` if it can't be read: the file is damaged.
    pub kind: Option<CallKind>,
    /// The id of the session or issue that the call is about.
    pub target_id: String,
    /// The call's `Idempotency-Key`.
    pub idempotency_key: String,
    /// The HTTP status with which the platform rejected the call, if it did.
    pub status_code: Option<u16>,
    /// Why the call was not delivered, without the body of a response.
    pub reason: String,
    /// How many attempts were made, by all processes.
    pub attempts: u32,
}

/// A call of a message that becomes a dead letter.
pub(super) struct Dead {
    /// The place of the call in its message.
    pub(super) index: usize,
    pub(super) status_code: Option<u16>,
    pub(super) reason: String,
    pub(super) attempts: u32,
}

impl Dead {
    /// The dead letter, of the calls of its message.
    pub(super) fn letter(self, calls: &[Call]) -> Option<DeadLetter> {
        let call = calls.get(self.index)?;
        Some(DeadLetter {
            id: call.id?,
            kind: Some(call.kind),
            target_id: call.target.id().to_string(),
            idempotency_key: call.idempotency_key.clone(),
            status_code: self.status_code,
            reason: self.reason,
            attempts: self.attempts,
        })
    }
}

/// The dead letters that are not written yet, each with what it is reported to once it is.
#[derive(Default)]
pub(super) struct UnwrittenLetters(RefCell<HashMap<CallId, (Rc<Telemetry>, DeadLetter)>>);

impl UnwrittenLetters {
    pub(super) fn add(&self, telemetry: &Rc<Telemetry>, letter: DeadLetter) {
        let letter = (Rc::clone(telemetry), letter);
        self.0.borrow_mut().insert(letter.1.id, letter);
    }

    /// Takes the dead letters of a settlement that has ended.
    pub(super) fn take(&self, settlement: &Settlement) -> Vec<(Rc<Telemetry>, DeadLetter)> {
        let dead = settlement.changes.iter();
        let dead = dead.filter(|(_, change)| matches!(change, Change::DeadLetter(_)));
        let mut letters = self.0.borrow_mut();
        dead.filter_map(|(id, _)| letters.remove(id)).collect()
    }
}

/// The closure that is called with each dead letter, if there is one.
#[derive(Clone, Default)]
pub(super) struct OnDeadLetter(Option<Arc<Closure>>);

type Closure = dyn Fn(&DeadLetter) + Send + Sync;

impl OnDeadLetter {
    pub(super) fn new(call: impl Fn(&DeadLetter) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(call)))
    }

    /// Calls the closure. Its panic costs nothing.
    pub(super) fn call(&self, letter: &DeadLetter) {
        if let Some(call) = &self.0 {
            ignore_panic(|| call(letter));
        }
    }
}

impl fmt::Debug for OnDeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "a closure" } else { "none" })
    }
}

impl PartialEq for OnDeadLetter {
    /// Whether it is the same closure.
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(first), Some(second)) => Arc::ptr_eq(first, second),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

impl Eq for OnDeadLetter {}
