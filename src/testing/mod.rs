//! For a runner's own tests, and this crate's: a platform that follows a script, and a clock that
//! stands still until it is moved. Feature `testing`.

mod manual_clock;
mod platform;

pub use manual_clock::ManualClock;
pub use platform::{FakePlatform, RecordedRequest, Reply};
