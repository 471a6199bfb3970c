//! No token in anything that is logged, shown or reported, whatever goes wrong.

use std::{error::Error, time::Duration};

use result_poster::{
    CreateComment, GetCredentialActor, GetCredentials, PostResult, ResultPoster, RuntimeCredentials, UpdateIssueStatus,
};

use crate::support::{Ask, RawPlatform, ScriptedProvider, Step, completed, keep_log, logged, options};

const TOKENS: [&str; 5] = [
    "s3cret-fixed",
    "s3cret-provided-1",
    "s3cret-provided-2",
    "s3cret-registration",
    "s3cret-unusable\n",
];

#[actix_rt::test]
async fn a_run_full_of_failures_shows_no_token() {
    keep_log();
    let [fixed, first, second, registration, unusable] = TOKENS;
    let give = |token| Ask::Give(RuntimeCredentials::new("w", token));
    let provider = ScriptedProvider::new([
        give(first),
        give(second),
        Ask::Fail,
        Ask::Panic,
        give(unusable),
        Ask::Hang,
    ]);

    // It repeats whatever it is sent, in every kind of answer, and breaks off.
    let steps = [200, 400, 401, 302, 404, 500, 503, 103].map(Step::Echo);
    let broken = Step::WriteAndClose(format!("HTTP/1.1 {fixed}\r\n").into());
    let platform = RawPlatform::start([steps.to_vec(), vec![broken]].concat().into_iter().cycle().take(1000));
    let base = options(&platform.url)
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
            show(&mut shown, poster.send(message).await.unwrap());
            show(&mut shown, poster.send(UpdateIssueStatus::new("i", "x")).await.unwrap());
            show(&mut shown, poster.send(CreateComment::new("i", "x")).await.unwrap());
        }
        let actor = poster.send(GetCredentialActor).await.unwrap();
        show(&mut shown, actor.send(GetCredentials::default()).await.unwrap());
    }

    // What was shown is what it should be: the echo, without the token.
    assert!(
        shown
            .iter()
            .any(|line| line.contains("authorization: Bearer [REDACTED]"))
    );
    let lines = logged();
    for (level, text) in [
        ("ERROR", "not delivered"),
        ("WARN", "attempt failed"),
        ("DEBUG", "delivered"),
    ] {
        assert!(
            lines
                .iter()
                .any(|line| line.starts_with(&format!("{level} result_poster")) && line.contains(text))
        );
    }
    for line in shown.iter().chain(&lines) {
        assert!(!TOKENS.iter().any(|token| line.contains(token.trim_end())), "{line}");
    }
}

/// A reply, and an error with all that is behind it, in both ways to show them.
pub fn show<T: std::fmt::Debug, E: Error>(shown: &mut Vec<String>, reply: Result<T, E>) {
    shown.push(format!("{reply:?}"));
    let Err(error) = reply else { return };
    let mut next: Option<&dyn Error> = Some(&error);
    while let Some(cause) = next {
        shown.extend([cause.to_string(), format!("{cause:?}")]);
        next = cause.source();
    }
}
