//! The durable outbox: what was handed over is delivered, although the platform is down or the poster ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use actix::Addr;
use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use result_poster::{
    AttemptError, CallError, CancellationToken, Cost, CreateComment, Discard, ListDeadLetters, ListParked,
    OptionsBuilder, OutboxEntry, OutboxError, OutboxFile, OutboxOptions, Page, PostResult, ProviderError, Requeue,
    ResultPoster, RuntimeCredentials, Shutdown, UpdateIssueStatus, provider_fn,
    testing::{FakePlatform, ManualClock, Reply},
};
use tempfile::TempDir;

use crate::support::{
    Ask, ScriptedProvider, builder, completed, options, outcome, platform_and_poster, post, post_outcome, routes, start,
};

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
async fn another_poster_delivers_what_one_has_left_and_begins_where_that_had_ended() {
    let scene = Scene::new();
    scene.script("status", [503]);
    let poster = start(scene.options_with(late(scene.path())));
    assert_eq!(post_outcome(&post(&poster, "s").await), "transient:1");
    assert_eq!(shut_down(&poster).await, 0);
    drop(poster);
    assert_eq!(calls(&scene.parked()), [("status", "s")]);

    let id = scene.parked()[0].id;
    assert!(OutboxFile::open(scene.path()).unwrap().requeue(id).unwrap());
    let _poster = start(scene.options());
    scene.emptied().await;
    // The completion was acknowledged: it is not sent again.
    assert_eq!(routes(&scene.platform), ["completion", "status", "status"]);
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
async fn messages_behind_a_parked_one_are_parked_too_and_go_out_in_order() {
    let scene = Scene::new();
    scene.down();
    let poster = start(scene.options_with(late(scene.path())));
    assert_eq!(outcome(&poster.send(update("i")).await.unwrap()), "transient:1");
    // One that comes later, and three that come at once.
    let comment = |text: &str| poster.send(CreateComment::new("i", text));
    let mut replies = vec![comment("1").await];
    replies.extend(join_all(["2", "3", "4"].map(comment)).await);
    for reply in replies {
        let error = reply.unwrap().unwrap_err();
        let parked = error.transient().unwrap();
        assert!(parked.is_parked());
        assert!(matches!(parked.last, AttemptError::NotAttempted { .. }));
        assert!(!error.may_have_been_delivered());
    }
    assert_eq!(scene.platform.requests().len(), 1);
    // Another issue's is none of theirs.
    assert_eq!(outcome(&poster.send(update("j")).await.unwrap()), "transient:1");

    scene.up();
    for entry in scene.parked() {
        poster.send(Requeue(entry.id)).await.unwrap().unwrap();
    }
    scene.emptied().await;
    let texts: Vec<_> = scene
        .platform
        .requests()
        .iter()
        .skip(2)
        .map(|request| request.json().unwrap()["args"].clone())
        .filter(|args| args[0] == "i")
        .map(|args| args[1].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(texts, ["Finished", "1", "2", "3", "4"]);
}

#[actix_rt::test]
async fn a_message_that_waits_behind_one_that_is_then_parked_is_parked() {
    let scene = Scene::new();
    scene
        .platform
        .script("issue-tracker-proxy", [Reply::status(503).delay(5 * SOON)]);
    let poster = start(scene.options_with(late(scene.path())));
    let (first, second) = futures_util::future::join(poster.send(update("i")), poster.send(update("i"))).await;
    assert_eq!(outcome(&first.unwrap()), "transient:1");
    assert_eq!(outcome(&second.unwrap()), "transient:0");
    assert_eq!(scene.platform.requests().len(), 1);
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
    scene.emptied().await;
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
async fn a_call_that_is_cancelled_is_not_delivered_later() {
    let scene = Scene::new();
    scene
        .platform
        .script("issue-tracker-proxy", [Reply::ok().delay(Duration::from_secs(60))]);
    let poster = start(scene.options());
    let token = CancellationToken::new();
    let reply = actix_rt::spawn(poster.send(update("i").with_cancellation(token.clone())));
    scene.platform.wait_for_requests(1).await;
    token.cancel();
    assert_eq!(outcome(&reply.await.unwrap().unwrap()), "cancelled");
    assert_eq!(count(&scene.path()), 0);
}

#[actix_rt::test]
async fn a_shutdown_leaves_what_is_not_delivered_parked() {
    let scene = Scene::new();
    scene
        .platform
        .script("completion", [Reply::ok().delay(Duration::from_secs(60))]);
    // With a lease that nobody waits for: what is left is given back.
    let options = || scene.options_with(soon(scene.path()).lease(Duration::from_secs(60 * 60)));
    let poster = start(options().max_in_flight(1));
    let replies: Vec<_> = ["a", "b"]
        .map(|session| poster.send(PostResult::new(session, completed())))
        .into();
    let replies: Vec<_> = replies.into_iter().map(actix_rt::spawn).collect();
    scene.platform.wait_for_requests(1).await;
    let report = poster.send(Shutdown::within(SOON)).await.unwrap();
    assert_eq!(
        (report.parked, report.delivered, report.failed, report.cancelled),
        (4, 0, 0, 0)
    );
    for (index, reply) in replies.into_iter().enumerate() {
        let error = reply.await.unwrap().unwrap().unwrap_err();
        assert!(error.completion().unwrap().transient().unwrap().is_parked());
        assert!(error.status().unwrap().transient().unwrap().is_parked());
        assert_eq!(error.may_have_been_delivered(), index == 0);
    }
    scene.up();
    // The reply does not wait for the disk, since its time was over.
    wait_until(|| scene.parked().len() == 4).await;
    let _poster = start(options());
    scene.emptied().await;
    assert_eq!(scene.platform.requests().len(), 5);
}

#[actix_rt::test]
async fn what_has_expired_is_a_dead_letter() {
    let scene = Scene::new();
    scene.down();
    let poster = start(scene.options_with(soon(scene.path()).expires_after(5 * SOON)));
    assert_eq!(outcome(&poster.send(update("i")).await.unwrap()), "transient:1");
    wait_until(|| !scene.dead_letters().is_empty()).await;
    let dead = &scene.dead_letters()[0];
    assert!(
        dead.error
            .starts_with("expired; attempts spent: the platform answered 503"),
        "{}",
        dead.error
    );
    assert!(dead.attempts > 1);
}

#[actix_rt::test]
async fn only_whom_a_call_belongs_to_delivers_it() {
    let scene = Scene::new();
    scene.down();
    let poster = start(scene.options_with(late(scene.path())));
    assert_eq!(outcome(&poster.send(update("i")).await.unwrap()), "transient:1");
    shut_down(&poster).await;
    let id = scene.parked()[0].id;
    OutboxFile::open(scene.path()).unwrap().requeue(id).unwrap();

    scene.up();
    let elsewhere = FakePlatform::start().unwrap();
    let other_platform = start(options(elsewhere.url()).outbox(soon(scene.path())));
    let other_worker = start(scene.options().worker_id("wkr_2"));
    for poster in [&other_platform, &other_worker] {
        poster.send(update("j")).await.unwrap().unwrap();
    }
    actix_rt::time::sleep(10 * SOON).await;
    assert_eq!(calls(&scene.parked()), [("updateIssueStatus", "i")]);
    let _poster = start(scene.options());
    scene.emptied().await;
    assert_eq!(elsewhere.requests().len(), 1);
}

/// Moves the clock on until the condition holds.
async fn advance_until(clock: &ManualClock, step: Duration, mut is_so: impl FnMut() -> bool) {
    wait_until(|| {
        clock.advance(step);
        is_so()
    })
    .await;
}

#[actix_rt::test]
async fn a_clock_that_jumps_neither_expires_a_call_nor_holds_it_back() {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let scene = Scene::new();
    let clock = ManualClock::new();
    let outbox = OutboxOptions::at(scene.path());
    let poster = start(scene.options_with(outbox.clone()).clock(clock.clone()));
    scene.script("issue-tracker-proxy", [503, 503]);
    assert_eq!(outcome(&poster.send(update("i")).await.unwrap()), "transient:1");
    // Ten years on, and a hundred back, while it runs.
    for time in [clock.now() + 3650 * DAY, std::time::UNIX_EPOCH] {
        clock.set_time_of_day(time);
        let before = scene.platform.requests().len();
        advance_until(&clock, Duration::from_secs(1), || {
            scene.platform.requests().len() > before
        })
        .await;
    }
    scene.emptied().await;
    assert!(scene.dead_letters().is_empty());
    shut_down(&poster).await;

    // Back and on between two runs: it is due all the same, and not yet expired.
    for (from, to) in [(40, 1), (1, 7)] {
        let clock = ManualClock::new();
        let day = |day| std::time::UNIX_EPOCH + 20_000 * DAY + day * DAY;
        clock.set_time_of_day(day(from));
        scene.script("issue-tracker-proxy", [503]);
        let poster = start(scene.options_with(outbox.clone()).clock(clock.clone()));
        assert_eq!(outcome(&poster.send(update("i")).await.unwrap()), "transient:1");
        shut_down(&poster).await;
        let clock = ManualClock::new();
        clock.set_time_of_day(day(to));
        let _poster = start(scene.options_with(outbox.clone()).clock(clock.clone()));
        scene.emptied().await;
        assert!(scene.dead_letters().is_empty());
    }
}

#[actix_rt::test]
async fn a_message_does_not_overtake_one_that_is_sent_again() {
    let scene = Scene::new();
    let poster = start(scene.options());
    for _ in 0..5 {
        let comment = |text: &'static str| {
            let comments = (0..40).map(move |issue| CreateComment::new(format!("issue-{issue}"), text));
            comments.map(|comment| poster.send(comment)).collect::<Vec<_>>()
        };
        scene.down();
        join_all(comment("old")).await;
        scene.up();
        let before = scene.platform.requests().len();
        join_all(comment("new")).await;
        scene.emptied().await;
        let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for request in scene.platform.requests().iter().skip(before) {
            let args = request.json().unwrap()["args"].clone();
            let text = args[1].as_str().unwrap().to_owned();
            texts.entry(args[0].to_string()).or_default().push(text);
        }
        for (issue, texts) in texts {
            let last_old = texts.iter().rposition(|text| text == "old");
            let first_new = texts.iter().position(|text| text == "new");
            assert!(
                last_old.is_none_or(|old| first_new.is_none_or(|new| old < new)),
                "{issue} {texts:?}"
            );
        }
    }
}

#[actix_rt::test]
async fn what_is_on_its_way_is_not_taken_over_while_its_poster_shuts_down() {
    let scene = Scene::new();
    let lease = 10 * SOON;
    scene
        .platform
        .script("issue-tracker-proxy", [Reply::ok().delay(4 * lease)]);
    let poster = start(scene.options());
    let other = start(scene.options());
    let reply = actix_rt::spawn(poster.send(update("i")));
    scene.platform.wait_for_requests(1).await;
    assert_eq!(shut_down(&poster).await, 0);
    reply.await.unwrap().unwrap().unwrap();
    assert_eq!(scene.platform.requests().len(), 1);
    assert_eq!(shut_down(&other).await, 0);
}

#[actix_rt::test]
async fn a_worker_that_its_provider_names_finds_its_own_again() {
    let scene = Scene::new();
    let of = |worker: &'static str| {
        let credentials = move || async move { Ok::<_, ProviderError>(RuntimeCredentials::new(worker, "token")) };
        let options = builder(scene.platform.url()).max_attempts(1).base_delay(Duration::ZERO);
        options.credential_provider(provider_fn(credentials))
    };
    scene.down();
    let poster = start(of("wkr_8").outbox(late(scene.path())));
    post(&poster, "s").await.unwrap_err();
    shut_down(&poster).await;
    for entry in scene.parked() {
        assert_eq!(entry.worker_id, "wkr_8");
        OutboxFile::open(scene.path()).unwrap().requeue(entry.id).unwrap();
    }
    scene.up();
    let before = scene.platform.requests().len();
    let other = start(of("wkr_9").outbox(soon(scene.path())));
    post(&other, "t").await.unwrap();
    assert_eq!(scene.platform.requests().len(), before + 2);
    // Nothing has to be sent for it to begin.
    let _poster = start(of("wkr_8").outbox(soon(scene.path())));
    scene.emptied().await;
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

#[actix_rt::test]
async fn what_is_kept_behind_a_parked_message_is_durable_too() {
    let scene = Scene::new();
    scene.down();
    let poster = start(scene.options_with(late(scene.path())));
    assert_eq!(outcome(&poster.send(update("i")).await.unwrap()), "transient:1");
    let receipt = poster.send(update("i").reply_when_durable()).await.unwrap().unwrap();
    assert!(receipt.queued().is_some());
    assert_eq!(scene.parked().len(), 2);
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
async fn a_shutdown_does_not_wait_for_a_provider_that_hangs() {
    let scene = Scene::new();
    let options = builder(scene.platform.url()).credential_provider(ScriptedProvider::new([Ask::Hang]));
    let poster = start(options.outbox(soon(scene.path())));
    let waiting = actix_rt::spawn(poster.send(update("i")));
    // Less than the ten seconds that a fetch may take.
    let report = actix_rt::time::timeout(Duration::from_secs(5), poster.send(Shutdown::within(SOON)));
    report.await.expect("in time").unwrap();
    assert!(waiting.await.unwrap().unwrap().is_err());
    assert!(scene.platform.requests().is_empty());
}

#[actix_rt::test]
async fn who_cancels_does_not_wait_for_a_file_that_is_held() {
    let scene = Scene::new();
    let poster = start(scene.options());
    let held = scene.hold();
    let token = CancellationToken::new();
    let reply = actix_rt::spawn(poster.send(update("i").with_cancellation(token.clone())));
    actix_rt::time::sleep(SOON).await;
    token.cancel();
    let reply = actix_rt::time::timeout(Duration::from_secs(2), reply)
        .await
        .expect("in time");
    assert_eq!(outcome(&reply.unwrap().unwrap()), "cancelled");
    drop(held);
    // It has been written meanwhile, and is withdrawn.
    poster.send(update("j")).await.unwrap().unwrap();
    scene.emptied().await;
    assert_eq!(shut_down(&poster).await, 0);
    assert_eq!(scene.platform.requests().len(), 1);
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
async fn what_can_not_be_read_is_a_dead_letter_and_holds_up_nothing() {
    let scene = Scene::new();
    scene.down();
    let poster = start(scene.options_with(late(scene.path())));
    post(&poster, "s").await.unwrap_err();
    poster.send(update("i")).await.unwrap().unwrap_err();
    shut_down(&poster).await;
    scene.up();
    let file = rusqlite::Connection::open(scene.path()).unwrap();
    let spoil = "UPDATE calls SET due_at = 0; UPDATE calls SET body = '{\"nonsense\":1}' WHERE name = 'completion'";
    file.execute_batch(spoil).unwrap();
    let before = scene.platform.requests().len();
    let _poster = start(scene.options());
    wait_until(|| count(&scene.path()) == 1).await;
    let dead = &scene.dead_letters()[0];
    assert_eq!(dead.call, "completion");
    assert!(dead.error.starts_with("it can't be read: "), "{}", dead.error);
    let mut after = routes(&scene.platform).split_off(before);
    after.sort();
    assert_eq!(after, ["issue-tracker-proxy", "status"]);
}

#[actix_rt::test]
async fn what_is_due_behind_a_call_on_its_way_goes_as_soon_as_that_is_done() {
    let scene = Scene::new();
    let delayed = Reply::ok().delay(10 * SOON);
    scene.platform.script("issue-tracker-proxy", [delayed, Reply::ok()]);
    // One call in memory; and nothing looks at the file by itself for twenty minutes.
    let hour = Duration::from_secs(60 * 60);
    let options = scene.options_with(late(scene.path()).lease(hour));
    let poster = start(options.max_in_flight(1).max_queued(0));
    let first = actix_rt::spawn(poster.send(update("i")));
    scene.platform.wait_for_requests(1).await;
    // The second finds no room, and is due, but not before the first is done.
    assert_eq!(outcome(&poster.send(update("i")).await.unwrap()), "transient:0");
    first.await.unwrap().unwrap().unwrap();
    scene.emptied().await;
    assert_eq!(scene.platform.requests().len(), 2);
}

#[actix_rt::test]
async fn what_a_worker_has_left_is_delivered_by_the_one_that_has_replaced_it() {
    let scene = Scene::new();
    scene.down();
    let options = || builder(scene.platform.url()).max_attempts(1).base_delay(Duration::ZERO);
    // For the outbox, the first two calls, and then on.
    let provider = ScriptedProvider::tokens(["1", "1", "1", "2"]);
    let poster = start(options().credential_provider(provider).outbox(late(scene.path())));
    post(&poster, "s").await.unwrap_err();
    let workers = |worker: &str| scene.parked().iter().filter(|entry| entry.worker_id == worker).count();
    assert_eq!(workers("wkr_1"), 2);
    post(&poster, "t").await.unwrap_err();
    wait_until(|| workers("wkr_2") == 4).await;
    shut_down(&poster).await;
    for entry in scene.parked() {
        OutboxFile::open(scene.path()).unwrap().requeue(entry.id).unwrap();
    }
    scene.up();
    // One that has never heard of the first.
    let _poster = start(
        options()
            .worker_id("wkr_2")
            .auth_token("token")
            .outbox(soon(scene.path())),
    );
    scene.emptied().await;
}

#[actix_rt::test]
async fn what_another_process_has_taken_over_meanwhile_is_kept_by_that() {
    let scene = Scene::new();
    scene
        .platform
        .script("issue-tracker-proxy", [Reply::status(503).delay(5 * SOON)]);
    let poster = start(scene.options_with(late(scene.path())));
    let reply = actix_rt::spawn(poster.send(update("i")));
    scene.platform.wait_for_requests(1).await;
    // As one does that takes this one for dead.
    let file = rusqlite::Connection::open(scene.path()).unwrap();
    file.execute("UPDATE calls SET owner = 7", ()).unwrap();
    let error = reply.await.unwrap().unwrap().unwrap_err();
    assert!(error.transient().unwrap().is_parked() && !error.is_retryable());
    let owner: i64 = file.query_row("SELECT owner FROM calls", (), |row| row.get(0)).unwrap();
    assert_eq!(owner, 7);
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
async fn what_is_cancelled_on_its_way_to_the_file_is_not_sent_from_there() {
    let scene = Scene::new();
    let slow = Reply::ok().delay(25 * SOON);
    scene.platform.script("issue-tracker-proxy", [slow, Reply::ok()]);
    let poster = start(scene.options().max_in_flight(1).max_queued(0));
    let first = actix_rt::spawn(poster.send(update("i")));
    scene.platform.wait_for_requests(1).await;
    // There is no room for it in memory, and a look at what is parked waits for the file behind it.
    let held = scene.hold();
    let token = CancellationToken::new();
    let reply = actix_rt::spawn(poster.send(update("j").with_cancellation(token.clone())));
    actix_rt::time::sleep(10 * SOON).await;
    token.cancel();
    assert_eq!(outcome(&reply.await.unwrap().unwrap()), "cancelled");
    drop(held);
    first.await.unwrap().unwrap().unwrap();
    scene.emptied().await;
    assert_eq!(scene.platform.requests().len(), 1);
}

#[actix_rt::test]
async fn what_is_shut_down_on_its_way_to_the_file_is_not_in_it() {
    let scene = Scene::new();
    let poster = start(scene.options());
    let held = scene.hold();
    let reply = actix_rt::spawn(poster.send(update("i")));
    actix_rt::time::sleep(SOON).await;
    poster.send(Shutdown::within(SOON)).await.unwrap();
    assert_eq!(outcome(&reply.await.unwrap().unwrap()), "cancelled");
    drop(held);
    // Behind whatever was to be written.
    let other = start(scene.options().worker_id("wkr_2"));
    other.send(update("j")).await.unwrap().unwrap();
    scene.emptied().await;
    assert_eq!(scene.platform.requests().len(), 1);
}

#[actix_rt::test]
async fn what_another_process_has_taken_over_while_it_waited_is_not_sent() {
    let scene = Scene::new();
    let slow = Reply::ok().delay(10 * SOON);
    scene.platform.script("issue-tracker-proxy", [slow, Reply::ok()]);
    let poster = start(scene.options_with(late(scene.path())));
    let first = actix_rt::spawn(poster.send(update("i")));
    scene.platform.wait_for_requests(1).await;
    let second = actix_rt::spawn(poster.send(update("i")));
    wait_until(|| count(&scene.path()) == 2).await;
    let file = rusqlite::Connection::open(scene.path()).unwrap();
    file.execute("UPDATE calls SET owner = 7 WHERE id = 2", ()).unwrap();
    first.await.unwrap().unwrap().unwrap();
    assert_eq!(outcome(&second.await.unwrap().unwrap()), "transient:0");
    assert_eq!(scene.platform.requests().len(), 1);
}

#[actix_rt::test]
async fn what_can_not_be_parked_is_not_overtaken_either() {
    let scene = Scene::new();
    let down = Reply::status(503).delay(10 * SOON);
    scene.platform.script("issue-tracker-proxy", [down, Reply::ok()]);
    let poster = start(scene.options_with(late(scene.path())));
    let first = actix_rt::spawn(poster.send(update("i")));
    scene.platform.wait_for_requests(1).await;
    let second = actix_rt::spawn(poster.send(update("i")));
    wait_until(|| count(&scene.path()) == 2).await;
    // As a disk that fails.
    let file = rusqlite::Connection::open(scene.path()).unwrap();
    file.execute_batch("CREATE TRIGGER full BEFORE UPDATE ON calls BEGIN SELECT RAISE(ABORT, 'full'); END")
        .unwrap();
    // It is in the file yet, and is parked at the next sign of life.
    let error = first.await.unwrap().unwrap().unwrap_err();
    assert!(error.transient().unwrap().is_parked());
    assert_eq!(outcome(&second.await.unwrap().unwrap()), "transient:0");
    assert_eq!(scene.platform.requests().len(), 1);
}

#[actix_rt::test]
async fn what_is_behind_a_call_that_is_discarded_is_due() {
    let scene = Scene::new();
    scene.script("issue-tracker-proxy", [503]);
    let poster = start(scene.options_with(late(scene.path())));
    for _ in 0..2 {
        poster.send(update("i")).await.unwrap().unwrap_err();
    }
    assert!(poster.send(Discard(scene.parked()[0].id)).await.unwrap().unwrap());
    scene.emptied().await;
    assert_eq!(scene.platform.requests().len(), 2);
}

#[actix_rt::test]
async fn a_call_that_a_tool_requeues_is_due_by_whatever_clock() {
    let scene = Scene::new();
    scene.script("issue-tracker-proxy", [503]);
    // Behind the tool's, as after the host was suspended.
    let clock = ManualClock::new();
    clock.set_time_of_day(std::time::UNIX_EPOCH);
    let poster = start(scene.options_with(late(scene.path())).clock(clock.clone()));
    poster.send(update("i")).await.unwrap().unwrap_err();
    let id = scene.parked()[0].id;
    assert!(OutboxFile::open(scene.path()).unwrap().requeue(id).unwrap());
    let before = clock.now();
    advance_until(&clock, SOON, || count(&scene.path()) == 0).await;
    assert!(clock.now().duration_since(before).unwrap() < Duration::from_secs(60 * 60));
}

#[actix_rt::test]
async fn a_backoff_is_the_only_sleeper_of_a_clock_that_a_test_moves() {
    let scene = Scene::new();
    scene.script("issue-tracker-proxy", [503]);
    let clock = ManualClock::new();
    let second = Duration::from_secs(1);
    let options = scene
        .options_with(late(scene.path()))
        .max_attempts(2)
        .base_delay(second);
    let poster = start(options.clock(clock.clone()));
    let reply = actix_rt::spawn(poster.send(update("i")));
    assert_eq!(clock.sleepers(1).await, [second]);
    clock.advance(second);
    assert_eq!(reply.await.unwrap().unwrap().unwrap().attempts, 2);
}

#[actix_rt::test]
async fn a_parked_call_waits_longer_each_time() {
    let scene = Scene::new();
    scene.script("issue-tracker-proxy", [503, 503, 503]);
    let clock = ManualClock::new();
    let seconds = Duration::from_secs;
    let outbox = OutboxOptions::at(scene.path()).delays(seconds(8), seconds(100));
    let poster = start(scene.options_with(outbox).clock(clock.clone()));
    poster.send(update("i")).await.unwrap().unwrap_err();
    for longest in [8, 16, 32] {
        wait_until(|| !scene.parked().is_empty()).await;
        let due_at = scene.parked()[0].due_at;
        let wait = due_at.duration_since(clock.now()).unwrap();
        // Shortened by up to a half, and what has passed since.
        assert!(wait > seconds(longest / 2 - 2) && wait <= seconds(longest), "{wait:?}");
        let before = scene.platform.requests().len();
        advance_until(&clock, seconds(1), || scene.platform.requests().len() > before).await;
    }
    scene.emptied().await;
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

#[actix_rt::test]
async fn who_has_cancelled_a_message_is_never_told_that_it_is_kept() {
    let scene = Scene::new();
    scene
        .platform
        .script("issue-tracker-proxy", [Reply::ok().delay(10 * SOON), Reply::ok()]);
    let poster = start(scene.options().max_in_flight(1).max_queued(0));
    let first = actix_rt::spawn(poster.send(update("i")));
    scene.platform.wait_for_requests(1).await;
    let token = CancellationToken::new();
    token.cancel();
    let message = update("j").with_cancellation(token).reply_when_durable();
    assert_eq!(outcome(&poster.send(message).await.unwrap()), "cancelled");
    first.await.unwrap().unwrap().unwrap();
    scene.emptied().await;
    assert_eq!(scene.platform.requests().len(), 1);
}
