//! Running the command.

#[allow(dead_code, reason = "shared with the other integration tests")]
#[path = "../../it/support/raw_server.rs"]
pub(crate) mod raw_server;
#[allow(dead_code, reason = "shared with the other integration tests")]
#[path = "../../it/support/tls.rs"]
pub(crate) mod tls;

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use result_poster::testing::{FakePlatform, Reply};
use tempfile::TempDir;

/// A folder for files, and a platform that does not know the session of a check.
pub(crate) struct Fixture {
    pub(crate) folder: TempDir,
    pub(crate) platform: FakePlatform,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let platform = FakePlatform::start().unwrap();
        platform.script(
            "result-poster-check/status",
            [Reply::status(404).body(r#"{"error":"no such session"}"#)],
        );
        Self {
            folder: tempfile::tempdir().unwrap(),
            platform,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// The command, with the platform and a worker in its environment.
    pub(crate) fn command(&self) -> Command {
        let mut command = command();
        command
            .env("RESULT_POSTER_PLATFORM_URL", self.platform.url())
            .env("RESULT_POSTER_WORKER_ID", "wkr_1")
            .env("RESULT_POSTER_MAX_ATTEMPTS", "1");
        command
    }

    /// An outbox with two parked calls of each of these sessions.
    pub(crate) fn outbox(&self, sessions: &[&str]) -> PathBuf {
        let path = self.path("outbox.db");
        let result = self.file("result.json", r#"{"status":"completed","summary":"Done."}"#);
        for session in sessions {
            let ran = Ran::of(
                self.command()
                    .env("RESULT_POSTER_PLATFORM_URL", "http://127.0.0.1:1")
                    .args(["post", "--session", session, "--outbox"])
                    .args([&path, &result]),
            );
            assert_eq!(ran.status, 3, "{}", ran.errors);
        }
        path
    }

    /// `result-poster outbox --outbox …` with these arguments.
    pub(crate) fn on_outbox(&self, arguments: &[&str]) -> Ran {
        Ran::of(
            self.command()
                .args([
                    OsStr::new("outbox"),
                    OsStr::new("--outbox"),
                    self.path("outbox.db").as_os_str(),
                ])
                .args(arguments),
        )
    }

    /// The ids of the calls in the outbox.
    pub(crate) fn ids(&self) -> Vec<String> {
        let listed = self.on_outbox(&["list", "--json"]).succeeded();
        let ids = listed.lines().map(|line| {
            let entry: serde_json::Value = serde_json::from_str(line).unwrap();
            entry["id"].as_str().unwrap().to_owned()
        });
        ids.collect()
    }
}

/// The command, with an empty environment.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_result-poster"));
    command.env_clear();
    command
}

/// What a command has printed, and its exit status.
pub(crate) struct Ran {
    pub(crate) output: String,
    pub(crate) errors: String,
    pub(crate) status: i32,
}

impl Ran {
    pub(crate) fn of(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).output().unwrap().into()
    }

    /// With this text on stdin.
    pub(crate) fn with_input(command: &mut Command, input: &str) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap().into()
    }

    /// The output, if there were no errors.
    pub(crate) fn succeeded(self) -> String {
        assert_eq!((self.errors.as_str(), self.status), ("", 0));
        self.output
    }

    /// The only line on stderr, without the name of the program.
    pub(crate) fn failed(&self, status: i32) -> &str {
        assert_eq!(self.status, status, "{}{}", self.output, self.errors);
        let line = self.errors.strip_suffix('\n').unwrap();
        assert!(!line.contains('\n'), "{line}");
        line.strip_prefix("result-poster: ").unwrap()
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            output: String::from_utf8(output.stdout).unwrap(),
            errors: String::from_utf8(output.stderr).unwrap(),
            status: output.status.code().unwrap(),
        }
    }
}
