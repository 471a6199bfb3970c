//! Random sequences of steps, which a store must answer as the store in memory does.

use actix_rt::System;
use proptest::{
    collection::{btree_set, vec},
    prelude::*,
    sample::select,
    test_runner::TestRunner,
};

use super::{
    Fixture, MemoryFixture,
    step::{End, OWNERS, Step},
    world::World,
};
use crate::error::ParkReason;

const LANES: [&str; 3] = ["x", "y", "z"];
const KEYS: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];

fn key() -> impl Strategy<Value = String> {
    select(&KEYS).prop_map(str::to_owned)
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        3 => Just(End::Deliver),
        2 => Just(End::Park),
        1 => Just(End::Isolate),
        1 => Just(End::DeadLetter),
        1 => Just(End::Withdraw),
        1 => Just(End::DeliverFirstAndPark),
        1 => Just(End::DeadLetterFirstAndIsolate),
        1 => Just(End::ParkFirstAndWithdraw),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let keys = btree_set(select(&KEYS), 1..=2);
    let (is_parked, is_overtaken) = (prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    let insert = (0..OWNERS, select(&LANES), keys, is_parked, is_overtaken);
    let targets = || vec(select(&LANES).prop_map(str::to_owned), 0..=2);
    let claim = (0..OWNERS, targets(), targets(), select(&[0, 30, 60, 90, -60]));
    let settle = (key(), select(&[0, 0, 0, 1]), end(), select(&[0, 0, 30, -30]));
    prop_oneof![
        6 => insert.prop_map(|(owner, lane, keys, is_parked, is_overtaken)| Step::Insert {
            owner,
            lane: lane.to_owned(),
            keys: keys.into_iter().map(str::to_owned).collect(),
            park: is_parked.then_some(ParkReason::QueueFull),
            is_overtaken,
        }),
        4 => claim.prop_map(|(owner, due, mut not_due, at)| {
            not_due.retain(|target| !due.contains(target));
            Step::Claim { owner, due, not_due, at }
        }),
        14 => settle.prop_map(|(key, claims_ago, end, at)| Step::Settle { key, claims_ago, end, at }),
        1 => (0..OWNERS).prop_map(|owner| Step::ReleaseAll { owner }),
        2 => key().prop_map(|key| Step::NoteSending { key }),
        1 => key().prop_map(|key| Step::SetWorker { key }),
        1 => key().prop_map(|key| Step::Withdraw { key }),
        1 => (0..OWNERS).prop_map(|owner| Step::Purge { owner }),
        2 => key().prop_map(|key| Step::Requeue { key }),
        1 => key().prop_map(|key| Step::Discard { key }),
        1 => (0..OWNERS).prop_map(|owner| Step::Die { owner }),
        2 => (0..OWNERS).prop_map(|owner| Step::Watch { owner }),
    ]
}

/// Runs steps on the store and on the store in memory, and compares all answers and contents.
async fn compare<F: Fixture>(steps: &[Step]) {
    let (Some(fixture), Some(memory)) = (F::new().await, MemoryFixture::new().await) else {
        return;
    };
    let (mut world, mut reference) = (World::new(&fixture).await, World::new(&memory).await);
    for step in steps {
        let expected = reference.step(step).await;
        assert_eq!(world.step(step).await, expected, "{step:?}");
        assert_eq!(world.entries().await, reference.entries().await, "after {step:?}");
        world.check().await;
    }
    world.die_and_drain().await;
}

pub(super) fn random_steps_are_answered_as_by_the_store_in_memory<F: Fixture>() {
    let config = ProptestConfig {
        cases: F::RANDOM_CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let run = TestRunner::new(config).run(&vec(step(), 1..60), |steps| {
        System::new().block_on(compare::<F>(&steps));
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
}
