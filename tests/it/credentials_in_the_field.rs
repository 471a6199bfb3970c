//! Token files and refresh endpoints as they are in the field: wrong clocks, unset times, foreign pages, and providers
//! that repeat a token in their errors.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use result_poster::{
    AttemptError, CallError, CredentialError, NextStep, OptionsBuilder, Supervisor,
    credentials::{
        CredentialActor, GetCredentials, RefreshCredentials, RuntimeCredentials, RuntimeTokenFile, provider_fn,
    },
    testing::{FakePlatform, ManualClock, Reply},
};

use crate::support::{
    cases::input,
    errors::printed,
    log::{keep_log, logged},
    options,
    outbox::OutboxFixture,
    provider::{ProviderStep, ScriptedProvider},
    requests::{route, sent, token, worker_id},
    send_update, start,
};

const REFRESH: &str = "refresh-token";
const PROXY: &str = "issue-tracker-proxy";
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// From the start of a manual clock, long after the tests.
const YEARS: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

#[actix_rt::test]
async fn a_token_file_is_used_whatever_its_expiry_is() {
    let expiries = [
        "null",
        "0",
        "-1",
        "1e999",
        "18446744073709551616",
        "1795766000000",
        "1795766000.5",
        "true",
        "[]",
        "{}",
        r#""""#,
        r#""soon""#,
        r#""1970-01-01T00:00:00Z""#,
        r#""2020-01-01T00:00:00Z""#,
        r#""99999-01-01T00:00:00Z""#,
        r#""cut \ud83d""#,
    ];
    let with_expiry = |expiry| format!(r#"{{"workerId":"w","runtimeToken":"t","runtimeTokenExpiresAt":{expiry}}}"#);
    let from_the_field = ["Go's zero time", "an expiry as a number"].map(|name| input("token-file", name));
    for content in expiries.map(with_expiry).into_iter().chain(from_the_field) {
        assert_eq!(token_sent_with_file(&content).await, "t", "{content}");
    }
}

#[actix_rt::test]
async fn a_byte_order_mark_before_a_token_file_is_skipped() {
    let content = "\u{feff}{\"workerId\":\"w\",\"runtimeToken\":\"t\"}";
    assert_eq!(token_sent_with_file(content).await, "t");
}

#[actix_rt::test]
async fn a_token_with_a_unix_time_as_its_expiry_is_cached() {
    let clock = ManualClock::new();
    let seconds = seconds(clock.now() + HOUR);
    for expiry in [seconds, seconds * 1000] {
        let platform = platform_issuing([format!(r#"{{"runtimeToken":"t","runtimeTokenExpiresAt":{expiry}}}"#)]);
        let poster = start(with_endpoint(&platform).clock(clock.clone()));
        for _ in 0..3 {
            send_update(&poster, "i").await.unwrap();
        }
        assert_eq!(fetches(&platform), 1, "{expiry}");
    }
}

#[actix_rt::test]
async fn a_token_that_has_expired_by_this_hosts_clock_is_cached_for_its_own_life() {
    let (clock, expired) = (
        ManualClock::new(),
        input("refresh-answer", "expired by this host's clock"),
    );
    let jwt = |name| jwt(name, clock.now() - HOUR - 10 * SECOND, HOUR);
    let answer = |name| expired.replace("<JWT whose exp is 10 s ago>", &jwt(name));
    let platform = platform_issuing(["a", "b", "c"].map(answer));
    let poster = start(with_endpoint(&platform).clock(clock.clone()));
    send_update(&poster, "i").await.unwrap();
    clock.advance(HOUR - 61 * SECOND);
    send_update(&poster, "i").await.unwrap();
    assert_eq!(fetches(&platform), 1);
    clock.advance(SECOND);
    send_update(&poster, "i").await.unwrap();
    assert_eq!(fetches(&platform), 2);
    // A rejection is one like any other.
    platform.script(PROXY, [Reply::status(401), Reply::ok()]);
    assert_eq!(send_update(&poster, "i").await.unwrap().attempts(), Some(1));
    assert_eq!(fetches(&platform), 3);
}

#[actix_rt::test]
async fn an_opaque_token_that_has_expired_by_this_hosts_clock_is_cached_for_half_of_thirty_seconds() {
    let clock = ManualClock::new();
    let expired = RuntimeCredentials::new("w", "t").with_expires_at(clock.now() - HOUR);
    let provider = ScriptedProvider::new([ProviderStep::Give(expired)]);
    let platform = FakePlatform::start().unwrap();
    let poster = start(
        options(platform.url())
            .auth_token("")
            .credential_provider(provider.clone())
            .clock(clock.clone()),
    );
    // Also where the provider repeats it: a fetch for each 15 s.
    for second in 0..60 {
        send_update(&poster, "i").await.unwrap();
        assert_eq!(provider.fetches(), second / 15 + 1, "after {second} s");
        clock.advance(SECOND);
    }
}

#[actix_rt::test]
async fn tokens_that_live_shorter_than_the_margin_are_not_refreshed_for_each_call() {
    let clock = ManualClock::new();
    let answer = input("refresh-answer", "tokens of 45 s, margin 60 s, 20 calls");
    let answers = ["a", "b", "c"].map(|name| answer.replace("<JWT, 45 s>", &jwt(name, clock.now(), 45 * SECOND)));
    let platform = platform_issuing(answers);
    let poster = start(with_endpoint(&platform).clock(clock.clone()));
    for _ in 0..20 {
        send_update(&poster, "i").await.unwrap();
        clock.advance(SECOND);
    }
    assert_eq!(fetches(&platform), 1);
    clock.advance(3 * SECOND);
    send_update(&poster, "i").await.unwrap();
    assert_eq!(fetches(&platform), 2);
}

#[actix_rt::test]
async fn a_page_instead_of_a_refresh_is_an_ordinary_failed_fetch() {
    let page = || {
        Reply::status(404)
            .header("content-type", "text/html")
            .body(input("refresh-answer", "404 with an HTML page"))
    };
    // The cached token, while it lives.
    let (platform, clock) = (FakePlatform::start().unwrap(), ManualClock::new());
    let first = jwt("first", clock.now(), HOUR);
    platform.script(REFRESH, [issue(&format!(r#"{{"runtimeToken":"{first}"}}"#)), page()]);
    let poster = start(with_endpoint(&platform).clock(clock.clone()));
    send_update(&poster, "i").await.unwrap();
    clock.advance(HOUR - SECOND);
    send_update(&poster, "i").await.unwrap();
    assert_eq!(sent_tokens(&platform), [&*first, &*first]);
    // Then a transient error.
    clock.advance(SECOND);
    let error = send_update(&poster, "i").await.unwrap_err();
    let last = &error.transient().unwrap().last;
    assert!(
        matches!(last, AttemptError::Credentials(CredentialError::Provider(_))),
        "{error:?}"
    );
    assert!(matches!(error.next_step(), NextStep::RetryLater { .. }));

    // The fixed pair.
    let platform = FakePlatform::start().unwrap();
    platform.script(REFRESH, [page()]);
    let poster = start(with_endpoint(&platform).auth_token("fixed"));
    send_update(&poster, "i").await.unwrap();
    assert_eq!(sent_tokens(&platform), ["fixed"]);
}

#[actix_rt::test]
async fn a_worker_that_the_platform_no_longer_knows_is_told_apart() {
    for status_code in [404, 405, 410] {
        let (platform, clock) = (FakePlatform::start().unwrap(), ManualClock::new());
        let gone = Reply::status(status_code).body(input("refresh-answer", "404 with JSON"));
        platform.script(REFRESH, [gone, issue(r#"{"runtimeToken":"t"}"#)]);
        let poster = start(with_endpoint(&platform).clock(clock.clone()));
        for _ in 0..2 {
            let error = send_update(&poster, "i").await.unwrap_err();
            let gone = CredentialError::WorkerGone { status_code };
            assert_eq!(error.transient().unwrap().last, gone.clone().into());
            assert_eq!(error.next_step(), NextStep::RenewCredentials);
            assert_eq!(poster.send(RefreshCredentials).await.unwrap().unwrap_err(), gone);
            assert_eq!(fetches(&platform), 1);
            clock.advance(30 * SECOND);
        }
        send_update(&poster, "i").await.unwrap();
        assert_eq!(fetches(&platform), 2);
    }
}

#[actix_rt::test]
async fn a_failed_refresh_does_not_hide_the_platforms_own_401() {
    for refused in [
        Reply::status(404).body(input("refresh-answer", "404 with JSON")),
        Reply::status(404)
            .header("content-type", "text/html")
            .body(input("refresh-answer", "404 with an HTML page")),
        Reply::status(503),
    ] {
        let platform = FakePlatform::start().unwrap();
        platform.script(REFRESH, [issue(r#"{"runtimeToken":"first"}"#), refused]);
        platform.script(PROXY, [Reply::status(401)]);
        let poster = start(with_endpoint(&platform));
        let error = send_update(&poster, "i").await.unwrap_err();
        assert_eq!(error.permanent().map(|error| error.status_code), Some(401), "{error:?}");
        assert_eq!(error.next_step(), NextStep::RenewCredentials);
    }
}

#[actix_rt::test]
async fn the_fixed_pair_is_used_while_the_platform_does_not_know_the_worker() {
    let platform = FakePlatform::start().unwrap();
    platform.script(REFRESH, [Reply::status(404)]);
    let poster = start(with_endpoint(&platform).auth_token("fixed"));
    for _ in 0..3 {
        send_update(&poster, "i").await.unwrap();
    }
    assert_eq!(
        (sent_tokens(&platform), fetches(&platform)),
        (vec!["fixed".into(); 3], 1)
    );
}

#[actix_rt::test]
async fn a_provider_may_say_itself_that_the_worker_is_gone() {
    let gone = CredentialError::WorkerGone { status_code: 410 };
    let (registered, fetches) = (AtomicBool::new(false), AtomicUsize::new(0));
    let state = Arc::new((registered, fetches));
    let provider = {
        let (gone, state) = (gone.clone(), Arc::clone(&state));
        provider_fn(async move || {
            state.1.fetch_add(1, Ordering::Relaxed);
            match state.0.load(Ordering::Relaxed) {
                true => Ok(RuntimeCredentials::new("w", "t")),
                false => Err(gone.clone().into()),
            }
        })
    };
    let actor = Supervisor::start(|_, _| CredentialActor::new(provider));
    for _ in 0..3 {
        let error = actor.send(GetCredentials::default()).await.unwrap().unwrap_err();
        assert_eq!(error, gone);
    }
    assert_eq!(state.1.load(Ordering::Relaxed), 1);
    // A registration is taken into account at once.
    state.0.store(true, Ordering::Relaxed);
    actor.send(RefreshCredentials).await.unwrap().unwrap();
    actor.send(GetCredentials::default()).await.unwrap().unwrap();
}

#[actix_rt::test]
async fn refreshed_credentials_are_in_use_at_once() {
    let platform = FakePlatform::start().unwrap();
    let expires_at = ManualClock::new().now() + YEARS;
    let give = |name: &str| {
        ProviderStep::Give(RuntimeCredentials::new(format!("wkr_{name}"), name).with_expires_at(expires_at))
    };
    let steps = || ScriptedProvider::new([give("a"), give("b")]);
    let shared = Supervisor::start(|_, _| CredentialActor::new(steps()));
    let own = options(platform.url()).credential_provider(steps());
    let sharing = crate::support::builder(platform.url()).credential_actor(shared);
    for options in [own, sharing] {
        let poster = start(options);
        send_update(&poster, "i").await.unwrap();
        send_update(&poster, "i").await.unwrap();
        let issued = poster.send(RefreshCredentials).await.unwrap().unwrap();
        assert_eq!(issued.worker_id(), Some("wkr_b"));
        send_update(&poster, "i").await.unwrap();
    }
    assert_eq!(sent(&platform, token), ["a", "a", "b", "a", "a", "b"]);
}

#[actix_rt::test]
async fn a_refresh_without_a_provider_returns_the_fixed_pair() {
    let platform = FakePlatform::start().unwrap();
    let issued = start(options(platform.url()))
        .send(RefreshCredentials)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((issued.worker_id(), issued.generation()), (Some("wkr_1"), None));
}

#[actix_rt::test]
async fn a_message_is_stored_with_the_refreshed_worker_id() {
    let outbox = OutboxFixture::new();
    outbox.begin_outage();
    let provider = ScriptedProvider::tokens(["a", "b"]);
    let poster = start(outbox.options_without_replay().credential_provider(provider));
    poster.send(RefreshCredentials).await.unwrap().unwrap();
    poster.send(RefreshCredentials).await.unwrap().unwrap();
    crate::support::post(&poster, "s").await.unwrap_err();
    assert_eq!(sent(&outbox.platform, worker_id), ["wkr_b", "wkr_b"]);
}

#[actix_rt::test]
async fn a_failed_refresh_leaves_the_credentials_in_use() {
    let platform = FakePlatform::start().unwrap();
    let valid = RuntimeCredentials::new("w", "a").with_expires_at(ManualClock::new().now() + YEARS);
    let provider = ScriptedProvider::new([ProviderStep::Give(valid), ProviderStep::Fail]);
    let poster = start(options(platform.url()).credential_provider(provider));
    send_update(&poster, "i").await.unwrap();
    let error = poster.send(RefreshCredentials).await.unwrap().unwrap_err();
    assert!(matches!(error, CredentialError::Provider(_)));
    send_update(&poster, "i").await.unwrap();
    assert_eq!(sent(&platform, token), ["a", "a"]);
}

const REPEATED: [&str; 3] = ["tok-in-a-provider-1", "tok-in-a-provider-2", "tok-in-a-provider-fixed"];

#[actix_rt::test]
async fn tokens_in_the_errors_of_a_provider_are_not_shown() {
    keep_log();
    let [first, second, fixed] = REPEATED;
    let give = |token| ProviderStep::Give(RuntimeCredentials::new("w", token));
    let provider = ScriptedProvider::new([
        give(first),
        give(second),
        ProviderStep::FailWith("refused tok-in-a-provider-1, tok-in-a-provider-2 and tok-in-a-provider-fixed"),
        ProviderStep::PanicWith("no tok-in-a-provider-1 in here"),
    ]);
    let platform = FakePlatform::start().unwrap();
    platform.script(PROXY, [Reply::ok(), Reply::ok(), Reply::status(401)]);
    let poster = start(
        options(platform.url())
            .auth_token(fixed)
            .credential_provider(provider)
            .max_attempts(1),
    );
    let mut shown = Vec::new();
    for _ in 0..6 {
        shown.extend(printed(&send_update(&poster, "i").await));
        shown.extend(printed(&poster.send(RefreshCredentials).await.unwrap()));
    }
    shown.extend(logged());
    assert!(
        shown
            .iter()
            .any(|text| text.contains("refused [REDACTED], [REDACTED] and [REDACTED]"))
    );
    assert!(shown.iter().any(|text| text.contains("no [REDACTED] in here")));
    for token in REPEATED {
        let leak = shown.iter().find(|text| text.contains(token));
        assert_eq!(leak, None);
    }
}

#[actix_rt::test]
async fn the_text_of_a_provider_is_not_stored() {
    let outbox = OutboxFixture::new();
    for (issue, step) in [
        ("i", ProviderStep::FailWith("a secret that only the provider knows")),
        ("j", ProviderStep::PanicWith("a secret that only the provider knows")),
    ] {
        let options = outbox.options_without_replay().auth_token("");
        let poster = start(options.credential_provider(ScriptedProvider::new([step])));
        let error = send_update(&poster, issue).await.unwrap_err();
        assert!(matches!(error, CallError::Parked(_)), "{error:?}");
        assert!(
            printed(&Err::<(), _>(error))
                .iter()
                .any(|text| text.contains("only the provider"))
        );
    }
    for call in outbox.parked() {
        let stored = call.last_error.unwrap_or_default();
        assert!(!stored.contains("only the provider"), "{stored}");
    }
    for entry in fs::read_dir(outbox.folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = fs::read(&path).unwrap();
            assert!(
                !String::from_utf8_lossy(&bytes).contains("only the provider"),
                "{path:?}"
            );
        }
    }
}

/// The token of one call with this token file.
async fn token_sent_with_file(content: &str) -> String {
    let (platform, file) = (FakePlatform::start().unwrap(), tempfile::NamedTempFile::new().unwrap());
    fs::write(file.path(), content).unwrap();
    let options = options(platform.url()).auth_token("");
    let poster = start(options.credential_provider(RuntimeTokenFile::new(file.path())));
    send_update(&poster, "i").await.unwrap();
    sent(&platform, token).pop().unwrap()
}

/// A poster's options with a refresh endpoint, and without a fixed token.
fn with_endpoint(platform: &FakePlatform) -> OptionsBuilder {
    options(platform.url()).auth_token("").refresh_endpoint("registration")
}

/// A platform whose refresh endpoint gives these answers in turn.
fn platform_issuing(answers: impl IntoIterator<Item = String>) -> FakePlatform {
    let platform = FakePlatform::start().unwrap();
    platform.script(REFRESH, answers.into_iter().map(|answer| issue(&answer)));
    platform
}

fn issue(answer: &str) -> Reply {
    Reply::status(200).body(answer)
}

fn fetches(platform: &FakePlatform) -> usize {
    sent(platform, route).iter().filter(|route| *route == REFRESH).count()
}

/// The tokens of the calls.
fn sent_tokens(platform: &FakePlatform) -> Vec<String> {
    let mut tokens = sent(platform, token);
    tokens.retain(|token| token != "registration");
    tokens
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A JWT with this life, made unique by this name.
fn jwt(name: &str, issued_at: SystemTime, life: Duration) -> String {
    let (iat, exp) = (seconds(issued_at), seconds(issued_at + life));
    let claims = BASE64_URL_SAFE_NO_PAD.encode(format!(r#"{{"iat":{iat},"exp":{exp}}}"#));
    format!("e30.{claims}.{name}")
}
