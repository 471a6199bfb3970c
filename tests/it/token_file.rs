//! The daemon's cache file, followed.

use std::{fs, path::PathBuf};

use actix::Addr;
use result_poster::{CallError, CallReceipt, ResultPoster, RuntimeTokenFile, UpdateIssueStatus, testing::FakePlatform};

use crate::support::{keep_log, logged, options, start};

/// A file of this test's own, gone at its end.
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

    /// As daemons do: write beside it, and rename over it.
    fn replace(&self, content: &str) {
        let beside = self.0.with_extension("new");
        fs::write(&beside, content).unwrap();
        fs::rename(beside, &self.0).unwrap();
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

async fn update(poster: &Addr<ResultPoster>) -> Result<CallReceipt, CallError> {
    poster
        .send(UpdateIssueStatus::new("issue-1", "Finished"))
        .await
        .unwrap()
}

fn last_token(platform: &FakePlatform) -> String {
    platform
        .requests()
        .last()
        .unwrap()
        .header("authorization")
        .unwrap()
        .to_owned()
}

#[actix_rt::test]
async fn a_replaced_and_a_rewritten_file_count_from_the_next_attempt_on() {
    let (platform, file) = (FakePlatform::start().unwrap(), TempFile::new("follow"));
    file.write(r#"{"workerId":"w1","runtimeToken":"t1","runtimeTokenExpiresAt":"2126-01-01T00:00:00Z"}"#);
    let poster = start(options(platform.url()).credential_provider(RuntimeTokenFile::new(&file.0)));
    update(&poster).await.unwrap();
    assert_eq!(last_token(&platform), "Bearer t1");
    file.replace(r#"{"workerId":"w2","runtimeJwt":"t2","extra":1}"#);
    update(&poster).await.unwrap();
    assert_eq!(last_token(&platform), "Bearer t2");
    file.write(r#"{"workerId":"w3","runtimeToken":"","runtimeJwt":"t3","runtimeTokenExpiresAt":"nonsense"}"#);
    crate::support::post(&poster, "s").await.unwrap();
    assert_eq!(last_token(&platform), "Bearer t3");
    let long = "t".repeat(4000);
    file.replace(&format!(r#"{{"workerId":"w3","runtimeToken":"{long}"}}"#));
    crate::support::post(&poster, "s").await.unwrap();
    assert_eq!(last_token(&platform), format!("Bearer {long}"));
    assert_eq!(platform.requests().last().unwrap().json().unwrap()["workerId"], "w3");
}

#[actix_rt::test]
async fn a_broken_or_missing_file_keeps_the_last_good_value_and_says_so_once() {
    keep_log();
    let (platform, file) = (FakePlatform::start().unwrap(), TempFile::new("broken"));
    file.write(r#"{"workerId":"w","runtimeToken":"good"}"#);
    let poster = start(options(platform.url()).credential_provider(RuntimeTokenFile::new(&file.0)));
    update(&poster).await.unwrap();
    for broken in [
        r#"{"workerId":"w","runtimeTok"#,
        "",
        "[]",
        r#"["w","by its position",null,null]"#,
        r#"{"workerId":"w"}"#,
        r#"{"runtimeToken":""}"#,
        "\u{0}\u{1}",
    ] {
        file.write(broken);
        update(&poster).await.unwrap();
        assert_eq!(last_token(&platform), "Bearer good", "{broken}");
    }
    fs::remove_file(&file.0).unwrap();
    update(&poster).await.unwrap();
    assert_eq!(last_token(&platform), "Bearer good");
    file.write(r#"{"workerId":"w","runtimeToken":"better"}"#);
    update(&poster).await.unwrap();
    assert_eq!(last_token(&platform), "Bearer better");

    let path = file.0.display().to_string();
    let lines: Vec<_> = logged().into_iter().filter(|line| line.contains(&path)).collect();
    let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(count("going on with the last token"), 1, "{lines:?}");
    assert_eq!(count("is good again"), 1, "{lines:?}");
}

#[actix_rt::test]
async fn a_file_that_is_gone_is_logged_with_its_cause() {
    keep_log();
    let (platform, file) = (FakePlatform::start().unwrap(), TempFile::new("gone"));
    file.write(r#"{"workerId":"w","runtimeToken":"good"}"#);
    let poster = start(options(platform.url()).credential_provider(RuntimeTokenFile::new(&file.0)));
    update(&poster).await.unwrap();
    fs::remove_file(&file.0).unwrap();
    update(&poster).await.unwrap();
    let begin = format!("{} can't be read: ", file.0.display());
    let lines: Vec<_> = logged().into_iter().filter(|line| line.contains(&begin)).collect();
    let cause = lines.first().and_then(|line| line.split_once(&begin)).unwrap().1;
    assert!(
        cause.contains(": going on with the last token that it held") && !cause.starts_with("going on"),
        "{lines:?}"
    );
}

#[actix_rt::test]
async fn a_file_that_was_never_there_leaves_the_fixed_pair() {
    let (platform, file) = (FakePlatform::start().unwrap(), TempFile::new("never"));
    let poster = start(
        options(platform.url())
            .auth_token("fixed")
            .credential_provider(RuntimeTokenFile::new(&file.0)),
    );
    update(&poster).await.unwrap();
    assert_eq!(last_token(&platform), "Bearer fixed");
}

#[cfg(unix)]
#[actix_rt::test]
async fn a_file_that_others_may_read_is_warned_about_once() {
    use std::os::unix::fs::PermissionsExt as _;

    keep_log();
    let platform = FakePlatform::start().unwrap();
    for (mode, warnings) in [(0o644, 1), (0o640, 1), (0o600, 0)] {
        let file = TempFile::new(&format!("mode-{mode:o}"));
        file.write(r#"{"workerId":"w","runtimeToken":"t"}"#);
        fs::set_permissions(&file.0, fs::Permissions::from_mode(mode)).unwrap();
        let poster = start(options(platform.url()).credential_provider(RuntimeTokenFile::new(&file.0)));
        for _ in 0..3 {
            update(&poster).await.unwrap();
        }
        let path = file.0.display().to_string();
        let warned = |line: &&String| line.starts_with("WARN") && line.contains(&path) && line.contains("chmod 600");
        assert_eq!(logged().iter().filter(warned).count(), warnings, "{mode:o}");
    }
}
