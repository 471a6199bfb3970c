//! The counters, gauges and histograms of a poster.

use actix::Message;
use serde::Serialize;

use super::histogram::Histogram;
use crate::label::labels;

/// Asks a [`ResultPoster`](crate::ResultPoster) for its [`PosterStats`]. Cheap enough to be sent every second.
///
/// ```
/// use result_poster::events::GetStats;
/// # use result_poster::ResultPoster;
///
/// # async fn print(poster: actix::Addr<ResultPoster>) -> Result<(), actix::MailboxError> {
/// for metric in poster.send(GetStats).await?.metrics() {
///     println!("result_poster_{} {}", metric.name, metric.value);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetStats;

impl Message for GetStats {
    type Result = PosterStats;
}

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum MetricKind {
    /// A number that only grows.
    Counter,
    /// A number that grows and shrinks.
    Gauge,
}

labels!(MetricKind, "kind of metric", {
    Counter => "counter",
    Gauge => "gauge",
});

/// One number of [`PosterStats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Metric {
    /// The name of the field of [`PosterStats`].
    pub name: &'static str,
    /// Whether the number is a counter or a gauge.
    pub kind: MetricKind,
    /// The number.
    pub value: u64,
}

macro_rules! poster_stats {
    (
        $(#[$attribute:meta])*
        pub struct PosterStats { $($(#[$doc:meta])* $name:ident: $type:ty = $kind:ident,)+ }
        histograms { $($(#[$histogram_doc:meta])* $histogram:ident,)+ }
    ) => {
        $(#[$attribute])*
        pub struct PosterStats {
            $($(#[$doc])* pub $name: $type,)+
            $($(#[$histogram_doc])* pub $histogram: Histogram,)+
        }

        impl PosterStats {
            /// All numbers that this poster has, in the order of the fields.
            pub fn metrics(&self) -> impl Iterator<Item = Metric> + use<> {
                let metric = |name, kind, value: Option<u64>| Some(Metric { name, kind, value: value? });
                [$(metric(stringify!($name), MetricKind::$kind, self.$name.into())),+].into_iter().flatten()
            }

            /// All histograms, each with the name of its field, in the order of the fields.
            pub fn histograms(&self) -> impl Iterator<Item = (&'static str, Histogram)> + use<> {
                [$((stringify!($histogram), self.$histogram)),+].into_iter()
            }
        }
    };
}

poster_stats! {
    /// The counters, gauges and histograms of a poster. Counters count from the poster's start, across restarts.
    ///
    /// The unit is the call: a result has two. Each accepted call ends as exactly one of `delivered`, `permanent`,
    /// `transient`, `parked`, `cancelled` and `internal_errors`. A replayed call is accepted again.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
    #[serde(rename_all = "camelCase")]
    #[non_exhaustive]
    pub struct PosterStats {
        /// Calls that were admitted to the queue or stored in the outbox.
        accepted: u64 = Counter,
        /// Calls that the platform acknowledged.
        delivered: u64 = Counter,
        /// Calls that ended with [`Permanent`](crate::CallError::Permanent) or
        /// [`NoCredentials`](crate::CallError::NoCredentials).
        permanent: u64 = Counter,
        /// Calls whose attempts all failed.
        transient: u64 = Counter,
        /// Calls that were parked in the outbox.
        parked: u64 = Counter,
        /// Calls that became dead letters in the outbox.
        dead_letters: u64 = Counter,
        /// Calls that were cancelled, by their token, a discard or a shutdown.
        cancelled: u64 = Counter,
        /// Calls that were refused without being accepted: invalid, overloaded, shutting down.
        refused: u64 = Counter,
        /// Calls that ended with [`CallError::Internal`](crate::CallError::Internal).
        internal_errors: u64 = Counter,
        /// Attempts that were started.
        attempts: u64 = Counter,
        /// Attempts after the first of a call.
        retries: u64 = Counter,
        /// Pauses of all session calls or of all tracker calls, after a 429, or after 503s with a `Retry-After` to two
        /// sessions or issues in a row.
        pauses: u64 = Counter,
        /// Outages of the platform: how often the outage gate of a route was closed. With an outbox only.
        outages: u64 = Counter,
        /// Fetches of credentials by the poster's own cache: one per attempt if the credentials may not be
        /// cached. `None` with [`credential_actor`](crate::OptionsBuilder::credential_actor), whose fetches are not the
        /// poster's.
        credential_fetches: Option<u64> = Counter,
        /// Restarts of the poster.
        restarts: u64 = Counter,
        /// Events that were dropped because the mailbox of a subscriber was full.
        events_dropped: u64 = Counter,
        /// Messages that hold a permit, which is for one attempt at a time.
        in_flight: u64 = Gauge,
        /// Messages that wait for their turn, for a permit, or for their next attempt.
        queued: u64 = Gauge,
        /// Messages that are queued for the end of a pause.
        paused: u64 = Gauge,
        /// Sessions and issues with a message in flight or queued.
        active_lanes: u64 = Gauge,
    }

    histograms {
        /// The time of each attempt, with its credential fetch and the requests that were sent again within it.
        attempt_time,
        /// The time from the arrival of a message until the platform acknowledged a call of it, with all waits. Calls that
        /// were parked are not in it.
        delivery_time,
        /// The time from the storing of a call until the platform acknowledged it, by the clock of the host, for calls that
        /// were parked.
        parked_time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn camel_case(name: &str) -> String {
        let mut words = name.split('_');
        let first = words.next().unwrap().to_owned();
        let capitalized = words.map(|word| {
            let (first, rest) = word.split_at(1);
            first.to_uppercase() + rest
        });
        capitalized.fold(first, |name, word| name + &word)
    }

    #[test]
    fn every_field_is_a_metric_and_serialized_in_camel_case() {
        let stats = PosterStats {
            accepted: 3,
            credential_fetches: Some(1),
            active_lanes: 2,
            ..PosterStats::default()
        };
        let json = serde_json::to_value(stats).unwrap();
        let metrics: Vec<_> = stats.metrics().collect();
        let histograms: Vec<_> = stats.histograms().collect();
        assert_eq!(json.as_object().unwrap().len(), metrics.len() + histograms.len());
        for (name, _) in histograms {
            assert_eq!(json[camel_case(name)]["count"], 0);
        }
        for metric in &metrics {
            assert_eq!(json[camel_case(metric.name)], metric.value);
        }
        let (first, last) = (metrics[0], metrics[metrics.len() - 1]);
        assert_eq!(
            (first.name, first.kind, first.value),
            ("accepted", MetricKind::Counter, 3)
        );
        assert_eq!(
            (last.name, last.kind, last.value),
            ("active_lanes", MetricKind::Gauge, 2)
        );
    }
}
