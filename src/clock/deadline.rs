//! Deadlines that look once more before they are over.

use std::{pin::pin, time::Duration};

use tokio::{task::yield_now, time::timeout};

/// The output of `work`, or `None` if it takes longer than `limit`.
///
/// When the limit is over, the runtime asks the system once more whether anything has arrived: a process that was stopped
/// learns the time before it learns of its sockets.
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    if let Ok(output) = timeout(limit, &mut work).await {
        return Some(output);
    }
    // A task that yields continues only after the runtime has polled the system.
    yield_now().await;
    timeout(Duration::ZERO, work).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn work_that_never_ends_is_cut_off() {
        assert_eq!(
            within(Duration::from_millis(1), std::future::pending::<()>()).await,
            None
        );
    }
}
