//! Work whose panic is an outcome like any other.

use std::{any::Any, panic::AssertUnwindSafe};

use futures_util::FutureExt as _;

/// The work's output, or the message of its panic.
pub(crate) fn caught<T>(work: impl Future<Output = T>) -> impl Future<Output = Result<T, String>> {
    let work = AssertUnwindSafe(work).catch_unwind();
    work.map(|outcome| outcome.map_err(|panic| message(panic.as_ref())))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}
