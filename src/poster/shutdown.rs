//! The order of a shutdown: admit nothing more, drain, then cancel the rest.

use std::{pin::pin, rc::Rc};

use actix::{AsyncContext as _, Context, Handler, Message, ResponseFuture};
use futures_util::future::{Either, select};

use super::actor::ResultPoster;
use crate::{message::Shutdown, receipt::ShutdownReport, telemetry::PosterStats};

impl Handler<Shutdown> for ResultPoster {
    type Result = ResponseFuture<ShutdownReport>;

    fn handle(&mut self, message: Shutdown, context: &mut Context<Self>) -> Self::Result {
        self.parts.queue.close();
        self.parts.route.stop();
        let limit = self.parts.dispatcher.clock.instant().checked_add(message.within);
        self.shutdown_at = self.shutdown_at.into_iter().chain(limit).min();
        let before = self.parts.dispatcher.telemetry.stats();
        let (dispatcher, queue) = (Rc::clone(&self.parts.dispatcher), Rc::clone(&self.parts.queue));
        let (route, poster) = (Rc::clone(&self.parts.route), context.address());
        Box::pin(async move {
            let drained = pin!(async {
                queue.drained().await;
                route.close().await;
            });
            let time_limit = pin!(dispatcher.clock.sleep(message.within));
            let is_over = matches!(select(drained, time_limit).await, Either::Right(_));
            if is_over {
                dispatcher.shutdown.cancel();
                queue.drained().await;
                route.abandon();
            }
            poster.do_send(StopPermanently);
            ShutdownReport {
                outbox_is_open: is_over && route.is_durable(),
                ..report(&before, &dispatcher.telemetry.stats())
            }
        })
    }
}

/// The calls that ended between two counts.
fn report(before: &PosterStats, after: &PosterStats) -> ShutdownReport {
    let failed = |stats: &PosterStats| {
        [stats.permanent, stats.transient, stats.internal_errors]
            .into_iter()
            .fold(0, u64::saturating_add)
    };
    ShutdownReport {
        delivered: after.delivered.saturating_sub(before.delivered),
        failed: failed(after).saturating_sub(failed(before)),
        cancelled: after.cancelled.saturating_sub(before.cancelled),
        parked: after.parked.saturating_sub(before.parked),
        outbox_is_open: false,
    }
}

/// The end of a shutdown. A message, since a restart drops the futures that were spawned on the context.
struct StopPermanently;

impl Message for StopPermanently {
    type Result = ();
}

impl Handler<StopPermanently> for ResultPoster {
    type Result = ();

    fn handle(&mut self, _: StopPermanently, context: &mut Context<Self>) {
        self.stop.stop(context);
    }
}
