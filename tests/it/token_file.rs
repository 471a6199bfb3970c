//! Credentials from a daemon's token file.

use std::{fs, path::PathBuf};

use result_poster::{credentials::RuntimeTokenFile, testing::FakePlatform};

use crate::support::{
    log::{keep_log, logged},
    options, post,
    requests::{sent, token, worker_id},
    send_update, start,
};

/// Contents that hold no token.
const BROKEN_FILES: [&str; 7] = [
    r#"{"workerId":"w","runtimeTok"#,
    "",
    "[]",
    r#"["w","by its position",null,null]"#,
    r#"{"workerId":"w"}"#,
    r#"{"runtimeToken":""}"#,
    "\u{0}\u{1}",
];

#[actix_rt::test]
async fn a_changed_file_applies_from_the_next_attempt_on() {
    let (platform, file) = (FakePlatform::start().unwrap(), TempFile::new("follow"));
    file.write(r#"{"workerId":"w1","runtimeToken":"t1","runtimeTokenExpiresAt":"2126-01-01T00:00:00Z"}"#);
    let poster = start(options(platform.url()).credential_provider(RuntimeTokenFile::new(&file.0)));
    send_update(&poster, "issue-1").await.unwrap();
    assert_eq!(last_token(&platform), "t1");
    file.replace(r#"{"workerId":"w2","runtimeJwt":"t2","extra":1}"#);
    send_update(&poster, "issue-1").await.unwrap();
    assert_eq!(last_token(&platform), "t2");
    file.write(r#"{"workerId":"w3","runtimeToken":"","runtimeJwt":"t3","runtimeTokenExpiresAt":"nonsense"}"#);
    post(&poster, "s").await.unwrap();
    assert_eq!(last_token(&platform), "t3");
    let long = "t".repeat(4000);
    file.replace(&format!(r#"{{"workerId":"w3","runtimeToken":"{long}"}}"#));
    post(&poster, "s").await.unwrap();
    assert_eq!(last_token(&platform), long);
    assert_eq!(sent(&platform, worker_id).last().unwrap(), "w3");
}

#[actix_rt::test]
async fn a_broken_or_missing_file_keeps_the_last_token() {
    let (platform, file) = (FakePlatform::start().unwrap(), TempFile::new("broken"));
    file.write(r#"{"workerId":"w","runtimeToken":"good"}"#);
    let poster = start(options(platform.url()).credential_provider(RuntimeTokenFile::new(&file.0)));
    send_update(&poster, "issue-1").await.unwrap();
    for broken in BROKEN_FILES {
        file.write(broken);
        send_update(&poster, "issue-1").await.unwrap();
        assert_eq!(last_token(&platform), "good", "{broken}");
    }
    fs::remove_file(&file.0).unwrap();
    send_update(&poster, "issue-1").await.unwrap();
    assert_eq!(last_token(&platform), "good");
    file.write(r#"{"workerId":"w","runtimeToken":"better"}"#);
    send_update(&poster, "issue-1").await.unwrap();
    assert_eq!(last_token(&platform), "better");
}

#[actix_rt::test]
async fn a_broken_file_and_its_recovery_are_logged_once() {
    keep_log();
    let (platform, file) = (FakePlatform::start().unwrap(), TempFile::new("broken-log"));
    file.write(r#"{"workerId":"w","runtimeToken":"good"}"#);
    let poster = start(options(platform.url()).credential_provider(RuntimeTokenFile::new(&file.0)));
    send_update(&poster, "issue-1").await.unwrap();
    for broken in BROKEN_FILES {
        file.write(broken);
        send_update(&poster, "issue-1").await.unwrap();
    }
    fs::remove_file(&file.0).unwrap();
    send_update(&poster, "issue-1").await.unwrap();
    file.write(r#"{"workerId":"w","runtimeToken":"better"}"#);
    send_update(&poster, "issue-1").await.unwrap();

    let path = file.0.display().to_string();
    let lines: Vec<_> = logged().into_iter().filter(|line| line.contains(&path)).collect();
    let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(count("; using the last token read from it"), 1, "{lines:?}");
    assert_eq!(count("token file readable again: "), 1, "{lines:?}");
}

#[actix_rt::test]
async fn a_deleted_file_is_logged_with_its_cause() {
    keep_log();
    let (platform, file) = (FakePlatform::start().unwrap(), TempFile::new("gone"));
    file.write(r#"{"workerId":"w","runtimeToken":"good"}"#);
    let poster = start(options(platform.url()).credential_provider(RuntimeTokenFile::new(&file.0)));
    send_update(&poster, "issue-1").await.unwrap();
    fs::remove_file(&file.0).unwrap();
    send_update(&poster, "issue-1").await.unwrap();
    let begin = format!("failed to read token file {}: ", file.0.display());
    let lines: Vec<_> = logged().into_iter().filter(|line| line.contains(&begin)).collect();
    let cause = lines.first().and_then(|line| line.split_once(&begin)).unwrap().1;
    assert!(
        cause.ends_with("; using the last token read from it") && !cause.starts_with(';'),
        "{lines:?}"
    );
}

#[actix_rt::test]
async fn the_fixed_pair_is_used_while_the_file_is_missing() {
    let (platform, file) = (FakePlatform::start().unwrap(), TempFile::new("never"));
    let poster = start(
        options(platform.url())
            .auth_token("fixed")
            .credential_provider(RuntimeTokenFile::new(&file.0)),
    );
    send_update(&poster, "issue-1").await.unwrap();
    assert_eq!(last_token(&platform), "fixed");
}

#[cfg(unix)]
#[actix_rt::test]
async fn a_file_readable_by_others_is_warned_about_once() {
    use std::os::unix::fs::PermissionsExt as _;

    keep_log();
    let platform = FakePlatform::start().unwrap();
    for (mode, warnings) in [(0o644, 1), (0o640, 1), (0o600, 0)] {
        let file = TempFile::new(&format!("mode-{mode:o}"));
        file.write(r#"{"workerId":"w","runtimeToken":"t"}"#);
        fs::set_permissions(&file.0, fs::Permissions::from_mode(mode)).unwrap();
        let poster = start(options(platform.url()).credential_provider(RuntimeTokenFile::new(&file.0)));
        for _ in 0..3 {
            send_update(&poster, "issue-1").await.unwrap();
        }
        let path = file.0.display().to_string();
        let warned = |line: &&String| line.starts_with("WARN") && line.contains(&path) && line.contains("chmod 600");
        assert_eq!(logged().iter().filter(warned).count(), warnings, "{mode:o}");
    }
}

/// A file of one test, which is deleted at its end.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str) -> Self {
        let file = Self(std::env::temp_dir().join(format!("result-poster-{}-{name}.json", std::process::id())));
        let _ = fs::remove_file(&file.0);
        file
    }

    fn write(&self, content: &str) {
        fs::write(&self.0, content).unwrap();
    }

    /// Writes another file and renames it to this one, as a daemon does.
    fn replace(&self, content: &str) {
        let replacement = self.0.with_extension("new");
        fs::write(&replacement, content).unwrap();
        fs::rename(replacement, &self.0).unwrap();
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn last_token(platform: &FakePlatform) -> String {
    sent(platform, token).pop().unwrap()
}
