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
//!                                                              │ with an outbox: the message is stored
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
//!     .worker_id("wkr_1") // the platform compares it with the worker that claimed the session
//!     .auth_token(std::env::var("WORKER_TOKEN")?)
//!     .build()?;
//! let poster = ResultPoster::start_supervised(options);
//!
//! let result = AgentResult::new(SessionStatus::Completed).with_summary("Added the cache.");
//! let message = PostResult::new("sess-1", result);
//! match poster.send(message.clone()).await? {
//!     Ok(receipt) => println!("delivered: {receipt:?}"),
//!     Err(error) => match error.next_step() {
//!         NextStep::Nothing => println!("it is in the outbox, or you have cancelled it: {error}"),
//!         NextStep::RetryLater { after } => println!("send a clone again after {after:?}: {error}"),
//!         NextStep::RenewCredentials => println!("get a new token, then send a clone unless it is in the outbox: {error}"),
//!         NextStep::UseNextPoster => println!("the poster shuts down, send a clone to the next one: {error}"),
//!         NextStep::GiveUp => println!("report the error: {error}"),
//!     },
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Messages
//!
//! A [`ResultPoster`] takes these messages. All are sent with [`Addr::send`](actix::Addr::send), or with
//! [`PosterHandle::send`] from a program that does not run on actix.
//!
//! | message | reply | does | feature |
//! |---|---|---|---|
//! | [`PostResult`] | [`PostReceipt`] or [`PostError`] | delivers a session's result: the completion, then the status | |
//! | [`UpdateIssueStatus`] | [`CallReceipt`] or [`CallError`] | moves an issue to another status | |
//! | [`CreateComment`] | [`CallReceipt`] or [`CallError`] | comments on an issue | |
//! | [`Shutdown`] | [`ShutdownReport`] | delivers or parks what was accepted, then stops the actor | |
//! | [`RefreshCredentials`](credentials::RefreshCredentials) | [`IssuedCredentials`](credentials::IssuedCredentials) or [`CredentialError`] | makes new credentials current at once | |
//! | [`GetCredentialActor`](credentials::GetCredentialActor) | the address of its [`CredentialActor`](credentials::CredentialActor) | shares its credentials | |
//! | [`GetHealth`](health::GetHealth) | [`Health`](health::Health) | says whether all is well, for probes and alerts | |
//! | [`GetStats`](events::GetStats) | [`PosterStats`](events::PosterStats) | returns counters and histograms | |
//! | [`Subscribe`](events::Subscribe) | `()` | sends each [`DeliveryEvent`](events::DeliveryEvent) to an actor of yours | |
//! | [`PlatformReachable`] | `()` | ends the wait for a platform that is down | useful with `outbox` |
#![cfg_attr(
    feature = "outbox",
    doc = "| [`ListEntries`](outbox::ListEntries) | a list of [`OutboxEntry`](outbox::OutboxEntry) | lists stored calls | `outbox` |
| [`GetOutboxStats`](outbox::GetOutboxStats) | [`OutboxStats`](outbox::OutboxStats) | counts stored calls | `outbox` |
| [`GetDelivery`](outbox::GetDelivery) | a list of [`Delivery`](outbox::Delivery) | says what became of a call, session or issue | `outbox` |
| [`AwaitDelivery`](outbox::AwaitDelivery) | a future of [`DeliveryEnd`](outbox::DeliveryEnd) | waits for the end of a stored call | `outbox` |
| [`Requeue`](outbox::Requeue) | `()` | sends a parked call or a dead letter now | `outbox` |
| [`Discard`](outbox::Discard) | `()` | removes a parked call or a dead letter | `outbox` |
| [`DiscardTarget`](outbox::DiscardTarget) | [`DiscardedTarget`](outbox::DiscardedTarget) | removes all calls about a session or issue | `outbox` |"
)]
#![cfg_attr(
    feature = "testing",
    doc = "| [`Crash`](testing::Crash) | `()` | makes the actor fail | `testing` |"
)]
//!
//! The messages about an outbox reply with an [`OutboxError`] if they fail. A
//! [`CredentialActor`](credentials::CredentialActor) takes [`GetCredentials`](credentials::GetCredentials),
//! [`InvalidateCredentials`](credentials::InvalidateCredentials) and
//! [`RefreshCredentials`](credentials::RefreshCredentials).
//!
#![doc = include_str!("docs/links.md")]
#![doc = include_str!("docs/promises.md")]
//!
//! # Guides
//!
//! The [glossary](crate::docs::architecture#glossary) explains their words.
//!
//! | guide | content |
//! |---|---|
//! | [`docs::wire`] | the HTTP interface of the platform, each field, the reading of the runner's JSON |
//! | [`docs::responses`] | the meaning of each response, retries, pauses |
//! | [`docs::errors`] | each error, its next step, the repetition of a message |
//! | [`docs::credentials`] | sources of tokens, their cache, the worker id |
//! | [`docs::outbox`] | the outbox: its promise, its files, several processes, damage and repair |
//! | [`docs::postgres`] | the outbox on a PostgreSQL server: setup, versions, failover |
//! | [`docs::operations`] | log lines, statistics, metrics, health, sizes |
//! | [`docs::command`] | the command for operators, and a configuration |
//! | [`docs::faults`] | each failure of the network, and its outcome |
//! | [`docs::security`] | secrets, TLS, proxies, limits |
//! | [`docs::performance`] | speed and cost |
//! | [`docs::migration`] | from the Go package to this crate |
//! | [`docs::architecture`] | the design, for contributors |
//!
//! # Boundaries
//!
//! The crate talks to the platform only, never to an issue tracker, and knows nothing about how a result was produced.
//! It installs no rustls provider for the process, with one exception: if another crate has enabled awc's root features,
//! awc would panic without a provider, and this crate installs `ring` as the default. Without an outbox, a result lives in
//! memory until it is delivered: if the process exits first, it is lost unless the runner keeps a copy.
//!
#![cfg_attr(all(feature = "outbox", feature = "testing"), doc = include_str!("docs/tasks.md"))]
//!
//! # Features
//!
//! - `outbox`: the durable outbox on SQLite, which is built in and requires a C compiler.
//! - `outbox-postgres`: the outbox on a PostgreSQL server, with `outbox`; see [`docs::postgres`].
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

/// Compiles the code of the README.
#[cfg(all(doctest, feature = "outbox"))]
#[doc = include_str!("../README.md")]
struct Readme;
