//! An HTTP/1.1 connection as awc sees it, which compensates for what awc does not handle:
//!
//! - Interim responses (1xx, except 101) are removed. awc takes one for the final response, and would give the real
//!   response, which follows, to the next request on the connection.
//! - Transfer codings other than a single `chunked`, and the same `Content-Length` twice, are reduced to the item that
//!   counts, or hidden if none does: awc rejects them. A header that continues on the next line is joined, for the same
//!   reason.
//! - A body that ends with another transfer coding is hidden, unless it has a length. The platform may keep its
//!   connection open, and nothing would tell where it ends.
//! - A body that ends when the connection closes is declared as a body of HTTP/1.0, which awc reads correctly.
//! - A response that arrives before the request was sent completely, and is not a 2xx, ends the sending, so that awc
//!   reads the response.
//! - An upgrade that is only offered is hidden: awc would skip the body, and mistake it for the next response.
//! - An idle connection that the platform has closed, or on which it has sent anything, fails the next request with
//!   `Stale` before a byte of the request is sent.

mod edit;
mod exchange;
mod framing;
mod head;

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use self::exchange::{ExchangeState, RequestState};
#[cfg(feature = "__bridge")]
pub use self::{
    framing::Framing,
    head::{FinalHead, Head, parse_head, skip_empty_lines},
};
use super::stream::Stream;

/// How much of a head is read at once, in bytes.
const READ_SIZE: usize = 4096;

/// The connection can't carry another request. Nothing of the request was sent.
#[derive(Debug, Error)]
#[error("the connection can't carry another request; nothing was sent")]
pub(crate) struct Stale;

/// The last request on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastRequest {
    /// Nothing was sent yet.
    None,
    /// A part was sent, and the head of its response is not complete, or is no head.
    Unanswered,
    Answered,
}

/// A connection that carries one request after another.
pub(crate) struct Http1Stream {
    stream: Stream,
    state: ExchangeState,
    last_request: LastRequest,
}

impl Http1Stream {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            state: ExchangeState::new(),
            last_request: LastRequest::None,
        }
    }

    pub(super) fn last_request(&self) -> LastRequest {
        self.last_request
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        self.stream.tcp()
    }

    /// Begins another exchange, unless the request of this one is still being sent.
    fn begin_exchange(&mut self) -> Result<(), Stale> {
        if let ExchangeState::Responding(response) = &self.state
            && response.request == RequestState::Complete
        {
            if !response.is_complete() || !self.stream.is_quiet() {
                return Err(Stale);
            }
            self.state = ExchangeState::new();
        }
        Ok(())
    }

    /// Reads until the head is complete (`true`) or the connection ends (`false`).
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while let ExchangeState::AwaitingHead(_) = self.state {
            let mut chunk = [MaybeUninit::uninit(); READ_SIZE];
            let mut chunk = ReadBuf::uninit(&mut chunk);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(false));
            }
            self.state.advance_head(chunk.filled());
            if let ExchangeState::Responding(response) = &self.state
                && response.has_head
            {
                self.last_request = LastRequest::Answered;
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Writes a part of the request, unless the platform has refused the request.
    ///
    /// The response is read only after a write that does not succeed: until then, the platform still reads the request.
    ///
    /// | head of the response | write | result |
    /// |---|---|---|
    /// | complete, refused before | not tried | `discarded`, as if written |
    /// | complete, otherwise | any | that of the write |
    /// | incomplete | success | that of the write |
    /// | still incomplete, more may follow | failed by the peer | pending: the runtime may not know the cause yet, and a response may have arrived before it |
    /// | still incomplete, otherwise | pending, failed | that of the write |
    /// | now complete, a 2xx | pending | that of the write: the rest is still sent |
    /// | now complete, otherwise | pending, failed | `discarded`, and the sending side is closed |
    fn poll_until_refused<T>(
        &mut self,
        cx: &mut Context<'_>,
        discarded: T,
        write: impl FnOnce(Pin<&mut Stream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let ExchangeState::Responding(response) = &self.state
            && response.request == RequestState::Refused
        {
            return Poll::Ready(Ok(discarded));
        }
        let written = write(Pin::new(&mut self.stream), cx);
        let had_head = matches!(self.state, ExchangeState::Responding(_));
        if had_head || matches!(written, Poll::Ready(Ok(_))) {
            return written;
        }
        if self.poll_head(cx).is_pending() && is_broken_by_peer(&written) {
            return Poll::Pending;
        }
        let ExchangeState::Responding(response) = &mut self.state else {
            return written;
        };
        if written.is_pending() && response.is_success() {
            response.request = RequestState::Partial;
            return written;
        }
        response.refuse_rest();
        // Tells the platform not to wait for the rest.
        self.stream.close_sending_side();
        Poll::Ready(Ok(discarded))
    }
}

/// Whether a write failed because the peer has closed or reset the connection.
fn is_broken_by_peer<T>(written: &Poll<io::Result<T>>) -> bool {
    let Poll::Ready(Err(error)) = written else {
        return false;
    };
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl AsyncRead for Http1Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !ready!(this.poll_head(cx))? {
            this.state.give_up_head();
        }
        let ExchangeState::Responding(response) = &mut this.state else {
            return Poll::Ready(Ok(()));
        };
        let before = buf.filled().len();
        if response.unread.is_empty() {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        } else {
            let length = response.unread.len().min(buf.remaining());
            buf.put_slice(response.unread.drain(..length).as_slice());
        }
        response
            .remaining
            .consume(buf.filled().get(before..).unwrap_or_default());
        // awc reads only after it has written the whole request.
        response.request = RequestState::Complete;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http1Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Err(stale) = this.begin_exchange() {
            return Poll::Ready(Err(io::Error::other(stale)));
        }
        if matches!(this.state, ExchangeState::AwaitingHead(_)) {
            this.last_request = LastRequest::Unanswered;
        }
        this.poll_until_refused(cx, buf.len(), |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut()
            .poll_until_refused(cx, (), |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
