//! Counting calls, page by page, each in a transaction of its own.

use std::time::{Duration, SystemTime};

use super::{
    error::PgResult,
    params::{number, optional_text},
    rows,
    session::Transaction,
};
use crate::outbox::entry::OutboxStats;

/// How many calls are counted at once.
const PAGE: i64 = 20_000;

/// Reads the lanes and an index, but no call.
const COUNT: &str = "
    WITH page AS MATERIALIZED (
        SELECT lane, seq, created_at FROM @calls
        WHERE lane IS NOT NULL AND (lane, seq) > ($1, $2) ORDER BY lane, seq LIMIT $3
    ), counted AS (
        SELECT page.*, coalesce($4::text IS NULL OR lanes.queue = $4, TRUE) AS is_mine,
            coalesce(lanes.owner IS NOT NULL AND page.seq <= lanes.taken, FALSE) AS is_live
        FROM page LEFT JOIN @lanes AS lanes ON lanes.id = page.lane AND lanes.id >= $1
    )
    SELECT count(*) FILTER (WHERE is_mine AND is_live) AS live,
        count(*) FILTER (WHERE is_mine AND NOT is_live) AS parked,
        count(*) FILTER (WHERE NOT is_mine) AS others,
        min(created_at) FILTER (WHERE is_mine) AS oldest,
        count(*) AS size,
        (SELECT lane FROM page ORDER BY lane DESC, seq DESC LIMIT 1) AS last_lane,
        (SELECT seq FROM page ORDER BY lane DESC, seq DESC LIMIT 1) AS last_seq
    FROM counted";
const COUNT_THE_REST: &str = "
    SELECT (SELECT count(*) FROM @calls WHERE lane IS NULL AND ($1::text IS NULL OR queue = $1)) AS dead_letters,
        (SELECT sum(bytes)::bigint FROM @usage) AS bytes, @now_ms() AS now";

/// Numbers that are added up page by page.
#[derive(Default)]
pub(super) struct Count {
    /// The lane and the place in it of the last call that was counted.
    pub(super) after: (i64, i64),
    stats: OutboxStats,
    oldest: Option<SystemTime>,
}

/// The numbers of one page.
pub(super) struct CountPage {
    stats: OutboxStats,
    oldest: Option<SystemTime>,
    /// The last call that was counted. `None`: there are no more.
    end: Option<(i64, i64)>,
}

/// Counts the live and parked calls of the page after this place, of all queues if none is named.
pub(super) async fn count(
    transaction: &Transaction<'_>,
    queue: Option<&str>,
    (lane, seq): (i64, i64),
) -> PgResult<CountPage> {
    let page = [number(lane), number(seq), number(PAGE), optional_text(queue)];
    let rows = transaction.ask(COUNT, page).await?;
    let mut page = CountPage {
        stats: OutboxStats::default(),
        oldest: None,
        end: None,
    };
    if let Some(row) = rows.first() {
        page.stats.live = rows::count(row, "live")?;
        page.stats.parked = rows::count(row, "parked")?;
        page.stats.in_other_queues = rows::count(row, "others")?;
        if row.try_get::<_, Option<i64>>("oldest")?.is_some() {
            page.oldest = Some(rows::time(row, "oldest")?);
        }
        if rows::number(row, "size")? == PAGE {
            page.end = Some((rows::number(row, "last_lane")?, rows::number(row, "last_seq")?));
        }
    }
    Ok(page)
}

/// The numbers that are not added up page by page, and the time.
pub(super) struct Rest {
    dead_letters: u64,
    bytes: u64,
    now: SystemTime,
}

pub(super) async fn count_the_rest(transaction: &Transaction<'_>, queue: Option<&str>) -> PgResult<Option<Rest>> {
    let rows = transaction.ask(COUNT_THE_REST, [optional_text(queue)]).await?;
    let rest = |row| {
        Ok(Rest {
            dead_letters: rows::count(row, "dead_letters")?,
            bytes: rows::count(row, "bytes")?,
            now: rows::time(row, "now")?,
        })
    };
    rows.first().map(rest).transpose()
}

impl Count {
    /// Adds a page. Returns whether there may be more.
    pub(super) fn add(&mut self, page: CountPage) -> bool {
        for (total, more) in [
            (&mut self.stats.live, page.stats.live),
            (&mut self.stats.parked, page.stats.parked),
            (&mut self.stats.in_other_queues, page.stats.in_other_queues),
        ] {
            *total = total.saturating_add(more);
        }
        self.oldest = self.oldest.into_iter().chain(page.oldest).min();
        self.after = page.end.unwrap_or(self.after);
        page.end.is_some()
    }

    pub(super) fn into_stats(self, rest: Option<Rest>) -> OutboxStats {
        let mut stats = self.stats;
        if let Some(Rest {
            dead_letters,
            bytes,
            now,
        }) = rest
        {
            (stats.dead_letters, stats.bytes) = (dead_letters, bytes);
            let age = |oldest| now.duration_since(oldest).unwrap_or(Duration::ZERO);
            stats.oldest_age = self.oldest.map(age);
        }
        stats
    }
}
