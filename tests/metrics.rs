//! The metrics of the feature `metrics`, as Prometheus gets them, and their documentation.
//!
//! A test binary of its own: the recorder is the process's.

#![cfg(test)]
#![expect(clippy::string_slice, reason = "a panic fails the test")]

use std::{collections::BTreeSet, time::Duration};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use result_poster::{
    AgentResult, CreateComment, Options, PostResult, ResultPoster, SessionStatus, Shutdown,
    credentials::{RuntimeCredentials, provider_fn},
    events::{GetStats, Histogram, MetricKind},
    outbox::OutboxOptions,
    testing::{FakePlatform, Reply},
};

/// The documentation of the metrics.
const DOCS: &str = include_str!("../src/docs/operations.md");

fn install() -> PrometheusHandle {
    let buckets = Matcher::Suffix("_seconds".to_owned());
    let builder = PrometheusBuilder::new().set_buckets_for_metric(buckets, &Histogram::BOUNDS);
    builder.unwrap().install_recorder().unwrap()
}

/// The names in a Prometheus text, without the suffixes of a histogram's series.
fn rendered_names(text: &str) -> BTreeSet<&str> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|line| line.split(' ').next()).collect()
}

/// The names in the tables of the documentation's section about metrics, with their labels.
fn documented() -> Vec<(&'static str, &'static str)> {
    let section = &DOCS[DOCS.find("\n# Metrics\n").unwrap()..];
    let section = &section[..section[1..].find("\n# ").unwrap()];
    let rows = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `result_poster_"));
    rows.map(|row| {
        let mut cells = row.split('|');
        let mut cell = || cells.next().unwrap().trim_matches(['`', ' ']);
        (cell(), cell())
    })
    .collect()
}

/// The value of a series, as the text has it.
fn value(text: &str, series: &str) -> Option<f64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    line.parse().ok()
}

async fn run(folder: &std::path::Path, handle: &PrometheusHandle) -> String {
    let platform = FakePlatform::start().unwrap();
    platform.script(
        "parked/completion",
        [Reply::status(503), Reply::status(503), Reply::ok()],
    );
    platform.script("rejected/completion", [Reply::status(404)]);
    let delay = Duration::from_millis(20);
    let outbox = OutboxOptions::builder(folder.join("outbox.db"))
        .base_delay(delay)
        .max_delay(delay);
    let options = Options::builder(platform.url())
        .without_proxy()
        .credential_provider(provider_fn(async || Ok(RuntimeCredentials::new("w", "t"))))
        .max_attempts(2)
        .base_delay(Duration::ZERO)
        .outbox(outbox.build().unwrap())
        .build()
        .unwrap();
    let poster = ResultPoster::start_supervised(options);
    let result = || AgentResult::new(SessionStatus::Completed);
    for session in ["fine", "parked", "rejected", ""] {
        let _ = poster.send(PostResult::new(session, result())).await.unwrap();
    }
    poster.send(CreateComment::new("i", "x")).await.unwrap().unwrap();
    // The gauges are set every five seconds, and show the count of the outbox from before.
    for _ in 0..2_000 {
        let text = handle.render();
        let delivered = poster.send(GetStats).await.unwrap().delivered == 6;
        if delivered && value(&text, "result_poster_outbox_dead_letters") == Some(1.0) {
            break;
        }
        actix_rt::time::sleep(Duration::from_millis(20)).await;
    }
    let stats = poster.send(GetStats).await.unwrap();
    let text = handle.render();
    // Each number of the statistics is the sum of its series.
    for metric in stats.metrics().filter(|metric| metric.kind == MetricKind::Counter) {
        let name = format!("result_poster_{}_total", metric.name);
        let series = text
            .lines()
            .filter(|line| line.starts_with(&name) && !line.starts_with('#'));
        let sum: f64 = series
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum();
        if metric.name != "credential_fetches" {
            assert_eq!(sum, metric.value as f64, "{name}\n{text}");
        }
    }
    for (name, histogram) in stats.histograms() {
        let name = format!("result_poster_{name}_seconds_count");
        let series = text.lines().filter(|line| line.starts_with(&name));
        let sum: f64 = series
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum();
        assert_eq!(sum, histogram.count() as f64, "{name}\n{text}");
    }
    poster.send(Shutdown::within(Duration::from_secs(10))).await.unwrap();
    text
}

#[actix_rt::test]
async fn every_metric_of_a_run_is_documented_with_its_labels_and_every_documented_one_is_there() {
    let handle = install();
    let folder = tempfile::tempdir().unwrap();
    let text = run(folder.path(), &handle).await;
    let documented = documented();
    let names: BTreeSet<_> = documented
        .iter()
        .map(|(name, _)| format!("result_poster_{name}"))
        .collect();
    let names: BTreeSet<_> = names.iter().map(String::as_str).collect();
    for name in rendered_names(&text) {
        assert!(names.contains(name), "{name} is not documented");
    }
    // Those that this run has no reason to report.
    let absent = [
        "cancelled_total",
        "internal_errors_total",
        "pauses_total",
        "outages_total",
        "restarts_total",
        "events_dropped_total",
        "transient_total",
    ];
    for (name, label) in documented {
        let full = format!("result_poster_{name}");
        if absent.contains(&name) {
            continue;
        }
        let series: Vec<_> = text
            .lines()
            .filter(|line| {
                line.strip_prefix(&full)
                    .is_some_and(|rest| rest.starts_with(['{', ' ', '_']))
            })
            .filter(|line| {
                let rest = &line[full.len()..];
                ["{", " ", "_bucket", "_sum", "_count"]
                    .iter()
                    .any(|start| rest.starts_with(start))
            })
            .collect();
        assert!(!series.is_empty(), "{full} is documented, and not reported\n{text}");
        for line in series {
            let has_label = line.contains(&format!("{label}=\""));
            assert_eq!(
                has_label,
                !label.is_empty(),
                "{line}: the documented label is {label:?}"
            );
        }
    }
    assert_eq!(
        value(&text, r#"result_poster_delivered_total{kind="completion"}"#),
        Some(2.0)
    );
    assert_eq!(
        value(&text, r#"result_poster_dead_letters_total{kind="completion"}"#),
        Some(1.0)
    );
    assert_eq!(
        value(
            &text,
            r#"result_poster_parked_time_seconds_bucket{kind="completion",le="+Inf"}"#
        ),
        Some(1.0)
    );
    assert_eq!(value(&text, r#"result_poster_gate_open{route="tracker"}"#), Some(1.0));
}
