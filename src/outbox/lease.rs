//! Whether this poster may still send the calls of its lanes.
//!
//! Other owners take its lanes if it seems dead: if its process was stopped or, on a server, could not renew its lease.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use super::{
    owner::Inner,
    store::{LaneClaim, Settlement, Then},
};
use crate::{call_id::CallId, error::ParkReason};

impl Inner {
    /// Whether a lane that was this owner's at that time is certainly still its own, and stays so until a request that begins
    /// now has ended. Otherwise the store has to be asked.
    pub(super) fn is_sure_of_lanes(&self, since: Instant) -> bool {
        !self.is_uncertain_since(since) && self.store.has_lease_since(since)
    }

    /// Asks the store whether these calls, which were this owner's at that time, may still be sent under the claim. If the store can't answer, they may as long as
    /// no other owner can have taken the lane: better twice than not at all.
    pub(super) async fn ask_for_lane(self: &Rc<Self>, lane: &LaneClaim, ids: Vec<CallId>, since: Instant) -> bool {
        let is_current = self.store.is_current(lane.clone(), ids).await;
        if is_current == Ok(false) {
            return false;
        }
        // The answer says that nobody had taken it so far.
        let since = if is_current.is_ok() {
            self.clock.instant()
        } else {
            since
        };
        let has_lease = self.store.has_lease_since(since);
        if !has_lease {
            // Nobody sends its calls. If it is still this owner's when the store answers, it must not stay so.
            self.settle_later(Settlement {
                lane: lane.clone(),
                changes: Vec::new(),
                then: Then::Park {
                    wait: Duration::ZERO,
                    reason: ParkReason::LaneParked,
                },
                now: self.now(),
            });
        }
        has_lease
    }
}
