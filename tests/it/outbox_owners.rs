//! Whose calls the outbox holds: workers, and the processes that share a file.

use std::time::Duration;

use result_poster::{
    OutboxFile, ProviderError, RuntimeCredentials, provider_fn,
    testing::{FakePlatform, Reply},
};

use crate::{
    outbox::{SOON, Scene, calls, late, shut_down, soon, update, wait_until},
    support::{ScriptedProvider, builder, options, outcome, post, post_outcome, routes, start},
};

#[actix_rt::test]
async fn another_poster_delivers_what_one_has_left_and_begins_where_that_had_ended() {
    let scene = Scene::new();
    scene.script("status", [503]);
    let poster = start(scene.options_with(late(scene.path())));
    assert_eq!(post_outcome(&post(&poster, "s").await), "transient:1");
    assert_eq!(shut_down(&poster).await, 0);
    drop(poster);
    assert_eq!(calls(&scene.parked()), [("status", "s")]);

    let id = scene.parked()[0].id;
    assert!(OutboxFile::open(scene.path()).unwrap().requeue(id).unwrap());
    let _poster = start(scene.options());
    scene.emptied().await;
    // The completion was acknowledged: it is not sent again.
    assert_eq!(routes(&scene.platform), ["completion", "status", "status"]);
}

#[actix_rt::test]
async fn only_whom_a_call_belongs_to_delivers_it() {
    let scene = Scene::new();
    scene.down();
    let poster = start(scene.options_with(late(scene.path())));
    assert_eq!(outcome(&poster.send(update("i")).await.unwrap()), "transient:1");
    shut_down(&poster).await;
    let id = scene.parked()[0].id;
    OutboxFile::open(scene.path()).unwrap().requeue(id).unwrap();

    scene.up();
    let elsewhere = FakePlatform::start().unwrap();
    let other_platform = start(options(elsewhere.url()).outbox(soon(scene.path())));
    let other_worker = start(scene.options().worker_id("wkr_2"));
    for poster in [&other_platform, &other_worker] {
        poster.send(update("j")).await.unwrap().unwrap();
    }
    actix_rt::time::sleep(10 * SOON).await;
    assert_eq!(calls(&scene.parked()), [("updateIssueStatus", "i")]);
    let _poster = start(scene.options());
    scene.emptied().await;
    assert_eq!(elsewhere.requests().len(), 1);
}

#[actix_rt::test]
async fn what_is_on_its_way_is_not_taken_over_while_its_poster_shuts_down() {
    let scene = Scene::new();
    let lease = 10 * SOON;
    scene
        .platform
        .script("issue-tracker-proxy", [Reply::ok().delay(4 * lease)]);
    let poster = start(scene.options());
    let other = start(scene.options());
    let reply = actix_rt::spawn(poster.send(update("i")));
    scene.platform.wait_for_requests(1).await;
    assert_eq!(shut_down(&poster).await, 0);
    reply.await.unwrap().unwrap().unwrap();
    assert_eq!(scene.platform.requests().len(), 1);
    assert_eq!(shut_down(&other).await, 0);
}

#[actix_rt::test]
async fn a_worker_that_its_provider_names_finds_its_own_again() {
    let scene = Scene::new();
    let of = |worker: &'static str| {
        let credentials = move || async move { Ok::<_, ProviderError>(RuntimeCredentials::new(worker, "token")) };
        let options = builder(scene.platform.url()).max_attempts(1).base_delay(Duration::ZERO);
        options.credential_provider(provider_fn(credentials))
    };
    scene.down();
    let poster = start(of("wkr_8").outbox(late(scene.path())));
    post(&poster, "s").await.unwrap_err();
    shut_down(&poster).await;
    for entry in scene.parked() {
        assert_eq!(entry.worker_id, "wkr_8");
        OutboxFile::open(scene.path()).unwrap().requeue(entry.id).unwrap();
    }
    scene.up();
    let before = scene.platform.requests().len();
    let other = start(of("wkr_9").outbox(soon(scene.path())));
    post(&other, "t").await.unwrap();
    assert_eq!(scene.platform.requests().len(), before + 2);
    // Nothing has to be sent for it to begin.
    let _poster = start(of("wkr_8").outbox(soon(scene.path())));
    scene.emptied().await;
}

#[actix_rt::test]
async fn what_a_worker_has_left_is_delivered_by_the_one_that_has_replaced_it() {
    let scene = Scene::new();
    scene.down();
    let options = || builder(scene.platform.url()).max_attempts(1).base_delay(Duration::ZERO);
    // For the outbox, the first two calls, and then on.
    let provider = ScriptedProvider::tokens(["1", "1", "1", "2"]);
    let poster = start(options().credential_provider(provider).outbox(late(scene.path())));
    post(&poster, "s").await.unwrap_err();
    let workers = |worker: &str| scene.parked().iter().filter(|entry| entry.worker_id == worker).count();
    assert_eq!(workers("wkr_1"), 2);
    post(&poster, "t").await.unwrap_err();
    wait_until(|| workers("wkr_2") == 4).await;
    shut_down(&poster).await;
    for entry in scene.parked() {
        OutboxFile::open(scene.path()).unwrap().requeue(entry.id).unwrap();
    }
    scene.up();
    // One that has never heard of the first.
    let _poster = start(
        options()
            .worker_id("wkr_2")
            .auth_token("token")
            .outbox(soon(scene.path())),
    );
    scene.emptied().await;
}

#[actix_rt::test]
async fn what_another_process_has_taken_over_meanwhile_is_kept_by_that() {
    let scene = Scene::new();
    scene
        .platform
        .script("issue-tracker-proxy", [Reply::status(503).delay(5 * SOON)]);
    let poster = start(scene.options_with(late(scene.path())));
    let reply = actix_rt::spawn(poster.send(update("i")));
    scene.platform.wait_for_requests(1).await;
    // As one does that takes this one for dead.
    let file = rusqlite::Connection::open(scene.path()).unwrap();
    file.execute("UPDATE calls SET owner = 7", ()).unwrap();
    let error = reply.await.unwrap().unwrap().unwrap_err();
    assert!(error.transient().unwrap().is_parked() && !error.is_retryable());
    let owner: i64 = file.query_row("SELECT owner FROM calls", (), |row| row.get(0)).unwrap();
    assert_eq!(owner, 7);
}

#[actix_rt::test]
async fn what_another_process_has_taken_over_while_it_waited_is_not_sent() {
    let scene = Scene::new();
    let slow = Reply::ok().delay(10 * SOON);
    scene.platform.script("issue-tracker-proxy", [slow, Reply::ok()]);
    let poster = start(scene.options_with(late(scene.path())));
    let [first, second] = scene.one_behind_another(&poster).await;
    let file = rusqlite::Connection::open(scene.path()).unwrap();
    file.execute("UPDATE calls SET owner = 7 WHERE id = 2", ()).unwrap();
    first.await.unwrap().unwrap().unwrap();
    assert_eq!(outcome(&second.await.unwrap().unwrap()), "transient:0");
    assert_eq!(scene.platform.requests().len(), 1);
}
