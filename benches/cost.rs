//! The cost of each step of a message, so that a regression shows where it happens. No benchmark touches the network:
//! for whole runs see `bench/`.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::disallowed_methods
)]

use std::{
    hint::black_box,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use actix_rt::{System, SystemRunner};
use criterion::{BatchSize, Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use result_poster::{
    AgentResult, Cost, Options, PostResult, SessionStatus,
    bridge::{
        Alternatives, Answer, Bound, Endpoint, LaneQueue, Limits, Permit, Platform, Redactor, Target, Ticket, Verdict,
        WireFormat, classify, start_without_network,
    },
    credentials::{RuntimeCredentials, provider_fn},
};

fn result() -> AgentResult {
    AgentResult::new(SessionStatus::Completed)
        .with_summary("Added the cache, and a test for each of its limits. ".repeat(10))
        .with_pull_request_url("https://git.example.com/team/project/pull/12")
        .with_cost(Cost::default().with_input_tokens(12_345).with_total_cost_usd(0.42))
}

fn bench_pure_steps(criterion: &mut Criterion) {
    let platform = Platform {
        base: "https://app.example.com".into(),
        organization_id: None,
        wire_format: WireFormat::default(),
        max_text_bytes: 96 * 1024,
    };
    let encode = |result| {
        let message = PostResult::new("sess-1", result);
        let calls = platform.session_calls(&Rc::from("sess-1"), &message);
        calls.iter().map(|call| call.encode("wkr_1").len()).sum::<usize>()
    };
    criterion.bench_function("encode a result", |bencher| {
        bencher.iter_batched(result, encode, BatchSize::SmallInput);
    });
    let mut group = criterion.benchmark_group("classify");
    for (name, status, body) in [
        (
            "success",
            200,
            r#"{"success":true,"data":{"id":"issue-1","state":"Finished"}}"#,
        ),
        (
            "rejection",
            404,
            r#"{"error":{"code":"NOT_FOUND","message":"no such issue"}}"#,
        ),
    ] {
        let answer = Answer {
            status,
            body: body.into(),
            redactor: Redactor::new(Some("token"), None),
            ..Answer::default()
        };
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let verdict = classify(
                    Endpoint::Proxy,
                    black_box(&answer),
                    Alternatives::default(),
                    SystemTime::UNIX_EPOCH,
                );
                matches!(verdict, Verdict::Delivered { .. })
            });
        });
    }
}

fn bench_queue(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one message through its lane, beside");
    for sessions in [1, 100, 10_000, 100_000] {
        let queue = LaneQueue::new(Limits {
            max_in_flight: sessions,
            max_queued: 0,
        });
        let admit = |session: usize| {
            let target = Target::Session(format!("session-{session}").into());
            queue.admit(target, Bound::Queue).unwrap()
        };
        let mut busy: Vec<Option<(Ticket, Permit)>> = (0..sessions).map(|session| Some(admit(session))).collect();
        let mut next = 0;
        group.bench_function(BenchmarkId::from_parameter(sessions), |bencher| {
            bencher.iter(|| {
                busy[next] = None;
                busy[next] = Some(admit(next));
                next = (next + 1) % sessions;
            });
        });
    }
}

fn bench_messages(criterion: &mut Criterion) {
    let system = System::new();
    let provider = provider_fn(async || {
        let expires_at = SystemTime::now() + Duration::from_secs(3600);
        Ok(RuntimeCredentials::new("wkr_1", "token").with_expires_at(expires_at))
    });
    let poster = system.block_on(async {
        let options = Options::builder("http://127.0.0.1:1").credential_provider(provider);
        start_without_network(options.max_in_flight(64).build().unwrap())
    });
    let mut group = criterion.benchmark_group("a result through the actor, at once");
    group.throughput(Throughput::Elements(1));
    for at_once in [1, 64, 1024] {
        group.bench_function(BenchmarkId::from_parameter(at_once), |bencher| {
            measure(bencher, &system, async |times| {
                let mut sent = 0;
                while sent < times {
                    let round = at_once.min(times - sent);
                    let replies = (0..round).map(|number| {
                        let message = PostResult::new(format!("session-{number}"), result());
                        poster.send(message)
                    });
                    for reply in futures_util::future::join_all(replies).await {
                        reply.unwrap().unwrap();
                    }
                    sent += round;
                }
            });
        });
    }
}

/// Measures this many repetitions of `work` within the system.
fn measure(bencher: &mut Bencher<'_>, system: &SystemRunner, work: impl AsyncFn(u64)) {
    bencher.iter_custom(|times| {
        let started = Instant::now();
        system.block_on(work(times));
        started.elapsed()
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = bench_pure_steps, bench_queue, bench_messages
}
criterion_main!(benches);
