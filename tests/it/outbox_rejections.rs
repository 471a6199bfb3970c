//! The answers of the platform that park a call, and those that make it a dead letter.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use result_poster::{
    CallKind, NextStep, ParkReason,
    credentials::RuntimeCredentials,
    events::GetStats,
    outbox::{DeadLetter, EntryState},
    testing::{ManualClock, Reply},
};

use crate::support::{
    outbox::{OutboxFixture, replay_late},
    outcome, post, post_outcome,
    provider::{ProviderStep, ScriptedProvider},
    requests::{route, sent},
    send_update, start,
    wait::wait_until,
};

#[actix_rt::test]
async fn an_unauthorized_call_is_parked_until_the_credentials_are_renewed() {
    for status in [401, 302, 303, 307] {
        let fixture = OutboxFixture::new();
        let login = Reply::status(status).header("location", "/login");
        fixture.platform.script("issue-tracker-proxy", [login, Reply::ok()]);
        let poster = start(fixture.options_without_replay());
        let error = send_update(&poster, "i").await.unwrap_err();
        let parked = error.parked().unwrap();
        assert_eq!(
            (parked.reason, parked.attempts),
            (ParkReason::Unauthorized, 1),
            "{status}"
        );
        assert_eq!(error.next_step(), NextStep::RenewCredentials);
        let entry = &fixture.parked()[0];
        assert_eq!(
            (entry.reason.as_deref(), entry.status_code),
            (Some("unauthorized"), Some(status))
        );
        fixture.requeue(entry);
        fixture.emptied().await;
    }
}

#[actix_rt::test]
async fn an_unauthorized_result_asks_for_new_credentials() {
    let fixture = OutboxFixture::new();
    fixture.script("completion", [401]);
    fixture.script("status", [401]);
    let poster = start(fixture.options_without_replay());
    let error = post(&poster, "s").await.unwrap_err();
    assert_eq!(error.next_step(), NextStep::RenewCredentials);
    for error in [error.completion(), error.status()] {
        assert_eq!(error.unwrap().parked().unwrap().reason, ParkReason::Unauthorized);
    }
}

#[actix_rt::test]
async fn a_redirect_a_proxy_and_a_rate_limit_park_a_call() {
    for status in [301, 308, 407, 408, 425, 429] {
        let fixture = OutboxFixture::new();
        fixture.script("issue-tracker-proxy", [status]);
        let poster = start(fixture.options_without_replay());
        let error = send_update(&poster, "i").await.unwrap_err();
        let parked = error.parked().unwrap_or_else(|| panic!("{status}: {error:?}"));
        assert_eq!(
            (parked.reason, parked.attempts),
            (ParkReason::AttemptsFailed, 1),
            "{status}"
        );
        assert_eq!(error.next_step(), NextStep::Nothing);
        fixture.requeue(&fixture.parked()[0]);
        fixture.emptied().await;
    }
}

#[actix_rt::test]
async fn any_other_refusal_makes_a_call_a_dead_letter() {
    for status in [400, 402, 403, 404, 405, 409, 410, 422, 451] {
        let fixture = OutboxFixture::new();
        fixture.script("status", [status]);
        let poster = start(fixture.options_without_replay());
        assert_eq!(post_outcome(&post(&poster, "s").await), format!("permanent:{status}"));
        let dead = fixture.dead_letters();
        assert_eq!(dead.len(), 1, "{status}");
        assert_eq!((dead[0].kind.as_str(), dead[0].status_code), ("status", Some(status)));
        assert_eq!(dead[0].state, EntryState::DeadLetter);
    }
}

#[actix_rt::test]
async fn a_refused_completion_does_not_hold_up_the_status() {
    let fixture = OutboxFixture::new();
    fixture.script("completion", [503, 409]);
    let poster = start(fixture.options());
    assert_eq!(post_outcome(&post(&poster, "s").await), "parked:1");
    wait_until(|| fixture.dead_letters().len() == 1).await;
    assert_eq!(sent(&fixture.platform, route), ["completion", "status", "completion"]);
    // A dead letter does not hold up its lane.
    fixture.script("completion", []);
    assert_eq!(outcome(&send_update(&poster, "i").await), "ok");
    post(&poster, "s2").await.unwrap();
}

#[actix_rt::test]
async fn a_dead_letter_does_not_hold_up_the_next_message_of_its_lane() {
    let fixture = OutboxFixture::new();
    fixture.script("issue-tracker-proxy", [404]);
    let poster = start(fixture.options_without_replay());
    assert_eq!(outcome(&send_update(&poster, "i").await), "permanent:404");
    assert_eq!(outcome(&send_update(&poster, "i").await), "ok");
}

#[actix_rt::test]
async fn a_parked_call_has_the_answer_as_its_last_error() {
    for status in [401, 302, 301, 408, 429] {
        let fixture = OutboxFixture::new();
        fixture
            .platform
            .script("issue-tracker-proxy", [Reply::status(status).body("why")]);
        let error = send_update(&start(fixture.options_without_replay()), "i")
            .await
            .unwrap_err();
        let parked = error.parked().unwrap();
        assert_eq!(parked.attempts, 1);
        let last = parked.last.as_ref().unwrap().to_string();
        assert!(last.contains(&status.to_string()) && last.ends_with("why"), "{last}");
    }
}

#[actix_rt::test]
async fn the_closure_of_the_options_is_called_with_each_dead_letter() {
    let fixture = OutboxFixture::new();
    fixture.script("s/completion", [404]);
    let letters = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&letters);
    let outbox = replay_late(fixture.path()).on_dead_letter(move |letter| kept.lock().unwrap().push(letter.clone()));
    let poster = start(fixture.options_with(outbox));
    post(&poster, "s").await.unwrap_err();
    send_update(&poster, "i").await.unwrap();
    let letters: Vec<DeadLetter> = letters.lock().unwrap().clone();
    let entry = &fixture.dead_letters()[0];
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(
        (letters[0].id, letters[0].kind, letters[0].target_id.as_str()),
        (entry.id, Some(CallKind::Completion), "s")
    );
    assert_eq!((letters[0].status_code, letters[0].attempts), (Some(404), 1));
    assert_eq!(Some(&letters[0].reason), entry.last_error.as_ref());
    assert_eq!(poster.send(GetStats).await.unwrap().dead_letters, 1);
}

#[actix_rt::test]
async fn the_closure_is_called_once_when_the_dead_letter_is_durable() {
    let fixture = OutboxFixture::new();
    let clock = ManualClock::new();
    let letters = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&letters);
    let outbox = replay_late(fixture.path()).on_dead_letter(move |letter| kept.lock().unwrap().push(letter.clone()));
    let poster = start(fixture.options_with(outbox).clock(clock.clone()));
    send_update(&poster, "other").await.unwrap();
    // As a disk that fails.
    let database = fixture.database();
    database
        .execute_batch("CREATE TRIGGER full BEFORE UPDATE ON calls BEGIN SELECT RAISE(ABORT, 'full'); END")
        .unwrap();
    fixture.script("issue-tracker-proxy", [404]);
    assert_eq!(outcome(&send_update(&poster, "i").await), "permanent:404");
    let look = async || {
        clock.advance(Duration::from_secs(5));
        poster.send(GetStats).await.unwrap().dead_letters
    };
    for _ in 0..10 {
        assert_eq!(look().await, 0);
    }
    assert!(letters.lock().unwrap().is_empty() && fixture.dead_letters().is_empty());
    database.execute_batch("DROP TRIGGER full").unwrap();
    wait_until(|| {
        clock.advance(Duration::from_secs(5));
        !letters.lock().unwrap().is_empty()
    })
    .await;
    assert_eq!(fixture.dead_letters()[0].id, letters.lock().unwrap()[0].id);
    for _ in 0..10 {
        assert_eq!(look().await, 1);
    }
    assert_eq!(letters.lock().unwrap().len(), 1);
}

#[actix_rt::test]
async fn a_closure_that_panics_costs_nothing() {
    let fixture = OutboxFixture::new();
    fixture.script("issue-tracker-proxy", [404]);
    let outbox = replay_late(fixture.path()).on_dead_letter(|letter| panic!("{letter:?}"));
    let poster = start(fixture.options_with(outbox));
    assert_eq!(
        send_update(&poster, "a")
            .await
            .unwrap_err()
            .permanent()
            .unwrap()
            .status_code,
        404
    );
    send_update(&poster, "b").await.unwrap();
    assert_eq!(fixture.dead_letters().len(), 1);
    assert_eq!(poster.send(GetStats).await.unwrap().internal_errors, 0);
}

#[actix_rt::test]
async fn a_stored_call_that_can_not_be_read_is_reported_as_a_dead_letter() {
    let fixture = OutboxFixture::new();
    fixture.script("issue-tracker-proxy", [503]);
    let letters = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&letters);
    let outbox = replay_late(fixture.path()).on_dead_letter(move |letter| kept.lock().unwrap().push(letter.clone()));
    let poster = start(fixture.options_with(outbox));
    send_update(&poster, "i").await.unwrap_err();
    fixture
        .database()
        .execute_batch("UPDATE calls SET kind = 'unheard-of'")
        .unwrap();
    fixture.requeue(&fixture.parked()[0]);
    wait_until(|| !letters.lock().unwrap().is_empty()).await;
    let letters: Vec<DeadLetter> = letters.lock().unwrap().clone();
    assert_eq!((letters[0].kind, letters[0].target_id.as_str()), (None, "i"));
    assert!(
        letters[0].reason.starts_with("the stored call can't be read: "),
        "{letters:?}"
    );
    assert_eq!(poster.send(GetStats).await.unwrap().dead_letters, 1);
}

#[actix_rt::test]
async fn nothing_more_is_sent_with_rejected_credentials() {
    let fixture = OutboxFixture::new();
    fixture.platform.script("issue-tracker-proxy", [Reply::status(401)]);
    let poster = start(fixture.options_without_replay());
    for issue in ["a", "b", "c"] {
        let error = send_update(&poster, issue).await.unwrap_err();
        assert_eq!(error.next_step(), NextStep::RenewCredentials);
        assert_eq!(error.parked().unwrap().reason, ParkReason::Unauthorized);
    }
    post(&poster, "s").await.unwrap_err();
    assert_eq!(fixture.platform.requests().len(), 1);
    assert_eq!((fixture.parked().len(), fixture.dead_letters().len()), (5, 0));
}

#[actix_rt::test]
async fn other_credentials_end_the_wait_at_once() {
    let fixture = OutboxFixture::new();
    fixture
        .platform
        .script("issue-tracker-proxy", [Reply::status(401), Reply::ok()]);
    let give = |token: &str| ProviderStep::Give(RuntimeCredentials::new("w", token));
    let provider = ScriptedProvider::new([give("old"), give("old"), give("new")]);
    let clock = ManualClock::new();
    let options = fixture.options().credential_provider(provider).clock(clock.clone());
    let poster = start(options);
    for issue in ["a", "b"] {
        send_update(&poster, issue).await.unwrap_err();
    }
    assert_eq!(fixture.platform.requests().len(), 1);
    // The provider is asked every 5 s.
    wait_until(|| {
        clock.advance(Duration::from_secs(1));
        fixture.platform.requests().len() == 3
    })
    .await;
    wait_until(|| fixture.parked().is_empty() && fixture.live().is_empty()).await;
}

#[actix_rt::test]
async fn a_call_that_the_tracker_does_not_authorize_is_parked_and_costs_no_token() {
    let fixture = OutboxFixture::new();
    let body = r#"{"success":false,"error":{"code":"AUTH_ERROR","message":"tracker"}}"#;
    fixture
        .platform
        .script("issue-tracker-proxy", [Reply::status(401).body(body)]);
    let poster = start(fixture.options_without_replay());
    let error = send_update(&poster, "i").await.unwrap_err();
    assert_eq!(error.next_step(), NextStep::Nothing);
    assert_eq!(error.parked().unwrap().reason, ParkReason::TrackerUnauthorized);
    // The other calls are sent.
    post(&poster, "s").await.unwrap();
}
