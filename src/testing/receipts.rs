//! Receipts for tests of a runner's own code.

use std::time::Duration;

use crate::{
    call_id::CallId,
    receipt::{CallReceipt, PostReceipt},
};

/// The receipt of a call that the platform has acknowledged.
///
/// ```
/// use std::time::Duration;
///
/// use result_poster::testing::{delivered_receipt, post_receipt};
///
/// let receipt = post_receipt(
///     delivered_receipt(1, Duration::from_millis(80)),
///     delivered_receipt(3, Duration::from_secs(3)),
/// );
/// assert_eq!(receipt.status.attempts(), Some(3));
/// ```
#[must_use]
pub fn delivered_receipt(attempts: u32, elapsed: Duration) -> CallReceipt {
    CallReceipt::delivered(attempts, elapsed, Vec::new())
}

/// The receipt of a call that is in the outbox, as with
/// [`reply_when_durable`](crate::PostResult::reply_when_durable).
#[must_use]
pub fn stored_receipt(id: CallId) -> CallReceipt {
    CallReceipt::stored(id)
}

/// The receipt of a result.
#[must_use]
pub fn post_receipt(completion: CallReceipt, status: CallReceipt) -> PostReceipt {
    PostReceipt { completion, status }
}
