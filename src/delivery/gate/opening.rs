//! The gradual opening of a gate: as many requests at once as have succeeded. Pure.

/// The number of requests at once that need no gate.
const WIDE_OPEN: u32 = 64;

#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    /// How many requests are allowed at once.
    allowed: u32,
    /// How many are being sent.
    running: u32,
}

impl Opening {
    pub(super) fn new(allowed: u32) -> Self {
        Self { allowed, running: 0 }
    }

    pub(super) fn allowed(self) -> u32 {
        self.allowed
    }

    /// How many more requests may be sent now.
    pub(super) fn room(self) -> u32 {
        self.allowed.saturating_sub(self.running)
    }

    pub(super) fn begin(&mut self) {
        self.running = self.running.saturating_add(1);
    }

    pub(super) fn end(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Notes that a request has failed: one less is allowed at once, so that no other takes its place.
    pub(super) fn failed(&mut self) {
        self.allowed = self.allowed.saturating_sub(1).max(1);
    }

    /// Notes that a request has succeeded: one more is allowed at once, and at least so many. Returns whether that is as
    /// good as no gate.
    pub(super) fn succeeded(&mut self, at_least: u32) -> bool {
        self.allowed = self.allowed.saturating_add(1).max(at_least);
        self.allowed >= WIDE_OPEN
    }
}
