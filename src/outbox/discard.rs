//! Removes all calls about a session or an issue.

use actix::Message;
use serde::{Deserialize, Serialize};

use super::{
    entry::{EntryState, OutboxEntry},
    owner::Outbox,
    track::{CallsOf, DeliveryEnd},
};
use crate::{call_id::CallId, error::OutboxError};

/// Removes all stored calls about a session or an issue, such as when its user has cancelled it: parked calls and dead
/// letters, and the live calls of this poster, whose callers get
/// [`CallError::Cancelled`](crate::CallError::Cancelled). A request that is being sent may still be carried out.
///
/// The live calls of other processes stay. So do the calls of messages that this poster gets later.
///
/// ```
/// use result_poster::outbox::DiscardTarget;
/// # use result_poster::ResultPoster;
///
/// # async fn cancel(poster: actix::Addr<ResultPoster>) -> Result<(), Box<dyn std::error::Error>> {
/// let discarded = poster.send(DiscardTarget::session("sess-1")).await??;
/// println!("{} calls removed, {} not", discarded.removed.len(), discarded.not_removed.len());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`OutboxError::NotConfigured`] without an outbox; any other [`OutboxError`] if the file can't be read or written: then
/// some calls may have been removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscardTarget {
    pub(crate) which: CallsOf,
}

impl DiscardTarget {
    /// Removes the calls about this session.
    #[must_use]
    pub fn session(session_id: impl Into<String>) -> Self {
        Self {
            which: CallsOf::Session(session_id.into()),
        }
    }

    /// Removes the calls about this issue.
    #[must_use]
    pub fn issue(issue_id: impl Into<String>) -> Self {
        Self {
            which: CallsOf::Issue(issue_id.into()),
        }
    }
}

impl Message for DiscardTarget {
    type Result = Result<DiscardedTarget, OutboxError>;
}

/// The calls that a [`DiscardTarget`] has removed, and those that it has not. As JSON, its names are in camel case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct DiscardedTarget {
    /// The calls that are no longer in the outbox, and were not delivered.
    pub removed: Vec<CallId>,
    /// The calls that were delivered before they could be removed.
    pub delivered: Vec<CallId>,
    /// The calls that are still in the outbox: another process sends them.
    pub not_removed: Vec<CallId>,
}

impl Outbox {
    pub(crate) async fn discard_target(self, which: CallsOf) -> Result<DiscardedTarget, OutboxError> {
        let Some(target) = which.target() else {
            return Ok(DiscardedTarget::default());
        };
        let inner = &self.0;
        let mut before = inner.of_target(&target).await?;
        before.sort_by_key(|entry| entry.id);
        // Their ends are written before they end.
        if let Some(ended) = inner.sending.discard(&target) {
            ended.wait().await;
        }
        for entry in inner.of_target(&target).await? {
            if entry.state != EntryState::Live && inner.store.discard(entry.id).await? {
                inner.deliveries.borrow_mut().ended(entry.id, &DeliveryEnd::Discarded);
            }
        }
        let after = inner.of_target(&target).await?;
        inner.wake_replay.notify_one();
        let delivered = inner.deliveries.borrow().find(|delivered| which.matches(delivered));
        let mut discarded = DiscardedTarget::default();
        for OutboxEntry { id, .. } in before {
            // A delivered call may not have left the store yet.
            let list = if delivered.iter().any(|delivered| delivered.id == id) {
                &mut discarded.delivered
            } else if after.iter().any(|entry| entry.id == id) {
                &mut discarded.not_removed
            } else {
                &mut discarded.removed
            };
            list.push(id);
        }
        Ok(discarded)
    }
}
