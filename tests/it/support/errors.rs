//! Errors and their causes.

use std::{
    error::Error,
    fmt::Debug,
    iter::{self, successors},
};

/// An error and its chain of sources.
pub(crate) fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(error), |&cause| cause.source())
}

/// The texts of an error and of its chain of sources.
pub(crate) fn texts(error: &(dyn Error + 'static)) -> Vec<String> {
    chain(error).map(ToString::to_string).collect()
}

/// The `Debug` output of a reply, then the `Display` and `Debug` output of each error in its chain.
pub(crate) fn printed<T: Debug, E: Error + 'static>(reply: &Result<T, E>) -> Vec<String> {
    let errors = reply.as_ref().err().into_iter().flat_map(|error| chain(error));
    iter::once(format!("{reply:?}"))
        .chain(errors.flat_map(|error| [error.to_string(), format!("{error:?}")]))
        .collect()
}

/// No text repeats another, or a part of it.
pub(crate) fn assert_told_apart(texts: &[String]) {
    for (index, text) in texts.iter().enumerate() {
        assert!(!text.is_empty() && !text.ends_with('.'), "{texts:?}");
        for other in &texts[index + 1..] {
            assert!(!text.contains(other) && !other.contains(text), "{texts:?}");
        }
    }
}
