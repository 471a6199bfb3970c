//! Helpers for a runner's own tests: a platform that follows a script, a clock that a test moves, receipts, errors and
//! events to handle, and failures on demand. Feature `testing`.

mod crash;
mod errors;
mod events;
mod platform;
mod receipts;
mod reply;
mod request;
mod rules;
mod script;
mod server;

pub use self::{
    crash::Crash,
    errors::{parked_error, permanent_error, transient_error},
    events::{attempt_failed, dead_letter, delivered, event, failed},
    platform::FakePlatform,
    receipts::{delivered_receipt, post_receipt, stored_receipt},
    reply::Reply,
    request::RecordedRequest,
    rules::PlatformRules,
};
pub use crate::clock::ManualClock;
