//! An error of any type that can be cloned.

use std::{error::Error, fmt, ops::Deref, sync::Arc};

use crate::util::chain;

/// The cause of another error: an error of any type, behind an [`Arc`] so that it can be cloned.
///
/// A `SharedError` dereferences to the error. Two `SharedError`s are equal if their errors and all sources have the
/// same texts.
#[derive(Clone)]
pub struct SharedError(Arc<dyn Error + Send + Sync>);

impl Deref for SharedError {
    type Target = dyn Error + Send + Sync;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for SharedError {
    fn from(error: E) -> Self {
        Self(Arc::from(error.into()))
    }
}

impl PartialEq for SharedError {
    fn eq(&self, other: &Self) -> bool {
        chain(&**self) == chain(&**other)
    }
}

impl Eq for SharedError {}

impl fmt::Debug for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
