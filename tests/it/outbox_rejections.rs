//! The answers of the platform that park a call, and those that make it a dead letter.

use result_poster::{NextStep, ParkReason, outbox::EntryState, testing::Reply};

use crate::support::{
    outbox::OutboxFixture,
    outcome, post, post_outcome,
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
    for status in [300, 400, 402, 403, 404, 405, 409, 410, 413, 422, 451] {
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
