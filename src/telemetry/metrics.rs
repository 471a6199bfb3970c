//! The names of the metrics, and the way to the `metrics` facade. Without the feature, nothing is reported.
//!
//! The names are `result_poster_`, then the name of the field of [`PosterStats`](super::PosterStats), then `_total` for a
//! counter and `_seconds` for a histogram. Names and labels are a part of the interface: `docs::operations` lists them.

use crate::call::{CallKind, PlatformRoute};

pub(super) use self::facade::{count, record};
#[cfg(feature = "metrics")]
pub(crate) use self::facade::{count_more, gauge};

/// The kind of a call, as [`CallKind`] writes it.
#[cfg(feature = "metrics")]
const KIND: &str = "kind";
/// A route of the platform, as [`PlatformRoute`] writes it.
#[cfg(feature = "metrics")]
const ROUTE: &str = "route";

macro_rules! counter_name {
    ($field:ident) => {
        concat!("result_poster_", stringify!($field), "_total")
    };
}

#[cfg(feature = "metrics")]
macro_rules! gauge_name {
    ($name:ident) => {
        concat!("result_poster_", stringify!($name))
    };
}

macro_rules! histogram_name {
    ($field:ident) => {
        concat!("result_poster_", stringify!($field), "_seconds")
    };
}

/// Counts in the statistics of the telemetry, and in the metrics.
macro_rules! count_in {
    ($telemetry:expr, $counter:ident, $label:expr) => {{
        {
            let counter = &mut $telemetry.stats.borrow_mut().$counter;
            *counter = counter.saturating_add(1);
        }
        metrics::count(metrics::counter_name!($counter), $label);
    }};
}

/// Records a duration in the statistics of the telemetry, and in the metrics.
macro_rules! record_in {
    ($telemetry:expr, $histogram:ident, $label:expr, $duration:expr) => {{
        $telemetry.stats.borrow_mut().$histogram.record($duration);
        metrics::record(metrics::histogram_name!($histogram), $label, $duration);
    }};
}

pub(crate) use counter_name;
#[cfg(feature = "metrics")]
pub(crate) use gauge_name;
pub(super) use {count_in, histogram_name, record_in};

/// The label of a metric, if it has one.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "only metrics have labels"))]
pub(crate) enum Label {
    None,
    Kind(CallKind),
    Route(PlatformRoute),
}

#[cfg(feature = "metrics")]
mod facade {
    use std::time::Duration;

    use super::{KIND, Label, ROUTE};
    use crate::util::ignore_panic;

    fn labels(label: Label) -> Vec<metrics::Label> {
        match label {
            Label::None => Vec::new(),
            Label::Kind(kind) => vec![metrics::Label::from_static_parts(KIND, kind.as_str())],
            Label::Route(route) => vec![metrics::Label::from_static_parts(ROUTE, route.as_str())],
        }
    }

    pub(crate) fn count(name: &'static str, label: Label) {
        count_more(name, label, 1);
    }

    pub(crate) fn count_more(name: &'static str, label: Label, more: u64) {
        // A faulty recorder must not fail a call.
        ignore_panic(|| metrics::counter!(name, labels(label)).increment(more));
    }

    pub(crate) fn record(name: &'static str, label: Label, duration: Duration) {
        ignore_panic(|| metrics::histogram!(name, labels(label)).record(duration));
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub(crate) fn gauge(name: impl Into<metrics::KeyName>, label: Label, value: u64) {
        let name = name.into();
        ignore_panic(|| metrics::gauge!(name, labels(label)).set(value as f64));
    }
}

#[cfg(not(feature = "metrics"))]
mod facade {
    use std::time::Duration;

    use super::Label;

    pub(crate) fn count(_: &'static str, _: Label) {}

    pub(crate) fn record(_: &'static str, _: Label, _: Duration) {}
}
