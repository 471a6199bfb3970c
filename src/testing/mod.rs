//! Helpers for a runner's own tests: a platform that follows a script, a clock that a test moves, and failures on
//! demand. Feature `testing`.

mod crash;
mod platform;
mod reply;
mod request;

pub use self::{crash::Crash, platform::FakePlatform, reply::Reply, request::RecordedRequest};
pub use crate::clock::ManualClock;
