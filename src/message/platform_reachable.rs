//! The message that ends an outage.

use actix::Message;

/// Tells a [`ResultPoster`](crate::ResultPoster) that the platform can be reached again, so that it need not find that out
/// itself: parked calls are sent at once.
///
/// With an outbox, the poster parks calls while the platform can't be reached, and asks it about every 2 s. A runner that
/// knows more, such as one whose other requests are answered again, can end the wait. If the platform can't be reached after
/// all, the next failures begin it again. Without an outage, or without an outbox, the message has no effect.
///
/// ```
/// use result_poster::PlatformReachable;
/// # use result_poster::ResultPoster;
///
/// # async fn tell(poster: actix::Addr<ResultPoster>) -> Result<(), actix::MailboxError> {
/// poster.send(PlatformReachable).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlatformReachable;

impl Message for PlatformReachable {
    type Result = ();
}
