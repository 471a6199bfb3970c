//! One call from message to reply: the only retry loop.

use std::{
    cell::Cell,
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};

use actix_rt::spawn;
use bytes::Bytes;
use futures_util::future::{Either, select};
use tokio_util::sync::CancellationToken;

use crate::{
    classify::{Endpoint, Verdict, classify},
    clock::Clock,
    credentials::{CredentialLease, Credentials, GetCredentials},
    error::{AttemptError, CallError, InvalidMessage, PermanentError, PostError, Stage, TransientError},
    journal::{Journal, Subject},
    lanes::{Key, Refusal, Turn},
    message::{CallReceipt, PostReceipt},
    outbox::{Entry, Note, Outbox},
    panics::caught,
    result::AgentResult,
    retry::RetryPolicy,
    transport::{Request, Transport},
    wire::{Call, Method, Platform},
};

/// Why a message is left to the outbox although it has a place.
const BEHIND: &str = "an earlier message about its session or issue is parked";

/// Why a message that has none is.
const NO_ROOM: &str = "too many messages are waiting";

/// All that a call needs on its way. It outlives a restart of the actor, and so do the calls.
pub(crate) struct Courier {
    pub(crate) platform: Platform,
    pub(crate) credentials: Credentials,
    /// A platform on loopback may do without a token.
    pub(crate) token_required: bool,
    pub(crate) transport: Rc<Transport>,
    pub(crate) retry: RetryPolicy,
    pub(crate) outbox: Outbox,
    pub(crate) clock: Clock,
    pub(crate) journal: Journal,
    /// Cancelled when the time of a shutdown is over.
    pub(crate) shutdown: CancellationToken,
}

/// A message on its way: all of it in one place, since an `async fn` holds twice what it is given.
pub(crate) struct Outgoing {
    pub(crate) key: Key,
    /// Its place in its lane, if it got one.
    pub(crate) turn: Result<Turn, Unsent>,
    pub(crate) stop: Stop,
    pub(crate) reply_when_durable: bool,
    /// What it says; nothing yet while it is in the handler.
    pub(crate) calls: Vec<Call>,
    /// Its place in the outbox.
    pub(crate) entry: Entry,
}

/// What ends a message before its time.
pub(crate) struct Stop {
    /// Its own token.
    cancellation: Option<CancellationToken>,
    /// The poster's.
    shutdown: CancellationToken,
}

impl Stop {
    /// Whether nobody wants it delivered any more.
    fn is_withdrawn(&self) -> bool {
        self.cancellation.as_ref().is_some_and(CancellationToken::is_cancelled)
    }

    fn has_come(&self) -> bool {
        self.is_withdrawn() || self.shutdown.is_cancelled()
    }

    async fn come(&self) {
        let Some(cancellation) = &self.cancellation else {
            return self.shutdown.cancelled().await;
        };
        // Boxed, since most have none.
        Box::pin(self.shutdown.run_until_cancelled(cancellation.cancelled())).await;
    }
}

pub(crate) type Outcome = Result<CallReceipt, CallError>;

impl Courier {
    /// What ends a message with this token.
    pub(crate) fn stop(&self, cancellation: Option<CancellationToken>) -> Stop {
        let shutdown = self.shutdown.clone();
        Stop { cancellation, shutdown }
    }

    /// Delivers a result: the completion, then the status, whatever became of the completion.
    pub(crate) async fn post_result(
        self: Rc<Self>,
        message: Box<Outgoing>,
        result: Box<AgentResult>,
    ) -> Result<PostReceipt, PostError> {
        let names = ["completion", "status"];
        let calls = |courier: &Self, session_id: &Rc<str>| courier.platform.session_calls(session_id, result);
        match self.send_message(message, names, calls).await {
            [Ok(completion), Ok(status)] => Ok(PostReceipt { completion, status }),
            [Err(CallError::Invalid(error)), _] => Err(PostError::Invalid(error)),
            [Err(error), Ok(_)] => Err(PostError::Completion(error)),
            [Ok(_), Err(error)] => Err(PostError::Status(error)),
            [Err(completion), Err(status)] => Err(PostError::Both { completion, status }),
        }
    }

    /// Delivers a call to the issue-tracker proxy.
    pub(crate) async fn issue_call(
        self: Rc<Self>,
        message: Box<Outgoing>,
        (method, text, idempotency_key): (Method, String, String),
    ) -> Outcome {
        let call =
            |courier: &Self, issue_id: &Rc<str>| [courier.platform.proxy_call(method, issue_id, text, idempotency_key)];
        let [outcome] = self.send_message(message, [method.name()], call).await;
        outcome
    }

    /// From its place in its lane, or none, to the outcome of each of its calls.
    async fn send_message<const N: usize>(
        self: Rc<Self>,
        mut message: Box<Outgoing>,
        names: [&'static str; N],
        calls: impl FnOnce(&Self, &Rc<str>) -> [Call; N],
    ) -> [Outcome; N] {
        if let Err(unsent) = &message.turn {
            // What there is no room for in memory may have its place on the disk.
            let has_another_chance = matches!(unsent, Unsent::Refused(Refusal::Full)) && self.outbox.is_open();
            if !has_another_chance {
                return names.map(|name| {
                    let outcome = Err(CallError::from(unsent.clone()));
                    self.journal.ended(Subject(name, message.key.id()), &outcome);
                    outcome
                });
            }
        }
        message.calls = calls(&self, message.key.id()).into();
        if self.outbox.is_open() {
            // Boxed, since most have none.
            message.entry = Box::pin(self.enter(&message)).await;
        }
        if message.turn.is_ok() || message.entry.is_kept() {
            for call in &message.calls {
                self.journal.accepted(call.subject());
            }
        }
        let queued = |message: &Outgoing| std::array::from_fn(|index| Ok(message.entry.queued(index)));
        // To be on disk may be all that was asked for.
        let is_enough = message.reply_when_durable && message.entry.is_kept();
        if is_enough && message.turn.is_ok() && !message.entry.is_parked() {
            let queued = queued(&message);
            spawn(async move { self.send_calls(&mut message, &self.retry).await });
            return queued;
        }
        // It waits here, since what sends it takes more room. One that is kept must not take a slot yet: what is before
        // it may be parked. If it is stopped meanwhile, its calls say so themselves.
        if !message.entry.is_kept()
            && let Outgoing {
                turn: Ok(turn), stop, ..
            } = &mut *message
        {
            select(pin!(turn.ready()), pin!(stop.come())).await;
        }
        let outcomes = Box::pin(self.send_calls(&mut message, &self.retry)).await;
        if is_enough && !matches!(outcomes.first(), Some(Err(CallError::Cancelled { .. }))) {
            return queued(&message);
        }
        let mut outcomes = outcomes.into_iter();
        // There is one for each call.
        let missing = || {
            let message = "a call without an outcome".to_owned();
            Err(CallError::Internal { message })
        };
        std::array::from_fn(|_| outcomes.next().unwrap_or_else(missing))
    }

    /// Keeps a message in the outbox, however long that takes: it may have to wait for the provider, and for whoever
    /// holds the file.
    async fn enter(&self, message: &Outgoing) -> Entry {
        let turn = message.turn.as_ref().ok();
        let Some(entering) = self.outbox.begin_entering(turn) else {
            return Entry::default();
        };
        match select(pin!(self.learn_its_worker()), pin!(message.stop.come())).await {
            Either::Left((_, stop)) => {
                self.outbox
                    .enter(entering, &message.key, &message.calls, turn, stop)
                    .await
            }
            Either::Right(_) => Entry::default(),
        }
    }

    /// Finds out whose calls the outbox is to keep, if that is not known yet. `false` if it can't be told: then they
    /// are nobody's, and the next one asks again.
    pub(crate) async fn learn_its_worker(&self) -> bool {
        if self.outbox.needs_worker()
            && let Ok(lease) = self.credentials.get(GetCredentials::default()).await
        {
            self.outbox.meet(lease.worker_id());
        }
        !self.outbox.needs_worker()
    }

    /// Sends one call after the other. Their place in the lane is theirs until the last is done.
    pub(crate) async fn send_calls(&self, message: &mut Outgoing, retry: &RetryPolicy) -> Vec<Outcome> {
        let Outgoing {
            key,
            turn,
            stop,
            calls,
            entry,
            ..
        } = message;
        let turn = match turn {
            Ok(turn) if !entry.is_parked() => turn,
            Ok(_) => return self.leave_parked(calls, stop, entry, BEHIND).await,
            Err(_) => return self.leave_parked(calls, stop, entry, NO_ROOM).await,
        };
        let mut stopped = pin!(stop.come());
        if entry.is_kept() && turn.is_behind() {
            let came = matches!(select(stopped.as_mut(), pin!(turn.come())).await, Either::Right(_));
            let behind = self.shutdown.run_until_cancelled(entry.is_behind(key));
            if came && behind.await == Some(true) {
                return self.leave_parked(calls, stop, entry, BEHIND).await;
            }
        }
        let mut outcomes = Vec::with_capacity(calls.len());
        for (index, call) in calls.iter().enumerate() {
            let ended = self.call(call, turn, stop, stopped.as_mut(), retry).await;
            let is_over = self.shutdown.is_cancelled() && !stop.is_withdrawn();
            let ended = entry.settle(index, ended, is_over, &self.shutdown).await;
            self.journal.ended(call.subject(), &ended);
            outcomes.push(ended);
        }
        outcomes
    }

    /// Ends the calls of a message that is not sent now: as parked if the outbox has it, else as overloaded; as
    /// cancelled if somebody has cancelled it by now.
    async fn leave_parked(&self, calls: &[Call], stop: &Stop, entry: &Entry, reason: &'static str) -> Vec<Outcome> {
        let is_withdrawn = stop.is_withdrawn();
        if is_withdrawn {
            entry.withdraw(&self.shutdown).await;
        }
        let leave = |(index, call): (usize, &Call)| {
            let outcome = Err(if entry.is_kept() && !is_withdrawn {
                entry.parked(index, reason)
            } else if stop.has_come() {
                CallError::Cancelled {
                    may_have_been_delivered: false,
                }
            } else {
                CallError::Overloaded
            });
            self.journal.ended(call.subject(), &outcome);
            outcome
        };
        calls.iter().enumerate().map(leave).collect()
    }

    /// Makes sure of an outcome: a cancellation ends the call wherever it is, and a panic in it is caught.
    async fn call(
        &self,
        call: &Call,
        turn: &mut Turn,
        stop: &Stop,
        stopped: Pin<&mut impl Future>,
        retry: &RetryPolicy,
    ) -> Outcome {
        let progress = Progress {
            stop,
            may_have_been_delivered: Cell::new(false),
            stage: Rc::new(Cell::new(Stage::Connecting)),
            reauthenticated: Cell::new(false),
        };
        // So that the calls after a cancellation are not sent; nor is `stopped` polled again, once it has come.
        if stop.has_come() {
            return Err(progress.cancelled());
        }
        // Pinned first, since to hand on a future is to copy it.
        let work = pin!(self.deliver(call, turn, retry, &progress));
        // An answer that comes together with a cancellation counts.
        match select(pin!(caught(work)), stopped).await {
            Either::Left((outcome, _)) => outcome.unwrap_or_else(|message| Err(CallError::Internal { message })),
            Either::Right(_) => Err(progress.cancelled()),
        }
    }

    /// Tries until the platform has taken the call, has refused it, or the attempts are spent.
    async fn deliver(&self, call: &Call, turn: &mut Turn, retry: &RetryPolicy, progress: &Progress<'_>) -> Outcome {
        turn.ready().await;
        let started = self.clock.instant();
        let mut attempts: u32 = 0;
        loop {
            attempts = attempts.saturating_add(1);
            self.journal.attempt(attempts);
            let (last, retry_after) = match self.attempt(call, progress).await? {
                Verdict::Delivered => {
                    let elapsed = self.clock.instant().saturating_duration_since(started);
                    return Ok(CallReceipt {
                        attempts,
                        elapsed,
                        outbox: Note::default(),
                    });
                }
                Verdict::Permanent(mut refusal) | Verdict::Unauthorized(mut refusal) => {
                    refusal.attempts = attempts;
                    refusal.may_have_been_delivered = progress.may_have_been_delivered.get();
                    return Err(refusal.into());
                }
                Verdict::Transient { error, retry_after } => (error, retry_after),
            };
            let wait = retry.wait_after(attempts, retry_after, rand::random());
            self.journal.attempt_failed(call.subject(), attempts, &last, wait);
            match wait {
                None => {
                    return Err(CallError::Transient(TransientError {
                        attempts,
                        last,
                        retry_after,
                        may_have_been_delivered: progress.may_have_been_delivered.get(),
                        outbox: Note::default(),
                    }));
                }
                Some(Duration::ZERO) => {}
                Some(wait) => {
                    turn.give_slot_back();
                    self.clock.sleep(wait).await;
                    turn.take_slot().await;
                }
            }
        }
    }

    /// One attempt, with the credentials of this moment. Where the platform rejects them it is sent
    /// once more, at once, with others, if there are others: once in a call, so that a 401 never loops.
    async fn attempt(&self, call: &Call, progress: &Progress<'_>) -> Result<Verdict, CallError> {
        // After the slot was waited for, so that they are fresh. A fetch keeps the slot, which
        // nobody else could use without credentials either.
        let mut message = GetCredentials::default();
        let mut rejected: Option<(CredentialLease, PermanentError)> = None;
        loop {
            let lease = match self.credentials.get(message).await {
                Ok(lease) => lease,
                Err(error) => {
                    return Ok(Verdict::Transient {
                        error: AttemptError::Credentials(error),
                        retry_after: None,
                    });
                }
            };
            if let Some((rejected, refusal)) = rejected {
                if rejected.token() == lease.token() {
                    return Ok(Verdict::Permanent(refusal));
                }
                self.journal.reauthenticating(call.subject(), refusal.status_code);
            }
            let verdict = self.send(call, &lease, progress).await?;
            let Verdict::Unauthorized(refusal) = verdict else {
                return Ok(verdict);
            };
            if progress.reauthenticated.replace(true) {
                // Enough for this call; the next is not to begin with these.
                self.credentials.invalidate(&lease);
                return Ok(Verdict::Permanent(refusal));
            }
            message = GetCredentials::instead_of(&lease);
            rejected = Some((lease, refusal));
        }
    }

    /// Sends the call and judges the answer. An error here ends the call unsent.
    async fn send(&self, call: &Call, lease: &CredentialLease, progress: &Progress<'_>) -> Result<Verdict, CallError> {
        // What it waited for last may have come with a cancellation, which then is still to be seen.
        if progress.stop.has_come() {
            return Err(progress.cancelled());
        }
        self.outbox.meet(lease.worker_id());
        let token = lease.token();
        if self.token_required && token.is_none() {
            return Err(CallError::NoCredentials);
        }
        let body = call.encode(lease.worker_id()).map_err(|error| CallError::Internal {
            message: error.to_string(),
        })?;
        let request = Request {
            url: &call.url,
            token,
            idempotency_key: Some(&call.idempotency_key),
            body: Bytes::from(body),
            head_says_all: call.endpoint == Endpoint::Session,
            stage: Rc::clone(&progress.stage),
        };
        let verdict = match Box::pin(self.transport.post(&request)).await {
            Ok(answer) => {
                let secrets = [token, self.transport.proxy_credentials()].map(Option::unwrap_or_default);
                classify(call.endpoint, &answer, &secrets, self.clock.now())
            }
            // No answer, no verdict of the platform's: whatever it was, it may pass.
            Err(error) => Verdict::Transient {
                error,
                retry_after: None,
            },
        };
        let by_this = match &verdict {
            Verdict::Delivered => true,
            Verdict::Transient { error, .. } => error.may_have_been_delivered(),
            Verdict::Permanent(_) | Verdict::Unauthorized(_) => false,
        };
        progress.stage.set(Stage::Connecting);
        if by_this {
            progress.may_have_been_delivered.set(true);
        }
        Ok(verdict)
    }
}

/// What has to be known of a call wherever it is broken off.
struct Progress<'a> {
    stop: &'a Stop,
    /// By the attempts that have ended.
    may_have_been_delivered: Cell<bool>,
    /// How far the one that has not ended has got.
    stage: Rc<Cell<Stage>>,
    reauthenticated: Cell<bool>,
}

impl Progress<'_> {
    fn cancelled(&self) -> CallError {
        CallError::Cancelled {
            may_have_been_delivered: self.may_have_been_delivered.get() || self.stage.get() != Stage::Connecting,
        }
    }
}

/// Why a message was not even accepted.
#[derive(Debug, Clone)]
pub(crate) enum Unsent {
    Invalid(InvalidMessage),
    Refused(Refusal),
}

impl From<Unsent> for CallError {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Invalid(error) => Self::Invalid(error),
            Unsent::Refused(Refusal::Full) => Self::Overloaded,
            Unsent::Refused(Refusal::Closed) => Self::ShuttingDown,
        }
    }
}
