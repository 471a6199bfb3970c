//! A message's place in the outbox: what has become of its calls, for the file and for their caller.

use std::{
    pin::pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::{Either, select};
use tokio_util::sync::CancellationToken;

use super::{
    DeliveryId, OutboxError,
    ledger::{Change, Open, Outbox, lane},
    milliseconds_of,
    store::{self, ClaimedCall, Failure, Kept, NewCall, NewMessage},
};
use crate::{
    delivery::Outcome,
    error::{AttemptError, CallError, TransientError},
    lanes::{Key, Turn},
    message::CallReceipt,
    wire::Call,
};

/// Why a call was not attempted that has no credentials, and will be when it has.
const NO_TOKEN: &str = "there is no token for this platform yet";

/// Messages that have no place in memory, on their way to the disk, at the most.
const MAX_ENTERING: usize = 10_000;

/// A message's place in the outbox; nothing without one.
#[derive(Default)]
pub(crate) struct Entry {
    open: Option<Rc<Open>>,
    /// The number of its first call.
    message: i64,
    calls: Vec<Kept>,
    parked: bool,
    /// Why it is not kept, although there is an outbox.
    error: Option<OutboxError>,
}

impl Outbox {
    /// Counts a message on its way to the disk, unless it has a place in memory; `None` if there are too many.
    pub(crate) fn begin_entering(&self, turn: Option<&Turn>) -> Option<Entering> {
        match (&self.0, turn) {
            (Some(open), None) => Entering::begin(open),
            (Some(_) | None, _) => Some(Entering(None)),
        }
    }

    /// Keeps a message before it is sent. Without a turn, it is not to be sent now. If `stop` comes first, it
    /// is not kept.
    pub(crate) async fn enter(
        &self,
        entering: Entering,
        key: &Key,
        calls: &[Call],
        turn: Option<&Turn>,
        stop: impl Future<Output = ()>,
    ) -> Entry {
        let Some(open) = &self.0 else {
            return Entry::default();
        };
        let (scope, owner) = (open.scope(), turn.map(|_| open.owner));
        let is_first = turn.is_some_and(|turn| !turn.is_behind());
        let message = open.new_message(key, calls);
        let kept = (message.calls.iter())
            .map(|call| (call.idempotency_key.clone(), message.expires_at))
            .collect();
        // Who is first decides: the writer, to begin with it, or `stop`, that it is not to.
        let decided = Arc::new(AtomicBool::new(false));
        let (taken, mut begun, mut adopt) = (Arc::clone(&decided), false, open.adopt());
        let inserted = pin!(open.writer.run(move |connection| {
            begun = begun || !taken.swap(true, Ordering::Relaxed);
            if !begun {
                return Ok(None);
            }
            adopt(connection)?;
            store::insert(connection, &scope, owner, &message, is_first).map(Some)
        }));
        let inserted = match select(inserted, pin!(stop)).await {
            Either::Left((inserted, _)) => inserted,
            Either::Right(_) if !decided.swap(true, Ordering::Relaxed) => Ok(None),
            // It is being written; what then becomes of it is settled like any other's.
            Either::Right((_, inserted)) => inserted.await,
        };
        drop(entering);
        let entry = Entry::new(open, kept, inserted);
        if entry.parked {
            open.wake_for_blocked();
        }
        entry
    }

    /// The place of a message that was claimed, or of what is left of it.
    pub(crate) fn resume(&self, message: &[ClaimedCall]) -> Entry {
        Entry {
            open: self.0.clone(),
            message: message.first().map(|call| call.message).unwrap_or_default(),
            calls: message.iter().map(|call| call.kept.clone()).collect(),
            ..Entry::default()
        }
    }
}

/// A message on its way to the disk; it is counted, if it has no place in memory.
pub(crate) struct Entering(Option<Rc<Open>>);

impl Entering {
    fn begin(open: &Rc<Open>) -> Option<Self> {
        let count = open.entering.get();
        if count >= MAX_ENTERING {
            return None;
        }
        open.entering.set(count.saturating_add(1));
        Some(Self(Some(Rc::clone(open))))
    }
}

impl Drop for Entering {
    fn drop(&mut self) {
        if let Some(open) = &self.0 {
            open.entering.set(open.entering.get().saturating_sub(1));
        }
    }
}

impl Open {
    fn new_message(&self, key: &Key, calls: &[Call]) -> NewMessage {
        let now = self.now();
        let new_call = |call: &Call| NewCall {
            name: call.subject().0,
            subject: call.subject().1.to_owned(),
            idempotency_key: call.idempotency_key.clone(),
            body: call.stored_body(),
        };
        NewMessage {
            lane: lane(key),
            calls: calls.iter().map(new_call).collect(),
            now,
            expires_at: now.saturating_add(milliseconds_of(self.options.expires_after)),
        }
    }
}

impl Entry {
    /// Of calls with these keys, which expire then; as far as they were inserted.
    fn new(open: &Rc<Open>, calls: Vec<(String, i64)>, inserted: Result<Option<(i64, bool)>, OutboxError>) -> Self {
        let (message, parked) = match inserted {
            Ok(Some(inserted)) => inserted,
            Ok(None) => return Self::default(),
            Err(error) => {
                return Self {
                    error: Some(error),
                    ..Self::default()
                };
            }
        };
        let kept = |(id, (idempotency_key, expires_at))| Kept {
            id,
            idempotency_key,
            attempts: 0,
            rounds: 0,
            expires_at,
        };
        Self {
            open: Some(Rc::clone(open)),
            message,
            calls: (message..).zip(calls).map(kept).collect(),
            parked,
            error: None,
        }
    }

    /// Whether it survives the process.
    pub(crate) fn is_kept(&self) -> bool {
        self.open.is_some()
    }

    /// Whether it is not to be sent now.
    pub(crate) fn is_parked(&self) -> bool {
        self.parked
    }

    /// The receipt of a call that is on disk, and yet to be delivered.
    pub(crate) fn queued(&self, index: usize) -> CallReceipt {
        CallReceipt {
            attempts: 0,
            elapsed: Duration::ZERO,
            outbox: self.note(index),
        }
    }

    /// The error of a call that is on disk, and was not attempted for this reason.
    pub(crate) fn parked(&self, index: usize, reason: &'static str) -> CallError {
        not_attempted(reason, false, self.note(index))
    }

    /// Gives its calls back, as they were.
    pub(crate) fn give_back(&self) {
        self.change_all(|call| Change::GiveBack(call, 0));
    }

    /// Nobody wants it delivered any more. `stop` ends the wait for the disk.
    pub(crate) async fn withdraw(&self, stop: &CancellationToken) {
        if let Some(open) = &self.open {
            for call in &self.calls {
                stop.run_until_cancelled(open.change(Change::Remove(call.clone())))
                    .await;
            }
        }
    }

    fn change_all(&self, change: impl Fn(Kept) -> Change) {
        if let Some(open) = &self.open {
            for call in &self.calls {
                open.change(change(call.clone()));
            }
        }
    }

    /// Whether an earlier message of its lane has been parked meanwhile, and so is this one then; or another process
    /// has it, which took this one for dead.
    pub(crate) async fn is_behind(&self, key: &Key) -> bool {
        let Some(open) = &self.open else { return false };
        let (scope, owner, lane, message) = (open.scope(), open.owner, lane(key), self.message);
        let calls = self.calls.clone();
        let behind = open.writer.run(move |connection| {
            for call in &calls {
                if store::owner(connection, call)?.is_some_and(|other| other != Some(owner)) {
                    return Ok(Some(0));
                }
            }
            store::ahead(connection, &scope, None, &lane, message)
        });
        // If it can't be told, the message is sent: better out of order than not at all.
        let behind = behind.await.unwrap_or_default();
        if let Some(due_at) = behind {
            self.change_all(|call| Change::GiveBack(call, due_at));
            open.wake_for_blocked();
        }
        behind.is_some()
    }

    /// Writes down what has become of a call. `is_over` says that it was the end of the poster that cancelled it;
    /// `stop` ends the wait for the disk, not the writing.
    pub(crate) async fn settle(
        &self,
        index: usize,
        outcome: Outcome,
        is_over: bool,
        stop: &CancellationToken,
    ) -> Outcome {
        let (Some(open), Some(call)) = (&self.open, self.calls.get(index)) else {
            return noted(self.note(index), outcome);
        };
        let call = call.clone();
        match outcome {
            Ok(receipt) => {
                open.change(Change::Remove(call));
                Ok(receipt)
            }
            Err(CallError::Cancelled {
                may_have_been_delivered,
            }) if is_over => {
                // It is given back with all the others.
                Err(not_attempted(
                    "the poster was shut down",
                    may_have_been_delivered,
                    self.note(index),
                ))
            }
            Err(error @ CallError::Cancelled { .. }) => {
                // Who cancels must be able to rely on it.
                stop.run_until_cancelled(open.change(Change::Remove(call))).await;
                Err(error)
            }
            Err(error) => {
                let change = after(open, call, &error);
                let is_dead = matches!(change, Change::Bury(..));
                // So that who hears of it finds it in the list.
                let note = match stop.run_until_cancelled(open.change(change)).await {
                    // Somebody has deleted the file meanwhile.
                    Some(Ok(false)) => Note::NotKept(OutboxError::Gone),
                    _ if is_dead => Note::None,
                    _ => self.note(index),
                };
                match (error, &note) {
                    // It has no word of the outbox.
                    (CallError::NoCredentials, Note::Kept(_)) => Err(not_attempted(NO_TOKEN, false, note)),
                    (error, _) => noted(note, Err(error)),
                }
            }
        }
    }

    fn note(&self, index: usize) -> Note {
        match (self.calls.get(index), &self.error) {
            (Some(call), _) => Note::Kept(DeliveryId(call.id)),
            (None, Some(error)) => Note::NotKept(error.clone()),
            (None, None) => Note::None,
        }
    }
}

/// What becomes of a call that has failed so.
fn after(open: &Open, mut call: Kept, error: &CallError) -> Change {
    let (attempts, status_code, retry_after) = match error {
        CallError::Permanent(refusal) => (refusal.attempts, Some(refusal.status_code), None),
        CallError::Transient(error) => (error.attempts, None, error.retry_after),
        CallError::NoCredentials
        | CallError::Internal { .. }
        | CallError::Cancelled { .. }
        | CallError::Invalid(_)
        | CallError::Overloaded
        | CallError::ShuttingDown => (0, None, None),
    };
    let wait = open.options.wait(call.rounds, retry_after, rand::random());
    call.attempts = call.attempts.saturating_add(attempts);
    call.rounds = call.rounds.saturating_add(1);
    let has_expired = status_code.is_none() && call.expires_at <= open.now();
    let failure = Failure {
        status_code,
        error: format!("{}{}", if has_expired { "expired; " } else { "" }, error.without_body()),
    };
    // A bug would only strike again.
    if has_expired || status_code.is_some() || matches!(error, CallError::Internal { .. }) {
        Change::Bury(call, failure)
    } else {
        Change::Park(call, failure, open.now().saturating_add(milliseconds_of(wait)))
    }
}

fn not_attempted(reason: &'static str, may_have_been_delivered: bool, outbox: Note) -> CallError {
    CallError::Transient(TransientError {
        attempts: 0,
        last: AttemptError::NotAttempted { reason },
        retry_after: None,
        may_have_been_delivered,
        outbox,
    })
}

/// The outcome, with what the outbox has to say of it.
fn noted(outbox: Note, outcome: Outcome) -> Outcome {
    match outcome {
        Ok(receipt) => Ok(CallReceipt { outbox, ..receipt }),
        Err(CallError::Transient(error)) => Err(CallError::Transient(TransientError { outbox, ..error })),
        Err(error) => Err(error),
    }
}

/// What a receipt or an error has to say of the outbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Note {
    #[default]
    None,
    /// It is on disk, and will be delivered.
    Kept(DeliveryId),
    NotKept(OutboxError),
}

impl Note {
    pub(crate) fn is_kept(&self) -> bool {
        self.kept().is_some()
    }

    pub(crate) fn kept(&self) -> Option<DeliveryId> {
        match self {
            Self::Kept(id) => Some(*id),
            Self::None | Self::NotKept(_) => None,
        }
    }

    pub(crate) fn not_kept(&self) -> Option<&OutboxError> {
        match self {
            Self::NotKept(error) => Some(error),
            Self::None | Self::Kept(_) => None,
        }
    }
}
