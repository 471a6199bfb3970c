//! No failure shows a token in a log line, in debug output or in an error.

use std::time::Duration;

use result_poster::{
    CreateComment, PostResult, ResultPoster, UpdateIssueStatus,
    credentials::{GetCredentialActor, GetCredentials, RuntimeCredentials},
};

use crate::support::{
    completed,
    errors::printed,
    log::{keep_log, logged},
    options,
    provider::{ProviderStep, ScriptedProvider},
    raw_server::{RawStep, ScriptedServer},
};

const TOKENS: [&str; 5] = [
    "s3cret-fixed",
    "s3cret-provided-1",
    "s3cret-provided-2",
    "s3cret-registration",
    "s3cret-unusable\n",
];

#[actix_rt::test]
async fn failures_show_no_token_in_errors_or_logs() {
    keep_log();
    let [fixed, first, second, registration, unusable] = TOKENS;
    let give = |token| ProviderStep::Give(RuntimeCredentials::new("w", token));
    let provider = ScriptedProvider::new([
        give(first),
        give(second),
        ProviderStep::Fail,
        ProviderStep::Panic,
        give(unusable),
        ProviderStep::Hang,
    ]);

    // It echoes each request in every kind of answer, and breaks off now and then.
    let steps = [200, 400, 401, 302, 404, 500, 503, 103].map(RawStep::Echo);
    let broken = RawStep::write_and_close(format!("HTTP/1.1 {fixed}\r\n"));
    let platform = ScriptedServer::start([steps.to_vec(), vec![broken]].concat().into_iter().cycle().take(1000));
    let base = options(platform.url())
        .auth_token(fixed)
        .timeout(Duration::from_millis(200));

    let mut shown = Vec::new();
    for options in [
        base.clone(),
        base.clone()
            .credential_provider(provider)
            .credential_timeout(Duration::from_millis(20)),
        base.refresh_endpoint(registration),
    ] {
        shown.push(format!("{options:?}"));
        let options = options.build().unwrap();
        shown.push(format!("{options:?}"));
        let poster = ResultPoster::start_supervised(options);
        for _ in 0..10 {
            let message = PostResult::new("s", completed());
            shown.push(format!("{message:?}"));
            shown.extend(printed(&poster.send(message).await.unwrap()));
            shown.extend(printed(&poster.send(UpdateIssueStatus::new("i", "x")).await.unwrap()));
            shown.extend(printed(&poster.send(CreateComment::new("i", "x")).await.unwrap()));
        }
        let actor = poster.send(GetCredentialActor).await.unwrap();
        shown.extend(printed(&actor.send(GetCredentials::default()).await.unwrap()));
    }

    // The echo is shown, without the token.
    assert!(
        shown
            .iter()
            .any(|line| line.contains("authorization: Bearer [REDACTED]"))
    );
    let lines = logged();
    for (level, text) in [
        ("ERROR", ": gave up after 3 attempts: "),
        ("ERROR", ": the platform rejected the call with status "),
        ("WARN", " failed: the platform answered "),
        ("DEBUG", ": delivered in "),
    ] {
        assert!(
            lines
                .iter()
                .any(|line| line.starts_with(&format!("{level} result_poster")) && line.contains(text)),
            "{text}"
        );
    }
    for line in shown.iter().chain(&lines) {
        assert!(!TOKENS.iter().any(|token| line.contains(token.trim_end())), "{line}");
    }
}
