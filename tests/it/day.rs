//! A day in the life of a runner, against a platform that behaves like the real one: nothing is lost, and nothing is
//! sent that the platform does not need.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use actix::Addr;
use futures_util::future::{Either, join_all, select};
use result_poster::{
    AgentResult, CreateComment, ParkReason, PostError, PostReceipt, PostResult, ResultPoster, SessionStatus,
    credentials::{RuntimeCredentials, provider_fn},
    outbox::OutboxOptions,
    testing::{FakePlatform, ManualClock, PlatformRules},
};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    builder, completed, post_outcome,
    requests::{key, route, sent, token, worker_id},
    start,
    wait::wait_until,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// The worker ids and tokens that the daemon has written, each with the time since the start of the day.
type Written = Arc<Mutex<Vec<(Duration, &'static str, &'static str)>>>;

struct Day {
    platform: FakePlatform,
    clock: ManualClock,
    started: std::time::SystemTime,
    written: Written,
    poster: Addr<ResultPoster>,
    _folder: TempDir,
}

impl Day {
    fn begin() -> Self {
        let platform = FakePlatform::start().unwrap();
        let clock = ManualClock::new();
        let started = clock.now();
        let written = Written::default();
        written.lock().unwrap().push((Duration::ZERO, "wkr_1", "tok-1"));
        let folder = tempfile::tempdir().unwrap();
        let daemon = {
            let (written, clock) = (Arc::clone(&written), clock.clone());
            provider_fn(async move || {
                let now = clock.now().duration_since(started).unwrap();
                let written = written.lock().unwrap();
                let (_, worker, token) = written.iter().rfind(|(at, ..)| *at <= now).unwrap();
                Ok(RuntimeCredentials::new(*worker, *token).with_expires_at(clock.now() + HOUR))
            })
        };
        let options = builder(platform.url()).clock(clock.clone()).credential_provider(daemon);
        let outbox = OutboxOptions::new(folder.path().join("outbox.db"));
        let poster = start(options.outbox(outbox));
        Self {
            platform,
            clock,
            started,
            written,
            poster,
            _folder: folder,
        }
    }

    fn rules(&self) -> PlatformRules {
        PlatformRules::new().with_clock(self.clock.clone())
    }

    fn now(&self) -> Duration {
        self.clock.now().duration_since(self.started).unwrap()
    }

    /// The daemon writes this pair after a delay.
    fn write_after(&self, delay: Duration, worker: &'static str, token: &'static str) {
        self.written.lock().unwrap().push((self.now() + delay, worker, token));
    }

    /// Waits for the future, and lets the time pass whenever a call sleeps.
    async fn wait_for<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            match select(future, pin!(self.clock.wait_for_sleepers(1))).await {
                Either::Left((result, _)) => return result,
                Either::Right((sleepers, pending)) => {
                    self.clock.advance(sleepers.first().copied().unwrap_or(SECOND));
                    future = pending;
                }
            }
        }
    }

    async fn post(&self, message: PostResult) -> Result<PostReceipt, PostError> {
        self.wait_for(self.poster.send(message)).await.unwrap()
    }

    /// The keys of the calls that the platform has acknowledged, each with the number of times.
    fn acknowledged(&self) -> HashMap<String, usize> {
        let mut keys = HashMap::new();
        for request in self.platform.requests() {
            if (200..300).contains(&request.answered_with) {
                *keys.entry(key(&request)).or_default() += 1;
            }
        }
        keys
    }

    fn tracker_requests(&self) -> usize {
        let requests = self.platform.requests();
        requests
            .iter()
            .filter(|request| route(request) == "issue-tracker-proxy")
            .count()
    }

    /// The statuses of the responses, in order, from this request on.
    fn answers(&self, from: usize) -> Vec<(String, u16)> {
        let requests = self.platform.requests();
        let answers = requests[from..].iter();
        answers.map(|request| (route(request), request.answered_with)).collect()
    }
}

fn answers(expected: &[(&str, u16)]) -> Vec<(String, u16)> {
    expected
        .iter()
        .map(|(route, status)| ((*route).to_owned(), *status))
        .collect()
}

#[actix_rt::test]
async fn a_day_in_the_life_of_a_runner() {
    let day = Day::begin();
    let mut expected = 0;

    // 70 comments within a minute, of which the platform takes 60.
    day.platform.set_rules(day.rules().with_token("tok-1"));
    let comments = (0..70).map(|issue| day.poster.send(CreateComment::new(format!("issue-{issue}"), "Done.")));
    let comments = actix_rt::spawn(join_all(comments));
    assert_eq!(day.clock.wait_for_sleepers(10).await, [MINUTE; 10]);
    let limited = day.tracker_requests() - 60;
    assert!((1..=10).contains(&limited), "{limited}");
    // Until the next minute begins, the tracker is sent nothing, and a result is not held up.
    day.clock.advance(MINUTE - SECOND);
    day.poster
        .send(PostResult::new("meanwhile", completed()))
        .await
        .unwrap()
        .unwrap();
    expected += 2;
    assert_eq!(day.clock.wait_for_sleepers(10).await, [SECOND; 10]);
    assert_eq!(day.tracker_requests(), 60 + limited);
    day.clock.advance(SECOND);
    for reply in day.wait_for(comments).await.unwrap() {
        reply.unwrap().unwrap();
    }
    expected += 70;
    assert_eq!(day.tracker_requests(), 70 + limited);

    // The daemon has registered again, and the session belongs to its new worker.
    let from = day.platform.requests().len();
    day.platform.set_rules(
        day.rules()
            .with_token("tok-1")
            .with_token("tok-2")
            .with_owner("again", "wkr_2"),
    );
    day.write_after(Duration::ZERO, "wkr_2", "tok-2");
    day.post(PostResult::new("again", completed())).await.unwrap();
    expected += 2;
    assert_eq!(
        day.answers(from),
        answers(&[("completion", 403), ("completion", 200), ("status", 200)])
    );
    assert_eq!(sent(&day.platform, worker_id)[from..], ["wkr_1", "wkr_2", "wkr_2"]);

    // The token ends, and the daemon is 1.5 s late.
    let from = day.platform.requests().len();
    day.platform.set_rules(day.rules().with_token("tok-3"));
    day.write_after(SECOND + SECOND / 2, "wkr_2", "tok-3");
    let receipt = day.post(PostResult::new("late", completed())).await.unwrap();
    expected += 2;
    assert_eq!(receipt.completion.attempts(), Some(3));
    assert_eq!(sent(&day.platform, token)[from..], ["tok-2", "tok-2", "tok-3", "tok-3"]);

    // A body that is too large for what stands in front of the platform.
    let from = day.platform.requests().len();
    day.platform
        .set_rules(day.rules().with_token("tok-3").with_max_body_bytes(16 * 1024));
    let large = AgentResult::new(SessionStatus::Failed).with_error("x".repeat(50_000));
    day.post(PostResult::new("large", large)).await.unwrap();
    expected += 2;
    let status = day.answers(from).split_off(1);
    assert_eq!(status[status.len() - 2..], answers(&[("status", 413), ("status", 200)]));

    // A result of megabytes, against the platform's own limit. Its summary is posted in parts.
    day.platform.set_rules(day.rules().with_token("tok-3"));
    let from = day.platform.requests().len();
    let megabytes = |count: usize| "\u{1}x".repeat(count * 1024 * 512);
    let huge = AgentResult::new(SessionStatus::Failed)
        .with_summary(megabytes(3))
        .with_error(megabytes(5))
        .with_manifest(json!({"summary": megabytes(2)}));
    let receipt = day.post(PostResult::new("huge", huge)).await.unwrap();
    expected += 2;
    assert_eq!(day.answers(from), answers(&[("completion", 200), ("status", 200)]));
    let warnings: Vec<_> = receipt.warnings().map(ToString::to_string).collect();
    let begins = [
        "`summary` was cut by ",
        "`error` was cut by ",
        "`manifest` was left out: ",
    ];
    assert_eq!(warnings.len(), begins.len(), "{warnings:?}");
    assert!(
        warnings
            .iter()
            .zip(begins)
            .all(|(warning, begin)| warning.starts_with(begin))
    );

    // The tracker rejects the platform's own authorization for a while. The worker's token is not affected.
    let from = day.platform.requests().len();
    day.platform
        .set_rules(day.rules().with_token("tok-3").tracker_unauthorized(true));
    let comment = CreateComment::new("locked", "Done.");
    let error = day.wait_for(day.poster.send(comment)).await.unwrap().unwrap_err();
    assert_eq!(error.parked().unwrap().reason, ParkReason::TrackerUnauthorized);
    day.post(PostResult::new("unaffected", completed())).await.unwrap();
    expected += 3;
    assert_eq!(
        day.answers(from),
        answers(&[("issue-tracker-proxy", 401), ("completion", 200), ("status", 200)])
    );

    // Two runs of one session that end alike.
    day.platform.set_rules(day.rules().with_token("tok-3"));
    for run in 1..=2 {
        day.post(PostResult::new("runs", completed()).with_run(run))
            .await
            .unwrap();
        expected += 2;
    }

    // The platform is away for a minute.
    day.platform.set_rules(day.rules().with_token("tok-3").away(true));
    let reply = day.post(PostResult::new("away", completed())).await;
    assert_eq!(post_outcome(&reply), "parked:3;parked:3");
    day.clock.advance(MINUTE);
    day.platform.set_rules(day.rules().with_token("tok-3"));
    expected += 2;
    // A replay of the last minute may still fail, and is parked again at a time that the test does not see.
    wait_until(|| {
        day.clock.advance(SECOND);
        day.acknowledged().len() == expected
    })
    .await;

    // No body is larger than half of what the platform takes.
    let longest = day.platform.requests().iter().map(|request| request.body.len()).max();
    assert!(longest.unwrap() <= 512 * 1024, "{longest:?}");

    // Nothing is lost, and what was acknowledged is not sent again.
    let acknowledged = day.acknowledged();
    assert_eq!(acknowledged.len(), expected);
    assert!(acknowledged.values().all(|times| *times == 1), "{acknowledged:?}");
    // A message keeps its worker, except after a 403.
    let mut workers: HashMap<String, Vec<String>> = HashMap::new();
    for request in day.platform.requests() {
        if route(&request) != "issue-tracker-proxy" {
            let session = request.path.rsplit('/').nth(1).unwrap().to_owned();
            workers
                .entry(session)
                .or_default()
                .push(worker_id(&request).to_string());
        }
    }
    for (session, mut workers) in workers {
        workers.dedup();
        assert_eq!(workers.len(), if session == "again" { 2 } else { 1 }, "{session}");
    }
}
