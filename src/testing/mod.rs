//! Helpers for a runner's own tests: a platform that follows a script, a clock that a test moves, errors to handle, and
//! failures on demand. Feature `testing`.

mod crash;
mod errors;
mod platform;
mod reply;
mod request;
mod rules;
mod script;
mod server;

pub use self::{
    crash::Crash,
    errors::{parked_error, permanent_error, transient_error},
    platform::FakePlatform,
    reply::Reply,
    request::RecordedRequest,
    rules::PlatformRules,
};
pub use crate::clock::ManualClock;
