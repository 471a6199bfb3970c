//! The owner of each call: workers, and the processes that share a file.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use result_poster::{
    CreateComment, NextStep, OptionsBuilder, OutboxError, ParkReason, PostResult, Shutdown,
    credentials::{CredentialProvider, RuntimeCredentials, provider_fn},
    outbox::{Discard, OutboxEntry, OutboxOptionsBuilder, Requeue},
    testing::{FakePlatform, ManualClock, RecordedRequest, Reply},
};

use crate::support::{
    builder, completed, messages_are_accepted, options,
    outbox::{OutboxFixture, SHORT_DELAY, entries, kinds_and_targets, replay_late, replay_soon, shut_down, stats},
    outcome, post, post_outcome,
    provider::{ProviderStep, ScriptedProvider},
    requests::{issue_and_text, route, sent, token, worker_id},
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
async fn calls_are_delivered_only_within_their_queue() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let of_queue = |name: &str| replay_late(fixture.path()).queue(name);
    let poster = start(fixture.options_with(of_queue("one")));
    assert_eq!(outcome(&send_update(&poster, "i").await), "parked:1");
    shut_down(&poster).await;
    fixture.requeue(&fixture.parked()[0]);
    fixture.end_outage();

    let other = start(fixture.options_with(of_queue("two")));
    let stats_of_other = stats(&other).await;
    assert_eq!((stats_of_other.parked, stats_of_other.in_other_queues), (0, 1));
    assert_eq!(entries(&other).await, []);
    // The same key, and the same issue, in another queue: it is neither known nor behind the parked call.
    send_update(&other, "i").await.unwrap();
    let id = fixture.parked()[0].id;
    for result in [
        other.send(Requeue::new(id)).await.unwrap(),
        other.send(Discard::new(id)).await.unwrap(),
    ] {
        assert_eq!(result, Err(OutboxError::NoSuchCall));
    }
    assert_eq!(shut_down(&other).await, 0);
    assert_eq!(fixture.parked()[0].queue, "one");
    assert_eq!(fixture.platform.requests().len(), 2);
    // Another platform, another worker: the name alone counts.
    let elsewhere = FakePlatform::start().unwrap();
    let same_queue = of_queue("one").build().unwrap();
    let _poster = start(options(elsewhere.url()).worker_id("wkr_2").outbox(same_queue));
    fixture.emptied().await;
    assert_eq!((elsewhere.requests().len(), fixture.platform.requests().len()), (1, 2));
}

#[actix_rt::test]
async fn the_default_queue_is_the_platform_with_the_organization() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(fixture.options_without_replay().organization_id("org_1"));
    assert_eq!(outcome(&send_update(&poster, "i").await), "parked:1");
    shut_down(&poster).await;
    fixture.requeue(&fixture.parked()[0]);
    fixture.end_outage();
    let elsewhere = FakePlatform::start().unwrap();
    let outbox = replay_late(fixture.path()).build().unwrap();
    let others = [
        fixture.options_without_replay(),
        fixture.options_without_replay().organization_id("org_2"),
        options(elsewhere.url()).organization_id("org_1").outbox(outbox),
    ];
    for other in others {
        let other = start(other);
        assert_eq!(stats(&other).await.in_other_queues, 1);
        send_update(&other, "j").await.unwrap();
        shut_down(&other).await;
    }
    assert_eq!(kinds_and_targets(&fixture.parked()), [("updateIssueStatus", "i")]);
    let _same = start(
        fixture
            .options_without_replay()
            .organization_id("org_1")
            .worker_id("wkr_2"),
    );
    fixture.emptied().await;
}

#[actix_rt::test]
async fn two_posters_of_one_process_share_a_file() {
    let fixture = OutboxFixture::new();
    let first = start(fixture.options());
    let second = start(fixture.options());
    let posts = (0..40).map(|number| {
        let poster = if number % 2 == 0 { &first } else { &second };
        post(poster, if number < 20 { "s" } else { "t" })
    });
    // The same result is stored once while it is there, whoever stored it.
    for reply in join_all(posts).await {
        assert!(
            matches!(post_outcome(&reply).as_str(), "ok" | "parked:0;parked:0"),
            "{reply:?}"
        );
    }
    fixture.emptied().await;
    // Each goes on without the other.
    shut_down(&first).await;
    assert!(fixture.companion("-wal").exists());
    fixture.script("issue-tracker-proxy", [503]);
    assert_eq!(outcome(&send_update(&second, "i").await), "parked:1");
    fixture.emptied().await;
    shut_down(&second).await;
    assert!(!fixture.companion("-wal").exists());
}

#[actix_rt::test]
async fn a_message_of_a_lane_of_another_poster_is_parked_and_delivered_by_that_poster() {
    let fixture = OutboxFixture::new();
    let slow = Reply::ok().delay(100 * SHORT_DELAY);
    fixture.platform.script("issue-tracker-proxy", [slow, Reply::ok()]);
    // Neither poster has to look at the file again: the first one releases the lane with calls left.
    let first = start(
        fixture
            .options_without_replay()
            .user_agent("first")
            .clock(ManualClock::new()),
    );
    let second = start(
        fixture
            .options_without_replay()
            .user_agent("second")
            .clock(ManualClock::new()),
    );
    let running = actix_rt::spawn(first.send(CreateComment::new("i", "1")));
    fixture.platform.wait_for_requests(1).await;
    for text in ["2", "3"] {
        let error = second.send(CreateComment::new("i", text)).await.unwrap().unwrap_err();
        let parked = error.parked().unwrap();
        assert_eq!((parked.reason, parked.attempts), (ParkReason::LaneParked, 0));
    }
    // A message of the owner is behind them.
    let error = first.send(CreateComment::new("i", "4")).await.unwrap().unwrap_err();
    assert_eq!(error.parked().unwrap().reason, ParkReason::LaneParked);
    running.await.unwrap().unwrap().unwrap();
    fixture.emptied().await;
    let texts = sent(&fixture.platform, |request| issue_and_text(request).1);
    assert_eq!(texts, ["1", "2", "3", "4"]);
}

#[actix_rt::test]
async fn a_poster_notices_the_changes_of_an_inspector_at_once() {
    let fixture = OutboxFixture::new();
    fixture.script("issue-tracker-proxy", [503]);
    // A clock that stands still: the poster does not look at the file again of its own accord.
    let poster = start(fixture.options_without_replay().clock(ManualClock::new()));
    assert_eq!(outcome(&send_update(&poster, "i").await), "parked:1");
    messages_are_accepted(&poster).await;
    fixture.requeue(&fixture.parked()[0]);
    fixture.emptied().await;
    assert_eq!(fixture.platform.requests().len(), 2);
}

#[actix_rt::test]
async fn a_running_call_is_not_taken_over_during_shutdown() {
    let fixture = OutboxFixture::new();
    fixture
        .platform
        .script("issue-tracker-proxy", [Reply::ok().delay(40 * SHORT_DELAY)]);
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
async fn a_replayed_call_keeps_the_worker_id_it_was_stored_with() {
    let fixture = OutboxFixture::new();
    fixture.script("completion", [503]);
    fixture.script("status", [503]);
    // The platform knows the session's owner: another worker is refused.
    let worker = SwitchingWorker::new("wkr_old");
    let poster = start(
        options_without_credentials(&fixture, replay_late(fixture.path())).credential_provider(worker.provider()),
    );
    post(&poster, "s").await.unwrap_err();
    assert_eq!(workers_of(&fixture.parked()), [Some("wkr_old"); 2]);
    worker.switch_to("wkr_new");
    // The poster sees the new credentials with its next call.
    send_update(&poster, "i").await.unwrap();
    post(&poster, "t").await.unwrap();
    // The last call of the lane; the completion before it becomes due with it.
    let last = fixture.parked().pop().unwrap();
    poster.send(Requeue::new(last.id)).await.unwrap().unwrap();
    fixture.emptied().await;
    let mut session_calls = fixture.platform.requests();
    session_calls.retain(|request| request.path.contains("/sessions/"));
    let workers: BTreeSet<_> = session_calls.iter().map(session_and_worker).collect();
    let expected = [("s", "wkr_old"), ("t", "wkr_new")];
    let workers = workers
        .iter()
        .map(|(session, worker)| (session.as_str(), worker.as_str()));
    assert_eq!(workers.collect::<Vec<_>>(), expected);
    // Only the token is renewed.
    let last = fixture.platform.requests().pop().unwrap();
    assert_eq!(
        (session_and_worker(&last).1.as_str(), token(&last).as_str()),
        ("wkr_old", "token of wkr_new")
    );
}

#[actix_rt::test]
async fn the_calls_of_a_replaced_worker_are_delivered_by_its_successor_in_its_name() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(
        options_without_credentials(&fixture, replay_late(fixture.path()))
            .credential_provider(SwitchingWorker::new("wkr_1").provider()),
    );
    post(&poster, "s").await.unwrap_err();
    shut_down(&poster).await;
    for entry in fixture.parked() {
        fixture.requeue(&entry);
    }
    fixture.end_outage();
    let before = fixture.platform.requests().len();
    // A poster that never knew the first worker.
    let successor = options_without_credentials(&fixture, replay_late(fixture.path()));
    let _successor = start(successor.worker_id("wkr_2").auth_token("token"));
    fixture.emptied().await;
    let replayed = sent(&fixture.platform, session_and_worker).split_off(before);
    assert_eq!(replayed, vec![("s".to_owned(), "wkr_1".to_owned()); 2]);
}

#[actix_rt::test]
async fn the_last_credentials_name_the_worker_of_a_stored_call() {
    let fixture = OutboxFixture::new();
    let slow = Reply::ok().delay(Duration::from_secs(60));
    let worker = SwitchingWorker::new("wkr_1");
    let poster = start(
        options_without_credentials(&fixture, replay_late(fixture.path())).credential_provider(worker.provider()),
    );
    post(&poster, "s").await.unwrap();
    worker.switch_to("wkr_2");
    fixture.platform.script("completion", [slow]);
    let message = PostResult::new("t", completed()).reply_when_durable();
    poster.send(message).await.unwrap().unwrap();
    // Storing does not wait for the provider.
    assert_eq!(workers_of(&entries(&poster).await), [Some("wkr_1"); 2]);
}

#[actix_rt::test]
async fn the_fixed_pair_names_the_worker_of_a_call_that_is_stored_before_any_credentials_were_seen() {
    let fixture = OutboxFixture::new();
    let hanging = ScriptedProvider::new([ProviderStep::Hang]);
    let poster = start(fixture.options_without_replay().credential_provider(hanging));
    let message = status_update("i").reply_when_durable();
    poster.send(message).await.unwrap().unwrap();
    assert_eq!(workers_of(&entries(&poster).await), [Some("wkr_1")]);
}

#[actix_rt::test]
async fn the_worker_of_a_call_without_one_is_fixed_before_its_first_attempt() {
    let fixture = OutboxFixture::new();
    let slow = Reply::ok().delay(Duration::from_secs(60));
    fixture.platform.script("completion", [slow]);
    let provider = ScriptedProvider::new([ProviderStep::Hang]);
    let without =
        start(options_without_credentials(&fixture, replay_late(fixture.path())).credential_provider(provider));
    let message = || PostResult::new("s", completed()).reply_when_durable();
    without.send(message()).await.unwrap().unwrap();
    assert_eq!(workers_of(&entries(&without).await), [None; 2]);
    without.send(Shutdown::within(SHORT_DELAY)).await.unwrap();
    wait_until(|| fixture.parked().len() == 2).await;
    let worker = SwitchingWorker::new("wkr_7");
    let poster = start(
        options_without_credentials(&fixture, replay_late(fixture.path())).credential_provider(worker.provider()),
    );
    fixture.platform.wait_for_requests(1).await;
    assert_eq!(workers_of(&entries(&poster).await), [Some("wkr_7"); 2]);
    assert_eq!(sent(&fixture.platform, worker_id), ["wkr_7"]);
}

#[actix_rt::test]
async fn a_replayed_call_that_is_refused_for_another_worker_is_parked() {
    for status in [403, 404] {
        let fixture = OutboxFixture::new();
        fixture.script("issue-tracker-proxy", [503, status, status]);
        let worker = SwitchingWorker::new("wkr_old");
        let poster = start(
            options_without_credentials(&fixture, replay_late(fixture.path())).credential_provider(worker.provider()),
        );
        assert_eq!(outcome(&send_update(&poster, "i").await), "parked:1");
        worker.switch_to("wkr_new");
        // The poster sees the new credentials with its next call.
        fixture.platform.script("completion", []);
        post(&poster, "s").await.unwrap();
        let id = fixture.parked()[0].id;
        let before = fixture.platform.requests().len();
        for refusal in 1..=2 {
            poster.send(Requeue::new(id)).await.unwrap().unwrap();
            fixture.platform.wait_for_requests(before + refusal).await;
            wait_until(|| fixture.live().is_empty()).await;
            assert_eq!(fixture.dead_letters(), []);
            assert_eq!(fixture.parked()[0].status_code, Some(status));
        }
        poster.send(Requeue::new(id)).await.unwrap().unwrap();
        fixture.emptied().await;
    }
}

#[actix_rt::test]
async fn a_replayed_call_that_is_refused_for_its_own_worker_is_a_dead_letter() {
    let fixture = OutboxFixture::new();
    fixture.script("issue-tracker-proxy", [503, 403]);
    let poster = start(fixture.options());
    assert_eq!(outcome(&send_update(&poster, "i").await), "parked:1");
    wait_until(|| !fixture.dead_letters().is_empty()).await;
    assert_eq!(fixture.platform.requests().len(), 2);
}

#[actix_rt::test]
async fn a_replayed_call_is_a_dead_letter_after_ten_refusals_for_another_worker() {
    let fixture = OutboxFixture::new();
    // Other failures do not count.
    let failures = [503; 12].into_iter().chain([403; 20]);
    fixture.script("issue-tracker-proxy", failures);
    let worker = SwitchingWorker::new("wkr_old");
    let poster = start(
        options_without_credentials(&fixture, replay_soon(fixture.path())).credential_provider(worker.provider()),
    );
    assert_eq!(outcome(&send_update(&poster, "i").await), "parked:1");
    worker.switch_to("wkr_new");
    post(&poster, "s").await.unwrap();
    wait_until(|| !fixture.dead_letters().is_empty()).await;
    let requests = sent(&fixture.platform, route);
    let attempts = requests.iter().filter(|route| *route == "issue-tracker-proxy").count();
    assert!((12 + 10..=12 + 11).contains(&attempts), "{attempts}");
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
    database.execute("UPDATE lanes SET owner = 7", ()).unwrap();
    let error = reply.await.unwrap().unwrap().unwrap_err();
    assert!(error.parked().is_some());
    assert_eq!(error.next_step(), NextStep::Nothing);
    let owner: i64 = database
        .query_row("SELECT owner FROM lanes", (), |row| row.get(0))
        .unwrap();
    assert_eq!(owner, 7);
}

#[actix_rt::test]
async fn a_resumed_poster_does_not_send_calls_that_another_process_has_taken_over() {
    let fixture = OutboxFixture::new();
    let slow = Reply::ok().delay(100 * SHORT_DELAY);
    fixture.platform.script("issue-tracker-proxy", [slow, Reply::ok()]);
    let clock = ManualClock::new();
    let poster = start(fixture.options_without_replay().max_in_flight(1).clock(clock.clone()));
    let send = |issue_id: &str| actix_rt::spawn(poster.send(status_update(issue_id)));
    let running = send("i");
    fixture.platform.wait_for_requests(1).await;
    // Each of these calls is the first of its lane, and waits for the permit.
    let waiting = ["j", "k"].map(send);
    wait_until(|| fixture.count() == 3).await;
    let take_over = "UPDATE lanes SET owner = 7 WHERE name <> 'issue i'";
    assert_eq!(fixture.database().execute(take_over, ()).unwrap(), 2);
    // As after a minute in which the process was stopped.
    clock.advance(Duration::from_secs(60));
    running.await.unwrap().unwrap().unwrap();
    for reply in waiting {
        assert_eq!(outcome(&reply.await.unwrap().unwrap()), "parked:0");
    }
    assert_eq!(fixture.platform.requests().len(), 1);
}

#[actix_rt::test]
async fn a_resumed_poster_does_not_send_a_call_behind_another_that_another_process_has_taken_over() {
    let fixture = OutboxFixture::new();
    let slow = Reply::ok().delay(100 * SHORT_DELAY);
    fixture.platform.script("issue-tracker-proxy", [slow, Reply::ok()]);
    let clock = ManualClock::new();
    let poster = start(fixture.options_without_replay().clock(clock.clone()));
    let [running, waiting] = fixture.running_and_waiting_call(&poster).await;
    fixture.database().execute("UPDATE lanes SET owner = 7", ()).unwrap();
    clock.advance(Duration::from_secs(60));
    running.await.unwrap().unwrap().unwrap();
    let error = waiting.await.unwrap().unwrap().unwrap_err();
    let parked = error.parked().unwrap();
    assert_eq!((parked.reason, parked.attempts), (ParkReason::LaneParked, 0));
    assert_eq!(fixture.platform.requests().len(), 1);
}

/// Options without credentials, for a poster that parks a call at its first failure.
fn options_without_credentials(fixture: &OutboxFixture, outbox: OutboxOptionsBuilder) -> OptionsBuilder {
    builder(fixture.platform.url())
        .max_attempts(1)
        .base_delay(Duration::ZERO)
        .outbox(outbox.build().unwrap())
}

/// A worker that can register again under another id. Each id has a token of its own, of unknown expiry.
#[derive(Clone)]
struct SwitchingWorker(Arc<Mutex<&'static str>>);

impl SwitchingWorker {
    fn new(worker_id: &'static str) -> Self {
        Self(Arc::new(Mutex::new(worker_id)))
    }

    fn switch_to(&self, worker_id: &'static str) {
        *self.0.lock().unwrap() = worker_id;
    }

    fn provider(&self) -> impl CredentialProvider + use<> {
        let worker = self.clone();
        provider_fn(async move || {
            let worker_id = *worker.0.lock().unwrap();
            Ok(RuntimeCredentials::new(worker_id, format!("token of {worker_id}")))
        })
    }
}

fn workers_of(entries: &[OutboxEntry]) -> Vec<Option<&str>> {
    entries.iter().map(|entry| entry.worker_id.as_deref()).collect()
}

/// The session id and the worker id of a session call.
fn session_and_worker(request: &RecordedRequest) -> (String, String) {
    let session_id = request.path.split('/').nth(3).unwrap();
    (session_id.to_owned(), worker_id(request).as_str().unwrap().to_owned())
}
