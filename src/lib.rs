//! Delivers the terminal result of an agent runner's session to its platform.
//!
//! A runner works through a session: it claims an issue, runs a coding agent, and ends with a result. The platform
//! needs that result to comment on the issue, move its status, release the session's lock and schedule the next
//! session. [`ResultPoster`] is the actor that delivers it: it takes a message, posts it over HTTP with retries, and
//! replies with a typed receipt or error.
//!
//! ```text
//! runner ──PostResult / UpdateIssueStatus / CreateComment──▶ ResultPoster (actor)
//!                                                              │ queue: order per session and issue, bounds
//!                                                              ▼
//!                                         delivery: one task per message, the only retry loop
//!                                           │ credentials ─────▶ cache of CredentialActor ──▶ CredentialProvider
//!                                           │ one attempt ─────▶ transport ──▶ the platform
//!                                           │ response ────────▶ verdict ──▶ backoff: how long to wait
//!                                           ▼
//! runner ◀───────── Result<PostReceipt, PostError> / Result<CallReceipt, CallError>
//! ```
//!
//! ```no_run
//! use result_poster::{AgentResult, NextStep, Options, PostResult, ResultPoster, SessionStatus};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let options = Options::builder("https://app.example.com")
//!     .worker_id("wkr_1")
//!     .auth_token(std::env::var("WORKER_TOKEN")?)
//!     .build()?;
//! let poster = ResultPoster::start_supervised(options);
//!
//! let result = AgentResult::new(SessionStatus::Completed).with_summary("Added the cache.");
//! // The worker that claimed the session.
//! let message = PostResult::new("sess-1", result).with_worker_id("wkr_1");
//! match poster.send(message).await? {
//!     Ok(receipt) => println!("delivered: {receipt:?}"),
//!     Err(error) => match error.next_step() {
//!         NextStep::Nothing => println!("the outbox will deliver it, or it was cancelled: {error}"),
//!         NextStep::RetryLater { after } => println!("send a clone again after {after:?}: {error}"),
//!         NextStep::RenewCredentials => println!("renew the credentials, then send a clone unless it is parked: {error}"),
//!         NextStep::UseNextPoster => println!("send a clone to the next poster: {error}"),
//!         NextStep::GiveUp => println!("sending it again would not help: {error}"),
//!     },
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A clone has both calls of a result, with the same `Idempotency-Key`s as before. The platform recognises a call that it
//! has carried out. The outbox recognises one that it holds ([`parked`](PostError::parked)), and does not send it twice.
//! `{error}` is the error's own layer: the reason is in its `source()`, so print the chain.
//!
//! # Promises
//!
//! - **One reply per accepted message**: a receipt, or an error whose [`next_step`](PostError::next_step) says what to
//!   do. A panic in a call's work costs that call alone, as [`CallError::Internal`]. (An arbiter or a system that is
//!   stopped drops its tasks: send [`Shutdown`] first.)
//! - **Order**: the completion finishes before the status is sent, and messages about one session or issue are
//!   delivered in the order in which they arrived. (A request that was cancelled or timed out in flight may still reach
//!   the platform after a later one, and a completion that is parked in the outbox arrives after its status.)
//! - **Bounds**: at most `max_in_flight` attempts at once (requests that hang have a bound of their own), at most
//!   `max_queued` waiting messages, a deadline on each
//!   attempt, a limit on each wait and on the part of a response that is read.
//! - **Restart**: a failed actor keeps its address, its mail and its running calls; see [`Supervisor`].
//! - **Fresh credentials**: a rejected call is sent once more, at once, with fresh credentials, and each later attempt
//!   asks for them again; concurrent rejections share one fetch; see [`CredentialActor`](credentials::CredentialActor).
//! - **Rate limits**: after a 429, the calls of its group wait together, without a permit and without an attempt.
//! - **At least once**, with the feature `outbox` and `OptionsBuilder::outbox`: a call is on disk before it is sent, if
//!   it can be stored, and is then delivered even if the platform is down for days or the process is killed.
//! - **Secrets stay secret**: a token is in no log line, no error and no `Debug` output, it follows no redirect, and it
//!   travels in plaintext to another machine only if you allow it.
//!
//! Network failures and their outcomes are listed in [`docs::faults`], operation in [`docs::operations`], the outbox in
//! [`docs::outbox`], the protection of secrets in [`docs::security`], the design in [`docs::architecture`]. If you are
//! migrating from the Go package, see [`docs::migration`].
//!
//! # Boundaries
//!
//! The crate talks to the platform only, never to an issue tracker, and knows nothing about how a result was produced.
//! It leaves the rustls provider of the process alone. (If another crate has enabled awc's root features, awc would
//! panic without a provider; then this crate installs `ring` as the default.) Without an outbox, a result lives in
//! memory until it is delivered: if the process exits first, it is lost unless the runner keeps a copy.
//!
#![cfg_attr(all(feature = "outbox", feature = "testing"), doc = include_str!("docs/tasks.md"))]
//!
//! # Features
//!
//! - `outbox`: the durable outbox on SQLite, which is built in and requires a C compiler.
//! - `metrics`: the statistics through the `metrics` facade, without an exporter; see [`docs::operations`].
//! - `testing`: a scripted platform on loopback, a manual clock, and failures on demand, for a runner's own tests.
//! - `cli`: the command `result-poster` for operators, with `outbox`; see [`docs::command`].

// On docs.rs, each item of a feature says so.
#![cfg_attr(docsrs, feature(doc_cfg))]
// Some internals are `pub` for `bridge`, and need no documentation for users.
#![cfg_attr(feature = "__bridge", allow(missing_docs))]
#![cfg_attr(not(feature = "__bridge"), allow(unreachable_pub))]

// One block per floor, the lowest first. A module uses modules on lower floors, and those that `FLOORS` in
// `tests/tidy.rs` lists before it on its own floor.
mod blocking;
mod call_id;
mod clock;
mod error;
mod label;
mod message;
mod receipt;
mod result;
mod seconds;
mod shared_work;
mod supervisor;
mod timestamp;
mod util;
mod warning;

mod backoff;
mod call;
mod queue;
mod redact;
mod verdict;

pub mod credentials;
mod telemetry;
mod transport;

mod delivery;
mod route;

#[cfg(feature = "outbox")]
pub mod outbox;

mod options;
mod poster;

#[cfg(feature = "__bridge")]
#[doc(hidden)]
pub mod bridge;
pub mod docs;
#[cfg(feature = "testing")]
pub mod testing;

pub use self::{
    call::{CallKind, PlatformRoute, WireFormat},
    call_id::{CallId, ParseCallIdError},
    clock::Clock,
    error::{
        AttemptError, AttemptPhase, CallError, CancelledBy, ConfigError, CredentialError, FailureKind,
        InvalidMessageError, NextStep, OptionsError, OutboxError, ParkReason, ParkedError, PermanentError, PostError,
        SharedError, TransientError,
    },
    label::UnknownNameError,
    message::{CreateComment, PlatformReachable, PostResult, Shutdown, TerminalWorkareaLease, UpdateIssueStatus},
    options::{Options, OptionsBuilder, OptionsConfig},
    poster::{PosterHandle, ResultPoster},
    receipt::{CallReceipt, PostReceipt, ShutdownReport},
    result::{AgentResult, Cost, ReadResultError, SessionStatus, WorkResult},
    supervisor::{StopHandle, Supervisor},
    warning::Warning,
};
// The token that cancels a message.
pub use tokio_util::sync::CancellationToken;

pub mod events {
    //! Events and statistics about calls, for metrics and logs.

    pub use crate::telemetry::{
        DeliveryEvent, DeliveryEventKind, EventCall, GateState, GateStatus, GetStats, Histogram, Metric, MetricKind,
        PosterStats, Subscribe,
    };
}

pub mod check {
    //! The steps of a check of options; see [`Options::check`](crate::Options::check).

    pub use crate::options::{CheckOutcome, CheckStep, CheckedStep};
}

pub mod health {
    //! The health of a poster, for probes and alerts.

    #[cfg(feature = "outbox")]
    pub use crate::outbox::OutboxHealth;
    pub use crate::{
        poster::{CredentialsHealth, GetHealth, Health, PlatformHealth, ShutdownProgress},
        telemetry::{GateState, GateStatus},
    };
}

pub mod client {
    //! The HTTP client, as [`OptionsBuilder::customize_client`](crate::OptionsBuilder::customize_client) shows it.

    pub use awc::ClientBuilder;

    pub use crate::transport::{ClientConnection, Dialer};
}

/// The items that only the outbox uses. Without the feature, all other dead code is reported.
#[cfg(not(feature = "outbox"))]
#[expect(dead_code, reason = "it only names the items")]
fn used_by_the_outbox(overflow: &route::Overflow, parts: options::Parts, error: OptionsError, cause: SharedError) {
    let _ = (&overflow.calls, &overflow.worker, overflow.reason);
    let _ = (overflow.cancellation.token(), parts.outbox, queue::Bound::None);
    let _ = (Clock::idle, error.with_source(cause));
    let _ = (
        backoff::RetryPolicy::once,
        credentials::Credentials::last_worker_id,
        credentials::Credentials::last_generation,
        credentials::Credentials::asks_platform,
    );
    let _ = (
        call::Call::stored_body,
        call::Call::stored_headers,
        call::Platform::restore,
    );
    let _ = (
        delivery::Cancellation::discarded_by,
        delivery::Cancellation::is_withdrawn,
    );
    let _ = (CallReceipt::stored, delivery::Worker::of_replay);
    let _ = |worker: &mut delivery::Worker, keep: delivery::KeepWorker| worker.keep_by(keep);
    let _ = |job: &mut delivery::Job, may_send: delivery::MaySend| job.may_send = Some(may_send);
    let _ = delivery::Worker::set_kept;
    let _ = (
        queue::LaneQueue::max_in_flight,
        queue::LaneQueue::round,
        queue::LaneQueue::end_round,
        queue::Ticket::is_waiting,
        queue::Ticket::round,
        queue::Ticket::mark,
        queue::Ticket::set_mark,
        queue::Permit::make_exclusive,
    );
    let gates = |gates: &std::rc::Rc<delivery::Gates>, route: PlatformRoute, now: std::time::Instant| {
        let probe = delivery::Passage::Probe {
            _slot: gates.begin_probe(route, now, 0.0),
        };
        let _ = [delivery::Passage::EachCall, delivery::Passage::FirstCall, probe];
        let _ = (gates.due_probes(route.endpoint(), now), gates.next_probe(now));
    };
    let _ = (
        gates,
        delivery::Gates::changed,
        delivery::Gates::held_back,
        delivery::Gates::until_held_back,
    );
    let _ = CallError::stored_text;
    let _ = (CallId::new, CallId::from_bytes, CallId::to_bytes, CallId::previous);
    let _ = (CallId::created_at, telemetry::Begin::Stored);
}

/// Compiles and runs the code of the README.
#[cfg(all(doctest, feature = "testing"))]
#[doc = include_str!("../README.md")]
struct Readme;
