//! The poster as a runner uses it: messages in, typed replies out, and a platform on a real socket.

// So that clippy takes the helpers for tests as well.
#![cfg(test)]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::string_slice,
    clippy::wildcard_enum_match_arm,
    reason = "a panic or an unexpected variant fails the test, as it should"
)]

mod support;

mod actix_facts;
mod answers_in_the_field;
mod api;
mod cancellation;
mod conformance;
mod credentials;
mod credentials_in_the_field;
mod day;
mod events;
mod fake_platform;
// Some of its names are known to this feature only.
#[cfg(feature = "__bridge")]
mod faults;
mod field_cases;
mod field_coverage;
// Also a part of `fuzz/`, which requires it to be public.
#[allow(unreachable_pub)]
mod fuzz_oracles;
mod handle;
mod health;
mod host;
mod http2;
mod idempotency;
mod issue_calls;
mod limits;
mod options;
mod outages;
mod outbox;
mod outbox_cancellation;
mod outbox_crash;
mod outbox_deliveries;
mod outbox_file;
mod outbox_order;
mod outbox_process;
mod outbox_rejections;
mod outbox_repeated;
mod outbox_sharing;
mod outbox_time;
mod pauses;
mod post_result;
mod properties;
mod proxies;
mod reauthentication;
mod refresh_endpoint;
mod resends;
mod response_isolation;
mod retries;
mod secrets;
mod shutdown;
mod supervision;
mod tls;
mod token_file;
mod transport;
mod worker_id;
