//! Delivery of an admitted message: runs each of its calls to an outcome.
//!
//! One verb per step: `run` (a message) → `run_calls` → `guarded` (cancellation, panic) → `retry` (the loop) →
//! `attempt` (credentials, one re-authentication) → `exchange` (one request, one verdict) → `Transport::post`.

mod attempt;
mod cancel;
mod dispatcher;
mod gate;
mod retry;
mod run;
mod worker;

pub(crate) use self::{
    cancel::Cancellation,
    dispatcher::{Dispatcher, Job, MaySend},
    gate::{Gates, Passage, max_hanging},
    worker::{KeepWorker, Worker},
};
