//! Wakes the owners of this process for their next look. A timer of their arbiter would wake it up four times as often: in
//! two steps, and again for the answer of a look that has found nothing.

use std::{sync::Arc, time::Instant};

use rusqlite::Connection;

use super::super::{LOOK_INTERVAL, Tick};
use super::owners::{Member, Owners};

/// The ticks of one thread.
#[derive(Debug, Default)]
pub(super) struct Ticks {
    ticks: Vec<(Member, Arc<Tick>)>,
    next_at: Option<Instant>,
}

impl Ticks {
    pub(super) fn add(&mut self, member: Member, tick: Arc<Tick>) {
        self.ticks.push((member, tick));
    }

    pub(super) fn remove(&mut self, member: Member) {
        self.ticks.retain(|(other, _)| *other != member);
    }

    /// When the next tick is due, if there is anybody to wake.
    pub(super) fn next(&mut self, now: Instant) -> Option<Instant> {
        if self.ticks.is_empty() {
            self.next_at = None;
        } else if self.next_at.is_none() {
            self.next_at = now.checked_add(LOOK_INTERVAL);
        }
        self.next_at
    }

    /// Wakes all, if it is time. `look` says of an owner whether there is nothing for it to see.
    pub(super) fn tick(&mut self, now: Instant, look: impl FnOnce(&[Member]) -> Vec<Member>) {
        if self.next(now).is_none_or(|at| now < at) {
            return;
        }
        self.next_at = now.checked_add(LOOK_INTERVAL);
        let members: Vec<_> = self.ticks.iter().map(|(member, _)| *member).collect();
        let in_vain = look(&members);
        for (member, tick) in &self.ticks {
            tick.wake(in_vain.contains(member));
        }
    }
}

impl Owners {
    /// The owners, of these, for which a look would find nothing: no owner has lanes, and the database has not changed since
    /// their last look, nor have they changed it themselves.
    pub(super) fn with_nothing_to_see(
        &self,
        connection: &Connection,
        members: &[Member],
        now: Instant,
    ) -> rusqlite::Result<Vec<Member>> {
        let mut owned = connection.prepare_cached(OWNED)?;
        if self.must_clean(now) || owned.exists(())? {
            return Ok(Vec::new());
        }
        let version = Self::version(connection)?;
        let sees_nothing = |member: &Member| {
            self.members
                .get(member)
                .is_some_and(|owner| !self.has_news(owner, version) && !owner.must_mark())
        };
        Ok(members.iter().copied().filter(sees_nothing).collect())
    }
}

pub(super) const OWNED: &str = "SELECT 1 FROM lanes WHERE owner > 0 LIMIT 1";
