//! The poster as a runner sees it: messages in, typed replies out, and a platform on a real socket.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::string_slice,
    clippy::wildcard_enum_match_arm
)]

mod support;

mod actix_facts;
mod cancellation;
mod conformance;
mod credentials;
mod events;
mod fake_platform;
mod faults;
mod http2;
mod idempotency;
mod interleaving;
mod issue_calls;
mod limits;
mod options;
mod outbox;
mod outbox_crash;
mod outbox_file;
mod outbox_order;
mod outbox_owners;
mod outbox_stop;
mod outbox_time;
mod post_result;
mod proxies;
mod randomised;
mod reauthentication;
mod refresh_endpoint;
mod retries;
mod secrets;
mod shutdown;
mod supervision;
mod tls;
mod token_file;
mod transport;
