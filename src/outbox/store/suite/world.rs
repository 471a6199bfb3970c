//! Owners and operators at work on a store, and what the store must contain afterwards.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use super::super::{
    ClaimRequest, ClaimedMessage, Inserted, LaneClaim, NewMessage, Settled, Settlement, Store as _, WallTime, Watched,
};
use super::{
    Fixture,
    content::{Content, Holder},
    shorthand::*,
    step::{Answer, End, OWNERS, Step},
};
use crate::call_id::CallId;

/// A message that was live under a claim of an owner.
struct Turn {
    /// The number of the owner among all that there were.
    owner: usize,
    message: LiveMessage,
    /// Whether the message was settled in this turn.
    is_settled: bool,
}

impl Turn {
    fn new(owner: usize, message: LiveMessage) -> Self {
        Self {
            owner,
            message,
            is_settled: false,
        }
    }
}

/// A store under test, its owners, and a model of its content.
pub(super) struct World<'a, F: Fixture> {
    pub(super) fixture: &'a F,
    pub(super) owners: Vec<(usize, Rc<F::Owner>)>,
    owners_so_far: usize,
    ids_so_far: u128,
    turns: Vec<Turn>,
    /// The last id that was stored with each key.
    by_key: BTreeMap<String, CallId>,
    pub(super) content: Content,
}

impl<'a, F: Fixture> World<'a, F> {
    pub(super) async fn new(fixture: &'a F) -> Self {
        let mut world = Self {
            fixture,
            owners: Vec::new(),
            owners_so_far: 0,
            ids_so_far: 0,
            turns: Vec::new(),
            by_key: BTreeMap::new(),
            content: Content::default(),
        };
        for _ in 0..OWNERS {
            let owner = world.new_owner().await;
            world.owners.push(owner);
        }
        world
    }

    async fn new_owner(&mut self) -> (usize, Rc<F::Owner>) {
        self.owners_so_far += 1;
        (self.owners_so_far, self.fixture.owner().await)
    }

    /// Does one step, and checks its answer.
    pub(super) async fn step(&mut self, step: &Step) -> Answer {
        match step {
            Step::Insert {
                owner,
                lane,
                keys,
                park,
                is_overtaken,
            } => {
                let keys: Vec<_> = keys.iter().map(String::as_str).collect();
                let message = NewMessage {
                    park: *park,
                    round: if *is_overtaken { ROUND - 1 } else { ROUND },
                    ..message(lane, &keys)
                };
                self.insert(*owner, message, &keys).await
            }
            Step::Claim {
                owner,
                due,
                not_due,
                at,
            } => {
                let request = ClaimRequest {
                    due: self.content.lanes_of(due),
                    delayed: self.content.lanes_of(not_due).into_iter().collect(),
                    ..request(NOW + at * SECOND)
                };
                self.claim(*owner, request).await
            }
            Step::Settle {
                key,
                claims_ago,
                end,
                at,
            } => self.settle(key, *claims_ago, *end, NOW + at * SECOND).await,
            Step::ReleaseAll { owner } => {
                let (number, owner) = self.owners[*owner].clone();
                owner.release_all(NOW).await.unwrap();
                self.content.holders.retain(|_, holder| holder.owner != number);
                Answer::Done
            }
            Step::NoteSending { key } => self.note_sending(key).await,
            Step::SetWorker { key } => self.set_worker(key).await,
            Step::Withdraw { key } => self.withdraw(key).await,
            Step::Purge { owner } => {
                self.owners[*owner].1.purge(NOW, Duration::ZERO).await.unwrap();
                self.content.dead.clear();
                Answer::Done
            }
            Step::Requeue { key } => self.requeue(key).await,
            Step::Discard { key } => self.discard(key).await,
            Step::Die { owner } => {
                let fresh = self.new_owner().await;
                let (_, dead) = std::mem::replace(&mut self.owners[*owner], fresh);
                self.fixture.kill(dead).await;
                Answer::Done
            }
            Step::Watch { owner } => {
                let Watched { freed, .. } = self.owners[*owner].1.watch(NOW, MINUTE).await.unwrap();
                let alive: Vec<_> = self.owners.iter().map(|(number, _)| *number).collect();
                self.content.holders.retain(|_, holder| alive.contains(&holder.owner));
                Answer::Freed(freed)
            }
        }
    }

    async fn insert(&mut self, owner: usize, mut message: NewMessage, keys: &[&str]) -> Answer {
        let lane = &message.lane.clone();
        for call in &mut message.calls {
            self.ids_so_far += 1;
            call.id = CallId::from_parts(1, self.ids_so_far);
        }
        let ids = ids(&message);
        let waiting = |key: &&str| self.by_key.get(*key).copied().filter(|id| self.content.is_waiting(*id));
        let known: Vec<_> = keys.iter().map(waiting).collect();
        let any_known = known.iter().flatten().next().copied();
        let (number, owner) = self.owners[owner].clone();
        let inserted = owner.insert(message).await.unwrap();
        if let Some(any) = any_known {
            let mut ids = Vec::new();
            for (key, waiting) in keys.iter().zip(known) {
                let dead = self.by_key.get(*key).filter(|id| self.content.dead.contains(*id));
                let dead = dead.copied().filter(|_| waiting.is_none());
                if let Some(id) = dead {
                    self.content.remove(id);
                    self.content.append(&self.content.homes[&id].clone(), id);
                }
                ids.push(waiting.or(dead).unwrap_or(any));
            }
            assert_eq!(inserted, Inserted::Known { ids: ids.clone() });
            self.content.known.extend(&ids);
            return Answer::Known(ids);
        }
        for (key, id) in keys.iter().zip(&ids) {
            if let Some(former) = self.by_key.insert((*key).to_owned(), *id) {
                self.content.dead.remove(&former);
            }
            self.content.homes.insert(*id, lane.to_owned());
            self.content.append(lane, *id);
        }
        match inserted {
            Inserted::Live { claim } => {
                let holder = Holder { owner: number, claim };
                let former = self.content.holders.insert(lane.to_owned(), holder);
                assert!(
                    former.is_none_or(|former| former == holder),
                    "{lane} belongs to {former:?}"
                );
                let lane = LaneClaim {
                    lane: lane.to_owned(),
                    claim,
                };
                self.turns.push(Turn::new(number, LiveMessage { lane, ids }));
                Answer::Live
            }
            Inserted::Parked => Answer::Parked,
            Inserted::Known { .. } | Inserted::Withdrawn | Inserted::InDoubt(_) => panic!("{keys:?} was not stored"),
        }
    }

    async fn claim(&mut self, owner: usize, request: ClaimRequest) -> Answer {
        let (number, owner) = self.owners[owner].clone();
        let claimed = owner.claim(request).await.unwrap();
        self.content.check_claim(&claimed.messages, number);
        for message in claimed.messages.iter().cloned() {
            self.turns.push(Turn::new(number, message.into()));
        }
        let content = |message: ClaimedMessage| (message.lane.lane, message.calls);
        let mut messages: Vec<_> = claimed.messages.into_iter().map(content).collect();
        // The order of lanes that are due at the same time is not part of the contract.
        messages.sort_by(|(first, _), (second, _)| first.cmp(second));
        Answer::Claimed {
            messages,
            is_limited: claimed.is_limited,
            next_due: claimed.next_due,
        }
    }

    async fn settle(&mut self, key: &str, claims_ago: usize, end: End, now: WallTime) -> Answer {
        let Some(id) = self.by_key.get(key) else {
            return Answer::NotAsked;
        };
        let mut turns = self.turns.iter_mut().rev().filter(|turn| turn.message.ids.contains(id));
        let Some(turn) = turns.nth(claims_ago) else {
            return Answer::NotAsked;
        };
        let Some((number, owner)) = self.owners.iter().find(|(number, _)| *number == turn.owner) else {
            return Answer::NotAsked;
        };
        let message = &turn.message;
        let holder = Holder {
            owner: *number,
            claim: message.lane.claim,
        };
        let is_held = self.content.holders.get(&message.lane.lane) == Some(&holder);
        if is_held && turn.is_settled {
            // An owner settles a message once under each claim.
            return Answer::NotAsked;
        }
        assert_eq!(owner.may_send(message).await, is_held, "{message:?}");
        let changes = message
            .ids
            .iter()
            .enumerate()
            .map(|(index, id)| (*id, end.change(index)));
        let settlement = Settlement {
            lane: message.lane.clone(),
            changes: changes.collect(),
            then: end.then(),
            now,
        };
        let settled = owner.settle_one(settlement).await.unwrap();
        match settled {
            Settled::Done { is_released } => {
                assert!(is_held, "{message:?} was settled, but was not current");
                self.content.settle(message, end, is_released);
                turn.is_settled = true;
            }
            Settled::NotCurrent => assert!(!is_held, "{message:?} was current, but not settled"),
        }
        Answer::Settled(settled)
    }

    async fn note_sending(&mut self, key: &str) -> Answer {
        let turn = self.by_key.get(key).and_then(|id| {
            let mut turns = self.turns.iter().rev();
            turns.find(|turn| turn.message.ids.contains(id))
        });
        let Some(turn) = turn else { return Answer::NotAsked };
        let Some((_, owner)) = self.owners.iter().find(|(number, _)| *number == turn.owner) else {
            return Answer::NotAsked;
        };
        let LiveMessage { lane, ids } = turn.message.clone();
        owner.note_sending(lane, ids).await.unwrap();
        Answer::Done
    }

    async fn set_worker(&mut self, key: &str) -> Answer {
        let Some(id) = self.by_key.get(key).copied() else {
            return Answer::NotAsked;
        };
        let (_, owner) = &self.owners[0];
        owner.set_worker(vec![id], None, "worker".into()).await.unwrap();
        Answer::Done
    }

    async fn withdraw(&mut self, key: &str) -> Answer {
        let Some(id) = self.by_key.get(key).copied() else {
            return Answer::NotAsked;
        };
        let is_found = self.owners[0].1.withdraw(vec![id]).await.unwrap();
        if is_found {
            self.content.remove(id);
        }
        Answer::Found(is_found)
    }

    async fn requeue(&mut self, key: &str) -> Answer {
        let Some(id) = self.by_key.get(key).copied() else {
            return Answer::NotAsked;
        };
        let is_found = self.owners[0].1.requeue(id, NOW).await.unwrap();
        if is_found {
            self.content.remove(id);
            self.content.append(&self.content.homes[&id].clone(), id);
        }
        Answer::Found(is_found)
    }

    async fn discard(&mut self, key: &str) -> Answer {
        let Some(id) = self.by_key.get(key).copied() else {
            return Answer::NotAsked;
        };
        let is_found = self.owners[0].1.discard(id).await.unwrap();
        if is_found {
            self.content.remove(id);
        }
        Answer::Found(is_found)
    }
}
