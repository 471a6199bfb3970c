//! The handlers of the outbox's messages.

use actix::{Context, Handler, ResponseFuture};
use futures_util::FutureExt as _;

use super::actor::ResultPoster;
use crate::{
    error::OutboxError,
    outbox::{
        AwaitDelivery, Delivery, Discard, DiscardTarget, DiscardedTarget, GetDelivery, GetOutboxStats, ListEntries,
        Outbox, OutboxEntry, OutboxStats, PendingDelivery, Requeue,
    },
};

impl ResultPoster {
    fn with_outbox<T: 'static, F>(&self, work: impl FnOnce(Outbox) -> F) -> ResponseFuture<Result<T, OutboxError>>
    where
        F: Future<Output = Result<T, OutboxError>> + 'static,
    {
        match &self.parts.outbox {
            Some(outbox) => work(outbox.clone()).boxed_local(),
            None => Box::pin(async { Err(OutboxError::NotConfigured) }),
        }
    }
}

impl Handler<ListEntries> for ResultPoster {
    type Result = ResponseFuture<Result<Vec<OutboxEntry>, OutboxError>>;

    fn handle(&mut self, message: ListEntries, _: &mut Context<Self>) -> Self::Result {
        self.with_outbox(|outbox| outbox.list(message.query))
    }
}

impl Handler<Requeue> for ResultPoster {
    type Result = ResponseFuture<Result<(), OutboxError>>;

    fn handle(&mut self, message: Requeue, _: &mut Context<Self>) -> Self::Result {
        self.with_outbox(|outbox| outbox.requeue(message.id))
    }
}

impl Handler<Discard> for ResultPoster {
    type Result = ResponseFuture<Result<(), OutboxError>>;

    fn handle(&mut self, message: Discard, _: &mut Context<Self>) -> Self::Result {
        self.with_outbox(|outbox| outbox.discard(message.id))
    }
}

impl Handler<GetOutboxStats> for ResultPoster {
    type Result = ResponseFuture<Result<OutboxStats, OutboxError>>;

    fn handle(&mut self, _: GetOutboxStats, _: &mut Context<Self>) -> Self::Result {
        self.with_outbox(Outbox::stats)
    }
}

impl Handler<GetDelivery> for ResultPoster {
    type Result = ResponseFuture<Result<Vec<Delivery>, OutboxError>>;

    fn handle(&mut self, message: GetDelivery, _: &mut Context<Self>) -> Self::Result {
        self.with_outbox(|outbox| outbox.deliveries(message.which))
    }
}

impl Handler<AwaitDelivery> for ResultPoster {
    type Result = ResponseFuture<Result<PendingDelivery, OutboxError>>;

    fn handle(&mut self, message: AwaitDelivery, _: &mut Context<Self>) -> Self::Result {
        self.with_outbox(|outbox| outbox.await_delivery(message.id()))
    }
}

impl Handler<DiscardTarget> for ResultPoster {
    type Result = ResponseFuture<Result<DiscardedTarget, OutboxError>>;

    fn handle(&mut self, message: DiscardTarget, _: &mut Context<Self>) -> Self::Result {
        self.with_outbox(|outbox| outbox.discard_target(message.which))
    }
}
