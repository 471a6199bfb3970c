//! What each step of a message costs, so that a regression is seen where it happens. Nothing here touches the network: for
//! a whole run there is the example `load`.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods
)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use actix_rt::{System, SystemRunner};
use criterion::{BatchSize, Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use result_poster::{
    AgentResult, Cost, Options, PostResult, ResultPoster, SessionStatus,
    benching::{BusyLanes, CachedCredentials, encode, is_delivered, without_network},
};

fn result() -> AgentResult {
    AgentResult::new(SessionStatus::Completed)
        .with_summary("Added the cache, and a test for each of its limits. ".repeat(10))
        .with_pull_request_url("https://git.example.com/team/project/pull/12")
        .with_cost(Cost::default().with_input_tokens(12_345).with_total_cost_usd(0.42))
}

fn pure(criterion: &mut Criterion) {
    criterion.bench_function("encode a result", |bencher| {
        bencher.iter_batched(result, |result| encode("sess-1", result), BatchSize::SmallInput);
    });
    let mut group = criterion.benchmark_group("classify");
    for (name, status, body) in [
        (
            "success",
            200,
            r#"{"success":true,"data":{"id":"issue-1","state":"Finished"}}"#,
        ),
        (
            "refusal",
            404,
            r#"{"error":{"code":"NOT_FOUND","message":"no such issue"}}"#,
        ),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| is_delivered(status, black_box(body.as_bytes())));
        });
    }
}

fn lanes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a place in a lane, of");
    for sessions in [1, 100, 10_000, 100_000] {
        let mut lanes = BusyLanes::new(sessions);
        group.bench_function(BenchmarkId::from_parameter(sessions), |bencher| {
            bencher.iter(|| lanes.pass());
        });
    }
}

fn credentials(criterion: &mut Criterion) {
    let system = System::new();
    let credentials = CachedCredentials::default();
    criterion.bench_function("cached credentials", |bencher| {
        timed(bencher, &system, async |times| {
            for _ in 0..times {
                black_box(credentials.get().await);
            }
        });
    });
}

fn messages(criterion: &mut Criterion) {
    let system = System::new();
    let poster = system.block_on(async {
        let options = Options::builder("http://127.0.0.1:1")
            .max_in_flight(64)
            .build()
            .unwrap();
        ResultPoster::start_supervised(without_network(options))
    });
    let mut group = criterion.benchmark_group("a result through the actor, at once");
    group.throughput(Throughput::Elements(1));
    for at_once in [1, 64, 1024] {
        group.bench_function(BenchmarkId::from_parameter(at_once), |bencher| {
            timed(bencher, &system, async |times| {
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

/// Measures so many times of it, within the system.
fn timed(bencher: &mut Bencher<'_>, system: &SystemRunner, work: impl AsyncFn(u64)) {
    bencher.iter_custom(|times| {
        let started = Instant::now();
        system.block_on(work(times));
        started.elapsed()
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = pure, lanes, credentials, messages
}
criterion_main!(benches);
