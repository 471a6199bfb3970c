//! A histogram of durations with fixed buckets.

use std::time::Duration;

use serde::{Serialize, Serializer, ser::SerializeStruct as _};

/// How many durations fell into each of a fixed set of buckets. In JSON, it has `count`, `sumSeconds`, and `buckets`: a
/// list of `{"leSeconds": …, "count": …}`, each of which counts the durations up to its bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How many durations are in each bucket, and not in the one before it. The last bucket has no bound.
    counts: [u64; BUCKETS],
    sum: Duration,
}

/// The number of buckets, with the one that has no bound.
const BUCKETS: usize = Histogram::BOUNDS.len() + 1;

impl Histogram {
    /// The upper bounds of the buckets, in seconds: from 5 ms to 7 days. All histograms of the crate have these.
    pub const BOUNDS: [f64; 19] = [
        0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 3_600.0, 21_600.0,
        86_400.0, 604_800.0,
    ];

    pub(super) fn record(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let index = Self::BOUNDS.iter().position(|bound| seconds <= *bound);
        if let Some(count) = self.counts.get_mut(index.unwrap_or(Self::BOUNDS.len())) {
            *count = count.saturating_add(1);
        }
        self.sum = self.sum.saturating_add(duration);
    }

    /// How many durations were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The sum of all durations.
    #[must_use]
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// Each bound in seconds, and how many durations were not longer. Longer ones are in [`count`](Self::count) only.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> + use<> {
        let running = self.counts.into_iter().scan(0_u64, |sum, count| {
            *sum = sum.saturating_add(count);
            Some(*sum)
        });
        Self::BOUNDS.into_iter().zip(running)
    }
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Bucket {
            le_seconds: f64,
            count: u64,
        }
        let buckets = self
            .buckets()
            .map(|(le_seconds, count)| Bucket { le_seconds, count })
            .collect::<Vec<_>>();
        let mut histogram = serializer.serialize_struct("Histogram", 3)?;
        histogram.serialize_field("count", &self.count())?;
        histogram.serialize_field("sumSeconds", &self.sum.as_secs_f64())?;
        histogram.serialize_field("buckets", &buckets)?;
        histogram.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(milliseconds: impl IntoIterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::default();
        for duration in milliseconds {
            histogram.record(Duration::from_millis(duration));
        }
        histogram
    }

    #[test]
    fn a_duration_counts_in_each_bucket_whose_bound_it_does_not_exceed() {
        let histogram = histogram([0, 5, 6, 1_000, 1_001]);
        let buckets: Vec<_> = histogram.buckets().collect();
        assert_eq!(&buckets[..3], [(0.005, 2), (0.01, 3), (0.025, 3)]);
        assert_eq!(&buckets[7..10], [(1.0, 4), (2.5, 5), (5.0, 5)]);
        assert_eq!(histogram.sum(), Duration::from_millis(2_012));
    }

    #[test]
    fn a_duration_above_the_last_bound_is_counted() {
        let day = 24 * 60 * 60 * 1000;
        let histogram = histogram([7 * day, 8 * day]);
        assert_eq!((histogram.buckets().last().unwrap().1, histogram.count()), (1, 2));
    }

    #[test]
    fn the_bounds_ascend() {
        assert!(Histogram::BOUNDS.is_sorted_by(|first, second| first < second));
    }

    #[test]
    fn a_histogram_is_serialized_with_its_bounds_in_seconds() {
        let json = serde_json::to_value(histogram([20, 500])).unwrap();
        assert_eq!((&json["count"], &json["sumSeconds"]), (&2.into(), &0.52.into()));
        assert_eq!(json["buckets"][2], serde_json::json!({"leSeconds": 0.025, "count": 1}));
        assert_eq!(json["buckets"].as_array().unwrap().len(), Histogram::BOUNDS.len());
    }
}
