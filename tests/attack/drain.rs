//! The end of an attack: all that is left in the file is delivered.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    child::{Plan, Process},
    platform::Platform,
    tools::{sqlite3, wait_until},
};

/// A poster that is started in the end delivers all that is left. Returns how long that took.
pub(crate) fn drain(platform: &Platform, outbox: &Path) -> Duration {
    let plan = Plan {
        max_in_flight: 16,
        ..Plan::new("last", platform, outbox)
    };
    let start = Instant::now();
    let mut process = Process::start(&plan);
    process.wait_for("started", 1);
    wait_until("the outbox is empty", || {
        sqlite3(outbox, "SELECT count(*) FROM calls") == "0"
    });
    let took = start.elapsed();
    process.does("shutdown 10000");
    assert!(process.ends().success());
    assert_eq!(process.logged(), Vec::<String>::new());
    took
}
