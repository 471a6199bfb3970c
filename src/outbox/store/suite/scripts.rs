//! Owners that die after every step of a script.

use super::{
    Fixture,
    step::{Answer, End, Step},
    world::World,
};
use crate::error::ParkReason;

fn insert(owner: usize, lane: &str, keys: &[&str]) -> Step {
    Step::Insert {
        owner,
        lane: lane.into(),
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        park: None,
        is_overtaken: false,
    }
}

fn park_new(owner: usize, lane: &str, keys: &[&str]) -> Step {
    Step::Insert {
        owner,
        lane: lane.into(),
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        park: Some(ParkReason::QueueFull),
        is_overtaken: false,
    }
}

/// Claims a minute later, when all parked lanes are due.
fn claim(owner: usize, due: &[&str]) -> Step {
    Step::Claim {
        owner,
        due: due.iter().map(|lane| (*lane).to_owned()).collect(),
        not_due: Vec::new(),
        at: 60,
    }
}

fn end(key: &str, end: End) -> Step {
    Step::Settle {
        key: key.into(),
        claims_ago: 0,
        end,
        at: 0,
    }
}

/// A settlement under the claim before the last one.
fn settle_stale(key: &str, end: End) -> Step {
    Step::Settle {
        key: key.into(),
        claims_ago: 1,
        end,
        at: 0,
    }
}

fn requeue(key: &str) -> Step {
    Step::Requeue { key: key.into() }
}

fn note_sending(key: &str) -> Step {
    Step::NoteSending { key: key.into() }
}

fn set_worker(key: &str) -> Step {
    Step::SetWorker { key: key.into() }
}

fn withdraw(key: &str) -> Step {
    Step::Withdraw { key: key.into() }
}

fn purge(owner: usize) -> Step {
    Step::Purge { owner }
}

fn discard(key: &str) -> Step {
    Step::Discard { key: key.into() }
}

fn release_all(owner: usize) -> Step {
    Step::ReleaseAll { owner }
}

fn die(owner: usize) -> Step {
    Step::Die { owner }
}

fn watch(owner: usize) -> Step {
    Step::Watch { owner }
}

/// Runs each prefix of a script. Then all owners die, and another owner delivers the remaining calls.
async fn die_after_every_step<F: Fixture>(script: &[Step]) {
    for steps in 0..=script.len() {
        let Some(fixture) = F::new().await else { return };
        let mut world = World::new(&fixture).await;
        for step in &script[..steps] {
            let answer = world.step(step).await;
            assert_ne!(answer, Answer::NotAsked, "{step:?}");
        }
        world.die_and_drain().await;
    }
}

pub(super) async fn deaths_lose_nothing_while_messages_are_delivered<F: Fixture>(_: &F) {
    die_after_every_step::<F>(&[
        insert(0, "lane", &["a", "b"]),
        insert(0, "lane", &["c"]),
        insert(1, "lane", &["d"]),
        insert(1, "another lane", &["e"]),
        end("a", End::Deliver),
        end("c", End::Deliver),
        claim(1, &[]),
        insert(1, "lane", &["f"]),
        end("d", End::Deliver),
        end("f", End::Deliver),
        end("e", End::Deliver),
    ])
    .await;
}

pub(super) async fn deaths_lose_nothing_while_messages_are_parked<F: Fixture>(_: &F) {
    die_after_every_step::<F>(&[
        insert(0, "lane", &["a", "b"]),
        insert(0, "lane", &["c"]),
        end("a", End::DeliverFirstAndPark),
        end("c", End::Deliver),
        insert(1, "lane", &["d"]),
        claim(1, &[]),
        end("b", End::Park),
        claim(1, &["lane"]),
        end("b", End::Deliver),
        end("c", End::Park),
        claim(0, &[]),
        end("c", End::Deliver),
        end("d", End::Deliver),
    ])
    .await;
}

pub(super) async fn deaths_lose_nothing_while_messages_are_isolated<F: Fixture>(_: &F) {
    die_after_every_step::<F>(&[
        insert(0, "lane", &["a", "b"]),
        insert(0, "lane", &["c", "d"]),
        park_new(1, "lane", &["e"]),
        end("a", End::Isolate),
        end("c", End::DeadLetterFirstAndIsolate),
        claim(1, &[]),
        end("e", End::Isolate),
        end("a", End::Park),
        insert(1, "lane", &["f"]),
        requeue("e"),
        requeue("b"),
        end("f", End::Deliver),
        claim(0, &[]),
        end("b", End::Deliver),
    ])
    .await;
}

pub(super) async fn deaths_lose_nothing_while_calls_are_repaired<F: Fixture>(_: &F) {
    die_after_every_step::<F>(&[
        insert(0, "lane", &["a", "b"]),
        end("a", End::DeadLetter),
        insert(0, "lane", &["c"]),
        requeue("b"),
        requeue("a"),
        requeue("c"),
        end("c", End::Park),
        requeue("c"),
        discard("b"),
        insert(1, "lane", &["b"]),
        claim(1, &[]),
        end("a", End::DeadLetter),
        insert(1, "lane", &["a"]),
        discard("a"),
    ])
    .await;
}

pub(super) async fn deaths_lose_nothing_during_takeovers<F: Fixture>(_: &F) {
    die_after_every_step::<F>(&[
        insert(0, "lane", &["a"]),
        insert(0, "lane", &["b"]),
        die(0),
        insert(1, "lane", &["c"]),
        watch(1),
        claim(1, &[]),
        end("a", End::Park),
        die(1),
        watch(0),
        claim(0, &[]),
        release_all(0),
        claim(1, &[]),
        die(1),
        insert(0, "lane", &["d", "e"]),
        watch(0),
        claim(0, &[]),
        end("a", End::Deliver),
        end("b", End::Isolate),
    ])
    .await;
}

pub(super) async fn deaths_lose_nothing_of_suspects<F: Fixture>(_: &F) {
    die_after_every_step::<F>(&[
        insert(0, "lane", &["a"]),
        insert(0, "another lane", &["b"]),
        die(0),
        watch(1),
        claim(1, &[]),
        note_sending("a"),
        die(1),
        watch(0),
        claim(0, &[]),
        note_sending("a"),
        die(0),
        watch(1),
        claim(1, &[]),
        note_sending("b"),
        end("b", End::Deliver),
        end("a", End::Park),
    ])
    .await;
}

pub(super) async fn deaths_lose_nothing_of_repeated_messages<F: Fixture>(_: &F) {
    die_after_every_step::<F>(&[
        insert(0, "lane", &["a", "b"]),
        // Known, and live.
        insert(1, "lane", &["a", "b"]),
        end("a", End::DeadLetterFirstAndIsolate),
        // The dead letter waits again.
        insert(1, "lane", &["a", "b"]),
        // Neither is withdrawn: another message was told of them.
        withdraw("a"),
        withdraw("b"),
        claim(1, &[]),
        end("a", End::DeadLetter),
        purge(1),
        insert(0, "lane", &["a", "b"]),
        end("b", End::Deliver),
        insert(0, "lane", &["a"]),
    ])
    .await;
}

pub(super) async fn deaths_lose_nothing_of_parked_calls_that_are_withdrawn<F: Fixture>(_: &F) {
    die_after_every_step::<F>(&[
        insert(0, "lane", &["a", "b"]),
        park_new(1, "lane", &["c"]),
        // Live, so not withdrawn.
        withdraw("a"),
        set_worker("a"),
        end("a", End::Park),
        withdraw("a"),
        withdraw("c"),
        set_worker("b"),
        claim(1, &[]),
        end("b", End::DeadLetter),
        purge(0),
        withdraw("b"),
        requeue("b"),
    ])
    .await;
}

pub(super) async fn deaths_lose_nothing_after_stale_settlements<F: Fixture>(_: &F) {
    die_after_every_step::<F>(&[
        insert(0, "lane", &["a", "b"]),
        insert(0, "lane", &["c"]),
        end("a", End::Park),
        end("c", End::Deliver),
        claim(1, &[]),
        settle_stale("a", End::Deliver),
        settle_stale("c", End::Park),
        release_all(1),
        claim(0, &[]),
        settle_stale("a", End::DeadLetter),
        settle_stale("c", End::Isolate),
        end("a", End::Deliver),
        end("c", End::Deliver),
    ])
    .await;
}

pub(super) async fn deaths_lose_nothing_while_messages_are_withdrawn<F: Fixture>(_: &F) {
    die_after_every_step::<F>(&[
        insert(0, "lane", &["a"]),
        insert(0, "lane", &["b", "c"]),
        insert(0, "lane", &["d"]),
        insert(0, "lane", &["e"]),
        insert(1, "lane", &["b"]),
        insert(1, "lane", &["e"]),
        end("b", End::Withdraw),
        end("a", End::Deliver),
        end("d", End::Withdraw),
        end("e", End::Withdraw),
        claim(1, &[]),
        end("b", End::Park),
        claim(1, &["lane"]),
        end("b", End::Deliver),
        end("e", End::Deliver),
    ])
    .await;
}

pub(super) async fn deaths_lose_nothing_of_a_long_lane<F: Fixture>(_: &F) {
    let mut script: Vec<_> = (0..20)
        .map(|index| park_new(0, "lane", &[&format!("{index:02}")]))
        .collect();
    script.push(claim(0, &[]));
    script.extend((0..16).map(|index| end(&format!("{index:02}"), End::Deliver)));
    script.push(claim(1, &[]));
    script.push(end("16", End::Park));
    die_after_every_step::<F>(&script).await;
}
