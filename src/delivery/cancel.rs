//! Cancellation of a message, by its own token or by a shutdown.

use tokio_util::sync::CancellationToken;

use crate::error::CancelledBy;

/// The sources of cancellation of a message.
pub(crate) struct Cancellation {
    /// The token of the message.
    token: Option<CancellationToken>,
    /// Cancelled when the stored messages of the target are discarded.
    discarded: Option<CancellationToken>,
    /// Cancelled when the time limit of a shutdown expires.
    shutdown: CancellationToken,
}

impl Cancellation {
    pub(crate) fn new(token: Option<CancellationToken>, shutdown: CancellationToken) -> Self {
        Self {
            token,
            discarded: None,
            shutdown,
        }
    }

    /// The message is also cancelled by this token, which is not its own.
    pub(crate) fn discarded_by(&mut self, discarded: CancellationToken) {
        self.discarded = Some(discarded);
    }

    /// The source of the cancellation, if the message is cancelled. The message's own token takes precedence.
    pub(crate) fn by(&self) -> Option<CancelledBy> {
        if self.is_cancelled_by_token() {
            Some(CancelledBy::Token)
        } else if self.is_discarded() {
            Some(CancelledBy::Discard)
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

    fn is_discarded(&self) -> bool {
        self.discarded.as_ref().is_some_and(CancellationToken::is_cancelled)
    }

    /// Whether its caller has withdrawn the message, or it was discarded.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.is_cancelled_by_token() || self.is_discarded()
    }

    /// Waits until the message is cancelled.
    pub(crate) async fn cancelled(&self) {
        // Boxed: every message would reserve room for what few have.
        match (&self.token, &self.discarded) {
            (None, None) => self.shutdown.cancelled().await,
            (Some(token), None) | (None, Some(token)) => {
                Box::pin(self.shutdown.run_until_cancelled(token.cancelled())).await;
            }
            (Some(token), Some(discarded)) => {
                let either = discarded.run_until_cancelled(token.cancelled());
                Box::pin(self.shutdown.run_until_cancelled(either)).await;
            }
        }
    }
}
