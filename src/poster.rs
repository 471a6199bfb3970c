//! The `ResultPoster` actor: its lifecycle, and three thin handlers.

use std::{fmt, rc::Rc};

use actix::{Actor, Addr, Context, Handler, ResponseFuture, Supervised};
use actix_rt::ArbiterHandle;

use crate::{
    credentials::CredentialActor,
    delivery::Courier,
    error::{CallError, PostError},
    lanes::{Key, Lanes, Turn},
    message::{CallReceipt, CreateComment, GetCredentialActor, IssueCall, PostReceipt, PostResult, UpdateIssueStatus},
    options::Options,
    supervise::Supervisor,
};

/// The actor that delivers results: send it [`PostResult`], [`UpdateIssueStatus`] and
/// [`CreateComment`], and await the typed reply.
///
/// Every message that it has taken is answered once. Messages with one key (the session id, or the
/// issue id) are delivered one after another in the order they arrived; different keys side by side.
/// It never stops taking mail: what is too much for `max_queued` is refused at once with
/// [`CallError::Overloaded`].
pub struct ResultPoster {
    courier: Rc<Courier>,
    lanes: Rc<Lanes>,
}

impl ResultPoster {
    /// An actor that is yet to be started, such as by [`Actor::start`]; then without supervision.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let (courier, limits) = options.into_parts();
        Self {
            courier: Rc::new(courier),
            lanes: Lanes::new(limits),
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

    fn issue_call(&self, message: IssueCall) -> ResponseFuture<Result<CallReceipt, CallError>> {
        let courier = Rc::clone(&self.courier);
        let turn = self.admit(Key::Issue(message.issue_id.clone()));
        Box::pin(async move { courier.issue_call(turn?, message).await })
    }

    /// Takes the call's place now, so that the order of the mailbox is the order of the lane.
    fn admit(&self, key: Key) -> Result<Turn, CallError> {
        self.lanes.admit(key).map_err(|_| CallError::Overloaded)
    }
}

impl Actor for ResultPoster {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Context<Self>) {
        self.courier.credentials.actor();
    }
}

// Nothing to do on a restart: the client, the lanes and the running calls are not the context's.
impl Supervised for ResultPoster {}

// A `ResponseFuture` is a task of its own: it outlives a restart of the actor, and thousands of
// them cost nothing while they wait. What may panic is inside of it, never in the handler.
impl Handler<PostResult> for ResultPoster {
    type Result = ResponseFuture<Result<PostReceipt, PostError>>;

    fn handle(&mut self, message: PostResult, _: &mut Context<Self>) -> Self::Result {
        let courier = Rc::clone(&self.courier);
        let turn = self.admit(Key::Session(message.session_id.clone()));
        Box::pin(async move {
            let turn = turn.map_err(|_| PostError::Both {
                completion: CallError::Overloaded,
                status: CallError::Overloaded,
            })?;
            courier.post_result(turn, message).await
        })
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
    type Result = Option<Addr<CredentialActor>>;

    fn handle(&mut self, _: GetCredentialActor, _: &mut Context<Self>) -> Self::Result {
        self.courier.credentials.actor()
    }
}

impl fmt::Debug for ResultPoster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResultPoster")
            .field("lanes", &self.lanes)
            .finish_non_exhaustive()
    }
}
