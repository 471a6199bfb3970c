//! The handlers of the messages, but for the outbox's and the shutdown.

use std::{mem, rc::Rc};

use actix::{Addr, Context, Handler, MessageResult, ResponseFuture};

use super::actor::ResultPoster;
use crate::{
    call::{CallKind, Platform, Target},
    credentials::{CredentialActor, CredentialError, GetCredentialActor, IssuedCredentials, RefreshCredentials},
    delivery::Worker,
    error::{CallError, PostError},
    message::{CreateComment, PlatformReachable, PostResult, UpdateIssueStatus},
    receipt::{CallReceipt, PostReceipt},
    telemetry::{GetStats, PosterStats, Subscribe},
    util::catch_panic,
};

// A `ResponseFuture` is a task of its own: it outlives a restart of the actor, and thousands of them cost nothing while
// they wait. Work that may panic is inside of it, never in the handler.
impl Handler<PostResult> for ResultPoster {
    type Result = ResponseFuture<Result<PostReceipt, PostError>>;

    fn handle(&mut self, mut message: PostResult, _: &mut Context<Self>) -> Self::Result {
        let checked = (message.check()).and_then(|()| self.check_worker(message.worker_id.as_deref()));
        let kinds = &[CallKind::Completion, CallKind::Status];
        let target = Target::Session(message.session_id.as_str().into());
        let worker = Worker::of_message(message.worker_id.as_deref());
        let delivery = mem::take(&mut message.delivery);
        let calls = move |platform: &Platform, id: &Rc<str>| platform.session_calls(id, &message);
        Box::pin(Self::post_reply(
            self.submit(kinds, target, checked, delivery, worker, calls),
        ))
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
        let calls =
            move |platform: &Platform, id: &Rc<str>| vec![platform.update_issue_status(id, &status, idempotency_key)];
        let target = Target::Issue(issue_id.into());
        Box::pin(Self::call_reply(self.submit(
            kinds,
            target,
            checked,
            delivery,
            Worker::default(),
            calls,
        )))
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
        let calls = move |platform: &Platform, id: &Rc<str>| vec![platform.create_comment(id, &body, idempotency_key)];
        let target = Target::Issue(issue_id.into());
        Box::pin(Self::call_reply(self.submit(
            kinds,
            target,
            checked,
            delivery,
            Worker::default(),
            calls,
        )))
    }
}

impl Handler<GetCredentialActor> for ResultPoster {
    type Result = Addr<CredentialActor>;

    fn handle(&mut self, _: GetCredentialActor, _: &mut Context<Self>) -> Self::Result {
        self.parts.dispatcher.credentials.actor()
    }
}

impl Handler<RefreshCredentials> for ResultPoster {
    type Result = ResponseFuture<Result<IssuedCredentials, CredentialError>>;

    fn handle(&mut self, _: RefreshCredentials, _: &mut Context<Self>) -> Self::Result {
        let (dispatcher, route) = (Rc::clone(&self.parts.dispatcher), Rc::clone(&self.parts.route));
        Box::pin(async move {
            let result = catch_panic(dispatcher.credentials.refresh()).await;
            route.wake();
            result.unwrap_or_else(|panic| Err(CredentialError::Panicked(panic)))
        })
    }
}

impl Handler<GetStats> for ResultPoster {
    type Result = MessageResult<GetStats>;

    fn handle(&mut self, _: GetStats, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.stats())
    }
}

impl ResultPoster {
    pub(super) fn stats(&self) -> PosterStats {
        let gauges = self.parts.queue.gauges();
        let gauge = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        PosterStats {
            credential_fetches: self.parts.dispatcher.credentials.fetches(),
            in_flight: gauge(gauges.in_flight),
            queued: gauge(gauges.queued),
            paused: self.parts.dispatcher.gates.waiting(),
            active_lanes: gauge(gauges.active_lanes),
            ..self.parts.dispatcher.telemetry.stats()
        }
    }
}

impl Handler<PlatformReachable> for ResultPoster {
    type Result = ();

    fn handle(&mut self, _: PlatformReachable, _: &mut Context<Self>) {
        let dispatcher = &self.parts.dispatcher;
        dispatcher.report(&dispatcher.gates.open(dispatcher.clock.instant()));
    }
}

impl Handler<Subscribe> for ResultPoster {
    type Result = ();

    fn handle(&mut self, message: Subscribe, _: &mut Context<Self>) {
        self.parts.dispatcher.telemetry.subscribe(message.subscriber);
    }
}
