//! Cancellation of a message, by its own token or by a shutdown.

use tokio_util::sync::CancellationToken;

use crate::error::CancelledBy;

/// The sources of cancellation of a message.
pub(crate) struct Cancellation {
    /// The token of the message.
    token: Option<CancellationToken>,
    /// Cancelled when the time limit of a shutdown expires.
    shutdown: CancellationToken,
}

impl Cancellation {
    pub(crate) fn new(token: Option<CancellationToken>, shutdown: CancellationToken) -> Self {
        Self { token, shutdown }
    }

    /// The source of the cancellation, if the message is cancelled. The message's own token takes precedence.
    pub(crate) fn by(&self) -> Option<CancelledBy> {
        if self.is_cancelled_by_token() {
            Some(CancelledBy::Token)
        } else if self.shutdown.is_cancelled() {
            Some(CancelledBy::Shutdown)
        } else {
            None
        }
    }

    /// The token of the message.
    pub(crate) fn token(&self) -> Option<CancellationToken> {
        self.token.clone()
    }

    pub(crate) fn is_cancelled_by_token(&self) -> bool {
        self.token.as_ref().is_some_and(CancellationToken::is_cancelled)
    }

    /// Waits until the message is cancelled.
    pub(crate) async fn cancelled(&self) {
        let Some(token) = &self.token else {
            return self.shutdown.cancelled().await;
        };
        // Boxed: few messages have a token, and every one would reserve room for this.
        Box::pin(self.shutdown.run_until_cancelled(token.cancelled())).await;
    }
}
