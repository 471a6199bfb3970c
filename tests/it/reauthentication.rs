//! A token that the platform rejects is renewed once, for all who were rejected with it.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use result_poster::{
    PostResult, RuntimeCredentials, UpdateIssueStatus, provider_fn,
    testing::{FakePlatform, ManualClock, Reply},
};

use crate::support::{Ask, ScriptedProvider, completed, options, outcome, post, post_outcome, start};

const PROXY: &str = "issue-tracker-proxy";

fn update(issue: usize) -> UpdateIssueStatus {
    UpdateIssueStatus::new(format!("issue-{issue}"), "Finished")
}

/// `<last path segment> <token>` of each request, in order.
fn sent(platform: &FakePlatform) -> Vec<String> {
    platform
        .requests()
        .iter()
        .map(|request| {
            let token = request
                .header("authorization")
                .unwrap_or_default()
                .trim_start_matches("Bearer ");
            format!("{} {token}", request.path.rsplit('/').next().unwrap())
        })
        .collect()
}

#[actix_rt::test]
async fn a_rejected_call_is_sent_once_more_with_other_credentials() {
    for status in [401, 302, 307] {
        let platform = FakePlatform::start().unwrap();
        platform.script(
            "completion",
            [Reply::status(status).header("location", "/login"), Reply::ok()],
        );
        let provider = ScriptedProvider::tokens(["a", "b"]);
        let poster = start(options(platform.url()).credential_provider(provider));
        let receipt = post(&poster, "s").await.unwrap();
        // It is not an attempt of its own.
        assert_eq!(receipt.completion.attempts, 1);
        assert_eq!(sent(&platform), ["completion a", "completion b", "status b"]);
        assert_eq!(platform.requests()[1].json().unwrap()["workerId"], "wkr_b");
    }
}

#[actix_rt::test]
async fn the_same_token_again_is_a_refusal() {
    let platform = FakePlatform::start().unwrap();
    platform.script(PROXY, [Reply::status(401)]);
    let clock = ManualClock::new();
    let provider = ScriptedProvider::tokens(["a"]);
    let poster = start(
        options(platform.url())
            .credential_provider(provider.clone())
            .clock(clock.clone()),
    );
    assert_eq!(outcome(&poster.send(update(1)).await.unwrap()), "permanent:401");
    assert_eq!((sent(&platform).len(), provider.asked()), (1, 2));
    // Refreshes that change nothing are a second apart, whoever asks.
    for _ in 0..5 {
        assert_eq!(outcome(&poster.send(update(1)).await.unwrap()), "permanent:401");
    }
    assert_eq!((sent(&platform).len(), provider.asked()), (6, 2));
    clock.advance(Duration::from_secs(1));
    assert_eq!(outcome(&poster.send(update(1)).await.unwrap()), "permanent:401");
    assert_eq!(provider.asked(), 3);
}

#[actix_rt::test]
async fn a_second_rejection_is_a_refusal() {
    for status in [401, 307] {
        let platform = FakePlatform::start().unwrap();
        platform.script(PROXY, [Reply::status(401), Reply::status(status)]);
        let provider = ScriptedProvider::tokens(["a", "b", "c", "d"]);
        let poster = start(options(platform.url()).credential_provider(provider));
        assert_eq!(
            outcome(&poster.send(update(1)).await.unwrap()),
            format!("permanent:{status}")
        );
        assert_eq!(sent(&platform).len(), 2);
    }
}

#[actix_rt::test]
async fn a_401_in_the_middle_of_retries_is_outside_their_count_and_happens_once() {
    let platform = FakePlatform::start().unwrap();
    let replies = [503, 401, 503, 401].map(Reply::status);
    platform.script(PROXY, replies);
    let provider = ScriptedProvider::tokens(["a", "b", "c", "d", "e"]);
    let poster = start(options(platform.url()).credential_provider(provider));
    assert_eq!(outcome(&poster.send(update(1)).await.unwrap()), "permanent:401");
    assert_eq!(sent(&platform).len(), 4);
}

#[actix_rt::test]
async fn without_a_provider_a_401_is_a_refusal() {
    let platform = FakePlatform::start().unwrap();
    platform.script("completion", [Reply::status(401)]);
    let reply = post(&start(options(platform.url())), "s").await;
    assert_eq!(post_outcome(&reply), "permanent:401");
    assert_eq!(sent(&platform).len(), 2);
}

#[actix_rt::test]
async fn twenty_calls_that_are_rejected_together_cause_one_refresh() {
    let platform = FakePlatform::start().unwrap();
    let mut replies = vec![Reply::status(401).delay(Duration::from_millis(200)); 20];
    replies.push(Reply::ok());
    platform.script(PROXY, replies);
    let clock = ManualClock::new();
    let token = |name| {
        let until = clock.now() + Duration::from_secs(3600);
        Ask::Give(RuntimeCredentials::new("w", name).with_expires_at(until))
    };
    let provider = ScriptedProvider::new([token("old"), token("new"), token("newest")]);
    let poster = start(
        options(platform.url())
            .credential_provider(provider.clone())
            .clock(clock.clone()),
    );
    let calls: Vec<_> = (0..20)
        .map(|issue| actix_rt::spawn(poster.send(update(issue))))
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().unwrap().attempts, 1);
    }
    assert_eq!(provider.asked(), 2);
    let mut expected = vec!["issue-tracker-proxy old"; 20];
    expected.extend(["issue-tracker-proxy new"; 20]);
    assert_eq!(sent(&platform), expected);
}

#[actix_rt::test]
async fn twenty_rejected_calls_with_tokens_of_unknown_expiry_cause_one_refresh_too() {
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
        .map(|issue| actix_rt::spawn(poster.send(update(issue))))
        .collect();
    for call in calls {
        call.await.unwrap().unwrap().unwrap();
    }
    assert_eq!(provider.asked(), 2);
}

#[actix_rt::test]
async fn a_token_that_runs_out_on_the_way_is_renewed_for_the_status_too() {
    let platform = FakePlatform::start().unwrap();
    platform.script("completion", [Reply::status(401), Reply::ok()]);
    platform.script("status", [Reply::status(503), Reply::status(401), Reply::ok()]);
    let clock = ManualClock::new();
    let hour = Duration::from_secs(3600);
    let token = |name, life| {
        Ask::Give(RuntimeCredentials::new(format!("wkr_{name}"), name).with_expires_at(clock.now() + life))
    };
    let provider = ScriptedProvider::new([token("a", hour), token("b", 10 * hour), token("c", 20 * hour)]);
    let options = options(platform.url())
        .credential_provider(provider)
        .clock(clock.clone());
    let poster = start(options.base_delay(hour).max_delay(hour));
    let reply = actix_rt::spawn(poster.send(PostResult::new("s", completed())));
    assert_eq!(clock.sleepers(1).await, [hour]);
    clock.advance(hour);
    reply.await.unwrap().unwrap().unwrap();
    assert_eq!(
        sent(&platform),
        ["completion a", "completion b", "status b", "status b", "status c"]
    );
    assert_eq!(platform.requests()[4].json().unwrap()["workerId"], "wkr_c");
}

#[actix_rt::test]
async fn a_rejected_token_is_no_fallback_while_the_provider_is_down() {
    let platform = FakePlatform::start().unwrap();
    platform.script(PROXY, [Reply::status(401), Reply::ok()]);
    let clock = ManualClock::new();
    let until = clock.now() + Duration::from_secs(3600);
    let give = |name| Ask::Give(RuntimeCredentials::new("w", name).with_expires_at(until));
    let second = Duration::from_secs(1);
    let provider = ScriptedProvider::new([give("old"), Ask::Fail, Ask::Fail, give("new")]);
    let options = options(platform.url()).auth_token("").worker_id("").base_delay(second);
    let poster = start(options.credential_provider(provider.clone()).clock(clock.clone()));
    let reply = actix_rt::spawn(poster.send(update(1)));
    // Rejected; two refreshes fail; the third brings the token that is accepted.
    for wait in [second, 2 * second] {
        assert_eq!(clock.sleepers(1).await, [wait]);
        clock.advance(wait);
    }
    assert_eq!(reply.await.unwrap().unwrap().unwrap().attempts, 3);
    assert_eq!(sent(&platform), ["issue-tracker-proxy old", "issue-tracker-proxy new"]);
    assert_eq!(provider.asked(), 4);
}

#[actix_rt::test]
async fn the_fixed_pair_stands_in_for_a_rejected_token_whose_provider_is_down() {
    let platform = FakePlatform::start().unwrap();
    platform.script(PROXY, [Reply::status(401), Reply::ok()]);
    let give = |name| Ask::Give(RuntimeCredentials::new("w", name));
    let provider = ScriptedProvider::new([give("old"), Ask::Fail]);
    let poster = start(
        options(platform.url())
            .auth_token("fixed")
            .credential_provider(provider),
    );
    poster.send(update(1)).await.unwrap().unwrap();
    assert_eq!(
        sent(&platform),
        ["issue-tracker-proxy old", "issue-tracker-proxy fixed"]
    );
}

#[actix_rt::test]
async fn a_fetch_from_before_the_rejection_proves_nothing() {
    let platform = FakePlatform::start().unwrap();
    platform.script(
        PROXY,
        [Reply::status(401).delay(Duration::from_millis(50)), Reply::ok()],
    );
    // The second fetch begins before the first call is rejected, ends after it, and still brings the old token.
    let asked = AtomicUsize::new(0);
    let provider = provider_fn(async move || {
        let token = match asked.fetch_add(1, Ordering::Relaxed) {
            0 => "old",
            1 => {
                actix_rt::time::sleep(Duration::from_millis(150)).await;
                "old"
            }
            _ => "new",
        };
        Ok::<_, std::io::Error>(RuntimeCredentials::new("w", token))
    });
    let poster = start(options(platform.url()).credential_provider(provider));
    let rejected = actix_rt::spawn(poster.send(update(1)));
    platform.wait_for_requests(1).await;
    let other = actix_rt::spawn(poster.send(update(2)));
    rejected.await.unwrap().unwrap().unwrap();
    other.await.unwrap().unwrap().unwrap();
    let mut sent = sent(&platform);
    sent.sort();
    assert_eq!(
        sent,
        [
            "issue-tracker-proxy new",
            "issue-tracker-proxy old",
            "issue-tracker-proxy old"
        ]
    );
}

#[actix_rt::test]
async fn a_token_that_was_the_second_to_be_rejected_is_out_of_use_too() {
    let platform = FakePlatform::start().unwrap();
    platform.script(PROXY, [Reply::status(401), Reply::status(401), Reply::ok()]);
    let clock = ManualClock::new();
    let until = clock.now() + Duration::from_secs(3600);
    let give = |name| Ask::Give(RuntimeCredentials::new("w", name).with_expires_at(until));
    let provider = ScriptedProvider::new(["a", "b", "c"].map(give));
    let poster = start(options(platform.url()).credential_provider(provider).clock(clock));
    assert_eq!(outcome(&poster.send(update(1)).await.unwrap()), "permanent:401");
    assert_eq!(outcome(&poster.send(update(2)).await.unwrap()), "ok");
    assert_eq!(sent(&platform), ["a", "b", "c"].map(|token| format!("{PROXY} {token}")));
}

#[actix_rt::test]
async fn a_fetch_from_before_the_rejection_proves_nothing_to_others_either() {
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
    let asked = AtomicUsize::new(0);
    let provider = provider_fn(async move || {
        let asked = asked.fetch_add(1, Ordering::Relaxed);
        let pause = [0, 0, 150, 150].get(asked).copied().unwrap_or_default();
        actix_rt::time::sleep(Duration::from_millis(pause)).await;
        Ok::<_, std::io::Error>(RuntimeCredentials::new("w", if asked < 3 { "old" } else { "new" }))
    });
    let poster = start(
        options(platform.url())
            .credential_provider(provider)
            .clock(ManualClock::new()),
    );
    let mut calls = Vec::new();
    for issue in 0..2 {
        calls.push(actix_rt::spawn(poster.send(update(issue))));
        platform.wait_for_requests(issue + 1).await;
    }
    // Its fetch is the third: begun before either rejection, and ended between the two.
    calls.push(actix_rt::spawn(poster.send(update(2))));
    for call in calls {
        call.await.unwrap().unwrap().unwrap();
    }
}

#[actix_rt::test]
async fn twenty_calls_that_are_rejected_together_for_good_cause_one_refresh_too() {
    let platform = FakePlatform::start().unwrap();
    platform.script(PROXY, [Reply::status(401).delay(Duration::from_millis(200))]);
    let clock = ManualClock::new();
    let until = clock.now() + Duration::from_secs(3600);
    let provider = ScriptedProvider::new([Ask::Give(RuntimeCredentials::new("w", "same").with_expires_at(until))]);
    let poster = start(
        options(platform.url())
            .credential_provider(provider.clone())
            .clock(clock),
    );
    let calls: Vec<_> = (0..20)
        .map(|issue| actix_rt::spawn(poster.send(update(issue))))
        .collect();
    for call in calls {
        assert_eq!(outcome(&call.await.unwrap().unwrap()), "permanent:401");
    }
    assert_eq!((sent(&platform).len(), provider.asked()), (20, 2));
}
