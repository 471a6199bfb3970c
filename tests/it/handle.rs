//! A poster on a thread of its own, used from plain tokio.

use std::time::Duration;

use actix::MailboxError;
use result_poster::{
    AgentResult, Options, PostResult, PosterHandle, SessionStatus, UpdateIssueStatus,
    events::GetStats,
    testing::{FakePlatform, Reply},
};

fn spawn(platform: &FakePlatform) -> PosterHandle {
    let options = Options::builder(platform.url())
        .without_proxy()
        .base_delay(Duration::ZERO);
    PosterHandle::spawn(options.build().unwrap()).unwrap()
}

fn result(session: &str) -> PostResult {
    PostResult::new(session, AgentResult::new(SessionStatus::Completed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tasks_of_all_threads_share_one_poster() {
    let platform = FakePlatform::start().unwrap();
    let poster = spawn(&platform);
    let tasks: Vec<_> = (0..20)
        .map(|number| {
            let poster = poster.clone();
            tokio::spawn(async move { poster.send(result(&format!("s{number}"))).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap().unwrap();
    }
    assert_eq!(poster.send(GetStats).await.unwrap().delivered, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_waits_for_accepted_messages() {
    let platform = FakePlatform::start().unwrap();
    platform.script("completion", [Reply::ok().delay(Duration::from_millis(50))]);
    let poster = spawn(&platform);
    let pending = tokio::spawn({
        let poster = poster.clone();
        async move { poster.send(result("s")).await }
    });
    platform.wait_for_requests(1).await;
    let report = poster.shutdown(Duration::from_secs(60)).await.unwrap();
    assert_eq!((report.delivered, report.cancelled), (2, 0));
    pending.await.unwrap().unwrap().unwrap();
    assert_eq!(poster.send(GetStats).await.unwrap_err(), MailboxError::Closed);
    assert_eq!(poster.shutdown(Duration::ZERO).await.unwrap_err(), MailboxError::Closed);
}

#[tokio::test]
async fn the_thread_ends_with_the_last_clone() {
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", [Reply::hang()]);
    let poster = spawn(&platform);
    let address = poster.address().clone();
    let unanswered = tokio::spawn(address.send(UpdateIssueStatus::new("i", "Finished")));
    platform.wait_for_requests(1).await;
    drop(poster.clone());
    assert!(address.connected());
    drop(poster);
    assert_eq!(unanswered.await.unwrap().unwrap_err(), MailboxError::Closed);
}
