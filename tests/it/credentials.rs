//! Credentials: their sources, the cache, and failures to fetch them.

use std::{
    error::Error,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use actix::Addr;
use actix_rt::Arbiter;
use result_poster::{
    AttemptError, CallError, CancelledBy, CredentialError, NextStep, Options, OptionsBuilder, Supervisor,
    credentials::{
        CredentialActor, CredentialProvider, GetCredentialActor, GetCredentials, InvalidateCredentials,
        RuntimeCredentials, provider_fn,
    },
    testing::{FakePlatform, ManualClock, Reply},
};
use tokio_util::sync::CancellationToken;

use crate::support::{
    RETRY_LATER,
    log::{keep_log, logged},
    options, outcome, post,
    provider::{ProviderStep, ScriptedProvider, jwt},
    requests::{sent, token, worker_id},
    send_update, start, status_update,
    wait::{in_time, wait_until},
};

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

#[actix_rt::test]
async fn a_jwt_is_cached_until_the_refresh_margin_before_its_expiry() {
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
        send_update(&poster, "i").await.unwrap();
    }
    clock.advance(HOUR - 61 * SECOND);
    send_update(&poster, "i").await.unwrap();
    assert_eq!(provider.fetches(), 1);
    clock.advance(SECOND);
    send_update(&poster, "i").await.unwrap();
    assert_eq!(provider.fetches(), 2);
    assert_eq!(
        sent(&platform, token),
        [&first, &first, &first, &first, &second].map(String::as_str)
    );
}

#[actix_rt::test]
async fn a_token_is_refreshed_at_its_earlier_expiry_less_the_configured_margin() {
    let platform = FakePlatform::start().unwrap();
    let clock = ManualClock::new();
    let valid_for =
        |life| RuntimeCredentials::new("w", jwt("t", clock.now() + 2 * HOUR)).with_expires_at(clock.now() + life);
    let provider = ScriptedProvider::new([HOUR, 3 * HOUR].map(|life| ProviderStep::Give(valid_for(life))));
    let options = options(platform.url()).refresh_margin(10 * SECOND);
    let poster = start(options.credential_provider(provider.clone()).clock(clock.clone()));
    send_update(&poster, "i").await.unwrap();
    clock.advance(HOUR - 11 * SECOND);
    send_update(&poster, "i").await.unwrap();
    assert_eq!(provider.fetches(), 1);
    clock.advance(SECOND);
    send_update(&poster, "i").await.unwrap();
    assert_eq!(provider.fetches(), 2);
    // The second fetch returned the same token, whose own expiry is now the earlier one.
    clock.advance(HOUR - SECOND);
    send_update(&poster, "i").await.unwrap();
    assert_eq!(provider.fetches(), 2);
    clock.advance(SECOND);
    send_update(&poster, "i").await.unwrap();
    assert_eq!(provider.fetches(), 3);
}

#[actix_rt::test]
async fn a_token_of_unknown_expiry_is_fetched_for_each_attempt() {
    let platform = FakePlatform::start().unwrap();
    platform.script("status", [Reply::status(503), Reply::ok()]);
    let provider = ScriptedProvider::tokens(["a", "b", "c"]);
    let poster = start(options(platform.url()).credential_provider(provider.clone()));
    post(&poster, "s").await.unwrap();
    assert_eq!(sent(&platform, token), ["a", "b", "c"]);
    // The worker id of a message is the one that was fetched for its first attempt.
    assert_eq!(sent(&platform, worker_id), ["wkr_a", "wkr_a", "wkr_a"]);
}

#[actix_rt::test]
async fn concurrent_calls_share_one_fetch() {
    let platform = FakePlatform::start().unwrap();
    let clock = ManualClock::new();
    let provider = ScriptedProvider::new([give(jwt("t", clock.now() + HOUR))]);
    let poster = start(
        options(platform.url())
            .credential_provider(provider.clone())
            .clock(clock),
    );
    let calls: Vec<_> = (0..50)
        .map(|issue| actix_rt::spawn(poster.send(status_update(format!("i{issue}")))))
        .collect();
    for call in calls {
        call.await.unwrap().unwrap().unwrap();
    }
    assert_eq!(provider.fetches(), 1);
}

#[actix_rt::test]
async fn a_provider_failure_without_a_fallback_is_transient() {
    let clock = ManualClock::new();
    for (failure, message) in failures(&clock) {
        let platform = FakePlatform::start().unwrap();
        let provider = ScriptedProvider::new([failure.clone(), failure.clone(), failure, give("works")]);
        let options = without_fixed(&platform).credential_timeout(Duration::from_millis(50));
        let poster = start(options.credential_provider(provider.clone()).clock(clock.clone()));
        let error = send_update(&poster, "i").await.unwrap_err();
        let transient = error.transient().unwrap();
        assert_eq!(transient.attempts, 3, "{message}");
        let AttemptError::Credentials(cause) = &transient.last else {
            panic!("{error:?}");
        };
        assert_eq!(cause.to_string(), message);
        assert_eq!(error.next_step(), NextStep::RetryLater { after: RETRY_LATER });
        assert!(!error.may_have_been_delivered());
        assert!(platform.requests().is_empty());
        // The provider works again after three failures.
        send_update(&poster, "i").await.unwrap();
        assert_eq!(sent(&platform, token), ["works"]);
        assert_eq!(provider.fetches(), 4);
    }
}

#[actix_rt::test]
async fn the_fixed_pair_is_used_while_the_provider_fails() {
    let clock = ManualClock::new();
    for (failure, message) in failures(&clock) {
        let platform = FakePlatform::start().unwrap();
        let provider = ScriptedProvider::new([failure]);
        let options = options(platform.url())
            .auth_token("fixed")
            .credential_timeout(Duration::from_millis(50));
        let poster = start(options.credential_provider(provider).clock(clock.clone()));
        send_update(&poster, "i").await.unwrap();
        assert_eq!(sent(&platform, token), ["fixed"], "{message}");
    }
}

#[actix_rt::test]
async fn the_last_token_is_used_until_it_expires_while_the_provider_fails() {
    let clock = ManualClock::new();
    for (failure, message) in failures(&clock) {
        let platform = FakePlatform::start().unwrap();
        let valid = jwt("valid", clock.now() + HOUR);
        let provider = ScriptedProvider::new([give(&valid), failure]);
        let options = without_fixed(&platform)
            .credential_timeout(Duration::from_millis(50))
            .max_attempts(1);
        let poster = start(options.credential_provider(provider).clock(clock.clone()));
        send_update(&poster, "i").await.unwrap();
        clock.advance(HOUR - 30 * SECOND);
        for _ in 0..3 {
            send_update(&poster, "i").await.unwrap();
        }
        assert_eq!(sent(&platform, token), vec![valid; 4], "{message}");
        clock.advance(30 * SECOND);
        assert_eq!(outcome(&send_update(&poster, "i").await), "transient:1", "{message}");
    }
}

#[actix_rt::test]
async fn an_empty_field_from_the_provider_is_filled_from_the_fixed_pair() {
    let platform = FakePlatform::start().unwrap();
    let steps = [("wkr_p", ""), ("", "token"), ("", "")]
        .map(|(id, token)| ProviderStep::Give(RuntimeCredentials::new(id, token)));
    let provider = ScriptedProvider::new(steps);
    let poster = start(
        options(platform.url())
            .worker_id("wkr_f")
            .auth_token("fixed")
            .credential_provider(provider),
    );
    for session_id in ["a", "b", "c"] {
        post(&poster, session_id).await.unwrap();
    }
    assert_eq!(
        sent(&platform, worker_id),
        ["wkr_p", "wkr_p", "wkr_f", "wkr_f", "wkr_f", "wkr_f"]
    );
    assert_eq!(
        sent(&platform, token),
        ["fixed", "token", "fixed", "fixed", "fixed", "fixed"]
    );
}

#[actix_rt::test]
async fn failing_refreshes_do_not_delay_calls_while_the_token_is_valid() {
    let platform = FakePlatform::start().unwrap();
    let clock = ManualClock::new();
    let valid = RuntimeCredentials::new("w", "valid").with_expires_at(clock.now() + HOUR);
    let renewed = RuntimeCredentials::new("w", "renewed").with_expires_at(clock.now() + 2 * HOUR);
    // The second fetch fails, the third hangs. No call waits for the hanging fetch.
    let provider = ScriptedProvider::new([
        ProviderStep::Give(valid),
        ProviderStep::Fail,
        ProviderStep::Hang,
        ProviderStep::Give(renewed),
    ]);
    let options = options(platform.url())
        .credential_provider(provider.clone())
        .clock(clock.clone());
    let poster = start(options.credential_timeout(Duration::from_millis(50)));
    send_update(&poster, "i").await.unwrap();
    clock.advance(HOUR - 30 * SECOND);
    for _ in 0..5 {
        send_update(&poster, "i").await.unwrap();
    }
    assert_eq!(provider.fetches(), 2);
    clock.advance(SECOND);
    for _ in 0..5 {
        send_update(&poster, "i").await.unwrap();
    }
    assert_eq!(provider.fetches(), 3);
    // The hanging fetch times out; the next one begins at the first call a second later.
    in_time(async {
        while provider.fetches() < 4 {
            clock.advance(SECOND);
            send_update(&poster, "i").await.unwrap();
        }
    })
    .await;
    send_update(&poster, "i").await.unwrap();
    assert_eq!(sent(&platform, token).last().unwrap(), "renewed");
}

#[actix_rt::test]
async fn a_provider_outage_is_logged_once() {
    keep_log();
    let platform = FakePlatform::start().unwrap();
    let clock = ManualClock::new();
    let valid = RuntimeCredentials::new("w", "valid").with_expires_at(clock.now() + HOUR);
    let provider = ScriptedProvider::new([
        ProviderStep::Give(valid),
        ProviderStep::FailWith("the first vault is sealed"),
    ]);
    let poster = start(
        options(platform.url())
            .credential_provider(provider.clone())
            .clock(clock.clone()),
    );
    send_update(&poster, "i").await.unwrap();
    clock.advance(HOUR - 30 * SECOND);
    for _ in 0..5 {
        send_update(&poster, "i").await.unwrap();
        clock.advance(SECOND);
    }
    assert_eq!(provider.fetches(), 6);
    let warnings = warnings_about("the first vault is sealed");
    let kept_token = warnings.iter().filter(|line| line.contains("using the current token"));
    assert_eq!(kept_token.count(), 1, "{warnings:?}");
}

#[actix_rt::test]
async fn closures_and_arcs_are_providers() {
    let platform = FakePlatform::start().unwrap();
    let closure = provider_fn(async || Ok(RuntimeCredentials::new("wkr_c", "closure")));
    let shared = Arc::new(RuntimeCredentials::new("wkr_s", "shared"));
    let with_closure = start(options(platform.url()).credential_provider(closure));
    send_update(&with_closure, "i").await.unwrap();
    let with_shared = start(options(platform.url()).credential_provider(shared));
    send_update(&with_shared, "i").await.unwrap();
    assert_eq!(sent(&platform, token), ["closure", "shared"]);
}

#[actix_rt::test]
async fn cancellation_during_a_fetch_sends_nothing() {
    let platform = FakePlatform::start().unwrap();
    let provider = ScriptedProvider::new([ProviderStep::Hang]);
    let poster = start(options(platform.url()).credential_provider(provider.clone()));
    let token = CancellationToken::new();
    let message = status_update("i").with_cancellation(token.clone());
    let reply = actix_rt::spawn(poster.send(message));
    wait_until(|| provider.fetches() > 0).await;
    token.cancel();
    let reply = reply.await.unwrap().unwrap();
    assert!(matches!(
        reply,
        Err(CallError::Cancelled {
            by: CancelledBy::Token,
            may_have_been_delivered: false,
            ..
        })
    ));
    assert!(platform.requests().is_empty());
}

#[actix_rt::test]
async fn posters_share_one_credential_actor() {
    let platform = FakePlatform::start().unwrap();
    let provider = ScriptedProvider::new([give("one"), give("two")]);
    let actor = credential_actor(&provider);
    let shared = || Options::builder(platform.url()).credential_actor(actor.clone());
    for poster in [start(shared()), start(shared())] {
        send_update(&poster, "i").await.unwrap();
        assert_eq!(poster.send(GetCredentialActor).await.unwrap(), actor);
    }
    assert_eq!(provider.fetches(), 1);
    assert_eq!(sent(&platform, token), ["one", "one"]);
}

#[actix_rt::test]
async fn invalidating_the_same_credentials_twice_refreshes_once() {
    let platform = FakePlatform::start().unwrap();
    let provider = ScriptedProvider::new([give("one"), give("two")]);
    let actor = credential_actor(&provider);
    let poster = start(Options::builder(platform.url()).credential_actor(actor.clone()));
    send_update(&poster, "i").await.unwrap();
    let issued = actor.send(GetCredentials::default()).await.unwrap().unwrap();
    assert_eq!((issued.worker_id(), issued.generation()), (Some("wkr_p"), Some(1)));
    actor.send(InvalidateCredentials::new(&issued)).await.unwrap();
    let renewed = actor.send(GetCredentials::default()).await.unwrap().unwrap();
    actor.send(InvalidateCredentials::new(&issued)).await.unwrap();
    let again = actor.send(GetCredentials::replacing(&issued)).await.unwrap().unwrap();
    assert_eq!((renewed.generation(), again.generation()), (Some(2), Some(2)));
    assert_eq!(provider.fetches(), 2);
    send_update(&poster, "i").await.unwrap();
    assert_eq!(sent(&platform, token), ["one", "two"]);
}

#[actix_rt::test]
async fn a_stopped_credential_actor_is_a_transient_failure() {
    let platform = FakePlatform::start().unwrap();
    let arbiter = Arbiter::new();
    let provider = RuntimeCredentials::new("w", "t");
    let actor = Supervisor::start_in_arbiter(&arbiter.handle(), |_, _| CredentialActor::new(provider));
    let options = Options::builder(platform.url()).base_delay(Duration::ZERO);
    let poster = start(options.credential_actor(actor));
    send_update(&poster, "i").await.unwrap();
    arbiter.stop();
    arbiter.join().unwrap();
    let error = send_update(&poster, "i").await.unwrap_err();
    let cause = &error.transient().unwrap().last;
    assert!(
        matches!(cause, AttemptError::Credentials(CredentialError::Stopped)),
        "{cause:?}"
    );
}

#[actix_rt::test]
async fn a_poster_hands_out_its_credential_actor() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()).auth_token("fixed"));
    let actor = poster.send(GetCredentialActor).await.unwrap();
    let issued = actor.send(GetCredentials::default()).await.unwrap().unwrap();
    assert_eq!((issued.worker_id(), issued.generation()), (Some("wkr_1"), None));
    assert!(issued.auth_token().is_some());
}

#[actix_rt::test]
async fn an_expiry_at_the_epoch_is_unknown() {
    let platform = FakePlatform::start().unwrap();
    let unset = RuntimeCredentials::new("w", "t").with_expires_at(SystemTime::UNIX_EPOCH);
    let provider = ScriptedProvider::new([ProviderStep::Give(unset)]);
    let poster = start(without_fixed(&platform).credential_provider(provider.clone()));
    for _ in 0..3 {
        assert_eq!(send_update(&poster, "i").await.unwrap().attempts(), Some(1));
    }
    assert_eq!(provider.fetches(), 3);
}

#[actix_rt::test]
async fn a_provider_with_a_panicking_display_or_drop_is_called_again() {
    #[derive(Debug)]
    struct PanicsInDisplay;
    impl fmt::Display for PanicsInDisplay {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("in a message")
        }
    }
    impl Error for PanicsInDisplay {}
    struct PanicsInDrop;
    impl Drop for PanicsInDrop {
        fn drop(&mut self) {
            panic!("in a drop");
        }
    }

    let platform = FakePlatform::start().unwrap();
    let fetches = AtomicUsize::new(0);
    let provider = provider_fn(async move || match fetches.fetch_add(1, Ordering::Relaxed) {
        0 => Err(PanicsInDisplay.into()),
        1 => {
            let _guard = PanicsInDrop;
            std::future::pending().await
        }
        _ => Ok(RuntimeCredentials::new("w", "works")),
    });
    let options = without_fixed(&platform).credential_timeout(Duration::from_millis(20));
    let poster = start(options.credential_provider(provider));
    assert_eq!(send_update(&poster, "i").await.unwrap().attempts(), Some(3));
    assert_eq!(sent(&platform, token), ["works"]);
}

#[actix_rt::test]
async fn a_rejected_fixed_pair_is_not_a_fallback_until_the_provider_recovers() {
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", [Reply::status(401), Reply::ok()]);
    let provider = ScriptedProvider::new([
        ProviderStep::Fail,
        ProviderStep::Fail,
        ProviderStep::Fail,
        give("works"),
    ]);
    let poster = start(
        options(platform.url())
            .auth_token("fixed")
            .credential_provider(provider),
    );
    assert_eq!(send_update(&poster, "i").await.unwrap().attempts(), Some(3));
    assert_eq!(sent(&platform, token), ["fixed", "works"]);
}

#[actix_rt::test]
async fn refreshes_within_the_margin_are_a_second_apart() {
    let platform = FakePlatform::start().unwrap();
    let clock = ManualClock::new();
    let short = RuntimeCredentials::new("w", "short").with_expires_at(clock.now() + 50 * SECOND);
    let provider = ScriptedProvider::new([ProviderStep::Give(short)]);
    let poster = start(
        options(platform.url())
            .credential_provider(provider.clone())
            .clock(clock.clone()),
    );
    send_update(&poster, "i").await.unwrap();
    // Half of its life.
    clock.advance(25 * SECOND);
    for fetches in [2, 3] {
        for _ in 0..10 {
            send_update(&poster, "i").await.unwrap();
        }
        assert_eq!(provider.fetches(), fetches);
        clock.advance(SECOND);
    }
}

#[actix_rt::test]
async fn a_hanging_provider_delays_only_one_call_if_there_is_a_fixed_pair() {
    let platform = FakePlatform::start().unwrap();
    let clock = ManualClock::new();
    let provider = ScriptedProvider::new([hang_for_50_ms(&clock)]);
    let options = options(platform.url()).auth_token("fixed").clock(clock);
    let options = options.credential_timeout(Duration::from_millis(50));
    let poster = start(options.credential_provider(provider.clone()));
    for _ in 0..10 {
        send_update(&poster, "i").await.unwrap();
    }
    assert_eq!(provider.fetches(), 1);
}

#[actix_rt::test]
async fn a_token_from_the_fixed_pair_ignores_the_expiry_from_the_provider() {
    let platform = FakePlatform::start().unwrap();
    let provider = RuntimeCredentials::new("wkr_p", "").with_expires_at(SystemTime::UNIX_EPOCH);
    let poster = start(
        options(platform.url())
            .auth_token("fixed")
            .credential_provider(provider),
    );
    post(&poster, "s").await.unwrap();
    assert_eq!(sent(&platform, worker_id)[0], "wkr_p");
}

#[actix_rt::test]
async fn cancellation_together_with_the_fetched_credentials_sends_nothing() {
    let platform = FakePlatform::start().unwrap();
    let [cancellation, fetching, go] = [(); 3].map(|()| CancellationToken::new());
    let provider = provider_fn({
        let (cancellation, fetching, go) = (cancellation.clone(), fetching.clone(), go.clone());
        async move || {
            fetching.cancel();
            go.cancelled().await;
            cancellation.cancel();
            Ok(RuntimeCredentials::new("w", "t"))
        }
    });
    let arbiter = Arbiter::new();
    let actor = Supervisor::start_in_arbiter(&arbiter.handle(), |_, _| CredentialActor::new(provider));
    let poster = start(Options::builder(platform.url()).credential_actor(actor.clone()));
    let message = status_update("i").with_cancellation(cancellation);
    let reply = actix_rt::spawn(poster.send(message));
    fetching.cancelled().await;
    // The poster's thread stands still until the actor has answered a later request. It then finds both, the
    // cancellation and the credentials.
    go.cancel();
    let later = thread::spawn(move || actix_rt::System::new().block_on(actor.send(GetCredentials::default())));
    later.join().unwrap().unwrap().unwrap();
    let reply = reply.await.unwrap().unwrap();
    assert!(matches!(
        reply,
        Err(CallError::Cancelled {
            by: CancelledBy::Token,
            may_have_been_delivered: false,
            ..
        })
    ));
    assert!(platform.requests().is_empty());
    arbiter.stop();
}

#[actix_rt::test]
async fn a_second_provider_outage_is_logged_again() {
    keep_log();
    let fail = provider_fn({
        let fetches = AtomicUsize::new(0);
        async move || match fetches.fetch_add(1, Ordering::Relaxed) {
            0 | 2 => Err("the second vault is sealed".into()),
            _ => Ok(RuntimeCredentials::new("w", "t")),
        }
    });
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()).auth_token("fixed").credential_provider(fail));
    for _ in 0..4 {
        send_update(&poster, "i").await.unwrap();
    }
    assert_eq!(warnings_about("the second vault is sealed").len(), 2);
}

#[actix_rt::test]
async fn a_credential_actor_validates_its_settings() {
    let builder = || CredentialActor::builder(RuntimeCredentials::new("", ""));
    for (builder, message) in [
        (builder().timeout(Duration::ZERO), "option `timeout` is zero"),
        (builder().fixed_pair("w", ""), "option `fixed_pair` has an empty token"),
        (
            builder().fixed_pair("w", "to\nken"),
            "option `fixed_pair` contains a line break or another control character",
        ),
    ] {
        assert_eq!(builder.build().unwrap_err().to_string(), message);
    }
}

#[actix_rt::test]
async fn a_credential_actor_falls_back_to_its_fixed_pair() {
    let actor = CredentialActor::builder(RuntimeCredentials::new("", ""))
        .fixed_pair("w", "fixed")
        .timeout(SECOND)
        .refresh_margin(SECOND)
        .build()
        .unwrap();
    let actor = Supervisor::start(|_, _| actor);
    let issued = actor.send(GetCredentials::default()).await.unwrap().unwrap();
    assert_eq!(issued.worker_id(), Some("w"));
}

/// Options without a fixed pair, and without backoff.
fn without_fixed(platform: &FakePlatform) -> OptionsBuilder {
    options(platform.url()).worker_id("").auth_token("")
}

fn give(token: impl Into<String>) -> ProviderStep {
    ProviderStep::Give(RuntimeCredentials::new("wkr_p", token.into()))
}

/// Every failure of a provider, and its error message.
fn hang_for_50_ms(clock: &ManualClock) -> ProviderStep {
    ProviderStep::HangFor(Duration::from_millis(50), clock.clone())
}

fn failures(clock: &ManualClock) -> Vec<(ProviderStep, &'static str)> {
    vec![
        (ProviderStep::Fail, "the credential provider failed"),
        (
            hang_for_50_ms(clock),
            "the credential provider did not answer within 50ms",
        ),
        (
            ProviderStep::Panic,
            "the credential provider panicked: the vault is on fire",
        ),
        (give(""), "the credential provider returned no token"),
        (
            give("to\nken"),
            "the credential provider returned a token that contains a line break or another control character",
        ),
    ]
}

/// A credential actor with tokens for an hour, on a stopped clock.
fn credential_actor(provider: &ScriptedProvider) -> Addr<CredentialActor> {
    let (provider, clock) = (provider.clone(), ManualClock::new());
    let expires_at = clock.now() + HOUR;
    let provider = provider_fn(async move || {
        let credentials = provider.credentials().await?;
        Ok(credentials.with_expires_at(expires_at))
    });
    let actor = CredentialActor::builder(provider).clock(clock).build().unwrap();
    Supervisor::start(|_, _| actor)
}

fn warnings_about(text: &str) -> Vec<String> {
    let mut lines = logged();
    lines.retain(|line| line.starts_with("WARN") && line.contains(text));
    lines
}
