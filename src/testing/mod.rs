//! For a runner's own tests, and this crate's: a platform that follows a script, and a clock that
//! stands still until it is moved. Feature `testing`.

use std::time::Duration;

mod crash;
mod manual_clock;
mod platform;

pub use crash::Crash;
pub use manual_clock::ManualClock;
pub use platform::{FakePlatform, RecordedRequest, Reply};

/// How long, in real time, a test is left waiting for what does not come.
const WAIT_LIMIT: Duration = Duration::from_secs(10);
