//! Where tokens come from, how long they are kept, and what happens when they do not come.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, SystemTime},
};

use actix::Addr;
use result_poster::{
    AttemptError, CallError, CallReceipt, CredentialActor, CredentialError, GetCredentialActor, GetCredentials,
    InvalidateCredentials, OptionsBuilder, ResultPoster, RuntimeCredentials, Supervisor, UpdateIssueStatus,
    provider_fn,
    testing::{FakePlatform, ManualClock, Reply},
};
use tokio_util::sync::CancellationToken;

use crate::support::{Ask, ScriptedProvider, jwt, keep_log, logged, options, outcome, start};

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

async fn update(poster: &Addr<ResultPoster>) -> Result<CallReceipt, CallError> {
    poster
        .send(UpdateIssueStatus::new("issue-1", "Finished"))
        .await
        .unwrap()
}

/// The tokens that the platform was sent, in order.
fn tokens(platform: &FakePlatform) -> Vec<String> {
    let token = |header: Option<&str>| header.unwrap_or_default().trim_start_matches("Bearer ").to_owned();
    platform
        .requests()
        .iter()
        .map(|request| token(request.header("authorization")))
        .collect()
}

/// No fixed pair, and no waits.
fn without_fixed(platform: &FakePlatform) -> OptionsBuilder {
    options(platform.url()).worker_id("").auth_token("")
}

fn give(token: impl Into<String>) -> Ask {
    Ask::Give(RuntimeCredentials::new("wkr_p", token.into()))
}

#[actix_rt::test]
async fn a_jwt_is_kept_until_the_margin_before_its_expiry() {
    let platform = FakePlatform::start().unwrap();
    let clock = ManualClock::new();
    let [first, second] = [("first", HOUR), ("second", 2 * HOUR)].map(|(name, life)| jwt(name, clock.now() + life));
    let provider = ScriptedProvider::new([give(&first), give(&second)]);
    let poster = start(
        options(platform.url())
            .credential_provider(provider.clone())
            .clock(clock.clone()),
    );
    for _ in 0..3 {
        update(&poster).await.unwrap();
    }
    clock.advance(HOUR - 61 * SECOND);
    update(&poster).await.unwrap();
    assert_eq!(provider.asked(), 1);
    clock.advance(SECOND);
    update(&poster).await.unwrap();
    assert_eq!(provider.asked(), 2);
    assert_eq!(
        tokens(&platform),
        [&first, &first, &first, &first, &second].map(String::as_str)
    );
}

#[actix_rt::test]
async fn the_earlier_of_two_expiries_and_the_margin_of_the_options_count() {
    let platform = FakePlatform::start().unwrap();
    let clock = ManualClock::new();
    let lease =
        |life| RuntimeCredentials::new("w", jwt("t", clock.now() + 2 * HOUR)).with_expires_at(clock.now() + life);
    let provider = ScriptedProvider::new([Ask::Give(lease(HOUR)), Ask::Give(lease(3 * HOUR))]);
    let options = options(platform.url()).refresh_margin(10 * SECOND);
    let poster = start(options.credential_provider(provider.clone()).clock(clock.clone()));
    update(&poster).await.unwrap();
    clock.advance(HOUR - 11 * SECOND);
    update(&poster).await.unwrap();
    assert_eq!(provider.asked(), 1);
    clock.advance(SECOND);
    update(&poster).await.unwrap();
    assert_eq!(provider.asked(), 2);
    // The same token again, whose own expiry is now the earlier one.
    clock.advance(HOUR - SECOND);
    update(&poster).await.unwrap();
    assert_eq!(provider.asked(), 2);
    clock.advance(SECOND);
    update(&poster).await.unwrap();
    assert_eq!(provider.asked(), 3);
}

#[actix_rt::test]
async fn a_token_of_unknown_expiry_is_asked_for_at_each_attempt() {
    let platform = FakePlatform::start().unwrap();
    platform.script("status", [Reply::status(503), Reply::ok()]);
    let provider = ScriptedProvider::tokens(["a", "b", "c"]);
    let poster = start(options(platform.url()).credential_provider(provider.clone()));
    crate::support::post(&poster, "s").await.unwrap();
    assert_eq!(tokens(&platform), ["a", "b", "c"]);
    // The worker id is the one that goes with the token, in a retry too.
    let workers: Vec<_> = platform
        .requests()
        .iter()
        .map(|request| request.json().unwrap()["workerId"].clone())
        .collect();
    assert_eq!(workers, ["wkr_a", "wkr_b", "wkr_c"]);
}

#[actix_rt::test]
async fn however_many_need_credentials_the_provider_is_asked_once() {
    let platform = FakePlatform::start().unwrap();
    let clock = ManualClock::new();
    let provider = ScriptedProvider::new([give(jwt("t", clock.now() + HOUR))]);
    let poster = start(
        options(platform.url())
            .credential_provider(provider.clone())
            .clock(clock),
    );
    let calls: Vec<_> = (0..50)
        .map(|issue| actix_rt::spawn(poster.send(UpdateIssueStatus::new(format!("i{issue}"), "Finished"))))
        .collect();
    for call in calls {
        call.await.unwrap().unwrap().unwrap();
    }
    assert_eq!(provider.asked(), 1);
}

/// A provider's every way to fail, and the error that says so.
fn failures(clock: &ManualClock) -> Vec<(Ask, &'static str)> {
    vec![
        (Ask::Fail, "the credential provider failed"),
        (Ask::Hang, "the credential provider did not answer within 50ms"),
        (Ask::Panic, "the credential provider panicked: the vault is on fire"),
        (give(""), "the credential provider returned no token"),
        (
            give(jwt("t", clock.now() - SECOND)),
            "the credential provider returned an expired token",
        ),
        (
            give("to\nken"),
            "the credential provider returned a token that holds a line break or another control character; \
             trim it where it is read",
        ),
    ]
}

#[actix_rt::test]
async fn without_anything_to_fall_back_to_a_failure_is_transient_and_says_why() {
    let clock = ManualClock::new();
    for (failure, message) in failures(&clock) {
        let platform = FakePlatform::start().unwrap();
        let provider = ScriptedProvider::new([failure.clone(), failure.clone(), failure, give("works")]);
        let options = without_fixed(&platform).credential_timeout(Duration::from_millis(50));
        let poster = start(options.credential_provider(provider.clone()).clock(clock.clone()));
        let error = update(&poster).await.unwrap_err();
        let transient = error.transient().unwrap();
        assert_eq!(transient.attempts, 3, "{message}");
        let AttemptError::Credentials(cause) = &transient.last else {
            panic!("{error:?}");
        };
        assert_eq!(cause.to_string(), message);
        assert!(!error.may_have_been_delivered() && error.is_retryable());
        assert!(platform.requests().is_empty());
        // Down for three calls, and back.
        update(&poster).await.unwrap();
        assert_eq!(tokens(&platform), ["works"]);
        assert_eq!(provider.asked(), 4);
    }
}

#[actix_rt::test]
async fn a_failing_provider_leaves_the_fixed_pair() {
    let clock = ManualClock::new();
    for (failure, message) in failures(&clock) {
        let platform = FakePlatform::start().unwrap();
        let provider = ScriptedProvider::new([failure]);
        let options = options(platform.url())
            .auth_token("fixed")
            .credential_timeout(Duration::from_millis(50));
        let poster = start(options.credential_provider(provider).clock(clock.clone()));
        update(&poster).await.unwrap();
        assert_eq!(tokens(&platform), ["fixed"], "{message}");
    }
}

#[actix_rt::test]
async fn a_failing_provider_leaves_the_last_token_while_it_is_valid() {
    let clock = ManualClock::new();
    for (failure, message) in failures(&clock) {
        let platform = FakePlatform::start().unwrap();
        let valid = jwt("valid", clock.now() + HOUR);
        let provider = ScriptedProvider::new([give(&valid), failure]);
        let options = without_fixed(&platform)
            .credential_timeout(Duration::from_millis(50))
            .max_attempts(1);
        let poster = start(options.credential_provider(provider).clock(clock.clone()));
        update(&poster).await.unwrap();
        clock.advance(HOUR - 30 * SECOND);
        for _ in 0..3 {
            update(&poster).await.unwrap();
        }
        assert_eq!(tokens(&platform), vec![valid; 4], "{message}");
        clock.advance(30 * SECOND);
        assert_eq!(outcome(&update(&poster).await), "transient:1", "{message}");
    }
}

#[actix_rt::test]
async fn an_empty_field_is_filled_from_the_fixed_pair() {
    let platform = FakePlatform::start().unwrap();
    let steps =
        [("", "token"), ("wkr_p", ""), ("", "")].map(|(id, token)| Ask::Give(RuntimeCredentials::new(id, token)));
    let provider = ScriptedProvider::new(steps);
    let poster = start(
        options(platform.url())
            .worker_id("wkr_f")
            .auth_token("fixed")
            .credential_provider(provider),
    );
    for session in ["a", "b", "c"] {
        let result = crate::support::completed();
        let message = result_poster::PostResult::new(session, result);
        poster.send(message).await.unwrap().unwrap();
    }
    let sent: Vec<_> = platform
        .requests()
        .iter()
        .map(|request| request.json().unwrap()["workerId"].clone())
        .collect();
    assert_eq!(sent, ["wkr_f", "wkr_p", "wkr_f", "wkr_f", "wkr_f", "wkr_f"]);
    assert_eq!(
        tokens(&platform),
        ["token", "fixed", "fixed", "fixed", "fixed", "fixed"]
    );
}

#[actix_rt::test]
async fn a_provider_in_trouble_is_logged_once_and_asked_beside_the_calls() {
    keep_log();
    let platform = FakePlatform::start().unwrap();
    let clock = ManualClock::new();
    let valid = Ask::Give(RuntimeCredentials::new("w", "valid").with_expires_at(clock.now() + HOUR));
    let renewed = Ask::Give(RuntimeCredentials::new("w", "renewed").with_expires_at(clock.now() + 2 * HOUR));
    // It fails, then hangs for ever: no call but the first that notices waits for it.
    let provider = ScriptedProvider::new([valid, Ask::FailSaying("the trouble of one"), Ask::Hang, renewed]);
    let options = options(platform.url())
        .credential_provider(provider.clone())
        .clock(clock.clone());
    let poster = start(options.credential_timeout(Duration::from_millis(50)));
    update(&poster).await.unwrap();
    clock.advance(HOUR - 30 * SECOND);
    for _ in 0..5 {
        update(&poster).await.unwrap();
    }
    assert_eq!(provider.asked(), 2);
    clock.advance(SECOND);
    for _ in 0..5 {
        update(&poster).await.unwrap();
    }
    assert_eq!(provider.asked(), 3);
    // The hanging fetch ends; a second later the next is made.
    while provider.asked() < 4 {
        clock.advance(SECOND);
        update(&poster).await.unwrap();
        actix_rt::time::sleep(Duration::from_millis(5)).await;
    }
    update(&poster).await.unwrap();
    assert_eq!(tokens(&platform).last().unwrap(), "renewed");
    let warned = |line: &&String| line.starts_with("WARN") && line.contains("the trouble of one");
    assert_eq!(
        logged()
            .iter()
            .filter(warned)
            .filter(|line| line.contains("going on"))
            .count(),
        1
    );
}

#[actix_rt::test]
async fn a_closure_and_a_shared_provider_will_do() {
    let platform = FakePlatform::start().unwrap();
    let closure = provider_fn(async || Ok::<_, std::io::Error>(RuntimeCredentials::new("wkr_c", "closure")));
    let shared = std::sync::Arc::new(RuntimeCredentials::new("wkr_s", "shared"));
    update(&start(options(platform.url()).credential_provider(closure)))
        .await
        .unwrap();
    update(&start(options(platform.url()).credential_provider(shared)))
        .await
        .unwrap();
    assert_eq!(tokens(&platform), ["closure", "shared"]);
}

#[actix_rt::test]
async fn cancelled_while_credentials_are_fetched() {
    let platform = FakePlatform::start().unwrap();
    let provider = ScriptedProvider::new([Ask::Hang]);
    let poster = start(options(platform.url()).credential_provider(provider.clone()));
    let token = CancellationToken::new();
    let message = UpdateIssueStatus::new("i", "Finished").with_cancellation(token.clone());
    let reply = actix_rt::spawn(poster.send(message));
    while provider.asked() == 0 {
        actix_rt::task::yield_now().await;
    }
    token.cancel();
    let reply = reply.await.unwrap().unwrap();
    assert!(matches!(
        reply,
        Err(CallError::Cancelled {
            may_have_been_delivered: false
        })
    ));
    assert!(platform.requests().is_empty());
}

#[actix_rt::test]
async fn posters_and_others_share_one_actor() {
    let platform = FakePlatform::start().unwrap();
    let provider = ScriptedProvider::new([give("one"), give("two")]);
    let expiring = ManualClock::new();
    let until = expiring.now() + HOUR;
    let provider_with_expiry = {
        let provider = provider.clone();
        provider_fn(async move || {
            let credentials = result_poster::CredentialProvider::credentials(&provider).await?;
            Ok::<_, result_poster::ProviderError>(credentials.with_expires_at(until))
        })
    };
    let actor = Supervisor::start(move |_| CredentialActor::new(provider_with_expiry).with_clock(expiring));
    let shared = || result_poster::Options::builder(platform.url()).credential_actor(actor.clone());
    let posters = [start(shared()), start(shared())];
    for poster in &posters {
        update(poster).await.unwrap();
        assert_eq!(poster.send(GetCredentialActor).await.unwrap(), actor);
    }
    assert_eq!(provider.asked(), 1);

    let lease = actor.send(GetCredentials::default()).await.unwrap().unwrap();
    assert_eq!((lease.worker_id(), lease.generation()), ("wkr_p", 1));
    // Who was rejected twice with the same credentials has them renewed once.
    actor.send(InvalidateCredentials::new(&lease)).await.unwrap();
    let renewed = actor.send(GetCredentials::default()).await.unwrap().unwrap();
    actor.send(InvalidateCredentials::new(&lease)).await.unwrap();
    let again = actor.send(GetCredentials::instead_of(&lease)).await.unwrap().unwrap();
    assert_eq!((renewed.generation(), again.generation(), provider.asked()), (2, 2, 2));
    update(&posters[1]).await.unwrap();
    assert_eq!(tokens(&platform), ["one", "one", "two"]);
}

#[actix_rt::test]
async fn a_shared_actor_that_has_stopped_is_a_transient_failure() {
    let platform = FakePlatform::start().unwrap();
    let arbiter = actix_rt::Arbiter::new();
    let provider = RuntimeCredentials::new("w", "t");
    let actor = Supervisor::start_in_arbiter(&arbiter.handle(), |_| CredentialActor::new(provider));
    let options = result_poster::Options::builder(platform.url()).base_delay(Duration::ZERO);
    let poster = start(options.credential_actor(actor));
    update(&poster).await.unwrap();
    arbiter.stop();
    arbiter.join().unwrap();
    let error = update(&poster).await.unwrap_err();
    let cause = &error.transient().unwrap().last;
    assert!(
        matches!(cause, AttemptError::Credentials(CredentialError::Stopped)),
        "{cause:?}"
    );
}

#[actix_rt::test]
async fn a_posters_own_actor_is_handed_out() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()).auth_token("fixed"));
    let actor = poster.send(GetCredentialActor).await.unwrap();
    let lease = actor.send(GetCredentials::default()).await.unwrap().unwrap();
    assert_eq!((lease.worker_id(), lease.generation()), ("wkr_1", 0));
    assert!(lease.auth_token().is_some());
}

#[actix_rt::test]
async fn a_clock_that_jumps_back_does_no_harm() {
    let platform = FakePlatform::start().unwrap();
    let provider = RuntimeCredentials::new("w", "old").with_expires_at(SystemTime::UNIX_EPOCH);
    let poster = start(without_fixed(&platform).credential_provider(provider).max_attempts(1));
    let error = update(&poster).await.unwrap_err();
    assert!(matches!(
        error.transient().unwrap().last,
        AttemptError::Credentials(CredentialError::Expired)
    ));
}

#[actix_rt::test]
async fn a_provider_that_panics_where_nobody_looks_is_asked_again() {
    // An error whose message panics, and a future whose end does.
    #[derive(Debug)]
    struct Trap;
    impl std::fmt::Display for Trap {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("in a message")
        }
    }
    impl std::error::Error for Trap {}
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in a drop");
        }
    }

    let platform = FakePlatform::start().unwrap();
    let asked = AtomicUsize::new(0);
    let provider = provider_fn(async move || match asked.fetch_add(1, Ordering::Relaxed) {
        0 => Err(Trap),
        1 => {
            let _bomb = Bomb;
            std::future::pending().await
        }
        _ => Ok(RuntimeCredentials::new("w", "works")),
    });
    let options = without_fixed(&platform).credential_timeout(Duration::from_millis(20));
    let poster = start(options.credential_provider(provider));
    // The message is read for the log line of the attempt.
    assert!(matches!(update(&poster).await, Err(CallError::Internal { .. })));
    assert_eq!(update(&poster).await.unwrap().attempts, 2);
    assert_eq!(tokens(&platform), ["works"]);
}

#[actix_rt::test]
async fn a_rejected_fixed_pair_is_no_fallback_until_the_provider_is_back() {
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", [Reply::status(401), Reply::ok()]);
    let provider = ScriptedProvider::new([Ask::Fail, Ask::Fail, Ask::Fail, give("works")]);
    let poster = start(
        options(platform.url())
            .auth_token("fixed")
            .credential_provider(provider),
    );
    assert_eq!(update(&poster).await.unwrap().attempts, 3);
    assert_eq!(tokens(&platform), ["fixed", "works"]);
}

#[actix_rt::test]
async fn refreshes_that_change_nothing_are_a_second_apart_in_the_margin_too() {
    let platform = FakePlatform::start().unwrap();
    let clock = ManualClock::new();
    let short = RuntimeCredentials::new("w", "short").with_expires_at(clock.now() + 50 * SECOND);
    let provider = ScriptedProvider::new([Ask::Give(short)]);
    let poster = start(
        options(platform.url())
            .credential_provider(provider.clone())
            .clock(clock.clone()),
    );
    for asked in [2, 3] {
        for _ in 0..10 {
            update(&poster).await.unwrap();
        }
        assert_eq!(provider.asked(), asked);
        clock.advance(SECOND);
    }
}

#[actix_rt::test]
async fn a_hanging_provider_holds_up_one_call_where_there_is_a_fixed_pair() {
    let platform = FakePlatform::start().unwrap();
    let provider = ScriptedProvider::new([Ask::Hang]);
    let options = options(platform.url()).auth_token("fixed").clock(ManualClock::new());
    let options = options.credential_timeout(Duration::from_millis(50));
    let poster = start(options.credential_provider(provider.clone()));
    for _ in 0..10 {
        update(&poster).await.unwrap();
    }
    assert_eq!(provider.asked(), 1);
}

#[actix_rt::test]
async fn a_filled_token_leaves_the_providers_expiry_behind() {
    let platform = FakePlatform::start().unwrap();
    let provider = RuntimeCredentials::new("wkr_p", "").with_expires_at(SystemTime::UNIX_EPOCH);
    let poster = start(
        options(platform.url())
            .auth_token("fixed")
            .credential_provider(provider),
    );
    crate::support::post(&poster, "s").await.unwrap();
    assert_eq!(platform.requests()[0].json().unwrap()["workerId"], "wkr_p");
}

#[actix_rt::test]
async fn cancelled_in_the_moment_that_the_credentials_come() {
    let platform = FakePlatform::start().unwrap();
    let (token, asked) = (CancellationToken::new(), CancellationToken::new());
    let provider = provider_fn({
        let (token, asked) = (token.clone(), asked.clone());
        async move || {
            asked.cancel();
            actix_rt::time::sleep(Duration::from_millis(20)).await;
            token.cancel();
            Ok::<_, std::io::Error>(RuntimeCredentials::new("w", "t"))
        }
    });
    let arbiter = actix_rt::Arbiter::new();
    let actor = Supervisor::start_in_arbiter(&arbiter.handle(), |_| CredentialActor::new(provider));
    let poster = start(result_poster::Options::builder(platform.url()).credential_actor(actor));
    let message = UpdateIssueStatus::new("i", "Finished").with_cancellation(token);
    let reply = actix_rt::spawn(poster.send(message));
    asked.cancelled().await;
    // The poster's arbiter is held up, so that it finds both at once when it goes on.
    std::thread::sleep(Duration::from_millis(100));
    let reply = reply.await.unwrap().unwrap();
    assert!(matches!(
        reply,
        Err(CallError::Cancelled {
            may_have_been_delivered: false
        })
    ));
    assert!(platform.requests().is_empty());
    arbiter.stop();
}

#[actix_rt::test]
async fn a_second_outage_is_logged_as_the_first_was() {
    keep_log();
    let fail = provider_fn({
        let asked = AtomicUsize::new(0);
        async move || match asked.fetch_add(1, Ordering::Relaxed) {
            0 | 2 => Err(std::io::Error::other("the second vault is sealed")),
            _ => Ok(RuntimeCredentials::new("w", "t")),
        }
    });
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()).auth_token("fixed").credential_provider(fail));
    for _ in 0..4 {
        update(&poster).await.unwrap();
    }
    let lines = logged();
    let warned = |line: &&String| line.starts_with("WARN") && line.contains("the second vault is sealed");
    assert_eq!(lines.iter().filter(warned).count(), 2);
}

#[actix_rt::test]
async fn an_actor_of_ones_own_is_held_to_the_same_rules_as_the_options() {
    let new = || CredentialActor::new(RuntimeCredentials::new("", ""));
    assert_eq!(
        new().with_timeout(Duration::ZERO).unwrap_err().option,
        "credential_timeout"
    );
    assert_eq!(new().with_fixed_pair("w", "to\nken").unwrap_err().option, "auth_token");
    let actor = new()
        .with_fixed_pair("w", "fixed")
        .unwrap()
        .with_timeout(SECOND)
        .unwrap();
    let actor = Supervisor::start(|_| actor.with_refresh_margin(SECOND));
    let lease = actor.send(GetCredentials::default()).await.unwrap().unwrap();
    assert_eq!(lease.worker_id(), "w");
}
