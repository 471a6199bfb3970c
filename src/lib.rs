//! Delivers an agent runner's terminal result to its platform.
//!
//! A runner works through a session: it claims an issue, runs an agent, and ends with a result. The
//! platform has to hear of it, since it then comments on the issue, moves its status, releases the
//! session's lock and starts the next work. [`ResultPoster`] is the actor that sees to that: it
//! takes a message, posts it over HTTP with retries, and answers with a typed receipt or error.
//!
//! ```text
//! runner ──PostResult / UpdateIssueStatus / CreateComment──▶ ResultPoster (actor)
//!                                                              │ lanes: order per session and issue, bounded overall
//!                                                              ▼
//!                                         delivery: one task per message, the only retry loop
//!                                           │ credentials ─────▶ the cache of CredentialActor ──▶ CredentialProvider
//!                                           │ one attempt ─────▶ transport ──▶ the platform
//!                                           │ answer ──────────▶ classify ──▶ retry: how long to wait
//!                                           ▼
//! runner ◀───────── Result<PostReceipt, PostError> / Result<CallReceipt, CallError>
//! ```
//!
//! ```no_run
//! use result_poster::{AgentResult, Options, PostResult, ResultPoster, SessionStatus};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let options = Options::builder("https://app.example.com")
//!     .worker_id("wkr_1")
//!     .auth_token(std::env::var("WORKER_TOKEN")?)
//!     .build()?;
//! let poster = ResultPoster::start_supervised(options);
//!
//! let result = AgentResult::new(SessionStatus::Completed).with_summary("Added the cache.");
//! match poster.send(PostResult::new("sess-1", result)).await? {
//!     Ok(receipt) => println!("delivered with {} attempts", receipt.completion.attempts),
//!     Err(error) if error.is_retryable() => eprintln!("keep the result and send it again later: {error}"),
//!     Err(error) => eprintln!("sending it again would not help: {error}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! - **One reply per message** that the actor has taken: a receipt, or an error that says what to do.
//!   A panic in a call's work costs that call alone, and is [`CallError::Internal`]. (An arbiter or a system that is
//!   stopped drops what runs on it: [`Shutdown`] first.)
//! - **Order**: a result's completion is done with before its status is sent, and messages about one session or
//!   issue are delivered in the order they arrived. (What was cancelled or timed out on its way may still be read
//!   by the platform after what came next, and a completion that is parked in the outbox arrives after its status.)
//! - **Bounds**: at most `max_in_flight` attempts at once, at most `max_queued` messages that wait, a
//!   deadline on each attempt, a limit on each wait and on what is read of an answer.
//! - **Restart**: an actor that fails keeps its address, its mail and its running calls; see [`Supervisor`].
//! - **Fresh credentials**: whoever is rejected gets new ones, once, and all who were rejected together cause one
//!   fetch; see [`CredentialActor`].
//! - **Nothing is lost**, with the feature `outbox` and `OptionsBuilder::outbox`: what was handed over is on
//!   disk before it is sent, and is delivered at least once, although the platform is down for days or the process is
//!   killed.
//! - **Secrets stay secret**: a token is in no log line, no error and no `Debug` output, it follows no
//!   redirect, and it travels in clear text to no other machine unless you say so.
//!
//! What the network can do, and what becomes of a call then, is in [`docs::faults`]. How to run it is in
//! [`docs::operations`], what is done for the secrets in [`docs::security`], how it is built in
//! [`docs::architecture`], and for who comes from the Go package there is [`docs::migration`].
//!
//! # What it does not do
//!
//! It talks to the platform only, never to an issue tracker, and knows nothing of how a result came
//! about. It leaves the process's rustls provider alone (only where awc would panic without one, because another crate
//! has enabled awc's root features, it installs `ring` as the default). Without an outbox, a
//! result lives in memory until it is delivered: if the process ends before, it is the runner that has it.
//!
#![cfg_attr(all(feature = "outbox", feature = "testing"), doc = include_str!("docs/tasks.md"))]
//!
//! # Features
//!
//! - `outbox`: the durable outbox, by SQLite, built in (it takes a C compiler).
//! - `testing`: a scripted platform on loopback, a clock to move by hand, and failures on demand, for a runner's own
//!   tests.

#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod benching;
mod classify;
mod clock;
mod credentials;
mod delivery;
pub mod docs;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod journal;
mod lanes;
mod message;
mod options;
#[cfg_attr(not(feature = "outbox"), path = "outbox_off.rs")]
mod outbox;
mod panics;
mod poster;
#[cfg(feature = "outbox")]
mod replay;
mod result;
mod retry;
mod supervise;
#[cfg(feature = "testing")]
pub mod testing;
mod text;
mod transport;
mod wire;

pub use clock::Clock;
pub use credentials::{
    CredentialActor, CredentialError, CredentialLease, CredentialProvider, GetCredentials, InvalidateCredentials,
    ProviderError, RuntimeCredentials, RuntimeTokenFile, provider_fn,
};
pub use error::{
    AttemptError, CallError, InvalidMessage, OptionsError, PermanentError, PostError, Stage, TransientError,
};
pub use journal::{DeliveryEvent, DeliveryEventKind, Failure, GetStats, PosterStats, Subscribe};
pub use message::{
    CallReceipt, CreateComment, GetCredentialActor, PostReceipt, PostResult, Shutdown, ShutdownReport,
    UpdateIssueStatus,
};
pub use options::{Options, OptionsBuilder};
#[cfg(feature = "outbox")]
pub use outbox::{
    DeliveryId, Discard, ListDeadLetters, ListParked, OutboxEntry, OutboxError, OutboxFile, OutboxOptions, Page,
    Requeue,
};
pub use poster::ResultPoster;
pub use result::{AgentResult, Cost, SessionStatus, WorkResult};
pub use retry::{DEFAULT_BASE_DELAY, DEFAULT_MAX_ATTEMPTS};
pub use supervise::Supervisor;
pub use transport::{DEFAULT_TIMEOUT, Dialer};

// The type of tokens, and the trait to look at one; awc's own builder, for the closure of
// `OptionsBuilder::customize_client`, and the token that cancels a message.
pub use awc::ClientBuilder;
pub use secrecy::{ExposeSecret, SecretString};
pub use tokio_util::sync::CancellationToken;

/// Compiles and runs the README's code.
#[cfg(all(doctest, feature = "testing"))]
#[doc = include_str!("../README.md")]
struct Readme;
