//! Work whose panic is an outcome like any other.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use futures_util::FutureExt as _;

/// The work's output, or the message of its panic.
pub(crate) fn caught<T>(work: impl Future<Output = T>) -> impl Future<Output = Result<T, String>> {
    let work = AssertUnwindSafe(work).catch_unwind();
    work.map(|outcome| outcome.map_err(|panic| message(panic.as_ref())))
}

/// For what must not cost more than itself: a line in the log, whose backend is not ours.
pub(crate) fn quietly(work: impl FnOnce()) {
    // The panic's own hook has said what there is to say.
    let _ = catch_unwind(AssertUnwindSafe(work));
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}
