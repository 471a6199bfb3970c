//! The order of a lane whose calls are in the outbox.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use result_poster::{AttemptError, CreateComment, Discard, Requeue, testing::Reply};

use crate::{
    outbox::{SOON, Scene, count, late, shut_down, update, wait_until},
    support::{outcome, post, routes, start},
};

#[actix_rt::test]
async fn messages_behind_a_parked_one_are_parked_too_and_go_out_in_order() {
    let scene = Scene::new();
    scene.down();
    let poster = start(scene.options_with(late(scene.path())));
    assert_eq!(outcome(&poster.send(update("i")).await.unwrap()), "transient:1");
    // One that comes later, and three that come at once.
    let comment = |text: &str| poster.send(CreateComment::new("i", text));
    let mut replies = vec![comment("1").await];
    replies.extend(join_all(["2", "3", "4"].map(comment)).await);
    for reply in replies {
        let error = reply.unwrap().unwrap_err();
        let parked = error.transient().unwrap();
        assert!(parked.is_parked());
        assert!(matches!(parked.last, AttemptError::NotAttempted { .. }));
        assert!(!error.may_have_been_delivered());
    }
    assert_eq!(scene.platform.requests().len(), 1);
    // Another issue's is none of theirs.
    assert_eq!(outcome(&poster.send(update("j")).await.unwrap()), "transient:1");

    scene.up();
    for entry in scene.parked() {
        poster.send(Requeue(entry.id)).await.unwrap().unwrap();
    }
    scene.emptied().await;
    let texts: Vec<_> = scene
        .platform
        .requests()
        .iter()
        .skip(2)
        .map(|request| request.json().unwrap()["args"].clone())
        .filter(|args| args[0] == "i")
        .map(|args| args[1].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(texts, ["Finished", "1", "2", "3", "4"]);
}

#[actix_rt::test]
async fn a_message_that_waits_behind_one_that_is_then_parked_is_parked() {
    let scene = Scene::new();
    scene
        .platform
        .script("issue-tracker-proxy", [Reply::status(503).delay(5 * SOON)]);
    let poster = start(scene.options_with(late(scene.path())));
    let (first, second) = futures_util::future::join(poster.send(update("i")), poster.send(update("i"))).await;
    assert_eq!(outcome(&first.unwrap()), "transient:1");
    assert_eq!(outcome(&second.unwrap()), "transient:0");
    assert_eq!(scene.platform.requests().len(), 1);
}

#[actix_rt::test]
async fn a_message_does_not_overtake_one_that_is_sent_again() {
    let scene = Scene::new();
    let poster = start(scene.options());
    for _ in 0..5 {
        let comment = |text: &'static str| {
            let comments = (0..40).map(move |issue| CreateComment::new(format!("issue-{issue}"), text));
            comments.map(|comment| poster.send(comment)).collect::<Vec<_>>()
        };
        scene.down();
        join_all(comment("old")).await;
        scene.up();
        let before = scene.platform.requests().len();
        join_all(comment("new")).await;
        scene.emptied().await;
        let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for request in scene.platform.requests().iter().skip(before) {
            let args = request.json().unwrap()["args"].clone();
            let text = args[1].as_str().unwrap().to_owned();
            texts.entry(args[0].to_string()).or_default().push(text);
        }
        for (issue, texts) in texts {
            let last_old = texts.iter().rposition(|text| text == "old");
            let first_new = texts.iter().position(|text| text == "new");
            assert!(
                last_old.is_none_or(|old| first_new.is_none_or(|new| old < new)),
                "{issue} {texts:?}"
            );
        }
    }
}

#[actix_rt::test]
async fn what_is_kept_behind_a_parked_message_is_durable_too() {
    let scene = Scene::new();
    scene.down();
    let poster = start(scene.options_with(late(scene.path())));
    assert_eq!(outcome(&poster.send(update("i")).await.unwrap()), "transient:1");
    let receipt = poster.send(update("i").reply_when_durable()).await.unwrap().unwrap();
    assert!(receipt.queued().is_some());
    assert_eq!(scene.parked().len(), 2);
}

#[actix_rt::test]
async fn what_is_due_behind_a_call_on_its_way_goes_as_soon_as_that_is_done() {
    let scene = Scene::new();
    let delayed = Reply::ok().delay(10 * SOON);
    scene.platform.script("issue-tracker-proxy", [delayed, Reply::ok()]);
    // One call in memory; and nothing looks at the file by itself for twenty minutes.
    let hour = Duration::from_secs(60 * 60);
    let options = scene.options_with(late(scene.path()).lease(hour));
    let poster = start(options.max_in_flight(1).max_queued(0));
    let first = actix_rt::spawn(poster.send(update("i")));
    scene.platform.wait_for_requests(1).await;
    // The second finds no room, and is due, but not before the first is done.
    assert_eq!(outcome(&poster.send(update("i")).await.unwrap()), "transient:0");
    first.await.unwrap().unwrap().unwrap();
    scene.emptied().await;
    assert_eq!(scene.platform.requests().len(), 2);
}

#[actix_rt::test]
async fn what_can_not_be_parked_is_not_overtaken_either() {
    let scene = Scene::new();
    let down = Reply::status(503).delay(10 * SOON);
    scene.platform.script("issue-tracker-proxy", [down, Reply::ok()]);
    let poster = start(scene.options_with(late(scene.path())));
    let [first, second] = scene.one_behind_another(&poster).await;
    // As a disk that fails.
    let file = rusqlite::Connection::open(scene.path()).unwrap();
    file.execute_batch("CREATE TRIGGER full BEFORE UPDATE ON calls BEGIN SELECT RAISE(ABORT, 'full'); END")
        .unwrap();
    // It is in the file yet, and is parked at the next sign of life.
    let error = first.await.unwrap().unwrap().unwrap_err();
    assert!(error.transient().unwrap().is_parked());
    assert_eq!(outcome(&second.await.unwrap().unwrap()), "transient:0");
    assert_eq!(scene.platform.requests().len(), 1);
}

#[actix_rt::test]
async fn what_is_behind_a_call_that_is_discarded_is_due() {
    let scene = Scene::new();
    scene.script("issue-tracker-proxy", [503]);
    let poster = start(scene.options_with(late(scene.path())));
    for _ in 0..2 {
        poster.send(update("i")).await.unwrap().unwrap_err();
    }
    assert!(poster.send(Discard(scene.parked()[0].id)).await.unwrap().unwrap());
    scene.emptied().await;
    assert_eq!(scene.platform.requests().len(), 2);
}

#[actix_rt::test]
async fn what_can_not_be_read_is_a_dead_letter_and_holds_up_nothing() {
    let scene = Scene::new();
    scene.down();
    let poster = start(scene.options_with(late(scene.path())));
    post(&poster, "s").await.unwrap_err();
    poster.send(update("i")).await.unwrap().unwrap_err();
    shut_down(&poster).await;
    scene.up();
    let file = rusqlite::Connection::open(scene.path()).unwrap();
    let spoil = "UPDATE calls SET due_at = 0; UPDATE calls SET body = '{\"nonsense\":1}' WHERE name = 'completion'";
    file.execute_batch(spoil).unwrap();
    let before = scene.platform.requests().len();
    let _poster = start(scene.options());
    wait_until(|| count(&scene.path()) == 1).await;
    let dead = &scene.dead_letters()[0];
    assert_eq!(dead.call, "completion");
    assert!(dead.error.starts_with("it can't be read: "), "{}", dead.error);
    let mut after = routes(&scene.platform).split_off(before);
    after.sort();
    assert_eq!(after, ["issue-tracker-proxy", "status"]);
}
