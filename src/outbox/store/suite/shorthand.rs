//! Short names for what the tests do with a store. Each operation must succeed.

use std::time::Duration;

use super::super::{
    Change, ClaimRequest, Claimed, ClaimedMessage, Failure, History, Inserted, LaneClaim, LaneSet, MAX_PER_LANE,
    NewCall, NewMessage, Settled, Settlement, Store, Then, WallTime, Which,
};
use crate::{
    call::{CallKind, Endpoint},
    call_id::CallId,
    clock::Clock,
    error::{OutboxError, ParkReason},
    outbox::entry::{EntryQuery, EntryState, OutboxEntry},
};

/// The time of all operations that do not name another.
pub(super) const NOW: WallTime = 1_800_000_000_000;

/// The round of all claims.
pub(super) const ROUND: i64 = 7;

/// A second of wall time.
pub(super) const SECOND: WallTime = 1_000;

/// A day of wall time.
pub(super) const DAY: WallTime = 24 * 60 * 60 * SECOND;

/// The wait of a parked message.
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// The wait of a parked message in wall time.
pub(super) const MINUTE_LATER: WallTime = NOW + 60 * SECOND;

/// A message that an owner may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LiveMessage {
    pub(super) lane: LaneClaim,
    pub(super) ids: Vec<CallId>,
}

impl From<ClaimedMessage> for LiveMessage {
    fn from(message: ClaimedMessage) -> Self {
        Self {
            lane: message.lane,
            ids: message.calls.into_iter().map(|call| call.id).collect(),
        }
    }
}

/// A message with one call for each key, behind all calls that its process has claimed.
pub(super) fn message(lane: &str, keys: &[&str]) -> NewMessage {
    let call = |key: &&str| NewCall {
        id: CallId::new(&Clock::system()),
        kind: CallKind::Completion,
        target_id: lane.to_owned(),
        idempotency_key: (*key).to_owned(),
        headers: None,
        body: format!("body of {key}"),
    };
    NewMessage {
        lane: lane.to_owned(),
        calls: keys.iter().map(call).collect(),
        worker_id: None,
        park: None,
        round: ROUND,
        withdrawn: None,
        now: NOW,
    }
}

/// The ids of a message's calls.
pub(super) fn ids(message: &NewMessage) -> Vec<CallId> {
    message.calls.iter().map(|call| call.id).collect()
}

/// A claim without limits by an owner that has parked nothing.
pub(super) fn request(now: WallTime) -> ClaimRequest {
    ClaimRequest {
        round: ROUND,
        now,
        which: Which::Due { outages: Vec::new() },
        endpoint: Endpoint::Session,
        due: Vec::new(),
        delayed: LaneSet::default(),
        max_calls: 2 * MAX_PER_LANE,
        max_bytes: 1 << 30,
    }
}

pub(super) fn lanes(names: &[&str]) -> LaneSet {
    names.iter().copied().map(str::to_owned).collect()
}

/// The failure of a call that was tried once.
pub(super) fn failure() -> Failure {
    Failure {
        status_code: Some(503),
        error: "the platform is down".into(),
        worker_id: None,
        history: History {
            attempts: 1,
            parks: 1,
            ..History::default()
        },
    }
}

pub(super) fn park_for(wait: Duration) -> Then {
    Then::Park {
        wait,
        reason: ParkReason::AttemptsFailed,
    }
}

pub(super) fn park_for_outage(reason: ParkReason, wait: Duration) -> Then {
    Then::Park { wait, reason }
}

pub(super) fn isolate_for(wait: Duration) -> Then {
    Then::Isolate {
        wait,
        reason: ParkReason::AttemptsFailed,
    }
}

/// The ids of all claimed calls, in order.
pub(super) fn claimed_ids(claimed: &Claimed) -> Vec<CallId> {
    let calls = claimed.messages.iter().flat_map(|message| &message.calls);
    calls.map(|call| call.id).collect()
}

/// Operations that must succeed.
pub(super) trait Shorthand: Store {
    /// Inserts a message that must be live.
    async fn insert_live(&self, lane: &str, keys: &[&str]) -> LiveMessage {
        let message = message(lane, keys);
        let ids = ids(&message);
        let inserted = self.insert(message).await.unwrap();
        let Inserted::Live { claim } = inserted else {
            panic!("{keys:?} in {lane} is not live: {inserted:?}");
        };
        let lane = LaneClaim {
            lane: lane.to_owned(),
            claim,
        };
        LiveMessage { lane, ids }
    }

    /// Inserts a message that must be parked.
    async fn insert_parked(&self, lane: &str, keys: &[&str]) -> Vec<CallId> {
        let message = message(lane, keys);
        let ids = ids(&message);
        assert_eq!(
            self.insert(message).await.unwrap(),
            Inserted::Parked,
            "{keys:?} in {lane}"
        );
        ids
    }

    /// Inserts a message that is parked at once, because there is no token.
    async fn park_new(&self, lane: &str, keys: &[&str]) -> Vec<CallId> {
        let message = NewMessage {
            park: Some(ParkReason::NoCredentials),
            ..message(lane, keys)
        };
        let ids = ids(&message);
        assert_eq!(
            self.insert(message).await.unwrap(),
            Inserted::Parked,
            "{keys:?} in {lane}"
        );
        ids
    }

    /// Claims all lanes that are due, except for those that this owner has parked.
    async fn claim_at(&self, now: WallTime) -> Vec<LiveMessage> {
        let claimed = self.claim(request(now)).await.unwrap();
        claimed.messages.into_iter().map(LiveMessage::from).collect()
    }

    /// The ids of the calls that are claimed now.
    async fn claim_ids_at(&self, now: WallTime) -> Vec<CallId> {
        claimed_ids(&self.claim(request(now)).await.unwrap())
    }

    /// Claims the lanes that are named as due, and no lane that this owner has parked otherwise.
    async fn claim_due(&self, lanes: &[&str], now: WallTime) -> Vec<LiveMessage> {
        let due = lanes.iter().map(|lane| (*lane).to_owned()).collect();
        let claimed = self.claim(ClaimRequest { due, ..request(now) }).await.unwrap();
        claimed.messages.into_iter().map(LiveMessage::from).collect()
    }

    /// Makes the same change to all calls of a message.
    async fn settle_all(&self, message: &LiveMessage, change: Change, then: Then) -> Settled {
        let changes = message.ids.iter().map(|id| (*id, change.clone())).collect();
        self.settle_each(message, changes, then).await
    }

    async fn settle_each(&self, message: &LiveMessage, changes: Vec<(CallId, Change)>, then: Then) -> Settled {
        let settlement = Settlement {
            lane: message.lane.clone(),
            changes,
            then,
            now: NOW,
        };
        self.settle_one(settlement).await.unwrap()
    }

    async fn settle_one(&self, settlement: Settlement) -> Result<Settled, OutboxError> {
        let settled = self.settle([settlement].into()).await?;
        Ok(*settled.first().unwrap())
    }

    /// Deletes a message's calls. Returns whether the lane was released with calls left.
    async fn deliver(&self, message: &LiveMessage) -> bool {
        is_released(self.settle_all(message, Change::Delete, Then::Continue).await)
    }

    /// Parks a message for a minute.
    async fn park(&self, message: &LiveMessage) {
        let settled = self
            .settle_all(message, Change::Keep(failure()), park_for(MINUTE))
            .await;
        assert_ne!(settled, Settled::NotCurrent, "{message:?}");
    }

    /// Moves a message to a lane of its own for a minute. Returns whether its lane was released with calls left.
    async fn isolate(&self, message: &LiveMessage) -> bool {
        is_released(
            self.settle_all(message, Change::Keep(failure()), isolate_for(MINUTE))
                .await,
        )
    }

    /// Makes a message a dead letter. Returns whether its lane was released with calls left.
    async fn dead_letter(&self, message: &LiveMessage) -> bool {
        is_released(
            self.settle_all(message, Change::DeadLetter(failure()), Then::Continue)
                .await,
        )
    }

    /// Whether this owner may send the message.
    async fn may_send(&self, message: &LiveMessage) -> bool {
        self.is_current(message.lane.clone(), message.ids.clone())
            .await
            .unwrap()
    }

    /// All calls, by id.
    async fn entries(&self) -> Vec<OutboxEntry> {
        self.list(EntryQuery::all().limit(500)).await.unwrap()
    }

    async fn entry(&self, id: CallId) -> Option<OutboxEntry> {
        self.entries().await.into_iter().find(|entry| entry.id == id)
    }

    async fn state(&self, id: CallId) -> Option<EntryState> {
        self.entry(id).await.map(|entry| entry.state)
    }
}

impl<S: Store> Shorthand for S {}

fn is_released(settled: Settled) -> bool {
    match settled {
        Settled::Done { is_released } => is_released,
        Settled::NotCurrent => panic!("the lane is not current"),
    }
}
