//! The content of a store after its steps, and after the death of all owners.

use std::collections::{BTreeMap, BTreeSet};

use super::{super::Store as _, Fixture, shorthand::*, world::World};
use crate::{
    call_id::CallId,
    outbox::entry::{EntryState, OutboxEntry},
};

impl<F: Fixture> World<'_, F> {
    /// The calls in the store, without the numbers of their owners.
    pub(super) async fn entries(&self) -> Vec<OutboxEntry> {
        let mut entries = self.owners[0].1.entries().await;
        for entry in &mut entries {
            entry.owner = None;
            entry.queue.clear();
        }
        entries
    }

    /// Checks that the store has the calls of the model, and no others.
    pub(super) async fn check(&self) {
        let mut waiting = BTreeSet::new();
        let mut dead = BTreeSet::new();
        for entry in self.entries().await {
            match entry.state {
                EntryState::Live | EntryState::Parked => waiting.insert(entry.id),
                EntryState::DeadLetter => dead.insert(entry.id),
            };
        }
        let stored: BTreeSet<_> = self.content.lanes.values().flatten().copied().collect();
        assert_eq!(waiting, stored);
        assert_eq!(dead, self.content.dead);
    }

    /// All owners die. Another owner claims the remaining calls twice, and delivers them.
    pub(super) async fn die_and_drain(mut self) {
        self.check().await;
        let survivor = self.fixture.owner().await;
        for (_, owner) in self.owners.drain(..) {
            self.fixture.kill(owner).await;
        }
        survivor.watch(NOW, MINUTE).await.unwrap();
        let expected = self.content.lanes;
        // The first round sees only the beginning of a long lane, since nothing is delivered.
        let mut claimed = BTreeMap::new();
        claim_rest(&*survivor, &mut claimed).await;
        for (lane, ids) in &expected {
            let first_ids = claimed.get(lane).unwrap_or_else(|| panic!("{lane} is not claimed"));
            assert!(ids.starts_with(first_ids), "{lane}: {first_ids:?} instead of {ids:?}");
        }
        assert_eq!(claimed.len(), expected.len());
        survivor.release_all(NOW).await.unwrap();
        let mut delivered = BTreeMap::new();
        loop {
            let messages = claim_rest(&*survivor, &mut delivered).await;
            if messages.is_empty() {
                break;
            }
            for message in messages {
                survivor.deliver(&message).await;
            }
        }
        assert_eq!(delivered, expected);
        let left = survivor
            .entries()
            .await
            .into_iter()
            .map(|entry| (entry.id, entry.state));
        let dead = self.content.dead.into_iter().map(|id| (id, EntryState::DeadLetter));
        assert_eq!(left.collect::<Vec<_>>(), dead.collect::<Vec<_>>());
    }
}

/// Claims until no lane is due, and records the calls of each lane.
async fn claim_rest(owner: &impl Shorthand, claimed: &mut BTreeMap<String, Vec<CallId>>) -> Vec<LiveMessage> {
    let mut all = Vec::new();
    loop {
        let messages = owner.claim_at(NOW + DAY).await;
        if messages.is_empty() {
            return all;
        }
        for message in &messages {
            let calls = claimed.entry(message.lane.lane.clone()).or_default();
            assert!(
                message.ids.iter().all(|id| !calls.contains(id)),
                "{message:?} is claimed twice"
            );
            calls.extend(&message.ids);
        }
        all.extend(messages);
    }
}
