//! The way of a message into the queue, and the way of its outcomes into the reply.

use std::{mem, rc::Rc};

use futures_util::{FutureExt as _, future::LocalBoxFuture};

use super::actor::ResultPoster;
use crate::{
    call::{Call, CallKind, CallRef, Platform, Target},
    delivery::{Cancellation, Dispatcher, Job, Passage, Worker},
    error::{CallError, InvalidMessageError, ParkReason, PostError},
    message::{DeliveryOptions, Headers},
    queue::{AdmitError, Bound, Permit, Ticket},
    receipt::{CallReceipt, Outcome, PostReceipt},
    route::{Overflow, ReplyWhen, Route},
    telemetry::Begin,
    util::catch_panic,
    warning::Warnings,
};

impl ResultPoster {
    /// Admits a message to the queue before it returns, so that the order of the mailbox is the order of the lane. The
    /// returned future runs the calls, and catches panics.
    pub(super) fn submit<F>(
        &self,
        kinds: &'static [CallKind],
        target: Target,
        checked: Result<(), InvalidMessageError>,
        options: DeliveryOptions,
        worker: Worker,
        calls: F,
    ) -> impl Future<Output = Result<Vec<Outcome>, String>> + use<F>
    where
        F: FnOnce(&Platform, &Rc<str>) -> Vec<Call> + 'static,
    {
        let place = checked
            .and_then(|()| self.check_durability(&options))
            .map_err(CallError::from)
            .map(|()| self.parts.queue.admit(target.clone(), Bound::Queue));
        let dispatcher = Rc::clone(&self.parts.dispatcher);
        let arrived_at = dispatcher.clock.instant();
        let unanswered = dispatcher.telemetry.message_arrived(arrived_at);
        let reply_when = if options.reply_when_durable {
            ReplyWhen::Durable
        } else {
            ReplyWhen::Done
        };
        // In a box that `start` frees, since a future holds what it has captured until its end.
        let arrival = Box::new(Arrival {
            place,
            kinds,
            target,
            calls,
            headers: options.headers,
            worker,
            cancellation: dispatcher.cancellation(options.cancellation),
            begin: Begin::Arrived(arrived_at),
            reply_when,
            route: Rc::clone(&self.parts.route),
            dispatcher,
        });
        catch_panic(async move {
            let _unanswered = unanswered;
            match arrival.start() {
                Ok(Started { run, warnings }) => warned(run.await, warnings),
                Err(refused) => refused,
            }
        })
    }

    /// Refuses a result that no worker could send: the platform would reject it.
    pub(super) fn check_worker(&self, worker_id: Option<&str>) -> Result<(), InvalidMessageError> {
        if worker_id.is_none() && !self.parts.can_name_worker {
            return Err(InvalidMessageError::new(
                "worker_id",
                "is missing, and no credential provider names one",
            ));
        }
        Ok(())
    }

    fn check_durability(&self, options: &DeliveryOptions) -> Result<(), InvalidMessageError> {
        if options.reply_when_durable && !self.parts.route.is_durable() {
            return Err(InvalidMessageError::new("reply_when_durable", "requires an outbox"));
        }
        Ok(())
    }

    // A combinator, since an `async fn` holds its argument twice.
    pub(super) fn post_reply(
        outcomes: impl Future<Output = Result<Vec<Outcome>, String>>,
    ) -> impl Future<Output = Result<PostReceipt, PostError>> {
        outcomes.map(|outcomes| {
            let [completion, status] = outcomes
                .map_err(PostError::internal)?
                .try_into()
                .map_err(|_| PostError::internal("a result with other than two outcomes".into()))?;
            match (completion, status) {
                (Ok(completion), Ok(status)) => Ok(PostReceipt { completion, status }),
                (Err(CallError::Invalid(error)), _) => Err(PostError::Invalid(error)),
                (Err(error), Ok(_)) => Err(PostError::Completion(error)),
                (Ok(_), Err(error)) => Err(PostError::Status(error)),
                (Err(completion), Err(status)) => Err(PostError::Both { completion, status }),
            }
        })
    }

    pub(super) fn call_reply(
        outcomes: impl Future<Output = Result<Vec<Outcome>, String>>,
    ) -> impl Future<Output = Result<CallReceipt, CallError>> {
        let internal = |message| CallError::Internal { message };
        outcomes.map(move |outcomes| {
            let outcome = outcomes.map_err(internal)?.pop();
            outcome.unwrap_or_else(|| Err(internal("a call without an outcome".into())))
        })
    }
}

/// A message that has asked for a place in the queue, and whose calls are not built yet.
struct Arrival<F> {
    place: Result<Result<(Ticket, Permit), AdmitError>, CallError>,
    kinds: &'static [CallKind],
    target: Target,
    calls: F,
    headers: Headers,
    worker: Worker,
    cancellation: Cancellation,
    begin: Begin,
    reply_when: ReplyWhen,
    dispatcher: Rc<Dispatcher>,
    route: Rc<dyn Route>,
}

/// A message whose calls run.
struct Started {
    run: LocalBoxFuture<'static, Vec<Outcome>>,
    /// The warnings of each call.
    warnings: Vec<Warnings>,
}

impl<F> Arrival<F>
where
    F: FnOnce(&Platform, &Rc<str>) -> Vec<Call>,
{
    /// Builds the calls and starts them, or returns the outcomes of a refused message.
    #[expect(clippy::boxed_local, reason = "a future holds what it has captured until its end")]
    fn start(self: Box<Self>) -> Result<Started, Vec<Outcome>> {
        let Self {
            place,
            kinds,
            target,
            calls,
            headers,
            worker,
            cancellation,
            begin,
            reply_when,
            dispatcher,
            route,
        } = *self;
        // A message is refused before its calls are built: an overload must not cost their encoding.
        let place = match place {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(refused)) => {
                let (reason, error) = match refused {
                    AdmitError::Full => (ParkReason::QueueFull, CallError::OVERLOADED),
                    AdmitError::Closed => (ParkReason::Shutdown, CallError::ShuttingDown),
                };
                match Rc::clone(&route).overflow() {
                    Some(run_overflow) => Err((run_overflow, reason)),
                    None => return Err(refuse(&dispatcher, kinds, target.id(), &error)),
                }
            }
            Err(error) => return Err(refuse(&dispatcher, kinds, target.id(), &error)),
        };
        let mut calls = calls(&dispatcher.platform, target.id());
        for call in &mut calls {
            call.headers = headers.clone();
        }
        let warnings = take_warnings(&dispatcher, &mut calls);
        let run = match place {
            Ok((ticket, permit)) => {
                let job = Box::new(Job {
                    calls,
                    worker,
                    cancellation,
                    passage: Passage::Free,
                    begin,
                    may_send: None,
                    permit,
                    ticket,
                });
                route.run(dispatcher, job, reply_when)
            }
            Err((run_overflow, reason)) => {
                let overflow = Overflow {
                    calls,
                    worker,
                    cancellation,
                    reason,
                };
                run_overflow(dispatcher, overflow, reply_when)
            }
        };
        Ok(Started { run, warnings })
    }
}

/// Refuses a message whose calls were not built.
fn refuse(dispatcher: &Dispatcher, kinds: &[CallKind], target_id: &str, error: &CallError) -> Vec<Outcome> {
    let refuse = |&kind| {
        let call = CallRef {
            kind,
            target_id,
            id: None,
            idempotency_key: None,
        };
        dispatcher.end_unsent(call, error.clone())
    };
    kinds.iter().map(refuse).collect()
}

/// Logs the warnings of calls that were just built, and takes them for the receipts. Empty if there are none.
fn take_warnings(dispatcher: &Dispatcher, calls: &mut [Call]) -> Vec<Warnings> {
    if calls.iter().all(|call| call.warnings.is_empty()) {
        return Vec::new();
    }
    let take = |call: &mut Call| {
        let warnings = mem::take(&mut call.warnings);
        for warning in warnings.iter() {
            dispatcher.telemetry.warned(call.as_ref(), warning);
        }
        warnings
    };
    calls.iter_mut().map(take).collect()
}

/// The outcomes of calls, with the warnings of each in its receipt.
fn warned(mut outcomes: Vec<Outcome>, warnings: Vec<Warnings>) -> Vec<Outcome> {
    for (outcome, warnings) in outcomes.iter_mut().zip(warnings) {
        if let Ok(receipt) = outcome {
            receipt.warn_first(warnings.into_vec());
        }
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    #[actix_rt::test]
    async fn an_overloaded_message_is_refused_before_its_calls_are_built() {
        let options = Options::builder("http://127.0.0.1:1").max_in_flight(1).max_queued(0);
        let poster = ResultPoster::new(options.build().unwrap());
        let target = Target::Issue("i".into());
        let _place = poster.parts.queue.admit(target.clone(), Bound::Queue).unwrap();
        let calls = |_: &Platform, _: &Rc<str>| panic!("the calls were built");
        let kinds = &[CallKind::CreateComment];
        let outcomes = poster
            .submit(
                kinds,
                target,
                Ok(()),
                DeliveryOptions::default(),
                Worker::default(),
                calls,
            )
            .await;
        assert_eq!(outcomes, Ok(vec![Err(CallError::OVERLOADED)]));
    }
}
