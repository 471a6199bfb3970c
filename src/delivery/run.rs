//! The run of a message: its turn, then its calls in order, each guarded against cancellation and panics.

use std::{
    cell::Cell,
    pin::{Pin, pin},
    rc::Rc,
};

use futures_util::future::{Either, select};
use tokio_util::sync::CancellationToken;

use super::{
    cancel::Cancellation,
    dispatcher::{CallState, Dispatcher, Job},
};
use crate::{
    backoff::RetryPolicy,
    call::{Call, CallRef},
    error::{AttemptPhase, CallError, CancelledBy},
    queue::Permit,
    receipt::Outcome,
    util::catch_panic,
};

impl Dispatcher {
    /// The cancellation of a message with this token.
    pub(crate) fn cancellation(&self, token: Option<CancellationToken>) -> Cancellation {
        Cancellation::new(token, self.shutdown.clone())
    }

    /// Runs a message: waits for its turn, then runs its calls.
    pub(crate) async fn run(&self, mut job: Box<Job>) -> Vec<Outcome> {
        self.accept(&job.calls);
        // Boxed, so that its room is free while the calls run. It is not in their future, which is larger.
        Box::pin(async {
            let turn = pin!(async {
                job.ticket.wait_turn().await;
                job.permit.acquire().await;
            });
            select(turn, pin!(job.cancellation.cancelled())).await;
        })
        .await;
        let keep = async |_, outcome| outcome;
        Box::pin(self.run_calls(&mut job, &self.retry_policy, keep)).await
    }

    pub(crate) fn accept(&self, calls: &[Call]) {
        for call in calls {
            self.telemetry.call_accepted(call.as_ref());
        }
    }

    /// Runs the calls of a message in order, once the message has its turn. `settle` receives each outcome, and returns
    /// the outcome to report.
    pub(crate) async fn run_calls(
        &self,
        job: &mut Job,
        retry_policy: &RetryPolicy,
        mut settle: impl AsyncFnMut(usize, Outcome) -> Outcome,
    ) -> Vec<Outcome> {
        let Job {
            calls,
            worker,
            cancellation,
            passage,
            may_send,
            permit,
            begin,
            ..
        } = job;
        let mut cancelled = pin!(cancellation.cancelled());
        // There is no room before the first outcome: a message in flight needs none.
        let mut outcomes = Vec::new();
        for (index, call) in calls.iter().enumerate() {
            let state = CallState {
                cancellation,
                worker,
                may_send: may_send.as_ref(),
                admission: passage.of_call(index),
                index,
                attempts: Cell::new(0),
                may_have_been_delivered: Cell::new(false),
                phase: Rc::new(Cell::new(AttemptPhase::Connecting)),
                reauthenticated: Cell::new(false),
                asked_for_other_worker: Cell::new(false),
            };
            let outcome = self
                .guarded(call, permit, &state, cancelled.as_mut(), retry_policy)
                .await;
            let outcome = settle(index, outcome).await;
            self.telemetry.call_ended(call.as_ref(), &outcome, Some(*begin));
            outcomes.reserve_exact(calls.len().saturating_sub(index));
            outcomes.push(outcome);
        }
        outcomes
    }

    /// Runs one call to its outcome. A cancellation ends the call at any point. A panic becomes `CallError::Internal`.
    async fn guarded(
        &self,
        call: &Call,
        permit: &mut Permit,
        state: &CallState<'_>,
        cancelled: Pin<&mut impl Future>,
        retry_policy: &RetryPolicy,
    ) -> Outcome {
        let cancellation = state.cancellation;
        // The calls after a cancelled one are not sent, and `cancelled` must not be polled again once it is ready.
        if let Some(by) = cancellation.by() {
            return Err(state.cancelled(by));
        }
        // Pinned first, since passing a future on copies it.
        let work = pin!(self.retry(call, permit, retry_policy, state));
        // A response that arrives together with a cancellation counts.
        match select(pin!(catch_panic(work)), cancelled).await {
            Either::Left((outcome, _)) => outcome.unwrap_or_else(|message| Err(CallError::Internal { message })),
            Either::Right(_) => Err(state.cancelled(cancellation.by().unwrap_or(CancelledBy::Shutdown))),
        }
    }

    /// Ends a call that is not sent: reports its error.
    pub(crate) fn end_unsent(&self, call: CallRef<'_>, error: CallError) -> Outcome {
        let outcome = Err(error);
        self.telemetry.call_ended(call, &outcome, None);
        outcome
    }
}
