//! The state of a file that its handles read without asking its thread.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use super::file::FileId;

/// The state of a file that its handles read without asking its thread.
#[derive(Debug, Default)]
pub(super) struct FileState {
    /// The file that is open.
    id: Mutex<Option<FileId>>,
    replacements: AtomicU64,
}

impl FileState {
    /// The file that is open.
    pub(super) fn id(&self) -> Option<FileId> {
        *self.id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_id(&self, id: Option<FileId>) {
        *self.id.lock().unwrap_or_else(PoisonError::into_inner) = id;
    }

    pub(super) fn count_replacement(&self) {
        self.replacements.fetch_add(1, Ordering::Relaxed);
    }

    /// How often the file was found to have been removed, replaced or restored.
    pub(super) fn replacements(&self) -> u64 {
        self.replacements.load(Ordering::Relaxed)
    }
}
