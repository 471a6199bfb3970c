//! The right to run an attempt.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A message's permit: the right to run one attempt. Acquired for each attempt, and released between attempts.
#[derive(Debug)]
pub struct Permit {
    permits: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
    /// The number of all permits, which a message that is tried alone acquires.
    all: u32,
    is_exclusive: bool,
}

impl Permit {
    pub(super) fn new(permits: &Arc<Semaphore>, all: usize) -> Self {
        Self {
            permits: Arc::clone(permits),
            held: None,
            all: u32::try_from(all).unwrap_or(u32::MAX),
            is_exclusive: false,
        }
    }

    /// From the next [`acquire`](Self::acquire) on, no other message holds a permit at the same time.
    pub(crate) fn make_exclusive(&mut self) {
        self.held = None;
        self.is_exclusive = true;
    }

    pub(crate) fn is_exclusive(&self) -> bool {
        self.is_exclusive
    }

    pub(super) fn try_acquire(&mut self) {
        self.held = Arc::clone(&self.permits).try_acquire_owned().ok();
    }

    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Waits for the permit, unless it is held.
    pub async fn acquire(&mut self) {
        if self.held.is_none() {
            let count = if self.is_exclusive { self.all } else { 1 };
            // The semaphore is never closed.
            self.held = Arc::clone(&self.permits).acquire_many_owned(count).await.ok();
        }
    }

    /// Releases the permit.
    pub fn release(&mut self) {
        self.held = None;
    }
}
