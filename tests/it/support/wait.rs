//! Waiting for an expected event, with a limit.

use std::time::Duration;

/// Far longer than any expected event takes, so that only a missing event reaches the limit.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits for a future.
///
/// # Panics
///
/// The future does not complete within the limit.
pub(crate) async fn in_time<F: Future>(future: F) -> F::Output {
    within(LIMIT, future).await
}

/// Waits for a future that must not depend on an event that takes longer than `limit`.
///
/// # Panics
///
/// The future does not complete within the limit.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> F::Output {
    actix_rt::time::timeout(limit, future)
        .await
        .unwrap_or_else(|_| panic!("nothing happened within {limit:?}"))
}

/// Polls until a count is reached. The limit applies to each step towards it: many steps may take longer in all.
///
/// # Panics
///
/// The count does not grow within the limit.
pub(crate) async fn wait_for_count(expected: usize, count: impl Fn() -> usize) {
    let mut reached = count();
    while reached < expected {
        wait_until(|| count() > reached).await;
        reached = count();
    }
}

/// Polls until a condition holds, for a condition without a notification.
///
/// # Panics
///
/// The condition does not hold within the limit.
pub(crate) async fn wait_until(mut is_met: impl FnMut() -> bool) {
    in_time(async {
        while !is_met() {
            actix_rt::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
