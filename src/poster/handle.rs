//! A poster on a thread of its own.

use std::{
    io,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use actix::{Addr, Handler, MailboxError, Message};
use tokio_util::sync::CancellationToken;

use super::ResultPoster;
use crate::{message::Shutdown, options::Options, receipt::ShutdownReport};

/// A [`ResultPoster`] on a thread and a runtime of its own, for programs that do not run on actix: a daemon on plain tokio,
/// axum or tonic. It takes the same messages and gives the same replies. All clones are one poster.
///
/// When the last clone is dropped, the thread ends without waiting for accepted messages: those that are in an outbox stay
/// there for the next poster, all others are lost. [`shutdown`](Self::shutdown) waits for them.
///
/// ```no_run
/// use std::time::Duration;
/// use result_poster::{AgentResult, Options, PostResult, PosterHandle, SessionStatus};
///
/// #[tokio::main]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let options = Options::builder("https://app.example.com")
///         .worker_id("wkr_1")
///         .auth_token(std::env::var("WORKER_TOKEN")?);
///     let poster = PosterHandle::spawn(options.build()?)?;
///
///     let result = AgentResult::new(SessionStatus::Completed).with_summary("Added the cache.");
///     let receipt = poster.send(PostResult::new("sess-1", result)).await??;
///     println!("delivered: {receipt:?}");
///
///     poster.shutdown(Duration::from_secs(30)).await?;
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone)]
pub struct PosterHandle(Arc<Running>);

/// The thread.
#[derive(Debug)]
struct Running {
    address: Addr<ResultPoster>,
    stop: CancellationToken,
    ended: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl PosterHandle {
    /// Starts the thread, and on it the poster, under a [`Supervisor`](crate::Supervisor).
    ///
    /// # Errors
    ///
    /// The error of the operating system, if it has no thread or no descriptors left.
    pub fn spawn(options: Options) -> io::Result<Self> {
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let (started, address) = mpsc::sync_channel(1);
        let run = {
            let (stop, ended) = (stop.clone(), ended.clone().drop_guard());
            move || {
                let _ended = ended;
                match actix_rt::Runtime::new() {
                    Ok(runtime) => runtime.block_on(async {
                        let _ = started.send(Ok(ResultPoster::start_supervised(options)));
                        stop.cancelled().await;
                    }),
                    Err(error) => drop(started.send(Err(error))),
                }
            }
        };
        thread::Builder::new().name("result-poster".into()).spawn(run)?;
        let address = address
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the poster's thread has ended")))?;
        Ok(Self(Arc::new(Running { address, stop, ended })))
    }

    /// Sends a message, and waits for its reply. Dropping the future does not withdraw the message.
    ///
    /// # Errors
    ///
    /// As [`Addr::send`]: [`MailboxError::Closed`] after a shutdown. The reply itself is inside.
    pub async fn send<M>(&self, message: M) -> Result<M::Result, MailboxError>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        ResultPoster: Handler<M>,
    {
        self.0.address.send(message).await
    }

    /// The address of the actor, which takes messages from every thread.
    #[must_use]
    pub fn address(&self) -> &Addr<ResultPoster> {
        &self.0.address
    }

    /// Shuts the poster down, as [`Shutdown`] does, and waits until its thread has ended. Dropping the future does not stop
    /// the shutdown, but the thread ends with the last clone.
    ///
    /// # Errors
    ///
    /// [`MailboxError::Closed`] if it was shut down before.
    pub async fn shutdown(&self, within: Duration) -> Result<ShutdownReport, MailboxError> {
        let report = self.send(Shutdown::within(within)).await;
        self.0.stop.cancel();
        self.0.ended.cancelled().await;
        report
    }
}
