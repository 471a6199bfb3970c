//! The health of an outbox.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{entry::OutboxStats, owner::Outbox};
use crate::{error::OutboxError, util::chain};

/// The health of an outbox. In JSON, its names are in camel case, and a duration is a number of seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct OutboxHealth {
    /// Why the outbox can't be written or read at present. `None` if it can.
    #[serde(serialize_with = "as_text")]
    pub error: Option<OutboxError>,
    /// The content, when it was counted last. `None` until it was. A large outbox takes long to count, and is counted less
    /// often.
    pub stats: Option<OutboxStats>,
    /// How long ago the content was counted.
    #[serde(rename = "countedAgoSeconds", serialize_with = "crate::seconds::serialize_optional")]
    pub counted_ago: Option<Duration>,
    /// The limit of [`bytes`](OutboxStats::bytes).
    pub max_bytes: u64,
    /// How many bytes this poster stores per second, in the mean of the last 10 minutes, or of the time since its first
    /// message.
    pub bytes_per_second: u64,
    /// How long an outage of the platform can still last until the outbox is full, at the present rate. `None` if nothing was
    /// stored in the last 10 minutes, or the content was not counted yet.
    #[serde(rename = "lastsSeconds", serialize_with = "crate::seconds::serialize_optional")]
    pub lasts: Option<Duration>,
}

impl OutboxHealth {
    /// Whether a message that is sent now can be stored.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        let is_full = self.stats.as_ref().is_some_and(|stats| stats.bytes >= self.max_bytes);
        self.error.is_none() && !is_full
    }

    /// What is wrong, in one sentence.
    pub(crate) fn problem(&self) -> Option<String> {
        match (&self.error, &self.stats) {
            (Some(error), _) => Some(format!("the outbox fails: {}", chain(error))),
            (None, Some(stats)) if !self.is_writable() => Some(format!(
                "the outbox is full: {} of {} bytes",
                stats.bytes, self.max_bytes
            )),
            (None, _) => None,
        }
    }
}

impl Outbox {
    /// The present health. The content is counted in the background, and waited for only briefly.
    pub(crate) async fn health(&self) -> OutboxHealth {
        let inner = &self.0;
        inner.counted.refresh(|| inner.store.stats()).await;
        let (stats, counted_ago) = inner.counted.last().unzip();
        let max_bytes = inner.options.max_bytes();
        let bytes_per_second = inner.inflow.borrow().rate(inner.clock.instant());
        let room = stats.as_ref().map(|stats| max_bytes.saturating_sub(stats.bytes));
        OutboxHealth {
            error: inner.failures.cause(),
            lasts: room
                .and_then(|room| room.checked_div(bytes_per_second))
                .map(Duration::from_secs),
            stats,
            counted_ago,
            max_bytes,
            bytes_per_second,
        }
    }
}

fn as_text<S: Serializer>(error: &Option<OutboxError>, serializer: S) -> Result<S::Ok, S::Error> {
    error.as_ref().map(|error| chain(error)).serialize(serializer)
}
