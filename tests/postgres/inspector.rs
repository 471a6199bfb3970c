//! An outbox on the server as an operator sees it: the inspector, the health of a poster, and its log lines.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    sync::{Mutex, Once, PoisonError},
    thread::{self, ThreadId},
    time::Duration,
};

use actix::Addr;
use actix_rt::time::sleep;
use log::{Level, LevelFilter, Log, Metadata, Record};
use result_poster::{
    AgentResult, CallId, Options, OutboxError, PostResult, ResultPoster, SessionStatus, Shutdown,
    health::{GetHealth, OutboxHealth},
    outbox::{
        EntryQuery, EntryState, GetOutboxStats, ListEntries, OutboxEntry, OutboxInspector, OutboxOptions,
        PostgresOptions,
    },
};

use crate::{
    proxy::{Network, Proxy},
    server::{Database, Way, shared},
    tools::LIMIT,
};

const HOUR: Duration = Duration::from_secs(60 * 60);

impl Database {
    pub(crate) fn options(&self, url: &str) -> PostgresOptions {
        PostgresOptions::new(url).schema(&self.schema)
    }

    fn outbox(&self) -> OutboxOptions {
        self.outbox_at(&self.plan_without_proxy().url)
    }

    fn outbox_at(&self, url: &str) -> OutboxOptions {
        let server = self.options(url).statement_timeout(Duration::from_secs(1));
        OutboxOptions::postgres(server)
            .queue("inspected")
            .base_delay(HOUR)
            .max_delay(HOUR)
            .build()
            .unwrap()
    }

    fn inspector(&self) -> OutboxInspector {
        OutboxInspector::of(&self.outbox()).unwrap()
    }
}

/// A poster whose platform can't be reached: all calls are parked.
fn start(outbox: OutboxOptions) -> Addr<ResultPoster> {
    let options = Options::builder("http://127.0.0.1:1")
        .without_proxy()
        .worker_id("wkr_1")
        .auth_token("token")
        .max_attempts(1)
        .outbox(outbox);
    ResultPoster::start_supervised(options.build().unwrap())
}

fn result(session: &str) -> PostResult {
    PostResult::new(session, AgentResult::new(SessionStatus::Completed).with_summary("done"))
}

async fn stop(poster: Addr<ResultPoster>) {
    let report = poster.send(Shutdown::within(LIMIT)).await.unwrap();
    assert!(!report.outbox_is_open, "{report:?}");
}

/// Parks the two calls of a result for each session.
async fn park(database: &Database, sessions: &[&str]) {
    let poster = start(database.outbox());
    for session in sessions {
        let error = poster.send(result(session)).await.unwrap().unwrap_err();
        assert!(error.parked().is_some(), "{error:?}");
    }
    stop(poster).await;
}

fn all(inspector: &OutboxInspector) -> Vec<OutboxEntry> {
    inspector.list(EntryQuery::all()).unwrap()
}

fn ids(entries: &[OutboxEntry]) -> Vec<CallId> {
    entries.iter().map(|entry| entry.id).collect()
}

/// Each call as its kind and target.
fn calls(entries: &[OutboxEntry]) -> Vec<String> {
    entries
        .iter()
        .map(|entry| format!("{} {}", entry.kind, entry.target_id))
        .collect()
}

#[actix_rt::test]
async fn an_operator_lists_requeues_and_discards_calls() {
    for way in [Way::Direct, Way::PgBouncer] {
        let Some(database) = Database::new(way, "inspector") else {
            return;
        };
        let _shared = shared();
        park(&database, &["a", "b", "c"]).await;
        let inspector = database.inspector();

        let entries = all(&inspector);
        assert_eq!(
            calls(&entries),
            [
                "completion a",
                "status a",
                "completion b",
                "status b",
                "completion c",
                "status c"
            ]
        );
        assert!(
            entries
                .iter()
                .all(|entry| entry.state == EntryState::Parked && entry.queue == "inspected")
        );
        assert_eq!(inspector.get(entries[3].id).unwrap().as_ref(), Some(&entries[3]));
        let page = inspector.list(EntryQuery::parked().after(entries[1].id).limit(3).without_bodies());
        let page = page.unwrap();
        assert_eq!(ids(&page), ids(&entries[2..5]));
        assert!(page.iter().all(|entry| entry.body.is_empty()) && !entries[2].body.is_empty());
        assert_eq!(
            calls(&inspector.list(EntryQuery::all().target("b")).unwrap()),
            ["completion b", "status b"]
        );
        assert_eq!(inspector.list(EntryQuery::all().older_than(HOUR)).unwrap(), []);
        assert_eq!(inspector.list(EntryQuery::dead_letters()).unwrap(), []);

        let stats = inspector.stats().unwrap();
        assert_eq!(
            (stats.live, stats.parked, stats.dead_letters, stats.in_other_queues),
            (0, 6, 0, 0)
        );
        assert!(
            stats.bytes > 0 && stats.oldest_age.is_some_and(|age| age < LIMIT),
            "{stats:?}"
        );

        inspector.requeue(entries[0].id).unwrap();
        let requeued = inspector.get(entries[0].id).unwrap().unwrap();
        assert_eq!((requeued.reason.as_deref(), requeued.attempts), (Some("requeued"), 0));
        assert_eq!(inspector.discard_each(&ids(&entries[..3])).unwrap(), 3);
        assert_eq!(inspector.discard(entries[0].id), Err(OutboxError::NoSuchCall));
        assert_eq!(inspector.requeue(entries[1].id), Err(OutboxError::NoSuchCall));
        assert_eq!(ids(&all(&inspector)), ids(&entries[3..]));
        assert_eq!(database.count("lanes"), 2);
    }
}

#[actix_rt::test]
async fn a_poster_shows_the_calls_of_its_queue() {
    let Some(database) = Database::new(Way::Direct, "lists of a poster") else {
        return;
    };
    let _shared = shared();
    park(&database, &["a", "b"]).await;
    let other = OutboxOptions::postgres(database.options(&database.plan_without_proxy().url)).queue("other");
    let poster = start(other.build().unwrap());
    assert_eq!(
        poster.send(ListEntries::new(EntryQuery::all())).await.unwrap().unwrap(),
        []
    );
    let stats = poster.send(GetOutboxStats).await.unwrap().unwrap();
    assert_eq!((stats.parked, stats.in_other_queues), (0, 4));
    stop(poster).await;
}

#[actix_rt::test]
async fn calls_move_from_a_server_to_a_file_and_back() {
    let Some(database) = Database::new(Way::Direct, "export and import") else {
        return;
    };
    let _shared = shared();
    park(&database, &["a", "b"]).await;
    let on_server = database.inspector();
    let entries = all(&on_server);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let file = OutboxOptions::new(&path);
    drop(
        Options::builder("http://127.0.0.1:1")
            .outbox(file.clone())
            .build()
            .unwrap(),
    );
    let in_file = OutboxInspector::of(&file).unwrap();
    let records = on_server.export(&ids(&entries)).unwrap();
    let imported = in_file.import(records.clone()).unwrap();
    assert_eq!((imported.stored, imported.skipped), (4, 0));
    assert_eq!(calls(&all(&in_file)), calls(&entries));

    let imported = on_server.import(records).unwrap();
    assert_eq!((imported.stored, imported.skipped), (0, 4));
    assert_eq!(on_server.discard_each(&ids(&entries[1..])).unwrap(), 3);
    let back = in_file.export(&ids(&entries)).unwrap();
    let imported = on_server.import(back.clone()).unwrap();
    assert_eq!((imported.stored, imported.skipped), (3, 1));
    assert_eq!(calls(&all(&on_server)), calls(&entries));
    assert_eq!(on_server.export(&ids(&entries)).unwrap().len(), back.len());
    let places = database.query("SELECT target_id, kind FROM @calls ORDER BY lane, seq");
    let places: BTreeSet<_> = places.chunks(2).map(|lane| format!("{lane:?}")).collect();
    assert_eq!(
        places.into_iter().collect::<Vec<_>>(),
        [
            r#"[["a", "completion"], ["a", "status"]]"#,
            r#"[["b", "completion"], ["b", "status"]]"#
        ]
    );
}

#[actix_rt::test]
async fn an_outbox_that_is_dropped_is_created_again() {
    let Some(database) = Database::new(Way::Direct, "dropped schema") else {
        return;
    };
    let _shared = shared();
    let poster = start(database.outbox());
    let error = poster.send(result("before")).await.unwrap().unwrap_err();
    assert!(error.parked().is_some(), "{error:?}");
    database.query(&format!("DROP SCHEMA {} CASCADE", database.schema));
    let mut is_stored = false;
    for number in 0..50 {
        let reply = poster.send(result(&format!("after-{number}"))).await.unwrap();
        is_stored = reply.unwrap_err().parked().is_some();
        if is_stored {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert!(is_stored);
    stop(poster).await;
    let left = calls(&all(&database.inspector()));
    assert!(left.iter().all(|call| call.contains(" after-")), "{left:?}");
    assert!(left.len() >= 2, "{left:?}");
}

#[actix_rt::test]
async fn a_message_in_doubt_is_not_said_to_be_unsent() {
    let Some(database) = Database::new(Way::Direct, "message in doubt") else {
        return;
    };
    let _shared = shared();
    let proxy = Proxy::start(&database.route.address);
    let poster = start(database.outbox_at(&database.route.url_by(proxy.port)));
    let post = async |run| poster.send(result("a").with_run(run)).await.unwrap().unwrap_err();
    let error = post(1).await;
    assert!(error.parked().is_some(), "{error:?}");
    // It would overtake the first one, so that it is not sent; but it is in the store.
    proxy.silence_behind_insert();
    let error = post(2).await;
    assert_eq!(database.count("calls"), 4);
    assert!(error.may_have_been_delivered(), "{error:?}");
    assert!(error.parked().is_none(), "{error:?}");
    proxy.set(Network::Works);
    proxy.break_connections();
    // The next connection removes it, since its caller sends it again.
    let mut is_stored = false;
    for _ in 0..50 {
        is_stored = post(3).await.parked().is_some();
        if is_stored {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert!(is_stored);
    assert_eq!(database.count("calls"), 4);
    stop(poster).await;
}

#[test]
fn an_outbox_that_can_not_be_inspected_says_why() {
    let Some(database) = Database::new(Way::Direct, "errors of the inspector") else {
        return;
    };
    let _shared = shared();
    let url = database.plan_without_proxy().url;
    let inspect = |url: &str| {
        let options = OutboxOptions::postgres(database.options(url)).build().unwrap();
        let refused = OutboxInspector::of(&options).map(drop).unwrap_err();
        let build = Options::builder("http://127.0.0.1:1").outbox(options).build();
        (refused, build.map(drop).map_err(|error| texts(&error)))
    };
    let (login, address) = url.split_once('@').unwrap();
    let (user, _) = login.rsplit_once(':').unwrap();
    let with_password = |password: &str| format!("{user}:{password}@{address}");

    let (refused, build) = inspect(&with_password("s3cret"));
    assert!(matches!(refused, OutboxError::Denied(_)), "{refused:?}");
    let text = build.unwrap_err() + &texts(&refused);
    assert!(
        text.contains("the server denies access") && !text.contains("s3cret"),
        "{text}"
    );

    let (refused, build) = inspect("postgres://u@127.0.0.1:1/d");
    assert!(matches!(refused, OutboxError::Unreachable(_)), "{refused:?}");
    assert_eq!(build, Ok(()), "the poster tries again");

    let (refused, build) = inspect(&url);
    assert_eq!(refused, OutboxError::NotFound);
    assert_eq!(build, Ok(()));
    database.query("UPDATE @migrations SET version = version + 1");
    let (refused, build) = inspect(&url);
    assert_eq!(refused, OutboxError::UnsupportedVersion);
    assert!(build.unwrap_err().contains("was made by another version"));

    database.query(&format!(
        "DROP SCHEMA {0} CASCADE; CREATE SCHEMA {0}; CREATE TABLE @other (a int)",
        database.schema
    ));
    let (refused, build) = inspect(&url);
    assert_eq!(refused, OutboxError::NotAnOutbox);
    assert!(build.unwrap_err().contains("is not an outbox"));
    assert_eq!(database.count("other"), 0);
}

/// An error and its sources.
pub(crate) fn texts(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

/// The lines about outboxes that fail and work again, each with its thread: a test runs its poster on its own.
static LINES: Mutex<Vec<(ThreadId, String)>> = Mutex::new(Vec::new());

struct Collector;

impl Log for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().ends_with("outbox::failures")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) && record.level() <= Level::Info {
            LINES
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((thread::current().id(), record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

async fn outbox_health(poster: &Addr<ResultPoster>) -> OutboxHealth {
    poster.send(GetHealth).await.unwrap().outbox.unwrap()
}

async fn wait_for_health(poster: &Addr<ResultPoster>, is_expected: impl Fn(&OutboxHealth) -> bool) -> OutboxHealth {
    let limit = LIMIT.as_millis() / 50;
    for _ in 0..limit {
        let health = outbox_health(poster).await;
        if is_expected(&health) {
            return health;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("the health stays {:?}", outbox_health(poster).await);
}

#[actix_rt::test]
async fn an_idle_poster_notices_an_outage_of_the_server_and_its_end() {
    static COLLECT: Once = Once::new();
    let Some(database) = Database::new(Way::Direct, "health") else {
        return;
    };
    let _shared = shared();
    COLLECT.call_once(|| {
        log::set_logger(&Collector).unwrap();
        log::set_max_level(LevelFilter::Info);
    });
    let proxy = Proxy::start(&database.route.address);
    let poster = start(database.outbox_at(&database.route.url_by(proxy.port)));
    wait_for_health(&poster, OutboxHealth::is_writable).await;

    proxy.set(Network::Refuses);
    let health = wait_for_health(&poster, |health| health.error.is_some()).await;
    assert!(matches!(health.error, Some(OutboxError::Unreachable(_))), "{health:?}");
    assert!(!health.is_writable());
    let problems = poster.send(GetHealth).await.unwrap().problems();
    let is_named = |problem: &String| problem.starts_with("the outbox fails: the server can't be reached: ");
    assert!(problems.iter().any(is_named), "{problems:?}");
    // A server that does not answer is the same trouble.
    proxy.set(Network::Silent);
    sleep(Duration::from_secs(4)).await;

    proxy.set(Network::Works);
    proxy.break_connections();
    wait_for_health(&poster, OutboxHealth::is_writable).await;
    stop(poster).await;
    let all = LINES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let own = |(thread, line)| (thread == thread::current().id()).then_some(line);
    let lines: Vec<String> = all.into_iter().filter_map(own).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains(": the server can't be reached: "), "{lines:?}");
    assert_eq!(lines[1], "the outbox works again");
}
