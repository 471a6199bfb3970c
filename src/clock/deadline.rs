//! Deadlines that look once more before they are over.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use futures_util::future::poll_immediate;
use tokio::{
    task::{unconstrained, yield_now},
    time::{Instant, sleep_until},
};

/// Longer limits are shortened to this: an `Instant` can't hold them.
const MAX_LIMIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The output of `work`, or `None` if it takes longer than `limit`, which counts from its first wait. See [`until`].
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    until(|| after(limit), pin!(work)).await
}

/// The time after this limit, counted from now.
pub(crate) fn after(limit: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(limit.min(MAX_LIMIT)).unwrap_or(now)
}

/// The output of `work`, or `None` if it takes longer than until `deadline`. `deadline` is
/// called at the first wait. The work is pinned already, since passing a future on copies it.
///
/// When the deadline is over, the runtime asks the system once more whether anything has arrived: a process that was
/// stopped learns the time before it learns of its sockets.
pub(crate) async fn until<T>(
    deadline: impl FnOnce() -> Instant,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
    let mut deadline = Some(deadline);
    let mut sleep = pin!(None);
    let in_time = poll_fn(|cx| {
        if let Poll::Ready(output) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        if let Some(deadline) = deadline.take() {
            // Also polled if the work has used up the task's budget.
            sleep.set(Some(unconstrained(sleep_until(deadline()))));
        }
        match sleep.as_mut().as_pin_mut() {
            Some(sleep) => sleep.poll(cx).map(|()| None),
            None => Poll::Pending,
        }
    });
    if let Some(output) = in_time.await {
        return Some(output);
    }
    // A task that yields continues only after the runtime has polled the system.
    yield_now().await;
    poll_immediate(work).await
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::task::consume_budget;

    use super::*;

    #[actix_rt::test]
    async fn work_that_never_ends_is_cut_off() {
        assert_eq!(within(Duration::from_millis(1), pending::<()>()).await, None);
        assert_eq!(within(Duration::ZERO, pending::<()>()).await, None);
    }

    #[actix_rt::test]
    async fn work_that_always_has_something_to_do_is_cut_off() {
        let busy = async {
            loop {
                consume_budget().await;
            }
        };
        assert_eq!(within::<()>(Duration::from_millis(1), busy).await, None);
    }

    #[actix_rt::test]
    async fn work_that_does_not_wait_asks_for_no_deadline() {
        let none = || -> Instant { panic!("the deadline was asked for") };
        assert_eq!(until(none, pin!(ready(7))).await, Some(7));
    }

    #[actix_rt::test]
    async fn work_that_ends_with_its_deadline_counts() {
        let mut polls = [Poll::Pending, Poll::Pending, Poll::Ready(7)].into_iter();
        let work = poll_fn(|_| polls.next().unwrap_or(Poll::Pending));
        assert_eq!(within(Duration::ZERO, work).await, Some(7));
    }

    #[test]
    fn a_limit_may_exceed_the_range_of_an_instant() {
        assert!(after(Duration::MAX) > after(Duration::from_secs(3600)));
    }
}
