//! The daemon example as a process: started, used, and ended under load.
//!
//! `DAEMON_ROUNDS=20` makes the long run.

#![cfg(test)]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    reason = "a panic fails the test, as it should; a process takes real time"
)]

use std::{
    collections::BTreeSet,
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use result_poster::testing::{FakePlatform, PlatformRules};
use tempfile::TempDir;

#[expect(dead_code, unreachable_pub, reason = "a program, of which a part is used")]
#[path = "../examples/daemon.rs"]
mod daemon;

/// Names the configuration, in the child process.
const CONFIGURATION: &str = "DAEMON_TEST_CONFIGURATION";

/// Results that are posted at once.
const AT_ONCE: usize = 8;

/// Not a test of its own: the daemon, as the child process of the others.
#[test]
fn child() {
    if let Some(file) = env::var_os(CONFIGURATION) {
        daemon::serve(Path::new(&file)).unwrap();
    }
}

/// A daemon that runs, with its files and its platform.
struct Fixture {
    folder: TempDir,
    platform: FakePlatform,
    address: String,
    process: Option<Child>,
}

impl Fixture {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let platform = FakePlatform::start().unwrap();
        platform.set_rules(PlatformRules::new().with_token("token"));
        // Free a moment ago.
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let configuration = format!(
            "listen = '{address}'\ndrain_seconds = 20\n\
             [poster]\nplatform_url = '{}'\nworker_id = 'wkr_1'\nauth_token = 'token'\nwithout_proxy = true\n\
             [poster.outbox]\npath = '{}'\nbase_delay = '20ms'\nmax_delay = '20ms'\n",
            platform.url(),
            folder.path().join("outbox.db").display()
        );
        fs::write(folder.path().join("daemon.toml"), configuration).unwrap();
        Self {
            folder,
            platform,
            address,
            process: None,
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("daemon.toml")
    }

    async fn start(&mut self) {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "child", "--nocapture"]);
        command.env(CONFIGURATION, self.file()).env("RUST_LOG", "warn");
        self.process = Some(command.spawn().unwrap());
        eventually("the daemon answers", async || {
            self.get("/healthz").await.is_ok_and(|(status, _)| status == 200)
        })
        .await;
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let process = self.process.as_ref().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(process), signal).unwrap();
    }

    /// Waits for the end of the process. Returns whether it ended by itself, without an error.
    async fn wait(&mut self) -> bool {
        let mut process = self.process.take().unwrap();
        let mut status = None;
        eventually("the daemon has ended", async || {
            status = process.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap().success()
    }

    async fn get(&self, path: &str) -> Result<(u16, String), Box<dyn std::error::Error>> {
        let url = format!("http://{}{path}", self.address);
        let mut response = awc::Client::default().get(url).send().await?;
        let body = response.body().limit(16 << 20).await?;
        Ok((response.status().as_u16(), String::from_utf8(body.to_vec())?))
    }

    /// Posts a result. Returns whether the daemon has confirmed it.
    async fn post(&self, session: &str) -> bool {
        let url = format!("http://{}/sessions/{session}/result?worker=wkr_1", self.address);
        let posted = awc::Client::default()
            .post(url)
            .send_body(r#"{"status": "completed", "summary": "Done."}"#);
        posted.await.is_ok_and(|response| response.status().as_u16() == 202)
    }

    /// Posts results of new sessions until the daemon confirms no more. Returns the sessions that were confirmed.
    async fn post_until_it_ends(&self, round: usize) -> BTreeSet<String> {
        let posts = (0..AT_ONCE).map(async |caller| {
            let mut confirmed = Vec::new();
            for number in 0.. {
                let session = format!("s-{round}-{caller}-{number}");
                if !self.post(&session).await {
                    break;
                }
                confirmed.push(session);
            }
            confirmed
        });
        join_all(posts).await.into_iter().flatten().collect()
    }

    /// The sessions whose status the platform has.
    fn delivered(&self) -> BTreeSet<String> {
        let requests = self.platform.requests_for("status");
        let delivered = requests.iter().filter(|request| request.answered_with == 200);
        let session = |path: &str| path.rsplit('/').nth(1).unwrap_or_default().to_owned();
        delivered.map(|request| session(&request.path)).collect()
    }

    /// Ends the daemon this way under load, again and again. Every confirmed result must be delivered, by it or by the next.
    async fn end_under_load(&mut self, signal: rustix::process::Signal) {
        let rounds = env::var("DAEMON_ROUNDS")
            .ok()
            .and_then(|rounds| rounds.parse().ok())
            .unwrap_or(2);
        let mut confirmed = BTreeSet::new();
        for round in 0..rounds {
            self.start().await;
            let expected = self.platform.requests().len() + 40 * (round % 5 + 1);
            let (posted, ()) = futures_util::join!(self.post_until_it_ends(round), async {
                self.platform.wait_for_requests(expected).await;
                self.signal(signal);
            });
            let is_orderly = self.wait().await;
            assert_eq!(is_orderly, signal == rustix::process::Signal::TERM);
            confirmed.extend(posted);
        }
        self.start().await;
        eventually("all confirmed results are delivered", async || {
            self.delivered().is_superset(&confirmed)
        })
        .await;
        println!(
            "{} results were confirmed in {rounds} rounds, and delivered",
            confirmed.len()
        );
        assert!(confirmed.len() > rounds * AT_ONCE);
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !is_so().await {
        assert!(Instant::now() < limit, "not within a minute: {what}");
        actix_rt::time::sleep(Duration::from_millis(20)).await;
    }
}

#[actix_rt::test]
async fn results_survive_a_termination_under_load() {
    Fixture::new().end_under_load(rustix::process::Signal::TERM).await;
}

#[actix_rt::test]
async fn confirmed_results_survive_a_kill_under_load() {
    Fixture::new().end_under_load(rustix::process::Signal::KILL).await;
}

#[actix_rt::test]
async fn an_operator_sees_an_outage_and_its_end() {
    let mut fixture = Fixture::new();
    fixture.start().await;
    assert_eq!(fixture.get("/readyz").await.unwrap(), (200, "[]".to_owned()));
    fixture.platform.down();
    assert!(fixture.post("s").await, "the outbox holds it");
    eventually("the call is parked", async || {
        fixture.get("/outbox").await.unwrap().1.contains("\"parked\"")
    })
    .await;
    let metrics = fixture.get("/metrics").await.unwrap().1;
    assert!(metrics.contains("result_poster_"), "{metrics}");
    fixture.platform.up().unwrap();
    eventually("the result is delivered", async || fixture.delivered().contains("s")).await;
    eventually("the outbox is empty", async || {
        fixture.get("/outbox").await.unwrap().1 == "[]"
    })
    .await;
}

#[actix_rt::test]
async fn a_registration_renews_the_credentials_of_parked_calls() {
    let mut fixture = Fixture::new();
    fixture.start().await;
    fixture.platform.set_rules(PlatformRules::new().with_token("new"));
    assert!(fixture.post("s").await);
    let rejected = async || {
        fixture
            .platform
            .requests()
            .iter()
            .any(|request| request.answered_with == 401)
    };
    eventually("the token is rejected", rejected).await;
    let url = format!("http://{}/registration", fixture.address);
    let body = serde_json::json!({"workerId": "wkr_1", "authToken": "new"});
    let registered = awc::Client::default().post(url).send_json(&body).await.unwrap();
    assert_eq!(registered.status().as_u16(), 204);
    eventually("the result is delivered", async || fixture.delivered().contains("s")).await;
}

#[actix_rt::test]
async fn a_registration_leaves_the_worker_of_a_session_alone() {
    let mut fixture = Fixture::new();
    fixture.start().await;
    let rules = PlatformRules::new().with_token("token").with_token("new");
    fixture.platform.set_rules(rules.with_owner("s", "wkr_1"));
    let url = format!("http://{}/registration", fixture.address);
    for (worker_id, token, expected) in [("wkr_2", "new", 204), ("wkr_2", "line\nbreak", 400), ("", "", 400)] {
        let body = serde_json::json!({"workerId": worker_id, "authToken": token});
        let registered = awc::Client::default().post(&url).send_json(&body).await.unwrap();
        assert_eq!(registered.status().as_u16(), expected, "{worker_id}");
    }
    assert!(fixture.post("s").await);
    eventually("the result is delivered", async || fixture.delivered().contains("s")).await;
    let request = fixture.platform.requests_for("s/status").remove(0);
    assert_eq!(request.header("authorization"), Some("Bearer new"));
}

#[actix_rt::test]
async fn a_result_that_cannot_be_sent_is_refused() {
    let mut fixture = Fixture::new();
    fixture.start().await;
    let url = format!("http://{}/sessions/s/result?worker=wkr_1", fixture.address);
    let refused = awc::Client::default().post(url).send_body("{}").await.unwrap();
    assert_eq!(refused.status().as_u16(), 400);
    assert!(!fixture.post(".").await);
}
