//! The outage gate of one route: whether the platform can be reached. Pure.
//!
//! ```text
//!          failures in a row              the first answer
//!   open ─────────────────────▶ closed ─────────────────────▶ opening
//!     ▲                           ▲                           │    │
//!     │                           └───────────────────────────┘    │
//!     └────────────── enough requests were answered ───────────────┘
//! ```

use std::time::{Duration, Instant};

use super::{ended::Ended, opening::Opening};
use crate::{call::Target, error::AttemptError};

/// So many failures in a row close the gate.
const FAILURES: u32 = 5;
/// The time from the closing to the first probe.
const FIRST_PROBE: Duration = Duration::from_secs(1);
/// The mean time between two probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// How many requests are allowed at once when the gate opens.
const FIRST_AT_ONCE: u32 = 8;

#[derive(Debug, Default)]
pub(super) struct Outage {
    state: State,
    row: Row,
    /// The number of openings so far. The failure of a request from before the last one says nothing.
    round: u64,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Open,
    Closed(Closed),
    Opening(Opening),
}

#[derive(Debug)]
struct Closed {
    since: Instant,
    /// The last failure.
    cause: AttemptError,
    probe_at: Instant,
    /// The probes that are being sent.
    probes: usize,
}

/// The failures since the last answer.
#[derive(Debug, Default)]
struct Row {
    failures: u32,
    /// The last failures of these before which no request was sent.
    unconnected: u32,
    target: Option<Target>,
    has_other_target: bool,
}

impl Row {
    fn note(&mut self, target: &Target, is_unconnected: bool) {
        self.failures = self.failures.saturating_add(1);
        self.unconnected = if is_unconnected {
            self.unconnected.saturating_add(1)
        } else {
            0
        };
        self.has_other_target |= self.target.get_or_insert_with(|| target.clone()) != target;
    }

    /// A target whose requests alone get no answer may be the cause of it.
    fn is_outage(&self) -> bool {
        self.unconnected >= FAILURES || (self.failures >= FAILURES && self.has_other_target)
    }
}

/// A change of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Closed,
    Opened { closed_for: Duration },
}

impl Outage {
    /// The last failure, if the gate is closed.
    pub(super) fn cause(&self) -> Option<&AttemptError> {
        match &self.state {
            State::Closed(closed) => Some(&closed.cause),
            State::Open | State::Opening(_) => None,
        }
    }

    /// Since when the gate is closed.
    pub(super) fn closed_since(&self) -> Option<Instant> {
        match &self.state {
            State::Closed(closed) => Some(closed.since),
            State::Open | State::Opening(_) => None,
        }
    }

    /// How many more requests may be sent now, without probes. `None` stands for any number.
    pub(super) fn room(&self) -> Option<u32> {
        match &self.state {
            State::Open => None,
            State::Closed(_) => Some(0),
            State::Opening(opening) => Some(opening.room()),
        }
    }

    /// Notes that a request is sent. Returns the round that it belongs to.
    pub(super) fn enter(&mut self) -> u64 {
        if let State::Opening(opening) = &mut self.state {
            opening.begin();
        }
        self.round
    }

    /// Notes the end of a request of this round.
    pub(super) fn leave(
        &mut self,
        round: u64,
        target: &Target,
        ended: Ended,
        error: Option<&AttemptError>,
        now: Instant,
    ) -> Option<Change> {
        let is_of_this_round = round == self.round;
        if let State::Opening(opening) = &mut self.state
            && is_of_this_round
        {
            opening.end();
        }
        let is_unconnected = match ended {
            Ended::Handled | Ended::RateLimited(_) | Ended::Answered => return self.answered(is_of_this_round, now),
            Ended::Busy(_) | Ended::Unavailable | Ended::Unanswered => false,
            Ended::Unconnected => true,
            Ended::NotTried => return None,
        };
        let error = error.filter(|_| is_of_this_round)?;
        if let State::Closed(closed) = &mut self.state {
            closed.cause = error.clone();
            return None;
        }
        self.row.note(target, is_unconnected);
        self.row.is_outage().then(|| {
            self.state = State::Closed(Closed {
                since: now,
                cause: error.clone(),
                probe_at: after(now, FIRST_PROBE),
                probes: 0,
            });
            Change::Closed
        })
    }

    fn answered(&mut self, is_of_this_round: bool, now: Instant) -> Option<Change> {
        self.row = Row::default();
        if let State::Opening(opening) = &mut self.state
            && is_of_this_round
            && opening.succeeded(0)
        {
            self.state = State::Open;
        }
        self.open(now)
    }

    /// Opens the gate if it is closed.
    pub(super) fn open(&mut self, now: Instant) -> Option<Change> {
        let since = self.closed_since()?;
        self.state = State::Opening(Opening::new(FIRST_AT_ONCE));
        self.row = Row::default();
        self.round = self.round.wrapping_add(1);
        let closed_for = now.saturating_duration_since(since);
        Some(Change::Opened { closed_for })
    }

    /// When the next probe is due. There is none while so many are being sent.
    pub(super) fn probe_at(&self, max_probes: usize) -> Option<Instant> {
        match &self.state {
            State::Closed(closed) if closed.probes < max_probes => Some(closed.probe_at),
            State::Open | State::Closed(_) | State::Opening(_) => None,
        }
    }

    /// Notes that a probe begins, and returns its round. `chance` is a random number from 0 to 1.
    pub(super) fn begin_probe(&mut self, now: Instant, chance: f64) -> u64 {
        if let State::Closed(closed) = &mut self.state {
            closed.probes = closed.probes.saturating_add(1);
            closed.probe_at = after(now, PROBE_INTERVAL.mul_f64(0.75 + chance.clamp(0.0, 1.0) / 2.0));
        }
        self.round
    }

    /// Notes that a probe of this round has ended.
    pub(super) fn end_probe(&mut self, round: u64) {
        if let State::Closed(closed) = &mut self.state
            && round == self.round
        {
            closed.probes = closed.probes.saturating_sub(1);
        }
    }
}

fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now)
}
