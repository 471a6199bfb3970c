//! Outages of the platform, of names and of credentials: they cost their length, and nothing more.

use std::{
    collections::BTreeMap,
    fs,
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    child::{Plan, Process},
    figures::{cpu_time, print},
    platform::Platform,
    shim::Shim,
    tools::{Folder, LIMIT, is_missing, setting, shared, wait_until, wait_within},
};

/// After an outage, a first call arrives within this time. A probe is made every 2 s or a little later.
const FIRST_WITHIN: Duration = Duration::from_secs(10);

fn results() -> u64 {
    setting("ATTACK_OUTAGE_RESULTS", 40)
}

/// Long enough for several probes.
fn length() -> Duration {
    Duration::from_secs(setting("ATTACK_OUTAGE_SECONDS", 5))
}

fn timeout() -> Duration {
    Duration::from_millis(setting("ATTACK_OUTAGE_TIMEOUT_MS", 2_000))
}

/// A process with the default delays of parked calls. The few that fail before a gate closes wait for theirs.
fn plan(platform: &Platform, folder: &Folder) -> Plan {
    Plan {
        max_in_flight: 64,
        delay_ms: 5_000,
        timeout_ms: Some(timeout().as_millis() as u64),
        ..Plan::new("outage", platform, &folder.outbox())
    }
}

/// Posts results during an outage, ends it, and waits for their delivery.
fn outlast(attack: &str, process: &mut Process, platform: &Arc<Platform>, begin: impl FnOnce(), end: impl FnOnce()) {
    let post_all = format!("deliver {}", results());
    let began = Instant::now();
    process.does(&post_all);
    wait_until("delivery before the outage", || {
        platform.missing(&process.durable()).is_empty()
    });
    let live = began.elapsed();
    begin();
    let (before, lines, cpu) = (
        platform.acknowledged().len(),
        process.lines("warned").len(),
        cpu_time(process.id()),
    );
    let requests = platform.count();
    let began = Instant::now();
    // Each is answered once it is parked. At a silent platform, the first attempts close the gate when their time is over,
    // and the last ones began just before that.
    process.does_within(2 * timeout() + LIMIT, &post_all);
    let parked = began.elapsed();
    sleep(length().saturating_sub(began.elapsed()));
    process.does("post 1");
    assert_eq!(process.lines("unkept"), Vec::<String>::new());
    assert_eq!(platform.acknowledged().len(), before);
    let (requests, lines) = (platform.count() - requests, process.lines("warned").len() - lines);
    let cpu = cpu_time(process.id()) - cpu;
    end();
    let ended = Instant::now();
    let first = wait_within(FIRST_WITHIN, "a first delivery", || {
        platform.acknowledged().len() > before
    });
    wait_until("delivery of all", || platform.missing(&process.durable()).is_empty());
    let all = ended.elapsed();
    print(
        attack,
        format!(
            "{} results, delivered within {live:?} before: parked after {parked:?}, first after {first:?}, all after {all:?}; \
             meanwhile {requests} requests, {lines} lines in the log, {cpu:?} of processor time",
            results()
        ),
    );
    // What is in flight when the outage is found fails, too, and so does what takes its permits at once: two lines each.
    assert!(requests <= 2 * 64 + 20, "{requests} requests");
    assert!((1..=2 * (2 * 64 + 20)).contains(&lines), "{lines} lines in the log");
    platform.assert_no_live_double();
    platform.assert_keys();
}

#[test]
fn an_outage_of_names_ends_with_it() {
    let attack = "an outage of names";
    if is_missing("cc", attack) {
        return;
    }
    let _shared = shared();
    let (folder, platform) = (Folder::new(), Platform::start());
    let shim = Shim::new(&folder.outbox());
    let plan = Plan {
        url: format!("http://platform.test:{}", platform.port),
        ..plan(&platform, &folder)
    };
    let mut process = Process::start_with(&plan, shim.command());
    outlast(
        attack,
        &mut process,
        &platform,
        || {
            shim.has_no_names(true);
            // What is connected already needs no name.
            platform.set_down(true);
        },
        || {
            platform.set_down(false);
            shim.has_no_names(false);
        },
    );
}

#[test]
fn a_silent_platform_is_found_again() {
    let attack = "a silent platform";
    let _shared = shared();
    let (folder, platform) = (Folder::new(), Platform::start());
    let mut process = Process::start(&plan(&platform, &folder));
    outlast(
        attack,
        &mut process,
        &platform,
        || platform.set_silent(true),
        || platform.set_silent(false),
    );
}

#[test]
fn lost_credentials_are_found_again() {
    let attack = "lost credentials";
    let _shared = shared();
    let (folder, platform) = (Folder::new(), Platform::start());
    let token_file = folder.path.join("token.json");
    let write =
        |token: &str| fs::write(&token_file, format!(r#"{{"workerId":"w","runtimeToken":"{token}"}}"#)).unwrap();
    write("first");
    let mut process = Process::start(&Plan {
        token_file: Some(token_file.clone()),
        ..plan(&platform, &folder)
    });
    outlast(
        attack,
        &mut process,
        &platform,
        || {
            platform.set_rejecting(true);
            fs::remove_file(&token_file).unwrap();
        },
        || {
            platform.set_rejecting(false);
            write("second");
        },
    );
}

#[test]
fn a_platform_that_comes_and_goes_starves_nobody() {
    let _shared = shared();
    let (folder, platform) = (Folder::new(), Platform::start());
    let length = Duration::from_secs(setting("ATTACK_FLAP_SECONDS", 5));
    let mut process = Process::start(&plan(&platform, &folder));
    let mut delivered = vec![platform.acknowledged().len()];
    for _ in 0..setting("ATTACK_FLAPS", 2) {
        platform.set_down(true);
        process.command(&format!("post {}", results()));
        sleep(length);
        platform.set_down(false);
        sleep(length);
        delivered.push(platform.acknowledged().len());
    }
    let took = wait_until("delivery of all", || {
        let durable = process.durable();
        !durable.is_empty() && platform.missing(&durable).is_empty()
    });
    print(
        "a flapping platform",
        format!("delivered {delivered:?}, the rest within {took:?}"),
    );
    assert!(delivered.is_sorted_by(|before, after| before < after), "{delivered:?}");
    platform.assert_no_live_double();
}

#[test]
fn a_limiter_rejects_no_call_more_than_twice() {
    let _shared = shared();
    let (folder, platform) = (Folder::new(), Platform::start());
    platform.set_limit(10);
    let mut process = Process::start(&Plan {
        delay_ms: 1_000,
        ..plan(&platform, &folder)
    });
    process.does(&format!("post {}", results()));
    wait_within(Duration::from_secs(60 + results()), "delivery of all", || {
        platform.missing(&process.durable()).is_empty()
    });
    let mut limited = BTreeMap::new();
    for arrival in platform.arrivals() {
        *limited.entry(arrival.key).or_insert(0) += u32::from(arrival.status == 429);
    }
    let (requests, all) = (platform.count(), limited.values().sum::<u32>());
    print("a limiter", format!("{all} of {requests} requests were answered 429"));
    assert!(limited.values().all(|count| *count <= 2), "{limited:?}");
    // The first burst finds the limit.
    assert!(u64::from(all) <= 64 + requests as u64 / 20, "{all} of {requests}");
}
