//! The `ResultPoster` actor: its lifecycle, and thin handlers.

use std::{fmt, pin::pin, rc::Rc};

use actix::{Actor, Addr, AsyncContext as _, Context, Handler, Message, MessageResult, ResponseFuture, Supervised};
use actix_rt::ArbiterHandle;
use futures_util::{
    FutureExt as _,
    future::{Either, select},
};

use tokio_util::sync::CancellationToken;
#[cfg(feature = "outbox")]
use tokio_util::sync::DropGuard;

#[cfg(feature = "testing")]
use crate::testing::Crash;
use crate::{
    credentials::CredentialActor,
    delivery::{Courier, Outgoing, Unsent},
    error::{CallError, InvalidMessage, PostError},
    journal::{GetStats, PosterStats, Subscribe},
    lanes::{Gauges, Key, Lanes},
    message::{
        CallReceipt, CreateComment, GetCredentialActor, IssueCall, PostReceipt, PostResult, Shutdown, ShutdownReport,
        UpdateIssueStatus,
    },
    options::Options,
    outbox::Entry,
    panics::caught,
    supervise::Supervisor,
};
#[cfg(feature = "outbox")]
use crate::{
    outbox::{Discard, ListDeadLetters, ListParked, OutboxEntry, OutboxError, Requeue},
    replay::{beat, replay},
};

/// The actor that delivers results: send it [`PostResult`], [`UpdateIssueStatus`] and
/// [`CreateComment`], and await the typed reply.
///
/// Every message that it has taken is answered once. Messages with one key (the session id, or the
/// issue id) are delivered one after another in the order they arrived; different keys side by side.
/// It never stops taking mail: what is too much for `max_queued` is refused at once with
/// [`CallError::Overloaded`], or parked in the outbox if there is one.
pub struct ResultPoster {
    courier: Rc<Courier>,
    lanes: Rc<Lanes>,
    /// Stops the replay when it is dropped: with the actor, or at a shutdown.
    #[cfg(feature = "outbox")]
    replay: Option<DropGuard>,
}

impl ResultPoster {
    /// An actor that is yet to be started, such as by [`Actor::start`]; then without supervision.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let (courier, limits) = options.into_parts();
        Self {
            courier: Rc::new(courier),
            lanes: Lanes::new(limits),
            #[cfg(feature = "outbox")]
            replay: None,
        }
    }

    /// Begins to send again what is parked in the outbox; it outlives a restart.
    #[cfg(feature = "outbox")]
    fn start_replay(&mut self) {
        if self.courier.outbox.is_open() && self.replay.is_none() && !self.lanes.is_closed() {
            let stop = CancellationToken::new();
            let outbox = self.courier.outbox.clone();
            actix_rt::spawn(beat(outbox, Rc::downgrade(&self.courier)));
            actix_rt::spawn(replay(Rc::clone(&self.courier), Rc::clone(&self.lanes), stop.clone()));
            self.replay = Some(stop.drop_guard());
        }
    }

    /// Starts the actor on the current arbiter under a [`Supervisor`], which restarts it on failure.
    ///
    /// # Panics
    ///
    /// Outside of an actix system, as [`Actor::start`] does.
    #[must_use]
    pub fn start_supervised(options: Options) -> Addr<Self> {
        Supervisor::start(|_| Self::new(options))
    }

    /// As [`start_supervised`](Self::start_supervised), on another arbiter.
    #[must_use]
    pub fn start_supervised_in_arbiter(arbiter: &ArbiterHandle, options: Options) -> Addr<Self> {
        Supervisor::start_in_arbiter(arbiter, |_| Self::new(options))
    }

    fn post_result(&self, message: PostResult) -> ResponseFuture<Result<PostReceipt, PostError>> {
        let (checked, key) = (message.check(), Key::Session(message.session_id.into()));
        let outgoing = self.outgoing(checked, key, message.cancellation, message.reply_when_durable);
        let posted = caught(Rc::clone(&self.courier).post_result(outgoing, message.result));
        Box::pin(posted.map(|posted| posted.unwrap_or_else(|message| Err(PostError::internal(message)))))
    }

    fn issue_call(&self, message: IssueCall) -> ResponseFuture<Result<CallReceipt, CallError>> {
        let (checked, key) = (message.check(), Key::Issue(message.issue_id.into()));
        let outgoing = self.outgoing(checked, key, message.cancellation, message.reply_when_durable);
        let call = (message.method, message.text, message.idempotency_key);
        let called = caught(Rc::clone(&self.courier).issue_call(outgoing, call));
        Box::pin(called.map(|called| called.unwrap_or_else(|message| Err(CallError::Internal { message }))))
    }

    /// Gives a message its place, now, so that the order of the mailbox is the order of the lane.
    fn outgoing(
        &self,
        checked: Result<(), InvalidMessage>,
        key: Key,
        cancellation: Option<CancellationToken>,
        reply_when_durable: bool,
    ) -> Box<Outgoing> {
        let checked = checked.and_then(|()| self.check_outbox(reply_when_durable));
        let admit = |()| self.lanes.admit(key.clone()).map_err(Unsent::Refused);
        Box::new(Outgoing {
            turn: checked.map_err(Unsent::Invalid).and_then(admit),
            key,
            stop: self.courier.stop(cancellation),
            reply_when_durable,
            calls: Vec::new(),
            entry: Entry::default(),
        })
    }

    fn check_outbox(&self, reply_when_durable: bool) -> Result<(), InvalidMessage> {
        if reply_when_durable && !self.courier.outbox.is_open() {
            return Err(InvalidMessage {
                field: "reply_when_durable",
                reason: "needs an outbox: set `OptionsBuilder::outbox`",
            });
        }
        Ok(())
    }
}

impl Actor for ResultPoster {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Context<Self>) {
        // So that the child is there for whoever asks for it.
        self.courier.credentials.actor();
        #[cfg(feature = "outbox")]
        self.start_replay();
    }
}

// The client, the lanes and the running calls are not the context's: they survive a restart.
impl Supervised for ResultPoster {
    fn restarting(&mut self, _: &mut Context<Self>) {
        self.courier.journal.restarted();
    }
}

// A `ResponseFuture` is a task of its own: it outlives a restart of the actor, and thousands of
// them cost nothing while they wait. What may panic is inside of it, never in the handler.
impl Handler<PostResult> for ResultPoster {
    type Result = ResponseFuture<Result<PostReceipt, PostError>>;

    fn handle(&mut self, message: PostResult, _: &mut Context<Self>) -> Self::Result {
        self.post_result(message)
    }
}

impl Handler<UpdateIssueStatus> for ResultPoster {
    type Result = ResponseFuture<Result<CallReceipt, CallError>>;

    fn handle(&mut self, message: UpdateIssueStatus, _: &mut Context<Self>) -> Self::Result {
        self.issue_call(message.0)
    }
}

impl Handler<CreateComment> for ResultPoster {
    type Result = ResponseFuture<Result<CallReceipt, CallError>>;

    fn handle(&mut self, message: CreateComment, _: &mut Context<Self>) -> Self::Result {
        self.issue_call(message.0)
    }
}

impl Handler<GetCredentialActor> for ResultPoster {
    type Result = Addr<CredentialActor>;

    fn handle(&mut self, _: GetCredentialActor, _: &mut Context<Self>) -> Self::Result {
        self.courier.credentials.actor()
    }
}

impl Handler<Shutdown> for ResultPoster {
    type Result = ResponseFuture<ShutdownReport>;

    fn handle(&mut self, message: Shutdown, context: &mut Context<Self>) -> Self::Result {
        self.lanes.close();
        #[cfg(feature = "outbox")]
        self.replay.take();
        let before = self.courier.journal.stats();
        let (courier, lanes, poster) = (Rc::clone(&self.courier), Rc::clone(&self.lanes), context.address());
        Box::pin(async move {
            let drained = pin!(async {
                lanes.drained().await;
                courier.outbox.written().await;
                courier.outbox.leave().await;
            });
            let time_is_over = pin!(courier.clock.sleep(message.within));
            if let Either::Right(_) = select(drained, time_is_over).await {
                courier.shutdown.cancel();
                lanes.drained().await;
                drop(courier.outbox.leave());
            }
            poster.do_send(StopForGood);
            courier.journal.stats().since(&before)
        })
    }
}

/// The end of a shutdown. A message, since a restart drops whatever else a context has to do.
struct StopForGood;

impl Message for StopForGood {
    type Result = ();
}

impl Handler<StopForGood> for ResultPoster {
    type Result = ();

    fn handle(&mut self, _: StopForGood, context: &mut Context<Self>) {
        Supervisor::stop_for_good(context);
    }
}

#[cfg(feature = "outbox")]
impl Handler<ListParked> for ResultPoster {
    type Result = ResponseFuture<Result<Vec<OutboxEntry>, OutboxError>>;

    fn handle(&mut self, message: ListParked, _: &mut Context<Self>) -> Self::Result {
        Box::pin(self.courier.outbox.clone().list(false, message.0))
    }
}

#[cfg(feature = "outbox")]
impl Handler<ListDeadLetters> for ResultPoster {
    type Result = ResponseFuture<Result<Vec<OutboxEntry>, OutboxError>>;

    fn handle(&mut self, message: ListDeadLetters, _: &mut Context<Self>) -> Self::Result {
        Box::pin(self.courier.outbox.clone().list(true, message.0))
    }
}

#[cfg(feature = "outbox")]
impl Handler<Requeue> for ResultPoster {
    type Result = ResponseFuture<Result<bool, OutboxError>>;

    fn handle(&mut self, message: Requeue, _: &mut Context<Self>) -> Self::Result {
        Box::pin(self.courier.outbox.clone().requeue(message.0))
    }
}

#[cfg(feature = "outbox")]
impl Handler<Discard> for ResultPoster {
    type Result = ResponseFuture<Result<bool, OutboxError>>;

    fn handle(&mut self, message: Discard, _: &mut Context<Self>) -> Self::Result {
        Box::pin(self.courier.outbox.clone().discard(message.0))
    }
}

impl Handler<GetStats> for ResultPoster {
    type Result = MessageResult<GetStats>;

    fn handle(&mut self, _: GetStats, _: &mut Context<Self>) -> Self::Result {
        let Gauges {
            running,
            waiting,
            lanes,
        } = self.lanes.gauges();
        MessageResult(PosterStats {
            refreshes: self.courier.credentials.fetches(),
            running,
            waiting,
            lanes,
            ..self.courier.journal.stats()
        })
    }
}

impl Handler<Subscribe> for ResultPoster {
    type Result = ();

    fn handle(&mut self, message: Subscribe, _: &mut Context<Self>) {
        self.courier.journal.subscribe(message.0);
    }
}

#[cfg(feature = "testing")]
impl Handler<Crash> for ResultPoster {
    type Result = ();

    fn handle(&mut self, crash: Crash, context: &mut Context<Self>) {
        crash.strike(context);
    }
}

impl fmt::Debug for ResultPoster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResultPoster")
            .field("lanes", &self.lanes)
            .finish_non_exhaustive()
    }
}
