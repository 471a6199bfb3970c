//! The order of a lane whose calls are in the outbox.

use std::{
    collections::BTreeMap,
    io::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::{join, join_all};
use result_poster::{
    CreateComment, ParkReason,
    events::GetStats,
    outbox::{Discard, EntryState, Requeue},
    testing::Reply,
};

use crate::support::{
    options,
    outbox::{MAKE_DUE, OutboxFixture, SHORT_DELAY, replay_soon, shut_down},
    outcome, post, post_outcome,
    raw_server::{read_request, response, serve, success},
    requests::{issue_and_text, route, sent},
    send_update, start, status_update,
    wait::{in_time, wait_until, within},
};

#[actix_rt::test]
async fn comments_that_wait_for_a_pause_do_not_keep_a_result_waiting() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(fixture.options().max_in_flight(2));
    for issue in 0..20 {
        let reply = send_update(&poster, &issue.to_string()).await;
        assert!(outcome(&reply).starts_with("parked"), "{reply:?}");
    }
    let limited = Reply::status(429).header("retry-after", "60");
    fixture.platform.script("issue-tracker-proxy", [limited]);
    // Nothing more is claimed while half of the places are taken.
    in_time(async { while poster.send(GetStats).await.unwrap().paused < 2 {} }).await;
    assert_eq!(post_outcome(&post(&poster, "s").await), "parked:1;parked:1");
    fixture.script("completion", []);
    fixture.script("status", []);
    let delivered = wait_until(|| fixture.parked().iter().all(|entry| entry.kind == "updateIssueStatus"));
    // The pause is longer.
    within(Duration::from_secs(20), delivered).await;
    assert!(fixture.count() >= 20);
}

#[actix_rt::test]
async fn messages_behind_a_parked_message_are_delivered_in_order() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(fixture.options_without_replay());
    assert_eq!(outcome(&send_update(&poster, "i").await), "parked:1");
    // One message alone, and three at once.
    let comment = |text: &str| poster.send(CreateComment::new("i", text));
    let mut replies = vec![comment("1").await];
    replies.extend(join_all(["2", "3", "4"].map(comment)).await);
    for reply in replies {
        let error = reply.unwrap().unwrap_err();
        let parked = error.parked().unwrap();
        assert_eq!(
            (parked.reason, parked.attempts, &parked.last),
            (ParkReason::LaneParked, 0, &None)
        );
        assert!(!error.may_have_been_delivered());
    }
    assert_eq!(fixture.platform.requests().len(), 1);
    let parked = fixture.parked();
    assert!(parked.iter().all(|entry| entry.state == EntryState::Parked));
    let last_errors: Vec<_> = parked.iter().map(|entry| entry.last_error.as_deref()).collect();
    let failed = Some("gave up after 1 attempt: the platform answered 503");
    assert_eq!(last_errors, [failed, None, None, None, None]);
    // Another lane is not affected.
    assert_eq!(outcome(&send_update(&poster, "j").await), "parked:1");

    fixture.end_outage();
    // The last call of lane `i`; the calls before it become due with it.
    let parked = fixture.parked();
    for issue_id in ["i", "j"] {
        let last = parked.iter().rfind(|entry| entry.target_id == issue_id).unwrap();
        poster.send(Requeue::new(last.id)).await.unwrap().unwrap();
    }
    fixture.emptied().await;
    let mut replayed = sent(&fixture.platform, issue_and_text).split_off(2);
    replayed.retain(|(issue_id, _)| issue_id == "i");
    let texts: Vec<_> = replayed.into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["Finished", "1", "2", "3", "4"]);
}

#[actix_rt::test]
async fn a_requeue_puts_a_call_at_the_end_of_its_lane() {
    let fixture = OutboxFixture::new();
    fixture.script("issue-tracker-proxy", [404, 503]);
    let poster = start(fixture.options_without_replay());
    for text in ["dead", "1", "2", "3"] {
        poster.send(CreateComment::new("i", text)).await.unwrap().unwrap_err();
    }
    // A parked call from the middle of the lane, and then a dead letter.
    let (dead, parked) = (fixture.dead_letters(), fixture.parked());
    for id in [parked[1].id, dead[0].id] {
        fixture.open().requeue(id).unwrap();
    }
    fixture.emptied().await;
    let texts = sent(&fixture.platform, |request| issue_and_text(request).1);
    assert_eq!(texts, ["dead", "1", "1", "3", "2", "dead"]);
}

#[actix_rt::test]
async fn a_waiting_message_is_parked_when_the_message_ahead_is_parked() {
    let fixture = OutboxFixture::new();
    fixture
        .platform
        .script("issue-tracker-proxy", [Reply::status(503).delay(5 * SHORT_DELAY)]);
    let poster = start(fixture.options_without_replay());
    let (first, second) = join(poster.send(status_update("i")), poster.send(status_update("i"))).await;
    assert_eq!(outcome(&first.unwrap()), "parked:1");
    assert_eq!(outcome(&second.unwrap()), "parked:0");
    assert_eq!(fixture.platform.requests().len(), 1);
}

#[actix_rt::test]
async fn a_new_message_does_not_overtake_a_replayed_message() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    for _ in 0..5 {
        let comment_on_each_issue = |text: &'static str| {
            let comments = (0..40).map(move |issue| CreateComment::new(format!("issue-{issue}"), text));
            comments.map(|comment| poster.send(comment)).collect::<Vec<_>>()
        };
        // No fault of the calls, which therefore keep their places.
        fixture.platform.script("issue-tracker-proxy", [Reply::status(408)]);
        join_all(comment_on_each_issue("old")).await;
        fixture.end_outage();
        let before = fixture.platform.requests().len();
        join_all(comment_on_each_issue("new")).await;
        fixture.emptied().await;
        let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (issue_id, text) in sent(&fixture.platform, issue_and_text).split_off(before) {
            texts.entry(issue_id).or_default().push(text);
        }
        for (issue_id, texts) in texts {
            let last_old = texts.iter().rposition(|text| text == "old");
            let first_new = texts.iter().position(|text| text == "new");
            assert!(
                last_old.is_none_or(|old| first_new.is_none_or(|new| old < new)),
                "{issue_id} {texts:?}"
            );
        }
    }
}

#[actix_rt::test]
async fn reply_when_durable_is_confirmed_behind_a_parked_message() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(fixture.options_without_replay());
    assert_eq!(outcome(&send_update(&poster, "i").await), "parked:1");
    let receipt = poster.send(status_update("i").reply_when_durable()).await.unwrap();
    assert!(receipt.unwrap().call_id().is_some());
    assert_eq!(fixture.parked().len(), 2);
}

#[actix_rt::test]
async fn a_due_call_is_woken_when_its_lane_unblocks() {
    let fixture = OutboxFixture::new();
    let delayed = Reply::ok().delay(10 * SHORT_DELAY);
    fixture.platform.script("issue-tracker-proxy", [delayed, Reply::ok()]);
    let poster = start(fixture.options_without_replay().max_in_flight(1).max_queued(0));
    let first = actix_rt::spawn(poster.send(status_update("i")));
    fixture.platform.wait_for_requests(1).await;
    // The second call is parked because there is no room in memory. It is due, but waits behind the first.
    assert_eq!(outcome(&send_update(&poster, "i").await), "parked:0");
    first.await.unwrap().unwrap().unwrap();
    fixture.emptied().await;
    assert_eq!(fixture.platform.requests().len(), 2);
}

#[actix_rt::test]
async fn a_call_is_not_overtaken_after_a_failure_to_park_it() {
    let fixture = OutboxFixture::new();
    let down = Reply::status(503).delay(10 * SHORT_DELAY);
    fixture.platform.script("issue-tracker-proxy", [down, Reply::ok()]);
    let poster = start(fixture.options_without_replay());
    let [running, waiting] = fixture.running_and_waiting_call(&poster).await;
    // As a disk that fails.
    fixture
        .database()
        .execute_batch("CREATE TRIGGER full BEFORE UPDATE ON calls BEGIN SELECT RAISE(ABORT, 'full'); END")
        .unwrap();
    // The call is still in the file, and is parked there by a later attempt to write it.
    let error = running.await.unwrap().unwrap().unwrap_err();
    assert!(error.parked().is_some());
    assert_eq!(outcome(&waiting.await.unwrap().unwrap()), "parked:0");
    assert_eq!(fixture.platform.requests().len(), 1);
}

#[actix_rt::test]
async fn a_call_behind_one_whose_rejection_could_not_be_written_is_delivered() {
    let fixture = OutboxFixture::new();
    let rejected = Reply::status(422).delay(10 * SHORT_DELAY);
    fixture.platform.script("issue-tracker-proxy", [rejected, Reply::ok()]);
    let poster = start(fixture.options_without_replay());
    let [running, waiting] = fixture.running_and_waiting_call(&poster).await;
    fixture
        .database()
        .execute_batch("CREATE TRIGGER full BEFORE UPDATE ON calls BEGIN SELECT RAISE(ABORT, 'full'); END")
        .unwrap();
    assert_eq!(outcome(&running.await.unwrap().unwrap()), "permanent:422");
    // The lane is still this poster's: nobody else would send the call.
    assert_eq!(outcome(&waiting.await.unwrap().unwrap()), "ok");
}

#[actix_rt::test]
async fn a_call_behind_a_discarded_call_is_delivered() {
    let fixture = OutboxFixture::new();
    fixture.script("issue-tracker-proxy", [503]);
    let poster = start(fixture.options_without_replay());
    for text in ["1", "2"] {
        poster.send(CreateComment::new("i", text)).await.unwrap().unwrap_err();
    }
    let parked = fixture.parked();
    poster.send(Discard::new(parked[0].id)).await.unwrap().unwrap();
    poster.send(Requeue::new(parked[1].id)).await.unwrap().unwrap();
    fixture.emptied().await;
    let texts = sent(&fixture.platform, |request| issue_and_text(request).1);
    assert_eq!(texts, ["1", "2"]);
}

#[actix_rt::test]
async fn a_call_that_keeps_failing_does_not_block_the_calls_behind_it() {
    // The platform answers 500 to the comment "bad", as if it could not store it.
    let texts = Arc::new(Mutex::new(Vec::new()));
    let received = Arc::clone(&texts);
    let server = serve(move |mut stream| {
        while let Some(request) = read_request(&mut stream) {
            let text = request.json()["args"][1].as_str().unwrap().to_owned();
            let answer = if text == "bad" {
                response(500, "", "")
            } else {
                success()
            };
            received.lock().unwrap().push(text);
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    let fixture = OutboxFixture::new();
    let outbox = replay_soon(fixture.path()).build().unwrap();
    let poster = start(options(server.url()).max_attempts(1).outbox(outbox));
    let comment = |issue_id: &'static str, text: &'static str| poster.send(CreateComment::new(issue_id, text));
    // The platform works for another issue.
    comment("j", "other").await.unwrap().unwrap();
    let error = comment("i", "bad").await.unwrap().unwrap_err();
    assert!(error.parked().is_some());
    let error = comment("i", "good").await.unwrap().unwrap_err();
    assert_eq!(error.parked().unwrap().reason, ParkReason::LaneParked);
    let is_delivered = |text: &str| texts.lock().unwrap().iter().any(|received| received == text);
    wait_until(|| is_delivered("good")).await;
    let before = texts.lock().unwrap().iter().take_while(|text| *text != "good").count();
    // One "other", and ten attempts of "bad".
    assert_eq!(before, 11);
    // The failing call is still tried, and a new message of its issue is sent at once.
    wait_until(|| fixture.count() == 1).await;
    comment("i", "new").await.unwrap().unwrap();
    let attempts = fixture.parked().first().map_or(0, |entry| entry.attempts);
    wait_until(|| fixture.parked().first().is_some_and(|entry| entry.attempts > attempts)).await;
}

#[actix_rt::test]
async fn a_call_that_killed_its_processes_keeps_its_place_in_its_lane() {
    let fixture = OutboxFixture::new();
    fixture.script("issue-tracker-proxy", [408]);
    let poster = start(fixture.options_without_replay());
    for text in ["1", "2"] {
        poster.send(CreateComment::new("i", text)).await.unwrap().unwrap_err();
    }
    shut_down(&poster).await;
    // As after three deaths in the sending of the first call.
    let takeovers = "UPDATE calls SET takeovers = 3 WHERE attempts = 1";
    fixture
        .database()
        .execute_batch(&[takeovers, MAKE_DUE].join(";"))
        .unwrap();
    fixture.script("issue-tracker-proxy", [408, 408]);
    let _poster = start(fixture.options());
    fixture.emptied().await;
    let texts = sent(&fixture.platform, |request| issue_and_text(request).1);
    assert_eq!(texts, ["1", "1", "1", "1", "2"]);
}

#[actix_rt::test]
async fn an_unreadable_call_becomes_a_dead_letter_and_blocks_no_other_call() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(fixture.options_without_replay());
    post(&poster, "s").await.unwrap_err();
    send_update(&poster, "i").await.unwrap_err();
    shut_down(&poster).await;
    fixture.end_outage();
    let spoil = "UPDATE calls SET body = 'nonsense' WHERE kind = 'completion'";
    fixture.database().execute_batch(&[spoil, MAKE_DUE].join(";")).unwrap();
    let before = fixture.platform.requests().len();
    let _poster = start(fixture.options());
    wait_until(|| fixture.count() == 1).await;
    let dead = &fixture.dead_letters()[0];
    assert_eq!(dead.kind, "completion");
    let last_error = dead.last_error.as_deref().unwrap();
    assert!(
        last_error.starts_with("the stored call can't be read: "),
        "{last_error}"
    );
    let mut replayed = sent(&fixture.platform, route).split_off(before);
    replayed.sort();
    assert_eq!(replayed, ["issue-tracker-proxy", "status"]);
}
