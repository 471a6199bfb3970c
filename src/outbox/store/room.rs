//! How many calls of a lane are claimed. Pure.

use crate::call_id::CallId;

/// The calls and bytes that may still be claimed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) calls: usize,
    pub(super) bytes: usize,
    /// The calls of each lane.
    pub(super) per_lane: usize,
}

impl Room {
    pub(super) fn is_over(&self) -> bool {
        self.calls == 0 || self.bytes == 0
    }

    pub(super) fn take(&mut self, calls: FirstCalls) {
        self.calls = self.calls.saturating_sub(calls.calls);
        self.bytes = self.bytes.saturating_sub(calls.bytes);
    }
}

/// A waiting call, without its content.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallOutline {
    pub(super) seq: i64,
    pub(super) message: CallId,
    pub(super) bytes: usize,
}

/// The first calls of a lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FirstCalls {
    /// The place of the last one.
    pub(super) last: Option<i64>,
    calls: usize,
    bytes: usize,
}

impl FirstCalls {
    fn with(self, call: CallOutline) -> Self {
        Self {
            last: Some(call.seq),
            calls: self.calls.saturating_add(1),
            bytes: self.bytes.saturating_add(call.bytes),
        }
    }
}

/// The first messages of a lane for which there is room. There is room for the first one in any case. No more calls are
/// read than it takes to tell.
pub(super) fn first_calls<E>(
    calls: impl IntoIterator<Item = Result<CallOutline, E>>,
    room: &Room,
) -> Result<FirstCalls, E> {
    let mut calls = calls.into_iter();
    let mut head = FirstCalls::default();
    // With the message that is being read.
    let mut next = FirstCalls::default();
    let mut message = None;
    loop {
        let call = calls.next().transpose()?;
        let this_message = call.map(|call| call.message);
        if this_message.is_none() || this_message != message {
            if head.calls > 0 && next.calls > room.per_lane {
                return Ok(head);
            }
            head = next;
            let is_full = head.calls >= room.per_lane || head.bytes >= room.bytes;
            if head.calls > 0 && is_full {
                return Ok(head);
            }
            message = this_message;
        }
        let Some(call) = call else { return Ok(head) };
        next = next.with(call);
    }
}
