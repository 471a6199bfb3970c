//! The store in memory, for the contract suite and the simulation: the model in its plainest form.

#![expect(clippy::arithmetic_side_effects, reason = "the numbers of a test are small")]

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashSet},
    future::pending,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use super::{
    Change, ClaimRequest, Claimed, ClaimedMessage, Failure, History, Inserted, LaneClaim, NewMessage, Settled,
    Settlement, Store, StoreFuture, StoredCall, Then, WallTime, Watched, Which, endpoint, isolated_lane,
};
use crate::{
    call_id::CallId,
    clock::Clock,
    error::{OutboxError, ParkReason},
    outbox::{
        entry::{EntryOwner, EntryQuery, EntryState, OutboxEntry, OutboxStats},
        faults::MAX_TAKEOVERS,
    },
};

/// One owner's handle.
pub(in crate::outbox) struct MemoryStore {
    tables: Rc<RefCell<Tables>>,
    owner: u64,
}

/// The tables of the store.
#[derive(Default)]
pub(in crate::outbox) struct Tables {
    lanes: BTreeMap<String, Lane>,
    calls: BTreeMap<CallId, Row>,
    /// The owners that are alive.
    alive: BTreeSet<u64>,
    /// The owners that have not noticed a change yet.
    unseen: BTreeSet<u64>,
    last_owner: u64,
    last_claim: i64,
    /// Fails every operation, as a full disk does.
    pub(in crate::outbox) is_broken: bool,
    /// Never answers, as while a flush hangs.
    pub(in crate::outbox) is_stalled: bool,
    /// Never answers settlements.
    pub(in crate::outbox) stalls_settlements: bool,
}

#[derive(Debug, Clone, Default)]
struct Lane {
    owner: Option<u64>,
    claim: i64,
    /// The round in which it was claimed.
    round: i64,
    /// The last call that the owner has taken.
    taken: u64,
    last_seq: u64,
    parked_at: WallTime,
    wait: WallTime,
    parked_by: Option<u64>,
    reason: Option<ParkReason>,
}

#[derive(Debug, Clone)]
struct Row {
    call: StoredCall,
    kind: String,
    /// `None` for a dead letter.
    place: Option<Place>,
    message: CallId,
    /// The lane to which a requeued dead letter returns.
    home: String,
    created_at: WallTime,
    dead_at: Option<WallTime>,
    /// Whether another message was answered with this id.
    is_known: bool,
    /// The claim under which it was sent, if that was noted.
    sent_under: Option<i64>,
    status_code: Option<u16>,
    error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    lane: String,
    seq: u64,
}

impl MemoryStore {
    /// A new owner of these tables.
    pub(in crate::outbox) fn open(tables: &Rc<RefCell<Tables>>) -> Rc<Self> {
        let owner = {
            let tables = &mut *tables.borrow_mut();
            tables.last_owner += 1;
            tables.alive.insert(tables.last_owner);
            tables.unseen.insert(tables.last_owner);
            tables.last_owner
        };
        Rc::new(Self {
            tables: Rc::clone(tables),
            owner,
        })
    }

    /// The owner dies: its lanes are freed by the next look of another owner.
    pub(in crate::outbox) fn kill(&self) {
        self.tables.borrow_mut().alive.remove(&self.owner);
    }

    /// One operation: it happens when the future is polled, at once and as a whole.
    fn run<T: 'static>(&self, work: impl FnOnce(&mut Tables, u64) -> T + 'static) -> StoreFuture<T> {
        let (tables, owner) = (Rc::clone(&self.tables), self.owner);
        Box::pin(async move {
            if tables.borrow().is_stalled {
                return pending().await;
            }
            let tables = &mut *tables.borrow_mut();
            if tables.is_broken {
                return Err(OutboxError::Full);
            }
            Ok(work(tables, owner))
        })
    }

    /// A change, which the other owners notice at their next look.
    fn change<T: 'static>(&self, work: impl FnOnce(&mut Tables, u64) -> T + 'static) -> StoreFuture<T> {
        self.run(move |tables, owner| {
            let result = work(tables, owner);
            let changed = tables.alive.iter().filter(|other| **other != owner);
            tables.unseen.extend(changed);
            result
        })
    }
}

impl Tables {
    fn of_lane(&self, lane: &str) -> Vec<CallId> {
        let place = |row: &Row| {
            row.place
                .as_ref()
                .filter(|place| place.lane == lane)
                .map(|place| place.seq)
        };
        let mut calls: Vec<_> = self
            .calls
            .iter()
            .filter_map(|(id, row)| Some((place(row)?, *id)))
            .collect();
        calls.sort_unstable();
        calls.into_iter().map(|(_, id)| id).collect()
    }

    /// The place of the last call of a lane.
    fn last_seq(&self, lane: &str) -> u64 {
        let last = self
            .of_lane(lane)
            .pop()
            .and_then(|id| self.calls.get(&id)?.place.as_ref());
        last.map_or(0, |place| place.seq)
    }

    fn settle(&mut self, owner: u64, settlement: Settlement) -> Settled {
        let Settlement {
            lane,
            changes,
            then,
            now,
        } = settlement;
        if !self.is_current(owner, &lane) {
            return Settled::NotCurrent;
        }
        let kept: Vec<CallId> = (changes.iter())
            .filter(|(_, change)| matches!(change, Change::Keep(_)))
            .map(|(id, _)| *id)
            .collect();
        let mut known = Vec::new();
        for (id, change) in changes {
            let record = |row: &mut Row, failure: Failure| {
                row.call.history = failure.history;
                row.status_code = failure.status_code;
                row.error = Some(failure.error);
                row.call.worker_id = failure.worker_id.or(row.call.worker_id.take());
            };
            match (change, self.calls.get_mut(&id)) {
                (Change::Delete, _) => drop(self.calls.remove(&id)),
                (Change::Withdraw, Some(row)) if row.is_known => known.push(id),
                (Change::Withdraw, _) => drop(self.calls.remove(&id)),
                (Change::DeadLetter(failure), Some(row)) => {
                    record(row, failure);
                    row.place = None;
                }
                (Change::Keep(failure), Some(row)) => record(row, failure),
                (Change::DeadLetter(_) | Change::Keep(_), None) => {}
            }
        }
        if !matches!(then, Then::Park { .. }) {
            for id in known {
                self.append(id, &lane.lane, now, ParkReason::LaneParked);
            }
        }
        let milliseconds = |wait: Duration| i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        let mut is_parked = false;
        match then {
            Then::Stay => return Settled::Done { is_released: false },
            Then::Continue => {}
            Then::Park { wait, reason } => {
                if let Some(lane) = self.lanes.get_mut(&lane.lane) {
                    lane.free(
                        now,
                        milliseconds(wait),
                        Some(owner).filter(|_| !reason.is_outage()),
                        Some(reason),
                    );
                }
                is_parked = true;
            }
            Then::Isolate { wait, reason } => {
                if let Some(first) = kept.first() {
                    let own = isolated_lane(&lane.lane, *first);
                    for id in &kept {
                        self.append(*id, &own, now, reason);
                    }
                    // Another owner may have it: with calls that were isolated before.
                    if let Some(lane) = self.lanes.get_mut(&own).filter(|lane| lane.owner.is_none()) {
                        lane.free(now, milliseconds(wait), Some(owner), Some(reason));
                    }
                }
            }
        }
        let is_released = self.tidy(&lane.lane, now);
        Settled::Done {
            is_released: is_released || (is_parked && self.lanes.contains_key(&lane.lane)),
        }
    }

    fn is_current(&self, owner: u64, claim: &LaneClaim) -> bool {
        let lane = self.lanes.get(&claim.lane);
        lane.is_some_and(|lane| lane.owner == Some(owner) && lane.claim == claim.claim)
    }

    /// Puts a call at the end of a lane, which is created if it does not exist.
    fn append(&mut self, id: CallId, lane: &str, now: WallTime, reason: ParkReason) {
        let entry = self.lanes.entry(lane.to_owned()).or_insert_with(|| Lane {
            parked_at: now,
            reason: Some(reason),
            ..Lane::default()
        });
        entry.last_seq += 1;
        let seq = entry.last_seq;
        if let Some(row) = self.calls.get_mut(&id) {
            row.place = Some(Place {
                lane: lane.to_owned(),
                seq,
            });
        }
    }

    /// Removes a lane without calls, and releases an owned one whose taken calls have all ended. Returns whether it was
    /// released.
    fn tidy(&mut self, name: &str, now: WallTime) -> bool {
        let first = self
            .of_lane(name)
            .first()
            .and_then(|id| self.calls.get(id)?.place.clone());
        let Some(first) = first else {
            self.lanes.remove(name);
            return false;
        };
        match self.lanes.get_mut(name) {
            Some(lane) if lane.owner.is_some() && first.seq > lane.taken => {
                lane.free(now, 0, None, None);
                true
            }
            Some(_) | None => false,
        }
    }

    fn requeue(&mut self, id: CallId, now: WallTime) -> bool {
        let Some(row) = self.calls.get(&id) else { return false };
        if self.state(row) == EntryState::Live {
            return false;
        }
        let (home, former) = (row.home.clone(), row.place.clone());
        if let Some(row) = self.calls.get_mut(&id) {
            row.call.history = History::default();
            row.dead_at = None;
            row.place = None;
        }
        if let Some(former) = former {
            self.tidy(&former.lane, now);
        }
        self.append(id, &home, now, ParkReason::Requeued);
        if let Some(lane) = self.lanes.get_mut(&home)
            && lane.owner.is_none()
        {
            lane.free(now, 0, None, Some(ParkReason::Requeued));
        }
        true
    }

    fn discard(&mut self, id: CallId) -> bool {
        let Some(row) = self.calls.get(&id) else { return false };
        if self.state(row) == EntryState::Live {
            return false;
        }
        if let Some(row) = self.calls.remove(&id)
            && let Some(place) = row.place
        {
            self.tidy(&place.lane, 0);
        }
        true
    }

    fn free_lanes_of(&mut self, owner: u64, now: WallTime, delay: WallTime) -> u64 {
        let names: Vec<String> = (self.lanes.iter())
            .filter(|(_, lane)| lane.owner == Some(owner))
            .map(|(name, _)| name.clone())
            .collect();
        let mut freed = 0;
        for name in names {
            let ids = self.of_lane(&name);
            freed += ids.len() as u64;
            let first = ids
                .first()
                .and_then(|id| Some((self.calls.get(id)?.message, self.calls.get(id)?.place.clone()?)));
            let (taken, claim) = (self.lanes.get(&name)).map_or((0, 0), |lane| (lane.taken, lane.claim));
            let mut wait = 0;
            if let Some((message, place)) = first
                && place.seq <= taken
            {
                let is_taken = |row: &Row| {
                    row.place
                        .as_ref()
                        .is_some_and(|place| place.lane == name && place.seq <= taken)
                };
                for row in self
                    .calls
                    .values_mut()
                    .filter(|row| row.message == message && is_taken(row))
                {
                    if row.call.history.takeovers == 0 || row.sent_under == Some(claim) {
                        row.call.history.takeovers += 1;
                    }
                    if row.call.history.takeovers >= MAX_TAKEOVERS {
                        wait = delay;
                    }
                }
            }
            if let Some(lane) = self.lanes.get_mut(&name) {
                lane.free(now, wait, None, None);
            }
        }
        freed
    }
}

impl Lane {
    fn free(&mut self, now: WallTime, wait: WallTime, by: Option<u64>, reason: Option<ParkReason>) {
        self.owner = None;
        self.taken = 0;
        self.parked_at = now;
        self.wait = wait;
        self.parked_by = by;
        self.reason = reason;
    }

    fn is_due(&self, now: WallTime) -> bool {
        now < self.parked_at || self.parked_at.saturating_add(self.wait) <= now
    }
}

impl Store for MemoryStore {
    fn insert(&self, message: NewMessage) -> StoreFuture<Inserted> {
        self.change(move |tables, owner| {
            if message.is_withdrawn() {
                return Inserted::Withdrawn;
            }
            let stored = |tables: &Tables, key: &str| {
                let mut rows = tables.calls.values();
                rows.find(|row| row.call.idempotency_key == key && row.place.is_some())
                    .map(|row| row.call.id)
            };
            let known: Vec<_> = (message.calls.iter())
                .map(|call| stored(tables, &call.idempotency_key))
                .collect();
            if let Some(any) = known.iter().copied().flatten().next() {
                let mut ids = Vec::new();
                for (call, waiting) in message.calls.iter().zip(known) {
                    let mut rows = tables.calls.values();
                    let dead = rows.find(|row| row.call.idempotency_key == call.idempotency_key);
                    let dead = dead.filter(|_| waiting.is_none()).map(|row| row.call.id);
                    if let Some(dead) = dead {
                        tables.requeue(dead, message.now);
                    }
                    let id = waiting.or(dead).unwrap_or(any);
                    tables.calls.entry(id).and_modify(|row| row.is_known = true);
                    ids.push(id);
                }
                return Inserted::Known { ids };
            }
            let keys: Vec<_> = message.calls.iter().map(|call| call.idempotency_key.clone()).collect();
            tables.calls.retain(|_, row| !keys.contains(&row.call.idempotency_key));

            let lane = tables.lanes.get(&message.lane);
            let is_live = message.park.is_none()
                && lane.is_none_or(|lane| {
                    lane.owner == Some(owner)
                        && lane.round <= message.round
                        && tables.last_seq(&message.lane) <= lane.taken
                });
            let Some(first) = message.calls.first().map(|call| call.id) else {
                return Inserted::Parked;
            };
            for call in message.calls {
                let row = Row {
                    call: StoredCall {
                        id: call.id,
                        kind: call.kind.to_string(),
                        target_id: call.target_id,
                        idempotency_key: call.idempotency_key,
                        headers: call.headers,
                        body: call.body.into_bytes(),
                        worker_id: message.worker_id.clone(),
                        history: History::default(),
                    },
                    kind: call.kind.to_string(),
                    place: None,
                    message: first,
                    home: message.lane.clone(),
                    created_at: message.now,
                    dead_at: None,
                    is_known: false,
                    sent_under: None,
                    status_code: None,
                    error: None,
                };
                tables.calls.insert(call.id, row);
                let reason = message.park.unwrap_or(ParkReason::LaneParked);
                tables.append(call.id, &message.lane, message.now, reason);
            }
            if !is_live {
                return Inserted::Parked;
            }
            let fresh = tables.last_claim + 1;
            let Some(lane) = tables.lanes.get_mut(&message.lane) else {
                return Inserted::Parked;
            };
            if lane.owner.is_none() {
                lane.owner = Some(owner);
                lane.claim = fresh;
                lane.round = 0;
                tables.last_claim = fresh;
            }
            lane.taken = lane.last_seq;
            Inserted::Live { claim: lane.claim }
        })
    }

    fn claim(&self, request: ClaimRequest) -> StoreFuture<Claimed> {
        self.change(move |tables, owner| {
            let mut due: Vec<(WallTime, String)> = (tables.lanes.iter())
                .filter(|(name, lane)| lane.owner.is_none() && endpoint(name) == request.endpoint)
                .filter(|(name, lane)| {
                    let outage = lane.reason.filter(|reason| reason.is_outage());
                    match (&request.which, outage) {
                        (Which::Probe { outage }, reason) => return reason == Some(*outage),
                        (Which::Due { outages }, Some(reason)) => return outages.contains(&reason),
                        (Which::Due { .. }, None) => {}
                    }
                    if lane.parked_by == Some(owner) {
                        return request.due.contains(name);
                    }
                    let is_held_back = lane.parked_by.is_some() && request.is_delayed(name);
                    lane.is_due(request.now) && !is_held_back
                })
                .map(|(name, lane)| (lane.parked_at.saturating_add(lane.wait), name.clone()))
                .collect();
            due.sort();
            if let Which::Probe { .. } = request.which {
                due.truncate(1);
            }
            let mut claimed = Claimed::default();
            let (mut calls, mut bytes) = (0, 0);
            let max_per_lane = request.max_per_lane(due.len());
            for (_, name) in due {
                if calls >= request.max_calls || bytes >= request.max_bytes {
                    claimed.is_limited = true;
                    break;
                }
                let mut messages: Vec<(CallId, Vec<StoredCall>)> = Vec::new();
                let mut taken = 0;
                let lane = tables.of_lane(&name);
                for (index, id) in lane.iter().enumerate() {
                    let Some(row) = tables.calls.get(id) else { continue };
                    let starts_message = messages.last().is_none_or(|(message, _)| *message != row.message);
                    let rest = lane.iter().skip(index).map_while(|id| tables.calls.get(id));
                    let end = index + rest.take_while(|next| next.message == row.message).count();
                    if starts_message && index > 0 && (end > max_per_lane || bytes >= request.max_bytes) {
                        break;
                    }
                    if starts_message {
                        messages.push((row.message, Vec::new()));
                    }
                    bytes += row.call.body.len();
                    calls += 1;
                    taken = row.place.as_ref().map_or(taken, |place| place.seq);
                    if let Some((_, calls)) = messages.last_mut() {
                        calls.push(row.call.clone());
                    }
                }
                tables.last_claim += 1;
                let claim = tables.last_claim;
                if let Some(lane) = tables.lanes.get_mut(&name) {
                    lane.owner = Some(owner);
                    lane.claim = claim;
                    lane.round = request.round;
                    lane.taken = taken;
                }
                claimed
                    .messages
                    .extend(messages.into_iter().map(|(_, calls)| ClaimedMessage {
                        lane: LaneClaim {
                            lane: name.clone(),
                            claim,
                        },
                        calls,
                    }));
            }
            let waits = (tables.lanes.iter())
                .filter(|(name, _)| endpoint(name) == request.endpoint)
                .filter(|(_, lane)| lane.reason.is_none_or(|reason| !reason.is_outage()))
                .filter(|(_, lane)| lane.owner.is_none() && lane.parked_by != Some(owner) && !lane.is_due(request.now))
                .map(|(_, lane)| lane.parked_at.saturating_add(lane.wait).saturating_sub(request.now));
            claimed.next_due = waits
                .min()
                .and_then(|wait| u64::try_from(wait).ok())
                .map(Duration::from_millis);
            claimed
        })
    }

    fn has_lease_since(&self, _: Instant) -> bool {
        true
    }

    fn is_current(&self, lane: LaneClaim, ids: Vec<CallId>) -> StoreFuture<bool> {
        self.run(move |tables, owner| {
            let place = |id: &CallId| tables.calls.get(id)?.place.as_ref();
            let has = |id: &CallId| place(id).is_some_and(|place| place.lane == lane.lane);
            tables.is_current(owner, &lane) && ids.iter().all(has)
        })
    }

    fn note_sending(&self, lane: LaneClaim, ids: Vec<CallId>) -> StoreFuture<()> {
        self.run(move |tables, owner| {
            if tables.is_current(owner, &lane) {
                for id in ids {
                    tables
                        .calls
                        .entry(id)
                        .and_modify(|row| row.sent_under = Some(lane.claim));
                }
            }
        })
    }

    fn has_calls(&self, lane: String, ended: HashSet<CallId>) -> StoreFuture<bool> {
        self.run(move |tables, _| tables.of_lane(&lane).iter().any(|id| !ended.contains(id)))
    }

    fn set_worker(&self, ids: Vec<CallId>, former: Option<String>, worker_id: String) -> StoreFuture<()> {
        self.change(move |tables, _| {
            for id in ids {
                if let Some(row) = tables.calls.get_mut(&id)
                    && row.call.worker_id == former
                {
                    row.call.worker_id = Some(worker_id.clone());
                }
            }
        })
    }

    fn settle(&self, settlements: Arc<[Settlement]>) -> StoreFuture<Vec<Settled>> {
        if self.tables.borrow().stalls_settlements {
            return Box::pin(pending());
        }
        self.change(move |tables, owner| {
            let settle = |settlement: &Settlement| tables.settle(owner, settlement.clone());
            settlements.iter().map(settle).collect()
        })
    }

    fn release_all(&self, now: WallTime) -> StoreFuture<()> {
        self.change(move |tables, owner| {
            for lane in tables.lanes.values_mut().filter(|lane| lane.owner == Some(owner)) {
                lane.free(now, 0, None, Some(ParkReason::Shutdown));
            }
        })
    }

    fn watch(&self, now: WallTime, delay: Duration) -> StoreFuture<Watched> {
        self.run(move |tables, owner| {
            let owners: BTreeSet<u64> = tables.lanes.values().filter_map(|lane| lane.owner).collect();
            let dead: Vec<u64> = owners.difference(&tables.alive).copied().collect();
            let delay = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
            let freed = dead
                .into_iter()
                .map(|owner| tables.free_lanes_of(owner, now, delay))
                .sum();
            if freed > 0 {
                tables.unseen.extend(&tables.alive);
            }
            Watched {
                freed,
                has_changed: tables.unseen.remove(&owner),
            }
        })
    }

    fn purge(&self, platform_now: WallTime, keep: Duration) -> StoreFuture<()> {
        self.run(move |tables, _| {
            let keep = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
            tables.calls.retain(|_, row| {
                row.place.is_some() || row.dead_at.get_or_insert(platform_now).saturating_add(keep) > platform_now
            });
        })
    }

    fn list(&self, query: EntryQuery) -> StoreFuture<Vec<OutboxEntry>> {
        self.run(move |tables, _| {
            let entries = tables.calls.values().map(|row| tables.entry(row));
            entries
                .filter(|entry| query.matches(entry, Clock::system().now()))
                .take(query.limit as usize)
                .map(|entry| match query.without_bodies {
                    true => OutboxEntry {
                        body: String::new(),
                        ..entry
                    },
                    false => entry,
                })
                .collect()
        })
    }

    fn of_target(&self, lane: String, target_id: String) -> StoreFuture<Vec<OutboxEntry>> {
        self.run(move |tables, _| {
            let is_of_target = |row: &&Row| row.home == lane && row.call.target_id == target_id;
            let rows = tables.calls.values().filter(is_of_target);
            rows.map(|row| tables.entry(row)).collect()
        })
    }

    fn requeue(&self, id: CallId, now: WallTime) -> StoreFuture<bool> {
        self.change(move |tables, _| tables.requeue(id, now))
    }

    fn withdraw(&self, ids: Vec<CallId>) -> StoreFuture<bool> {
        self.change(move |tables, _| {
            let is_free = |id| {
                let row = tables.calls.get(id);
                row.is_some_and(|row| !row.is_known && tables.state(row) != EntryState::Live)
            };
            let are_free = ids.iter().all(is_free);
            are_free && ids.into_iter().all(|id| tables.discard(id))
        })
    }

    fn discard(&self, id: CallId) -> StoreFuture<bool> {
        self.change(move |tables, _| tables.discard(id))
    }

    fn replacements(&self) -> u64 {
        0
    }

    fn stats(&self) -> StoreFuture<OutboxStats> {
        self.run(|tables, _| {
            let mut stats = OutboxStats::default();
            for row in tables.calls.values() {
                match tables.state(row) {
                    EntryState::Live => stats.live += 1,
                    EntryState::Parked => stats.parked += 1,
                    EntryState::DeadLetter => stats.dead_letters += 1,
                }
            }
            stats
        })
    }

    fn close(&self) -> StoreFuture<()> {
        self.run(|tables, owner| {
            tables.alive.remove(&owner);
        })
    }
}

impl Tables {
    fn state(&self, row: &Row) -> EntryState {
        let Some(place) = &row.place else {
            return EntryState::DeadLetter;
        };
        match self.lanes.get(&place.lane) {
            Some(lane) if lane.owner.is_some() && place.seq <= lane.taken => EntryState::Live,
            Some(_) | None => EntryState::Parked,
        }
    }

    fn entry(&self, row: &Row) -> OutboxEntry {
        let time = |time: WallTime| {
            let since = Duration::from_millis(u64::try_from(time).unwrap_or_default());
            UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
        };
        let lane = row.place.as_ref().and_then(|place| self.lanes.get(&place.lane));
        let state = self.state(row);
        OutboxEntry {
            id: row.call.id,
            state,
            owner: lane
                .filter(|_| state == EntryState::Live)
                .and_then(|lane| lane.owner)
                .map(|owner| EntryOwner {
                    id: i64::try_from(owner).unwrap_or_default(),
                    is_alive: self.alive.contains(&owner),
                }),
            kind: row.kind.clone(),
            target_id: row.call.target_id.clone(),
            queue: "memory".into(),
            worker_id: row.call.worker_id.clone(),
            idempotency_key: row.call.idempotency_key.clone(),
            body: String::from_utf8_lossy(&row.call.body).into_owned(),
            attempts: row.call.history.attempts,
            created_at: time(row.created_at),
            parked_at: lane
                .filter(|_| state == EntryState::Parked)
                .map(|lane| time(lane.parked_at)),
            next_attempt_at: lane
                .filter(|lane| state == EntryState::Parked && lane.reason.is_none_or(|reason| !reason.is_outage()))
                .map(|lane| time(lane.parked_at.saturating_add(lane.wait))),
            reason: lane
                .filter(|_| state == EntryState::Parked)
                .and_then(|lane| lane.reason)
                .map(|reason| reason.to_string()),
            age: row.call.history.age,
            status_code: row.status_code,
            last_error: row.error.clone(),
        }
    }
}

#[cfg(test)]
impl Tables {
    /// How many calls are live or parked.
    pub(in crate::outbox) fn waiting(&self) -> usize {
        self.calls.values().filter(|row| row.place.is_some()).count()
    }

    /// The lanes that should have been removed with their last call.
    pub(in crate::outbox) fn empty_lanes(&self) -> Vec<String> {
        let lanes = self.lanes.keys();
        lanes.filter(|lane| self.of_lane(lane).is_empty()).cloned().collect()
    }

    /// Deletes the call with this key, as an operator's SQL does.
    pub(in crate::outbox) fn lose(&mut self, key: &str) {
        self.calls.retain(|_, row| row.call.idempotency_key != key);
    }

    pub(in crate::outbox) fn is_waiting(&self, key: &str) -> bool {
        self.row(key).is_some_and(|row| row.place.is_some())
    }

    /// Whether the death of the call's owner counts for the call.
    pub(in crate::outbox) fn counts_death(&self, key: &str) -> bool {
        self.row(key).is_none_or(|row| {
            let lane = row.place.as_ref().and_then(|place| self.lanes.get(&place.lane));
            row.call.history.takeovers == 0 || row.sent_under == lane.map(|lane| lane.claim)
        })
    }

    /// The lanes that are parked because of an outage, each with the claim that ended so.
    pub(in crate::outbox) fn outages(&self) -> BTreeSet<(String, i64)> {
        let free = self.lanes.iter().filter(|(_, lane)| lane.owner.is_none());
        let parked = free.filter(|(_, lane)| lane.reason.is_some_and(ParkReason::is_outage));
        parked.map(|(name, lane)| (name.clone(), lane.claim)).collect()
    }

    /// Whether any of the calls may have killed an owner.
    pub(in crate::outbox) fn has_suspect(&self, ids: &[CallId]) -> bool {
        let rows = ids.iter().filter_map(|id| self.calls.get(id));
        rows.map(|row| &row.call.history).any(|history| history.takeovers > 0)
    }

    /// Whether the call has a lane of its own.
    pub(in crate::outbox) fn is_isolated(&self, key: &str) -> bool {
        let place = self.row(key).and_then(|row| row.place.as_ref());
        place.is_some_and(|place| super::is_isolated(&place.lane))
    }

    /// The keys of the calls of a lane before the message with this key.
    pub(in crate::outbox) fn keys_before(&self, lane: &str, key: &str) -> Vec<String> {
        let message = self.row(key).map(|row| row.message);
        let ids = self.of_lane(lane);
        let rows = ids.iter().filter_map(|id| self.calls.get(id));
        let before = rows.take_while(|row| Some(row.message) != message);
        before.map(|row| row.call.idempotency_key.clone()).collect()
    }

    fn row(&self, key: &str) -> Option<&Row> {
        self.calls.values().find(|row| row.call.idempotency_key == key)
    }
}
