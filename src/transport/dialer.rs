//! The connections of awc's client: opened by [`connect`], and handed to awc as an opaque type.

use std::{
    cell::Cell,
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use actix_rt::net::{ActixStream, Ready};
use actix_service::Service;
use actix_tls::connect::{ConnectError as DialError, ConnectInfo, Connection};
use awc::http::Uri;
use futures_util::future::LocalBoxFuture;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use super::{
    connect::{Upstream, connect},
    http1::{Http1Stream, LastRequest},
    stream::Stream,
};

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Preferred, since each call then has a connection of its own.
    Http1,
    /// For a platform that speaks nothing else, with a connection for each request. awc does TLS then: it learns the
    /// protocol from its own handshake only.
    Http2,
}

impl Protocol {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Http1 => Self::Http2,
            Self::Http2 => Self::Http1,
        }
    }
}

/// Opens the connections of a poster's client. Its only use is to name the type of the builder in
/// [`OptionsBuilder::customize_client`](crate::OptionsBuilder::customize_client).
#[derive(Clone)]
pub struct Dialer {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) protocol: Protocol,
    /// Whether the platform has answered on a connection with HTTP/2, which carries one request.
    pub(crate) answered: Rc<Cell<bool>>,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialer")
    }
}

impl Service<ConnectInfo<Uri>> for Dialer {
    type Response = Connection<Uri, ClientConnection>;
    type Error = DialError;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Self::Error>>;

    actix_service::always_ready!();

    fn call(&self, info: ConnectInfo<Uri>) -> Self::Future {
        let Self {
            upstream,
            protocol,
            answered,
        } = self.clone();
        let uri = info.request().clone();
        Box::pin(async move {
            let connected = match protocol {
                Protocol::Http1 => connect(&upstream, upstream.tls.as_ref())
                    .await
                    .map(|stream| Transfer::Http1(Http1Stream::new(stream))),
                Protocol::Http2 => connect(&upstream, None)
                    .await
                    .map(|stream| Transfer::Raw { stream, answered }),
            };
            connected
                .map(|transfer| Connection::new(uri, ClientConnection::new(transfer, upstream)))
                .map_err(DialError::Io)
        })
    }
}

/// A connection that a [`Dialer`] has opened. Opaque: only the client uses it.
// Boxed, since awc moves a connection several times for each request.
pub struct ClientConnection(Box<Tracked>);

/// A connection that tells at its end whether its address has failed.
struct Tracked {
    transfer: Transfer,
    address: Option<SocketAddr>,
    connected_at: Instant,
    upstream: Arc<Upstream>,
}

/// How the bytes of a connection are passed on.
enum Transfer {
    Http1(Http1Stream),
    /// Unchanged.
    Raw {
        stream: Stream,
        answered: Rc<Cell<bool>>,
    },
}

impl Transfer {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Http1(stream) => stream.tcp(),
            Self::Raw { stream, .. } => stream.tcp(),
        }
    }

    /// The last request, as far as is known.
    fn last_request(&self) -> LastRequest {
        match self {
            Self::Http1(stream) => stream.last_request(),
            Self::Raw { answered, .. } if answered.get() => LastRequest::Answered,
            Self::Raw { .. } => LastRequest::Unanswered,
        }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        let failed_addresses = &self.upstream.failed_addresses;
        match self.transfer.last_request() {
            // Such as one of two connections that were opened at once, of which only the other was used.
            LastRequest::None => {}
            LastRequest::Unanswered => failed_addresses.note(address),
            LastRequest::Answered => failed_addresses.forgive(address, self.connected_at),
        }
    }
}

impl ClientConnection {
    fn new(transfer: Transfer, upstream: Arc<Upstream>) -> Self {
        Self(Box::new(Tracked {
            address: transfer.tcp().peer_addr().ok(),
            connected_at: Instant::now(),
            transfer,
            upstream,
        }))
    }
}

impl AsyncRead for ClientConnection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0.transfer {
            Transfer::Http1(stream) => Pin::new(stream).poll_read(cx, buf),
            Transfer::Raw { stream, .. } => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ClientConnection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0.transfer {
            Transfer::Http1(stream) => Pin::new(stream).poll_write(cx, buf),
            Transfer::Raw { stream, .. } => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0.transfer {
            Transfer::Http1(stream) => Pin::new(stream).poll_flush(cx),
            Transfer::Raw { stream, .. } => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0.transfer {
            Transfer::Http1(stream) => Pin::new(stream).poll_shutdown(cx),
            Transfer::Raw { stream, .. } => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl ActixStream for ClientConnection {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_read_ready(self.0.transfer.tcp(), cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_write_ready(self.0.transfer.tcp(), cx)
    }
}

impl fmt::Debug for ClientConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientConnection")
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        time::Duration,
    };

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A connection, and the other end of it.
    async fn connection(listener: &TcpListener, upstream: &Arc<Upstream>) -> (ClientConnection, std::net::TcpStream) {
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let transfer = Transfer::Http1(Http1Stream::new(Stream::Tcp(stream)));
        let connection = ClientConnection::new(transfer, Arc::clone(upstream));
        (connection, listener.accept().unwrap().0)
    }

    #[actix_rt::test]
    async fn an_address_that_accepts_and_does_not_answer_is_tried_last() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream = Arc::new(Upstream::for_test("platform.test", Duration::from_secs(5)));
        let (address, other) = (listener.local_addr().unwrap(), "127.0.0.1:1".parse().unwrap());
        let is_last = || upstream.failed_addresses.order(vec![address, other]) == [other, address];

        drop(connection(&listener, &upstream).await);
        assert!(!is_last(), "nothing was sent");

        let (mut unanswered, _server) = connection(&listener, &upstream).await;
        unanswered.write_all(b"POST / HTTP/1.1\r\n\r\n").await.unwrap();
        drop(unanswered);
        assert!(is_last());

        drop(connection(&listener, &upstream).await);
        assert!(is_last(), "nothing was answered");

        let (mut foreign, mut server) = connection(&listener, &upstream).await;
        foreign.write_all(b"POST / HTTP/1.1\r\n\r\n").await.unwrap();
        server.write_all(b"220 mail.test ESMTP\r\n\r\n").unwrap();
        foreign.read_exact(&mut [0; 3]).await.unwrap();
        drop(foreign);
        assert!(is_last(), "a mail server has answered");

        let (mut cut, mut server) = connection(&listener, &upstream).await;
        cut.write_all(b"POST / HTTP/1.1\r\n\r\n").await.unwrap();
        server.read_exact(&mut [0; 19]).unwrap();
        server.write_all(b"HTTP/1.1 2").unwrap();
        drop(server);
        cut.read_to_end(&mut Vec::new()).await.unwrap();
        drop(cut);
        assert!(is_last());

        let (mut answered, mut server) = connection(&listener, &upstream).await;
        answered.write_all(b"POST / HTTP/1.1\r\n\r\n").await.unwrap();
        server.read_exact(&mut [0; 19]).unwrap();
        server.write_all(b"HTTP/1.1 204 -\r\n\r\n").unwrap();
        answered.read_exact(&mut [0; 18]).await.unwrap();
        drop(answered);
        assert!(!is_last());
    }

    #[actix_rt::test]
    async fn the_end_of_an_older_connection_does_not_forgive_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream = Arc::new(Upstream::for_test("platform.test", Duration::from_secs(5)));
        let (address, other) = (listener.local_addr().unwrap(), "127.0.0.1:1".parse().unwrap());
        let (mut idle, mut server) = connection(&listener, &upstream).await;
        idle.write_all(b"POST / HTTP/1.1\r\n\r\n").await.unwrap();
        server.write_all(b"HTTP/1.1 204 -\r\n\r\n").unwrap();
        idle.read_exact(&mut [0; 18]).await.unwrap();

        let (mut unanswered, _server) = connection(&listener, &upstream).await;
        unanswered.write_all(b"POST / HTTP/1.1\r\n\r\n").await.unwrap();
        drop(unanswered);
        drop(idle);
        assert_eq!(upstream.failed_addresses.order(vec![address, other]), [other, address]);
    }
}
