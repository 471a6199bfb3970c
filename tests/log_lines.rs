//! The log lines as operators see them: with `env_logger`'s defaults, and over `tracing`'s bridge, which drops key-values.
//!
//! A test binary of its own: the logger is the process's.

#![cfg(test)]

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use result_poster::{
    AgentResult, Options, OptionsBuilder, PostResult, ResultPoster, SessionStatus, UpdateIssueStatus,
    outbox::OutboxOptions,
    testing::{FakePlatform, Reply},
};

/// The text that a logger has written.
#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

impl Text {
    /// The lines about this id.
    fn lines_about(&self, id: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let quoted = format!("{id:?}");
        text.lines()
            .filter(|line| line.contains(&quoted))
            .map(str::to_owned)
            .collect()
    }

    fn count(&self, text: &str) -> usize {
        String::from_utf8(self.0.lock().unwrap().clone())
            .unwrap()
            .matches(text)
            .count()
    }
}

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Passes each line to both loggers.
struct Both {
    env_logger: env_logger::Logger,
    bridge: tracing_log::LogTracer,
}

impl log::Log for Both {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.target().starts_with("result_poster") {
            self.env_logger.log(record);
            self.bridge.log(record);
        }
    }

    fn flush(&self) {}
}

/// The texts of `env_logger` and of `tracing-subscriber`, both with their default format, at level `info`.
fn texts() -> &'static [Text; 2] {
    static TEXTS: OnceLock<[Text; 2]> = OnceLock::new();
    TEXTS.get_or_init(|| {
        let texts = [Text::default(), Text::default()];
        let [plain, traced] = texts.clone();
        let env_logger = env_logger::Builder::new()
            .filter_level(log::LevelFilter::Info)
            .write_style(env_logger::WriteStyle::Never)
            .target(env_logger::Target::Pipe(Box::new(plain)))
            .build();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || traced.clone())
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        let bridge = tracing_log::LogTracer::new();
        log::set_boxed_logger(Box::new(Both { env_logger, bridge })).unwrap();
        log::set_max_level(log::LevelFilter::Info);
        texts
    })
}

fn options(platform: &FakePlatform) -> OptionsBuilder {
    Options::builder(platform.url())
        .without_proxy()
        .worker_id("w")
        .auth_token("t")
        .max_attempts(2)
        .base_delay(Duration::ZERO)
}

fn result(session_id: &str) -> PostResult {
    PostResult::new(session_id, AgentResult::new(SessionStatus::Completed))
}

#[actix_rt::test]
async fn a_line_is_complete_in_its_text_with_env_logger_and_over_the_bridge_of_tracing() {
    let texts = texts();
    let platform = FakePlatform::start().unwrap();
    platform.script("complete/completion", [Reply::status(503), Reply::ok()]);
    platform.script("complete/status", [Reply::status(404)]);
    let poster = ResultPoster::start_supervised(options(&platform).build().unwrap());
    poster.send(result("complete")).await.unwrap().unwrap_err();
    for text in texts {
        let lines = text.lines_about("complete");
        let expected = [
            "WARN",
            r#"completion of session "complete": attempt 1 of 2 failed: the platform answered 503; retrying at once"#,
            "ERROR",
            r#"status of session "complete": the platform rejected the call with status 404 ("#,
        ];
        assert_eq!(lines.len(), 2, "{lines:#?}");
        for (index, expected) in expected.iter().enumerate() {
            let line = &lines[index / 2];
            assert!(line.contains(expected), "{expected:?} is not in {line:?}");
        }
    }
}

#[actix_rt::test]
async fn calls_that_wait_behind_a_parked_one_write_no_line_each() {
    let texts = texts();
    let folder = tempfile::tempdir().unwrap();
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", [Reply::status(503)]);
    let hour = Duration::from_secs(60 * 60);
    let outbox = OutboxOptions::builder(folder.path().join("outbox.db"))
        .base_delay(hour)
        .max_delay(hour);
    let options = options(&platform).outbox(outbox.build().unwrap()).build().unwrap();
    let poster = ResultPoster::start_supervised(options);
    for _ in 0..20 {
        let message = UpdateIssueStatus::new("parked lane", "Finished");
        poster.send(message).await.unwrap().unwrap_err();
    }
    for text in texts {
        let lines = text.lines_about("parked lane");
        // Two failed attempts, and one line that says where the call is.
        assert_eq!(lines.len(), 3, "{lines:#?}");
        assert!(
            lines[2].contains(r#"updateIssueStatus of issue "parked lane": parked in the outbox as "#),
            "{lines:#?}"
        );
    }
}

#[actix_rt::test]
async fn an_outage_of_the_credentials_is_one_line_more() {
    let texts = texts();
    let platform = FakePlatform::start().unwrap();
    platform.script("rejected/completion", [Reply::status(401)]);
    platform.script("rejected/status", [Reply::status(401)]);
    let poster = ResultPoster::start_supervised(options(&platform).build().unwrap());
    for _ in 0..10 {
        poster.send(result("rejected")).await.unwrap().unwrap_err();
    }
    for text in texts {
        assert_eq!(
            text.count("no call can be authorized: the platform rejected the call with status 401"),
            1
        );
    }
}
