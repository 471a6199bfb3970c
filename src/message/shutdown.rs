//! The message that shuts a poster down.

use std::time::Duration;

use actix::Message;
use serde::{Deserialize, Serialize};

use crate::receipt::ShutdownReport;

/// Shuts a [`ResultPoster`](crate::ResultPoster) down: accepted messages are still delivered, new messages
/// are refused with [`CallError::ShuttingDown`](crate::CallError::ShuttingDown), and then the actor stops permanently.
///
/// When the time limit expires, unfinished calls are cancelled: each ends with
/// [`CallError::Cancelled`](crate::CallError::Cancelled) or, if the outbox has stored the call, with
/// [`CallError::Parked`](crate::CallError::Parked). The report is sent after the replies to all accepted messages.
/// Dropping the future of `send` does not stop the shutdown. If `Shutdown` is sent more than once, the shortest time
/// limit wins.
///
/// Under a [`Supervisor`](crate::Supervisor) the actor is not restarted afterwards, and senders get
/// [`MailboxError::Closed`](actix::MailboxError::Closed). actix's own supervisor would restart it, still shut down.
///
/// ```
/// use std::time::Duration;
/// use result_poster::Shutdown;
/// # use result_poster::ResultPoster;
///
/// # async fn stop(poster: actix::Addr<ResultPoster>) -> Result<(), actix::MailboxError> {
/// let report = poster.send(Shutdown::within(Duration::from_secs(30))).await?;
/// println!("{} calls delivered, {} cancelled", report.delivered, report.cancelled);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    pub(crate) within: Duration,
}

impl Shutdown {
    /// Creates a shutdown with this time limit for accepted messages, by the poster's
    /// [`clock`](crate::OptionsBuilder::clock).
    #[must_use]
    pub fn within(within: Duration) -> Self {
        Self { within }
    }
}

impl Message for Shutdown {
    type Result = ShutdownReport;
}
