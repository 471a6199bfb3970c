//! The `ResultPoster` actor: its lifecycle, and one line per handler.

#[cfg(feature = "outbox")]
mod outbox;
mod shutdown;

use std::{fmt, rc::Rc};

use actix::{Actor, Addr, Context, Handler, MessageResult, ResponseFuture, Supervised};
use actix_rt::ArbiterHandle;

use crate::{
    call::{Call, CallKind, CallRef, Platform, Target},
    credentials::{CredentialActor, GetCredentialActor},
    delivery::{Job, Worker},
    error::{CallError, InvalidMessageError, ParkReason, PostError},
    message::{CreateComment, DeliveryOptions, PostResult, UpdateIssueStatus},
    options::{Options, Parts},
    queue::{AdmitError, Bound},
    receipt::{CallReceipt, Outcome, PostReceipt},
    route::{Overflow, ReplyWhen},
    supervisor::{StopHandle, Supervisor},
    telemetry::{GetStats, PosterStats, Subscribe},
    util::catch_panic,
};

/// The actor that delivers results: send it [`PostResult`], [`UpdateIssueStatus`] and [`CreateComment`], and await the
/// typed reply.
///
/// Every accepted message gets exactly one reply. Messages about one session or one issue are delivered one after
/// another in the order in which they arrived, different targets concurrently. The mailbox never blocks: beyond
/// `max_queued` a message is refused at once with [`CallError::Overloaded`], or parked if there is an outbox. When the
/// last address is dropped, the actor stops; accepted messages are still delivered while the arbiter runs.
///
/// ```no_run
/// use result_poster::{Options, ResultPoster, UpdateIssueStatus};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let options = Options::builder("https://app.example.com")
///     .worker_id("wkr_1")
///     .auth_token(std::env::var("WORKER_TOKEN")?)
///     .build()?;
/// let poster = ResultPoster::start_supervised(options);
/// poster.send(UpdateIssueStatus::new("issue-1", "Finished")).await??;
/// # Ok(())
/// # }
/// ```
pub struct ResultPoster {
    parts: Parts,
    stop: StopHandle,
}

impl ResultPoster {
    /// Creates an actor that is not started yet. If it is started with [`Actor::start`], it is not supervised.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self::from_parts(options.into_parts(), StopHandle::default())
    }

    pub(crate) fn from_parts(parts: Parts, stop: StopHandle) -> Self {
        Self { parts, stop }
    }

    /// Starts the actor on the current arbiter under a [`Supervisor`], which restarts it on failure.
    ///
    /// # Panics
    ///
    /// Outside of an actix system. The process then aborts, since dropping the context panics again.
    #[must_use]
    pub fn start_supervised(options: Options) -> Addr<Self> {
        Supervisor::start_stoppable(|_, stop| Self::from_parts(options.into_parts(), stop))
    }

    /// Starts the actor on another arbiter under a [`Supervisor`], which restarts it on failure.
    #[must_use]
    pub fn start_supervised_in_arbiter(arbiter: &ArbiterHandle, options: Options) -> Addr<Self> {
        Supervisor::start_stoppable_in_arbiter(arbiter, |_, stop| Self::from_parts(options.into_parts(), stop))
    }

    /// Admits a message to the queue before it returns, so that the order of the mailbox is the order of the lane. The
    /// returned future runs the calls, and catches panics.
    fn submit<F>(
        &self,
        kinds: &'static [CallKind],
        target: Target,
        checked: Result<(), InvalidMessageError>,
        options: DeliveryOptions,
        calls: F,
    ) -> impl Future<Output = Result<Vec<Outcome>, String>> + use<F>
    where
        F: FnOnce(&Platform, &Rc<str>) -> Vec<Call> + 'static,
    {
        let place = checked
            .and_then(|()| self.check_durability(&options))
            .map_err(CallError::from)
            .map(|()| self.parts.queue.admit(target.clone(), Bound::Queue));
        let (dispatcher, route) = (Rc::clone(&self.parts.dispatcher), Rc::clone(&self.parts.route));
        let cancellation = dispatcher.cancellation(options.cancellation);
        let reply_when = if options.reply_when_durable {
            ReplyWhen::Durable
        } else {
            ReplyWhen::Done
        };
        catch_panic(async move {
            let error = match place {
                Ok(Ok((ticket, permit))) => {
                    let job = Box::new(Job {
                        calls: calls(&dispatcher.platform, target.id()),
                        worker: Worker::new(),
                        cancellation,
                        permit,
                        ticket,
                    });
                    return route.run(dispatcher, job, reply_when).await;
                }
                // Without an outbox refused before its calls are built: an overload must not cost their encoding.
                Ok(Err(refused)) if !route.is_durable() => match refused {
                    AdmitError::Full => CallError::Overloaded,
                    AdmitError::Closed => CallError::ShuttingDown,
                },
                Ok(Err(refused)) => {
                    let overflow = Overflow {
                        calls: calls(&dispatcher.platform, target.id()),
                        cancellation,
                        reason: match refused {
                            AdmitError::Full => ParkReason::QueueFull,
                            AdmitError::Closed => ParkReason::Shutdown,
                        },
                    };
                    return route.overflow(dispatcher, overflow, reply_when).await;
                }
                Err(error) => error,
            };
            let call = |kind| CallRef {
                kind,
                target_id: target.id(),
            };
            kinds
                .iter()
                .map(|&kind| dispatcher.refuse(call(kind), error.clone()))
                .collect()
        })
    }

    fn check_durability(&self, options: &DeliveryOptions) -> Result<(), InvalidMessageError> {
        if options.reply_when_durable && !self.parts.route.is_durable() {
            return Err(InvalidMessageError::new(
                "reply_when_durable",
                "needs an outbox: set `OptionsBuilder::outbox`",
            ));
        }
        Ok(())
    }

    async fn post_reply(
        outcomes: impl Future<Output = Result<Vec<Outcome>, String>>,
    ) -> Result<PostReceipt, PostError> {
        let outcomes = outcomes.await.map_err(PostError::internal)?;
        let [completion, status] = outcomes
            .try_into()
            .map_err(|_| PostError::internal("a result with other than two outcomes".into()))?;
        match (completion, status) {
            (Ok(completion), Ok(status)) => Ok(PostReceipt { completion, status }),
            (Err(CallError::Invalid(error)), _) => Err(PostError::Invalid(error)),
            (Err(error), Ok(_)) => Err(PostError::Completion(error)),
            (Ok(_), Err(error)) => Err(PostError::Status(error)),
            (Err(completion), Err(status)) => Err(PostError::Both { completion, status }),
        }
    }

    async fn call_reply(
        outcomes: impl Future<Output = Result<Vec<Outcome>, String>>,
    ) -> Result<CallReceipt, CallError> {
        let internal = |message| CallError::Internal { message };
        let outcome = outcomes.await.map_err(internal)?.pop();
        outcome.unwrap_or_else(|| Err(internal("a call without an outcome".into())))
    }
}

impl Actor for ResultPoster {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Context<Self>) {
        // The poster's own credential actor must exist before its address is requested.
        self.parts.dispatcher.credentials.actor();
        if !self.parts.queue.is_closed() {
            self.parts.route.start(&self.parts.dispatcher, &self.parts.queue);
        }
    }
}

// The client, the queue and the running calls do not belong to the context: they survive a restart.
impl Supervised for ResultPoster {
    fn restarting(&mut self, _: &mut Context<Self>) {
        self.parts.dispatcher.telemetry.restarted();
    }
}

// A `ResponseFuture` is a task of its own: it outlives a restart of the actor, and thousands of them cost nothing while
// they wait. Work that may panic is inside of it, never in the handler.
impl Handler<PostResult> for ResultPoster {
    type Result = ResponseFuture<Result<PostReceipt, PostError>>;

    fn handle(&mut self, message: PostResult, _: &mut Context<Self>) -> Self::Result {
        let checked = message.check();
        let PostResult {
            session_id,
            result,
            delivery,
        } = message;
        let kinds = &[CallKind::Completion, CallKind::Status];
        let calls = |platform: &Platform, id: &Rc<str>| platform.session_calls(id, result);
        let target = Target::Session(session_id.into());
        Box::pin(Self::post_reply(self.submit(kinds, target, checked, delivery, calls)))
    }
}

impl Handler<UpdateIssueStatus> for ResultPoster {
    type Result = ResponseFuture<Result<CallReceipt, CallError>>;

    fn handle(&mut self, message: UpdateIssueStatus, _: &mut Context<Self>) -> Self::Result {
        let checked = message.check();
        let UpdateIssueStatus {
            issue_id,
            status,
            idempotency_key,
            delivery,
        } = message;
        let kinds = &[CallKind::UpdateIssueStatus];
        let calls = |platform: &Platform, id: &Rc<str>| vec![platform.update_issue_status(id, status, idempotency_key)];
        let target = Target::Issue(issue_id.into());
        Box::pin(Self::call_reply(self.submit(kinds, target, checked, delivery, calls)))
    }
}

impl Handler<CreateComment> for ResultPoster {
    type Result = ResponseFuture<Result<CallReceipt, CallError>>;

    fn handle(&mut self, message: CreateComment, _: &mut Context<Self>) -> Self::Result {
        let checked = message.check();
        let CreateComment {
            issue_id,
            body,
            idempotency_key,
            delivery,
        } = message;
        let kinds = &[CallKind::CreateComment];
        let calls = |platform: &Platform, id: &Rc<str>| vec![platform.create_comment(id, body, idempotency_key)];
        let target = Target::Issue(issue_id.into());
        Box::pin(Self::call_reply(self.submit(kinds, target, checked, delivery, calls)))
    }
}

impl Handler<GetCredentialActor> for ResultPoster {
    type Result = Addr<CredentialActor>;

    fn handle(&mut self, _: GetCredentialActor, _: &mut Context<Self>) -> Self::Result {
        self.parts.dispatcher.credentials.actor()
    }
}

impl Handler<GetStats> for ResultPoster {
    type Result = MessageResult<GetStats>;

    fn handle(&mut self, _: GetStats, _: &mut Context<Self>) -> Self::Result {
        let gauges = self.parts.queue.gauges();
        let gauge = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        MessageResult(PosterStats {
            credential_fetches: self.parts.dispatcher.credentials.fetches(),
            in_flight: gauge(gauges.in_flight),
            queued: gauge(gauges.queued),
            active_lanes: gauge(gauges.active_lanes),
            ..self.parts.dispatcher.telemetry.stats()
        })
    }
}

impl Handler<Subscribe> for ResultPoster {
    type Result = ();

    fn handle(&mut self, message: Subscribe, _: &mut Context<Self>) {
        self.parts.dispatcher.telemetry.subscribe(message.subscriber);
    }
}

impl fmt::Debug for ResultPoster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResultPoster")
            .field("queue", &self.parts.queue)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn an_overloaded_message_is_refused_before_its_calls_are_built() {
        let options = Options::builder("http://127.0.0.1:1").max_in_flight(1).max_queued(0);
        let poster = ResultPoster::new(options.build().unwrap());
        let target = Target::Issue("i".into());
        let _place = poster.parts.queue.admit(target.clone(), Bound::Queue).unwrap();
        let calls = |_: &Platform, _: &Rc<str>| panic!("the calls were built");
        let kinds = &[CallKind::CreateComment];
        let outcomes = poster
            .submit(kinds, target, Ok(()), DeliveryOptions::default(), calls)
            .await;
        assert_eq!(outcomes, Ok(vec![Err(CallError::Overloaded)]));
    }
}
