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
///
/// In JSON, the time limit is `withinSeconds`, a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    #[serde(rename = "withinSeconds", with = "crate::seconds")]
    pub(crate) within: Duration,
}

impl Shutdown {
    /// Creates a shutdown with this time limit for accepted messages, by the poster's
    /// [`clock`](crate::OptionsBuilder::clock).
    #[must_use]
    pub fn within(within: Duration) -> Self {
        Self { within }
    }

    /// The time limit.
    #[must_use]
    pub fn time_limit(&self) -> Duration {
        self.within
    }
}

impl Message for Shutdown {
    type Result = ShutdownReport;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_limit_is_written_and_read_in_seconds() {
        let shutdown = Shutdown::within(Duration::from_millis(1_500));
        assert_eq!(serde_json::to_string(&shutdown).unwrap(), r#"{"withinSeconds":1.5}"#);
        let read = |json: &str| serde_json::from_str::<Shutdown>(json);
        assert_eq!(read(r#"{"withinSeconds":1.5}"#).unwrap(), shutdown);
        assert!(read(r#"{"withinSeconds":-1}"#).is_err());
        assert_eq!(shutdown.time_limit(), Duration::from_millis(1_500));
    }
}
