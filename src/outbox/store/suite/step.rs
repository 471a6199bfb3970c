//! Steps that change a store, and the answers to them.

use std::time::Duration;

use super::super::{Change, Settled, StoredCall, Then};
use super::shorthand::*;
use crate::{call_id::CallId, error::ParkReason};

/// How many owners there are. An owner that dies is replaced.
pub(super) const OWNERS: usize = 2;

/// One step. Owners are named by number, calls by key.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Insert {
        owner: usize,
        lane: String,
        keys: Vec<String>,
        park: Option<ParkReason>,
        /// Whether the claimed calls of its lane go first.
        is_overtaken: bool,
    },
    Claim {
        owner: usize,
        /// Targets whose lanes are due by the owner's clock if the owner has parked them.
        due: Vec<String>,
        /// Targets whose lanes are not due by the owner's clock.
        not_due: Vec<String>,
        /// Seconds after [`NOW`].
        at: i64,
    },
    Settle {
        key: String,
        /// How many claims ago the message was live: 0 for its last one.
        claims_ago: usize,
        end: End,
        /// Seconds after [`NOW`].
        at: i64,
    },
    ReleaseAll {
        owner: usize,
    },
    /// The holder of the message begins to send it.
    NoteSending {
        key: String,
    },
    SetWorker {
        key: String,
    },
    Withdraw {
        key: String,
    },
    /// Deletes all dead letters.
    Purge {
        owner: usize,
    },
    Requeue {
        key: String,
    },
    Discard {
        key: String,
    },
    Die {
        owner: usize,
    },
    Watch {
        owner: usize,
    },
}

/// How a message ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Deliver,
    Park,
    Isolate,
    DeadLetter,
    Withdraw,
    /// The first call is delivered, the others are parked.
    DeliverFirstAndPark,
    /// The first call is a dead letter, the others are isolated.
    DeadLetterFirstAndIsolate,
    /// The first call is parked, the others are withdrawn.
    ParkFirstAndWithdraw,
}

impl End {
    pub(super) fn change(self, index: usize) -> Change {
        match (self, index) {
            (Self::Deliver, _) | (Self::DeliverFirstAndPark, 0) => Change::Delete,
            (Self::DeadLetter, _) | (Self::DeadLetterFirstAndIsolate, 0) => Change::DeadLetter(failure()),
            (Self::Withdraw, _) | (Self::ParkFirstAndWithdraw, 1..) => Change::Withdraw,
            (
                Self::Park
                | Self::Isolate
                | Self::DeliverFirstAndPark
                | Self::DeadLetterFirstAndIsolate
                | Self::ParkFirstAndWithdraw,
                _,
            ) => Change::Keep(failure()),
        }
    }

    pub(super) fn then(self) -> Then {
        match self {
            Self::Deliver | Self::DeadLetter | Self::Withdraw => Then::Continue,
            Self::Park | Self::DeliverFirstAndPark | Self::ParkFirstAndWithdraw => park_for(MINUTE),
            Self::Isolate | Self::DeadLetterFirstAndIsolate => isolate_for(MINUTE),
        }
    }
}

/// The answer to a step, without the numbers of claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// There was no such message or call, so the store was not asked.
    NotAsked,
    Live,
    Parked,
    Known(Vec<CallId>),
    Claimed {
        messages: Vec<(String, Vec<StoredCall>)>,
        is_limited: bool,
        next_due: Option<Duration>,
    },
    Settled(Settled),
    Found(bool),
    Freed(u64),
    Done,
}
