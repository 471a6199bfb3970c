//! The owner of each call: workers, and the processes that share a file.

use std::time::Duration;

use result_poster::{
    NextStep, OptionsBuilder, ParkReason,
    credentials::{RuntimeCredentials, provider_fn},
    testing::{FakePlatform, Reply},
};

use crate::support::{
    builder, options,
    outbox::{HEARTBEAT_TIMEOUT, OutboxFixture, SHORT_DELAY, kinds_and_targets, replay_late, replay_soon, shut_down},
    outcome, post, post_outcome,
    provider::ScriptedProvider,
    requests::{route, sent},
    send_update, start, status_update,
    wait::wait_until,
};

#[actix_rt::test]
async fn a_second_poster_resumes_at_the_status() {
    let fixture = OutboxFixture::new();
    fixture.script("status", [503]);
    let poster = start(fixture.options_without_replay());
    assert_eq!(post_outcome(&post(&poster, "s").await), "parked:1");
    assert_eq!(shut_down(&poster).await, 0);
    drop(poster);
    assert_eq!(kinds_and_targets(&fixture.parked()), [("status", "s")]);

    fixture.requeue(&fixture.parked()[0]);
    let _poster = start(fixture.options());
    fixture.emptied().await;
    // The completion was acknowledged: it is not sent again.
    assert_eq!(sent(&fixture.platform, route), ["completion", "status", "status"]);
}

#[actix_rt::test]
async fn calls_are_claimed_only_within_their_platform_and_worker() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(fixture.options_without_replay());
    assert_eq!(outcome(&send_update(&poster, "i").await), "parked:1");
    shut_down(&poster).await;
    fixture.requeue(&fixture.parked()[0]);

    let elsewhere = FakePlatform::start().unwrap();
    let other_platform = start(
        options(elsewhere.url())
            .max_attempts(1)
            .outbox(replay_soon(fixture.path()).build().unwrap()),
    );
    let other_worker = start(fixture.options().worker_id("wkr_2"));
    elsewhere.script("issue-tracker-proxy", [Reply::status(503), Reply::ok()]);
    fixture.script("issue-tracker-proxy", [503]);
    for poster in [&other_platform, &other_worker] {
        assert_eq!(outcome(&send_update(poster, "j").await), "parked:1");
    }
    // Each of the two replays its own call, which became due after the first worker's call.
    wait_until(|| fixture.count() == 1).await;
    assert_eq!(kinds_and_targets(&fixture.parked()), [("updateIssueStatus", "i")]);
    assert_eq!(elsewhere.requests().len(), 2);
    assert_eq!(fixture.platform.requests().len(), 3);
    let _poster = start(fixture.options());
    fixture.emptied().await;
    assert_eq!((elsewhere.requests().len(), fixture.platform.requests().len()), (2, 4));
}

#[actix_rt::test]
async fn a_running_call_is_not_taken_over_during_shutdown() {
    let fixture = OutboxFixture::new();
    fixture
        .platform
        .script("issue-tracker-proxy", [Reply::ok().delay(4 * HEARTBEAT_TIMEOUT)]);
    let poster = start(fixture.options());
    let other = start(fixture.options());
    let reply = actix_rt::spawn(poster.send(status_update("i")));
    fixture.platform.wait_for_requests(1).await;
    assert_eq!(shut_down(&poster).await, 0);
    reply.await.unwrap().unwrap().unwrap();
    assert_eq!(fixture.platform.requests().len(), 1);
    assert_eq!(shut_down(&other).await, 0);
}

#[actix_rt::test]
async fn the_worker_id_from_the_provider_scopes_the_replay() {
    let fixture = OutboxFixture::new();
    let options_of = |worker_id: &'static str| {
        let credentials = move || async move { Ok(RuntimeCredentials::new(worker_id, "token")) };
        options_without_credentials(&fixture).credential_provider(provider_fn(credentials))
    };
    fixture.begin_outage();
    let poster = start(options_of("wkr_8").outbox(replay_late(fixture.path()).build().unwrap()));
    post(&poster, "s").await.unwrap_err();
    shut_down(&poster).await;
    for entry in fixture.parked() {
        assert_eq!(entry.worker_id.as_deref(), Some("wkr_8"));
        fixture.requeue(&entry);
    }
    fixture.end_outage();
    let before = fixture.platform.requests().len();
    let other = start(options_of("wkr_9").outbox(replay_soon(fixture.path()).build().unwrap()));
    post(&other, "t").await.unwrap();
    assert_eq!(fixture.platform.requests().len(), before + 2);
    // The replay starts although no message is sent to this poster.
    let _poster = start(options_of("wkr_8").outbox(replay_soon(fixture.path()).build().unwrap()));
    fixture.emptied().await;
}

#[actix_rt::test]
async fn the_calls_of_a_replaced_worker_are_delivered_by_its_successor() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    // The first worker's token for the outbox and the first two calls, and then the second worker's.
    let provider = ScriptedProvider::tokens(["1", "1", "1", "2"]);
    let poster = start(
        options_without_credentials(&fixture)
            .credential_provider(provider)
            .outbox(replay_late(fixture.path()).build().unwrap()),
    );
    post(&poster, "s").await.unwrap_err();
    let calls_of = |worker_id: &str| {
        let parked = fixture.parked();
        parked
            .iter()
            .filter(|entry| entry.worker_id.as_deref() == Some(worker_id))
            .count()
    };
    assert_eq!(calls_of("wkr_1"), 2);
    post(&poster, "t").await.unwrap_err();
    wait_until(|| calls_of("wkr_2") == 4).await;
    shut_down(&poster).await;
    for entry in fixture.parked() {
        fixture.requeue(&entry);
    }
    fixture.end_outage();
    // A poster that never knew the first worker.
    let options = options_without_credentials(&fixture)
        .worker_id("wkr_2")
        .auth_token("token");
    let _poster = start(options.outbox(replay_soon(fixture.path()).build().unwrap()));
    fixture.emptied().await;
}

#[actix_rt::test]
async fn parking_does_not_change_a_call_of_another_owner() {
    let fixture = OutboxFixture::new();
    fixture
        .platform
        .script("issue-tracker-proxy", [Reply::status(503).delay(5 * SHORT_DELAY)]);
    let poster = start(fixture.options_without_replay());
    let reply = actix_rt::spawn(poster.send(status_update("i")));
    fixture.platform.wait_for_requests(1).await;
    // As another process does when it takes this process for dead.
    let database = fixture.database();
    database.execute("UPDATE calls SET owner = 7", ()).unwrap();
    let error = reply.await.unwrap().unwrap().unwrap_err();
    assert!(error.parked().is_some());
    assert_eq!(error.next_step(), NextStep::Nothing);
    let owner: i64 = database
        .query_row("SELECT owner FROM calls", (), |row| row.get(0))
        .unwrap();
    assert_eq!(owner, 7);
}

#[actix_rt::test]
async fn a_waiting_call_taken_over_by_another_process_is_not_sent() {
    let fixture = OutboxFixture::new();
    let slow = Reply::ok().delay(10 * SHORT_DELAY);
    fixture.platform.script("issue-tracker-proxy", [slow, Reply::ok()]);
    let poster = start(fixture.options_without_replay());
    let [running, waiting] = fixture.running_and_waiting_call(&poster).await;
    fixture
        .database()
        .execute("UPDATE calls SET owner = 7 WHERE id = 2", ())
        .unwrap();
    running.await.unwrap().unwrap().unwrap();
    let error = waiting.await.unwrap().unwrap().unwrap_err();
    let parked = error.parked().unwrap();
    assert_eq!((parked.reason, parked.attempts), (ParkReason::LaneParked, 0));
    assert_eq!(fixture.platform.requests().len(), 1);
}

/// Options without credentials, for a poster that parks a call at its first failure.
fn options_without_credentials(fixture: &OutboxFixture) -> OptionsBuilder {
    builder(fixture.platform.url())
        .max_attempts(1)
        .base_delay(Duration::ZERO)
}
