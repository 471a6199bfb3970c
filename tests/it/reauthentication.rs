//! A rejected token is refreshed once, for all calls that were rejected with it.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use result_poster::{
    NextStep, PostResult,
    credentials::{RuntimeCredentials, provider_fn},
    testing::{FakePlatform, ManualClock, Reply},
};

use crate::support::{
    completed, options, outcome, post, post_outcome,
    provider::{ProviderStep, ScriptedProvider},
    requests::{route_and_token, sent, token, worker_id},
    send_update, start, status_update,
};

const PROXY: &str = "issue-tracker-proxy";

const SUCCESS: &str = r#"{"success":true}"#;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

#[actix_rt::test]
async fn a_rejected_call_is_sent_again_with_fresh_credentials() {
    for status in [401, 302, 307] {
        let platform = FakePlatform::start().unwrap();
        platform.script(
            "completion",
            [Reply::status(status).header("location", "/login"), Reply::ok()],
        );
        let provider = ScriptedProvider::tokens(["a", "b"]);
        let poster = start(options(platform.url()).credential_provider(provider));
        let receipt = post(&poster, "s").await.unwrap();
        // The repetition is not an attempt.
        assert_eq!(receipt.completion.attempts(), Some(1));
        assert_eq!(
            sent(&platform, route_and_token),
            ["completion a", "completion b", "status b"]
        );
        // The worker id of a message does not change with its token.
        assert_eq!(sent(&platform, worker_id), ["wkr_a", "wkr_a", "wkr_a"]);
    }
}

#[actix_rt::test]
async fn a_provider_that_is_late_delays_the_call() {
    let platform = FakePlatform::start().unwrap();
    platform.script(PROXY, [401, 401, 200].map(|status| Reply::status(status).body(SUCCESS)));
    let clock = ManualClock::new();
    let provider = ScriptedProvider::tokens(["old", "old", "old", "new"]);
    let options = options(platform.url()).credential_provider(provider.clone());
    let poster = start(options.clock(clock.clone()).base_delay(SECOND));
    let reply = actix_rt::spawn(poster.send(status_update("issue-1")));
    for wait in [SECOND, 2 * SECOND] {
        assert_eq!(clock.wait_for_sleepers(1).await, [wait]);
        clock.advance(wait);
    }
    assert_eq!(reply.await.unwrap().unwrap().unwrap().attempts(), Some(3));
    assert_eq!(sent(&platform, token), ["old", "old", "new"]);
}

#[actix_rt::test]
async fn a_provider_that_stays_late_ends_the_call_with_the_platforms_answer() {
    for status in [401, 302, 303, 307] {
        let platform = FakePlatform::start().unwrap();
        platform.script(PROXY, [Reply::status(status).body("expired")]);
        let provider = ScriptedProvider::tokens(["old"]);
        let poster = start(options(platform.url()).credential_provider(provider));
        let error = send_update(&poster, "issue-1").await.unwrap_err();
        assert_eq!(error.next_step(), NextStep::RenewCredentials);
        let rejection = error.permanent().unwrap();
        assert_eq!((rejection.status_code, rejection.attempts), (status, 3));
        assert_eq!(rejection.body, "expired");
        assert_eq!(platform.requests().len(), 3);
    }
}

#[actix_rt::test]
async fn a_failing_provider_does_not_hide_the_platforms_answer() {
    let platform = FakePlatform::start().unwrap();
    platform.script(PROXY, [Reply::status(401)]);
    let give = ProviderStep::Give(RuntimeCredentials::new("w", "old"));
    let provider = ScriptedProvider::new([give, ProviderStep::Fail]);
    let options = options(platform.url()).auth_token("").worker_id("");
    let poster = start(options.credential_provider(provider));
    let error = send_update(&poster, "issue-1").await.unwrap_err();
    assert_eq!(
        error.permanent().map(|error| (error.status_code, error.attempts)),
        Some((401, 3))
    );
    assert_eq!(platform.requests().len(), 1);
}

#[actix_rt::test]
async fn refreshes_without_a_change_are_a_second_apart() {
    let platform = FakePlatform::start().unwrap();
    platform.script(PROXY, [Reply::status(401)]);
    let clock = ManualClock::new();
    let provider = ScriptedProvider::tokens(["a"]);
    let poster = start(
        options(platform.url())
            .credential_provider(provider.clone())
            .clock(clock.clone()),
    );
    for _ in 0..5 {
        assert_eq!(outcome(&send_update(&poster, "issue-1").await), "permanent:401");
    }
    assert_eq!((platform.requests().len(), provider.fetches()), (15, 2));
    clock.advance(SECOND);
    assert_eq!(outcome(&send_update(&poster, "issue-1").await), "permanent:401");
    assert_eq!(provider.fetches(), 3);
}

#[actix_rt::test]
async fn a_call_is_sent_again_at_once_only_once() {
    for status in [401, 307] {
        let platform = FakePlatform::start().unwrap();
        platform.script(PROXY, [Reply::status(status)]);
        let provider = ScriptedProvider::tokens(["a", "b", "c", "d", "e", "f"]);
        let poster = start(options(platform.url()).credential_provider(provider));
        let reply = send_update(&poster, "issue-1").await;
        assert_eq!(outcome(&reply), format!("permanent:{status}"));
        assert_eq!(reply.unwrap_err().next_step(), NextStep::RenewCredentials);
        // The first attempt is sent twice.
        assert_eq!(sent(&platform, token), ["a", "b", "c", "d"]);
    }
}

#[actix_rt::test]
async fn a_reauthentication_is_not_counted_as_an_attempt() {
    let platform = FakePlatform::start().unwrap();
    let replies = [503, 401, 503, 401].map(Reply::status);
    platform.script(PROXY, replies);
    let provider = ScriptedProvider::tokens(["a", "b", "c", "d", "e"]);
    let poster = start(options(platform.url()).credential_provider(provider));
    assert_eq!(outcome(&send_update(&poster, "issue-1").await), "permanent:401");
    assert_eq!(platform.requests().len(), 4);
}

#[actix_rt::test]
async fn a_401_to_the_fixed_pair_is_permanent_at_once() {
    let platform = FakePlatform::start().unwrap();
    platform.script("completion", [Reply::status(401)]);
    let reply = post(&start(options(platform.url())), "s").await;
    assert_eq!(post_outcome(&reply), "permanent:401");
    assert_eq!(platform.requests().len(), 2);
}

#[actix_rt::test]
async fn a_401_of_the_tracker_does_not_cost_the_workers_token() {
    for status in [401, 403] {
        let platform = FakePlatform::start().unwrap();
        let body = r#"{"success":false,"error":{"code":"AUTH_ERROR","message":"tracker","retryable":false}}"#;
        platform.script(PROXY, [Reply::status(status).body(body), Reply::ok()]);
        let clock = ManualClock::new();
        let until = clock.now() + HOUR;
        let provider = ScriptedProvider::new([ProviderStep::Give(
            RuntimeCredentials::new("w", "the-token").with_expires_at(until),
        )]);
        let options = options(platform.url()).credential_provider(provider.clone());
        let poster = start(options.clock(clock));
        let error = send_update(&poster, "issue-1").await.unwrap_err();
        assert_eq!(error.next_step(), NextStep::GiveUp);
        let rejection = error.permanent().unwrap();
        assert_eq!(
            (rejection.status_code, rejection.body.as_str()),
            (status, "AUTH_ERROR: tracker")
        );
        assert!(rejection.advice().contains("the worker's token is not affected"));
        send_update(&poster, "issue-1").await.unwrap();
        assert_eq!((platform.requests().len(), provider.fetches()), (2, 1));
    }
}

#[actix_rt::test]
async fn a_permanent_redirect_names_the_address_and_keeps_the_token() {
    for status in [301, 308] {
        let platform = FakePlatform::start().unwrap();
        let moved = Reply::status(status).header("location", "https://x/");
        platform.script(PROXY, [moved]);
        let provider = ScriptedProvider::tokens(["a", "b"]);
        let poster = start(options(platform.url()).credential_provider(provider.clone()));
        let error = send_update(&poster, "issue-1").await.unwrap_err();
        assert_eq!(error.next_step(), NextStep::GiveUp);
        assert_eq!(error.permanent().unwrap().location(), Some("https://x/"));
        assert!(
            error
                .to_string()
                .ends_with(&format!("status {status}, moved to https://x/")),
            "{error}"
        );
        assert_eq!((platform.requests().len(), provider.fetches()), (1, 1));
    }
}

#[actix_rt::test]
async fn concurrent_rejections_cause_one_refresh() {
    let platform = FakePlatform::start().unwrap();
    let mut replies = vec![Reply::status(401).delay(Duration::from_millis(200)); 20];
    replies.push(Reply::ok());
    platform.script(PROXY, replies);
    let clock = ManualClock::new();
    let token = |name| {
        let until = clock.now() + HOUR;
        ProviderStep::Give(RuntimeCredentials::new("w", name).with_expires_at(until))
    };
    let provider = ScriptedProvider::new([token("old"), token("new"), token("newest")]);
    let poster = start(
        options(platform.url())
            .credential_provider(provider.clone())
            .clock(clock.clone()),
    );
    let calls: Vec<_> = (0..20)
        .map(|issue| actix_rt::spawn(poster.send(status_update(format!("issue-{issue}")))))
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().unwrap().attempts(), Some(1));
    }
    assert_eq!(provider.fetches(), 2);
    let mut expected = vec!["issue-tracker-proxy old"; 20];
    expected.extend(["issue-tracker-proxy new"; 20]);
    assert_eq!(sent(&platform, route_and_token), expected);
}

#[actix_rt::test]
async fn concurrent_rejections_of_a_token_of_unknown_expiry_cause_one_refresh() {
    let platform = FakePlatform::start().unwrap();
    let mut replies = vec![Reply::status(401).delay(Duration::from_millis(200)); 20];
    replies.push(Reply::ok());
    platform.script(PROXY, replies);
    let provider = ScriptedProvider::tokens(["old", "new", "newest"]);
    let poster = start(
        options(platform.url())
            .credential_provider(provider.clone())
            .clock(ManualClock::new()),
    );
    let calls: Vec<_> = (0..20)
        .map(|issue| actix_rt::spawn(poster.send(status_update(format!("issue-{issue}")))))
        .collect();
    for call in calls {
        call.await.unwrap().unwrap().unwrap();
    }
    assert_eq!(provider.fetches(), 2);
}

#[actix_rt::test]
async fn the_completion_and_the_status_each_reauthenticate_once() {
    let platform = FakePlatform::start().unwrap();
    platform.script("completion", [Reply::status(401), Reply::ok()]);
    platform.script("status", [Reply::status(503), Reply::status(401), Reply::ok()]);
    let clock = ManualClock::new();
    let token = |name, life| {
        ProviderStep::Give(RuntimeCredentials::new(format!("wkr_{name}"), name).with_expires_at(clock.now() + life))
    };
    let provider = ScriptedProvider::new([token("a", HOUR), token("b", 10 * HOUR), token("c", 20 * HOUR)]);
    let options = options(platform.url())
        .credential_provider(provider)
        .clock(clock.clone());
    let poster = start(options.base_delay(HOUR).max_delay(HOUR));
    let reply = actix_rt::spawn(poster.send(PostResult::new("s", completed())));
    assert_eq!(clock.wait_for_sleepers(1).await, [HOUR]);
    clock.advance(HOUR);
    reply.await.unwrap().unwrap().unwrap();
    assert_eq!(
        sent(&platform, route_and_token),
        ["completion a", "completion b", "status b", "status b", "status c"]
    );
    assert_eq!(sent(&platform, worker_id), ["wkr_a"; 5]);
}

#[actix_rt::test]
async fn a_rejected_token_is_not_used_again_while_the_provider_fails() {
    let platform = FakePlatform::start().unwrap();
    platform.script(PROXY, [Reply::status(401), Reply::ok()]);
    let clock = ManualClock::new();
    let until = clock.now() + HOUR;
    let give = |name| ProviderStep::Give(RuntimeCredentials::new("w", name).with_expires_at(until));
    let provider = ScriptedProvider::new([give("old"), ProviderStep::Fail, ProviderStep::Fail, give("new")]);
    let options = options(platform.url()).auth_token("").worker_id("").base_delay(SECOND);
    let poster = start(options.credential_provider(provider.clone()).clock(clock.clone()));
    let reply = actix_rt::spawn(poster.send(status_update("issue-1")));
    // The first token is rejected; two refreshes fail; the third returns a token that is accepted.
    for wait in [SECOND, 2 * SECOND] {
        assert_eq!(clock.wait_for_sleepers(1).await, [wait]);
        clock.advance(wait);
    }
    assert_eq!(reply.await.unwrap().unwrap().unwrap().attempts(), Some(3));
    assert_eq!(
        sent(&platform, route_and_token),
        ["issue-tracker-proxy old", "issue-tracker-proxy new"]
    );
    assert_eq!(provider.fetches(), 4);
}

#[actix_rt::test]
async fn the_fixed_pair_replaces_a_rejected_token_while_the_provider_fails() {
    let platform = FakePlatform::start().unwrap();
    platform.script(PROXY, [Reply::status(401), Reply::ok()]);
    let give = |name| ProviderStep::Give(RuntimeCredentials::new("w", name));
    let provider = ScriptedProvider::new([give("old"), ProviderStep::Fail]);
    let poster = start(
        options(platform.url())
            .auth_token("fixed")
            .credential_provider(provider),
    );
    send_update(&poster, "issue-1").await.unwrap();
    assert_eq!(
        sent(&platform, route_and_token),
        ["issue-tracker-proxy old", "issue-tracker-proxy fixed"]
    );
}

#[actix_rt::test]
async fn a_fetch_begun_before_the_rejection_is_not_a_refresh() {
    let platform = FakePlatform::start().unwrap();
    platform.script(
        PROXY,
        [Reply::status(401).delay(Duration::from_millis(50)), Reply::ok()],
    );
    // The second fetch begins before the first call is rejected, ends after that, and still returns the old token.
    let fetches = AtomicUsize::new(0);
    let provider = provider_fn(async move || {
        let token = match fetches.fetch_add(1, Ordering::Relaxed) {
            0 => "old",
            1 => {
                actix_rt::time::sleep(Duration::from_millis(150)).await;
                "old"
            }
            _ => "new",
        };
        Ok(RuntimeCredentials::new("w", token))
    });
    let poster = start(options(platform.url()).credential_provider(provider));
    let rejected = actix_rt::spawn(poster.send(status_update("issue-1")));
    platform.wait_for_requests(1).await;
    let other = actix_rt::spawn(poster.send(status_update("issue-2")));
    rejected.await.unwrap().unwrap().unwrap();
    other.await.unwrap().unwrap().unwrap();
    let mut requests = sent(&platform, route_and_token);
    requests.sort();
    assert_eq!(
        requests,
        [
            "issue-tracker-proxy new",
            "issue-tracker-proxy old",
            "issue-tracker-proxy old"
        ]
    );
}

#[actix_rt::test]
async fn the_next_attempt_does_not_use_a_token_that_was_rejected_after_a_refresh() {
    let platform = FakePlatform::start().unwrap();
    platform.script(PROXY, [Reply::status(401), Reply::status(401), Reply::ok()]);
    let clock = ManualClock::new();
    let until = clock.now() + HOUR;
    let give = |name| ProviderStep::Give(RuntimeCredentials::new("w", name).with_expires_at(until));
    let provider = ScriptedProvider::new(["a", "b", "c"].map(give));
    let poster = start(options(platform.url()).credential_provider(provider).clock(clock));
    assert_eq!(send_update(&poster, "issue-1").await.unwrap().attempts(), Some(2));
    assert_eq!(sent(&platform, token), ["a", "b", "c"]);
}

#[actix_rt::test]
async fn a_fetch_begun_before_the_rejection_is_not_a_refresh_for_other_calls() {
    let platform = FakePlatform::start().unwrap();
    let rejected = Reply::status(401).delay(Duration::from_millis(50));
    platform.script(
        PROXY,
        [
            rejected.clone(),
            rejected.delay(Duration::from_millis(250)),
            Reply::ok(),
        ],
    );
    let fetches = AtomicUsize::new(0);
    let provider = provider_fn(async move || {
        let fetch = fetches.fetch_add(1, Ordering::Relaxed);
        let pause = [0, 0, 150, 150].get(fetch).copied().unwrap_or_default();
        actix_rt::time::sleep(Duration::from_millis(pause)).await;
        Ok(RuntimeCredentials::new("w", if fetch < 3 { "old" } else { "new" }))
    });
    let poster = start(
        options(platform.url())
            .credential_provider(provider)
            .clock(ManualClock::new()),
    );
    let mut calls = Vec::new();
    for issue in 0..2 {
        calls.push(actix_rt::spawn(poster.send(status_update(format!("issue-{issue}")))));
        platform.wait_for_requests(issue + 1).await;
    }
    // The third fetch begins before either rejection, and ends between the two.
    calls.push(actix_rt::spawn(poster.send(status_update("issue-2"))));
    for call in calls {
        call.await.unwrap().unwrap().unwrap();
    }
}

#[actix_rt::test]
async fn concurrent_rejections_of_an_unchanged_token_cause_one_refresh() {
    let platform = FakePlatform::start().unwrap();
    platform.script(PROXY, [Reply::status(401).delay(Duration::from_millis(200))]);
    let clock = ManualClock::new();
    let until = clock.now() + HOUR;
    let provider = ScriptedProvider::new([ProviderStep::Give(
        RuntimeCredentials::new("w", "same").with_expires_at(until),
    )]);
    let poster = start(
        options(platform.url())
            .credential_provider(provider.clone())
            .clock(clock),
    );
    let calls: Vec<_> = (0..20)
        .map(|issue| actix_rt::spawn(poster.send(status_update(format!("issue-{issue}")))))
        .collect();
    for call in calls {
        assert_eq!(outcome(&call.await.unwrap().unwrap()), "permanent:401");
    }
    // Each call makes its attempts.
    assert_eq!((platform.requests().len(), provider.fetches()), (60, 2));
}
