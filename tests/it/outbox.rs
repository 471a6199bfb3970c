//! The durable outbox: what was handed over is delivered, although the platform is down or the poster ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use actix::{Addr, MailboxError};
use actix_rt::task::JoinHandle;
use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use result_poster::{
    CallError, CallReceipt, Cost, Discard, GetStats, ListDeadLetters, ListParked, OptionsBuilder, OutboxEntry,
    OutboxError, OutboxFile, OutboxOptions, Page, PostResult, Requeue, ResultPoster, Shutdown, UpdateIssueStatus,
    testing::{FakePlatform, Reply},
};
use tempfile::TempDir;

use crate::support::{builder, completed, options, outcome, platform_and_poster, post, routes, start};

type Outcome = Result<CallReceipt, CallError>;

pub const SOON: Duration = Duration::from_millis(20);

/// A folder for an outbox, and the platform that it is for.
pub struct Scene {
    pub folder: TempDir,
    pub platform: FakePlatform,
}

impl Scene {
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            platform: FakePlatform::start().unwrap(),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("outbox.db")
    }

    /// A poster that parks at the first failure, and tries what is parked again soon.
    pub fn options(&self) -> OptionsBuilder {
        self.options_with(soon(self.path()))
    }

    pub fn options_with(&self, outbox: OutboxOptions) -> OptionsBuilder {
        options(self.platform.url()).max_attempts(1).outbox(outbox)
    }

    /// Answers with these, and then well.
    pub fn script(&self, route: &str, replies: impl IntoIterator<Item = u16>) {
        let replies: Vec<_> = replies.into_iter().map(Reply::status).chain([Reply::ok()]).collect();
        self.platform.script(route, replies);
    }

    pub fn down(&self) {
        for route in ["completion", "status", "issue-tracker-proxy"] {
            self.platform.script(route, [Reply::status(503)]);
        }
    }

    pub fn up(&self) {
        for route in ["completion", "status", "issue-tracker-proxy"] {
            self.platform.script(route, []);
        }
    }

    pub fn parked(&self) -> Vec<OutboxEntry> {
        OutboxFile::open(self.path())
            .unwrap()
            .parked(Page::first(100_000))
            .unwrap()
    }

    pub fn dead_letters(&self) -> Vec<OutboxEntry> {
        OutboxFile::open(self.path())
            .unwrap()
            .dead_letters(Page::first(100_000))
            .unwrap()
    }

    /// As another process that writes, until it is dropped.
    pub fn hold(&self) -> rusqlite::Connection {
        let other = rusqlite::Connection::open(self.path()).unwrap();
        other.execute_batch("BEGIN EXCLUSIVE").unwrap();
        other
    }

    /// One call on its way, and the next of its lane behind it, both in the file.
    pub async fn one_behind_another(
        &self,
        poster: &Addr<ResultPoster>,
    ) -> [JoinHandle<Result<Outcome, MailboxError>>; 2] {
        let first = actix_rt::spawn(poster.send(update("i")));
        self.platform.wait_for_requests(1).await;
        let second = actix_rt::spawn(poster.send(update("i")));
        wait_until(|| count(&self.path()) == 2).await;
        [first, second]
    }

    /// Waits until nothing is parked, and nothing on its way.
    pub async fn emptied(&self) {
        wait_until(|| count(&self.path()) == 0).await;
    }
}

/// With delays of next to nothing.
pub fn soon(path: impl AsRef<Path>) -> OutboxOptions {
    OutboxOptions::at(path.as_ref()).delays(SOON, SOON).lease(10 * SOON)
}

/// With delays that no test lives to see.
pub fn late(path: impl AsRef<Path>) -> OutboxOptions {
    let hour = Duration::from_secs(60 * 60);
    OutboxOptions::at(path.as_ref()).delays(hour, hour).lease(10 * SOON)
}

/// How many calls the file holds, whatever becomes of them.
pub fn count(path: &Path) -> u32 {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection
        .query_row("SELECT count(*) FROM calls", (), |row| row.get(0))
        .unwrap()
}

pub async fn wait_until(mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            actix_rt::time::sleep(Duration::from_millis(5)).await;
        }
    };
    actix_rt::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("in time");
}

pub fn update(issue: &str) -> UpdateIssueStatus {
    UpdateIssueStatus::new(issue, "Finished")
}

pub fn calls(entries: &[OutboxEntry]) -> Vec<(&str, &str)> {
    let calls = entries
        .iter()
        .map(|entry| (entry.call.as_str(), entry.subject.as_str()));
    calls.collect()
}

pub async fn shut_down(poster: &Addr<ResultPoster>) -> u64 {
    poster
        .send(Shutdown::within(Duration::from_secs(10)))
        .await
        .unwrap()
        .parked
}

#[actix_rt::test]
async fn what_is_delivered_leaves_nothing_behind() {
    let scene = Scene::new();
    let poster = start(scene.options());
    let receipt = post(&poster, "s").await.unwrap();
    assert_eq!(
        (receipt.completion.queued(), receipt.completion.outbox_error()),
        (None, None)
    );
    poster.send(update("i")).await.unwrap().unwrap();
    assert_eq!(shut_down(&poster).await, 0);
    assert_eq!(count(&scene.path()), 0);
    assert_eq!(routes(&scene.platform), ["completion", "status", "issue-tracker-proxy"]);
}

#[actix_rt::test]
async fn what_could_not_be_delivered_is_parked_and_delivered_later() {
    let scene = Scene::new();
    scene.script("completion", [503, 503]);
    scene.script("status", [503]);
    let poster = start(scene.options());
    let error = post(&poster, "s").await.unwrap_err();
    for error in [error.completion().unwrap(), error.status().unwrap()] {
        let parked = error.transient().unwrap();
        assert!(parked.is_parked() && parked.delivery_id().is_some() && !error.is_retryable());
        assert_eq!(
            error.to_string(),
            "gave up after 1 attempt; it is in the outbox, and will be sent again from there"
        );
    }
    scene.emptied().await;
    let requests = scene.platform.requests();
    let of = |route: &str| {
        let of_route = requests.iter().filter(|request| request.path.ends_with(route));
        of_route
            .map(|request| (request.header("idempotency-key").unwrap(), &request.body))
            .collect::<Vec<_>>()
    };
    // The same request, with the same key, each time.
    assert_eq!(of("completion"), [of("completion")[0]; 3]);
    assert_eq!(of("status"), [of("status")[0]; 2]);
}

#[actix_rt::test]
async fn a_refusal_makes_a_dead_letter_that_can_be_sent_again_or_thrown_away() {
    let scene = Scene::new();
    scene.script("issue-tracker-proxy", [404, 403]);
    let poster = start(scene.options());
    for issue in ["a", "b"] {
        assert!(
            poster
                .send(update(issue))
                .await
                .unwrap()
                .unwrap_err()
                .permanent()
                .is_some()
        );
    }
    let dead = poster.send(ListDeadLetters(Page::first(10))).await.unwrap().unwrap();
    assert_eq!(calls(&dead), [("updateIssueStatus", "a"), ("updateIssueStatus", "b")]);
    assert_eq!(
        (dead[0].status_code, dead[0].attempts, dead[0].is_dead),
        (Some(404), 1, true)
    );
    assert!(
        dead[0].error.starts_with("rejected with status 404"),
        "{}",
        dead[0].error
    );
    let page = poster
        .send(ListDeadLetters(Page::first(1).after(dead[0].id)))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(calls(&page), [("updateIssueStatus", "b")]);
    assert_eq!(scene.platform.requests().len(), 2);

    assert!(poster.send(Discard(dead[1].id)).await.unwrap().unwrap());
    assert!(!poster.send(Discard(dead[1].id)).await.unwrap().unwrap());
    assert!(poster.send(Requeue(dead[0].id)).await.unwrap().unwrap());
    scene.emptied().await;
    assert!(!poster.send(Requeue(dead[0].id)).await.unwrap().unwrap());
    let requests = scene.platform.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(
        requests[0].header("idempotency-key"),
        requests[2].header("idempotency-key")
    );
}

#[actix_rt::test]
async fn what_there_is_no_room_for_in_memory_is_parked() {
    let scene = Scene::new();
    scene
        .platform
        .script("issue-tracker-proxy", [Reply::ok().delay(5 * SOON), Reply::ok()]);
    let poster = start(scene.options().max_in_flight(1).max_queued(0));
    let replies = (0..10).map(|issue| poster.send(update(&issue.to_string())));
    let replies = join_all(replies).await;
    let replies: Vec<_> = replies.into_iter().map(|reply| outcome(&reply.unwrap())).collect();
    assert_eq!(replies[0], "ok");
    assert!(replies[1..].iter().all(|reply| reply == "transient:0"), "{replies:?}");
    // Each, and those that were parked once more when they came back.
    scene.emptied().await;
    let stats = poster.send(GetStats).await.unwrap();
    assert_eq!((stats.accepted, stats.parked, stats.delivered), (19, 9, 10));
    assert_eq!(scene.platform.requests().len(), 10);
}

#[actix_rt::test]
async fn a_reply_can_come_as_soon_as_the_message_is_on_disk() {
    let scene = Scene::new();
    scene.platform.script("completion", [Reply::ok().delay(10 * SOON)]);
    let poster = start(scene.options());
    let message = PostResult::new("s", completed()).reply_when_durable();
    let receipt = poster.send(message).await.unwrap().unwrap();
    assert!(receipt.completion.queued() < receipt.status.queued() && receipt.completion.queued().is_some());
    assert_eq!((receipt.completion.attempts, routes(&scene.platform).len()), (0, 0));
    assert_eq!(count(&scene.path()), 2);
    let receipt = poster.send(update("i").reply_when_durable()).await.unwrap().unwrap();
    assert!(receipt.queued().is_some());
    assert_eq!(shut_down(&poster).await, 0);
    assert_eq!(scene.platform.requests().len(), 3);
    assert_eq!(count(&scene.path()), 0);
}

#[actix_rt::test]
async fn only_an_outbox_can_make_a_message_durable() {
    let (platform, poster) = platform_and_poster();
    let message = PostResult::new("s", completed()).reply_when_durable();
    let error = poster.send(message).await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the result is invalid, nothing was sent: `reply_when_durable` needs an outbox: set `OptionsBuilder::outbox`"
    );
    assert_eq!(
        outcome(&poster.send(update("i").reply_when_durable()).await.unwrap()),
        "invalid:reply_when_durable"
    );
    let error = poster.send(ListParked(Page::first(1))).await.unwrap().unwrap_err();
    assert_eq!(error, OutboxError::NotConfigured);
    assert!(platform.requests().is_empty());
}

#[actix_rt::test]
async fn what_is_sent_again_says_the_same_to_the_last_digit() {
    let scene = Scene::new();
    scene.script("status", [503; 30]);
    let poster = start(scene.options());
    for number in 0..30 {
        let cost = Cost::default().with_total_cost_usd(0.1 + f64::from(number) / 7.0);
        let message = PostResult::new(format!("s{number}"), completed().with_cost(cost));
        let _ = poster.send(message).await.unwrap();
    }
    scene.emptied().await;
    let mut bodies: BTreeMap<String, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for request in scene.platform.requests() {
        bodies.entry(request.path).or_default().insert(request.body);
    }
    assert!(bodies.values().all(|bodies| bodies.len() == 1));
}

#[test]
fn a_lease_that_nobody_can_keep_and_delays_of_nothing_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = || OutboxOptions::at(folder.path().join("outbox.db"));
    let short = Duration::from_millis(9);
    for (outbox, message) in [
        (outbox().lease(short), "option `outbox` has a lease below 10 ms"),
        (outbox().delays(short, SOON), "option `outbox` has delays below 10 ms"),
        (outbox().delays(SOON, short), "option `outbox` has delays below 10 ms"),
    ] {
        let error = options("https://app.example.com").outbox(outbox).build().unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[actix_rt::test]
async fn what_is_parked_has_one_attempt_at_a_time_and_all_are_counted() {
    let scene = Scene::new();
    scene.script("issue-tracker-proxy", [503, 503, 503, 503, 503, 404]);
    let poster = start(scene.options_with(late(scene.path())).max_attempts(3));
    assert_eq!(outcome(&poster.send(update("i")).await.unwrap()), "transient:3");
    for attempts in [4, 5] {
        poster.send(Requeue(scene.parked()[0].id)).await.unwrap().unwrap();
        wait_until(|| scene.parked().iter().any(|entry| entry.attempts > attempts - 1)).await;
        assert_eq!(scene.parked()[0].attempts, attempts);
        assert_eq!(scene.platform.requests().len(), attempts as usize);
    }
    poster.send(Requeue(scene.parked()[0].id)).await.unwrap().unwrap();
    wait_until(|| !scene.dead_letters().is_empty()).await;
    assert_eq!(scene.dead_letters()[0].attempts, 6);
    // As of one that was never parked.
    scene.script("issue-tracker-proxy", [503, 404]);
    let error = poster.send(update("j")).await.unwrap().unwrap_err();
    assert_eq!(error.permanent().unwrap().attempts, 2);
    assert_eq!(scene.dead_letters()[1].attempts, 2);
}

#[actix_rt::test]
async fn what_has_no_token_yet_is_parked_and_what_strikes_a_bug_is_a_dead_letter() {
    let scene = Scene::new();
    // To another host than this one, nothing is sent without a token.
    let none = builder("https://platform.invalid").worker_id("wkr_1");
    let poster = start(none.outbox(late(scene.path())));
    let error = poster.send(update("i")).await.unwrap().unwrap_err();
    assert!(error.transient().unwrap().is_parked());
    assert_eq!(
        error.transient().unwrap().last.to_string(),
        "not attempted: there is no token for this platform yet"
    );
    shut_down(&poster).await;
    assert_eq!(calls(&scene.parked()), [("updateIssueStatus", "i")]);

    let cursed = scene.options().customize_client(|_| panic!("a cursed client"));
    let error = start(cursed).send(update("j")).await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Internal { .. }));
    assert_eq!(calls(&scene.dead_letters()), [("updateIssueStatus", "j")]);
}

#[actix_rt::test]
async fn what_is_not_sent_is_not_kept() {
    let scene = Scene::new();
    scene.down();
    let poster = start(scene.options_with(late(scene.path())).max_summary_bytes(100));
    let mut result = completed().with_summary("x".repeat(10_000));
    result.quality_report = Some("y".repeat(10_000).into());
    poster.send(PostResult::new("s", result)).await.unwrap().unwrap_err();
    let sizes: Vec<_> = scene.parked().iter().map(|entry| entry.body.len()).collect();
    assert!(sizes.len() == 2 && sizes.iter().all(|&size| size < 200), "{sizes:?}");
}

#[actix_rt::test]
async fn what_is_on_its_way_to_the_file_is_bounded_too() {
    let scene = Scene::new();
    scene
        .platform
        .script("issue-tracker-proxy", [Reply::ok().delay(Duration::from_secs(60))]);
    let poster = start(scene.options().max_in_flight(1).max_queued(0));
    let first = actix_rt::spawn(poster.send(update("i")));
    scene.platform.wait_for_requests(1).await;
    let held = scene.hold();
    let mut replies: FuturesUnordered<_> = (0..10_001)
        .map(|issue| poster.send(update(&issue.to_string())))
        .collect();
    // The one too many; the others wait for the file.
    let reply = replies.next().await.unwrap();
    assert_eq!(outcome(&reply.unwrap()), "overloaded");
    drop((held, replies));
    first.abort();
}
