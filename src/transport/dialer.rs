//! From the platform's name to a connection that is ready for a request: name service, TCP, proxy, TLS, in one
//! deadline.

use std::{cell::Cell, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use actix_service::Service;
use actix_tls::connect::{ConnectError as DialError, ConnectInfo, Connection};
use awc::http::Uri;
use futures_util::future::LocalBoxFuture;
use rustls::{
    AlertDescription, ClientConfig,
    pki_types::{IpAddr, ServerName},
};
use secrecy::ExposeSecret as _;
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, lookup_host},
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;
use url::Host;

use super::{
    link::Link,
    proxy::Proxy,
    stream::{Records, Stream},
};

/// The longest answer of a proxy to `CONNECT` that is read, in bytes.
const TUNNEL_ANSWER_LIMIT: usize = 16 * 1024;

/// Where the platform is, and how to get there.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) host: Host<String>,
    pub(crate) port: u16,
    /// `None` for a platform that is reached by plain http.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) proxy: Option<Proxy>,
    /// For a proxy that is itself reached by TLS.
    pub(crate) proxy_tls: Option<Arc<ClientConfig>>,
    pub(crate) connect_timeout: Duration,
}

/// How requests are written on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Preferred, since each call then has a connection of its own.
    Http1,
    /// Where the platform speaks nothing else, on a connection for each request. awc does TLS then, which is how it
    /// learns of the protocol.
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

/// Opens the connections of a poster's client. It has no use but to name the type of the builder in
/// [`OptionsBuilder::customize_client`](crate::OptionsBuilder::customize_client).
#[derive(Clone)]
pub struct Dialer {
    pub(crate) route: Arc<Route>,
    pub(crate) protocol: Protocol,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialer")
    }
}

impl Service<ConnectInfo<Uri>> for Dialer {
    // Boxed, since awc moves a connection from hand to hand.
    type Response = Connection<Uri, Box<Link>>;
    type Error = DialError;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Self::Error>>;

    actix_service::always_ready!();

    fn call(&self, info: ConnectInfo<Uri>) -> Self::Future {
        let Self { route, protocol } = self.clone();
        let uri = info.request().clone();
        Box::pin(async move {
            let opened = match protocol {
                Protocol::Http1 => route.open(route.tls.as_ref()).await.map(Link::http1),
                Protocol::Http2 => route.open(None).await.map(Link::opaque),
            };
            let linked = opened.map(|link| Connection::new(uri, Box::new(link)));
            linked.map_err(DialError::Io)
        })
    }
}

/// How far a connection had got when it failed.
#[derive(Debug, Clone, Copy, Error)]
enum Stage {
    #[error("resolving the name")]
    Resolving,
    #[error("connecting to {0}")]
    Connecting(SocketAddr),
    #[error("resolving the proxy's name")]
    ResolvingProxy,
    #[error("connecting to the proxy at {0}")]
    ConnectingToProxy(SocketAddr),
    #[error("asking the proxy for a tunnel")]
    Tunnel,
    #[error("in the TLS handshake with the proxy")]
    ProxyHandshake,
    #[error("in the TLS handshake")]
    Handshake,
}

/// No connection: how far it got, and what then happened.
#[derive(Debug, Error)]
#[error("{stage}")]
struct NotConnected {
    stage: Stage,
    source: io::Error,
}

impl NotConnected {
    fn error(stage: Stage, source: io::Error) -> io::Error {
        io::Error::new(source.kind(), Self { stage, source })
    }
}

/// Whether the platform turned down the protocol, and with it the connection.
pub(crate) fn turns_down_protocol(error: &io::Error) -> bool {
    let source = error.get_ref();
    let source = match source.and_then(|error| error.downcast_ref()) {
        Some(NotConnected {
            stage: Stage::Handshake,
            source,
        }) => source.get_ref(),
        // A proxy's alert says nothing of the platform.
        Some(NotConnected { .. }) => None,
        // Where the client does TLS.
        None => source,
    };
    let alert = source.and_then(|error| error.downcast_ref());
    alert == Some(&rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol))
}

impl Route {
    /// A connection to the platform, through the proxy if there is one, with this TLS on top.
    async fn open(&self, tls: Option<&Arc<ClientConfig>>) -> io::Result<Stream> {
        self.open_with(resolve, tls).await
    }

    async fn open_with(
        &self,
        resolve: impl AsyncFn(&Host<String>, u16) -> io::Result<Vec<SocketAddr>>,
        tls: Option<&Arc<ClientConfig>>,
    ) -> io::Result<Stream> {
        let stage = Cell::new(Stage::Resolving);
        let opened = timeout(self.connect_timeout, self.steps(resolve, tls, &stage)).await;
        opened
            .unwrap_or_else(|_| Err(timed_out()))
            .map_err(|error| NotConnected::error(stage.get(), error))
    }

    async fn steps(
        &self,
        resolve: impl AsyncFn(&Host<String>, u16) -> io::Result<Vec<SocketAddr>>,
        tls: Option<&Arc<ClientConfig>>,
        stage: &Cell<Stage>,
    ) -> io::Result<Stream> {
        let started = Instant::now();
        let (host, port) = match &self.proxy {
            Some(proxy) => {
                stage.set(Stage::ResolvingProxy);
                (&proxy.host, proxy.port)
            }
            None => (&self.host, self.port),
        };
        let addresses = resolve(host, port).await?;
        let left = self.connect_timeout.saturating_sub(started.elapsed());
        let connecting = |address| {
            stage.set(match self.proxy {
                Some(_) => Stage::ConnectingToProxy(address),
                None => Stage::Connecting(address),
            });
        };
        let tcp = connect(&addresses, left, connecting).await?;
        // A body that does not fit into one packet must not wait for an acknowledgement.
        tcp.set_nodelay(true)?;
        let mut stream = Stream::Tcp(tcp);
        if let Some(proxy) = &self.proxy {
            if let Some(config) = &self.proxy_tls {
                stage.set(Stage::ProxyHandshake);
                stream = handshake(config, &proxy.host, stream).await?;
            }
            // For plain http, the proxy is asked in each request.
            if self.tls.is_some() {
                stage.set(Stage::Tunnel);
                self.tunnel(proxy, &mut stream).await?;
            }
        }
        if let Some(config) = tls {
            stage.set(Stage::Handshake);
            stream = handshake(config, &self.host, stream).await?;
        }
        Ok(stream)
    }

    /// Asks the proxy for a tunnel to the platform.
    async fn tunnel(&self, proxy: &Proxy, stream: &mut Stream) -> io::Result<()> {
        let target = format!("{}:{}", self.host, self.port);
        let authorization = proxy.authorization.as_ref().map_or(String::new(), |value| {
            format!("Proxy-Authorization: {}\r\n", value.expose_secret())
        });
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n");
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;

        let garbage = |reason| io::Error::new(io::ErrorKind::InvalidData, reason);
        let mut answer = Vec::new();
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut head = httparse::Response::new(&mut headers);
            let parsed = head
                .parse(&answer)
                .map_err(|_| garbage("the proxy's answer is not HTTP"))?;
            match (parsed, head.code) {
                // The next one may have come with it.
                (httparse::Status::Complete(length), Some(100 | 102..=199)) => drop(answer.drain(..length)),
                (httparse::Status::Complete(length), Some(200..=299)) if length == answer.len() => return Ok(()),
                (httparse::Status::Complete(_), Some(200..=299)) => {
                    return Err(garbage("the proxy sent more than its answer"));
                }
                (httparse::Status::Complete(_), status) => {
                    let status = status.unwrap_or_default();
                    return Err(io::Error::other(format!("the proxy answered {status}")));
                }
                (httparse::Status::Partial, _) if answer.len() > TUNNEL_ANSWER_LIMIT => {
                    return Err(garbage("the proxy's answer has no end"));
                }
                (httparse::Status::Partial, _) => {
                    if stream.read_buf(&mut answer).await? == 0 {
                        return Err(io::Error::new(
                            io::ErrorKind::UnexpectedEof,
                            "the proxy closed the connection",
                        ));
                    }
                }
            }
        }
    }
}

async fn resolve(host: &Host<String>, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(match host {
        Host::Ipv4(address) => vec![(*address, port).into()],
        Host::Ipv6(address) => vec![(*address, port).into()],
        Host::Domain(name) => lookup_host((name.as_str(), port)).await?.collect(),
    })
}

/// The first of the addresses that takes the connection; `connecting` is told of each that is tried. One that does not
/// answer has no more than its share of the time that is left.
async fn connect(addresses: &[SocketAddr], limit: Duration, connecting: impl Fn(SocketAddr)) -> io::Result<TcpStream> {
    let started = Instant::now();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (address, others) in addresses.iter().zip((0..addresses.len()).rev()) {
        let left = limit.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(timed_out());
        }
        connecting(*address);
        let share = if others > 0 {
            left.checked_div(2).unwrap_or_default()
        } else {
            left
        };
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failure = error,
            Err(_) => failure = timed_out(),
        }
    }
    Err(failure)
}

async fn handshake(config: &Arc<ClientConfig>, host: &Host<String>, stream: Stream) -> io::Result<Stream> {
    let name = match host {
        Host::Domain(name) => ServerName::try_from(name.clone()).map_err(io::Error::other)?,
        Host::Ipv4(address) => ServerName::IpAddress(IpAddr::from(std::net::IpAddr::V4(*address))),
        Host::Ipv6(address) => ServerName::IpAddress(IpAddr::from(std::net::IpAddr::V6(*address))),
    };
    let tls = TlsConnector::from(Arc::clone(config))
        .connect(name, Records::new(stream))
        .await?;
    Ok(Stream::Tls(Box::new(tls)))
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "timed out")
}

#[cfg(test)]
mod tests {
    use std::{future::pending, net::TcpListener};

    use super::*;
    use crate::error::chain;

    fn address(listener: &TcpListener) -> SocketAddr {
        listener.local_addr().unwrap()
    }

    fn listen() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    /// An address that never answers, as long as what comes with it is kept.
    fn silent() -> (SocketAddr, impl Sized) {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let wait = Duration::from_millis(100);
        let queued: Vec<_> = (0..4)
            .map_while(|_| std::net::TcpStream::connect_timeout(&address, wait).ok())
            .collect();
        (address, (listener, queued))
    }

    async fn first_of(addresses: &[SocketAddr]) -> io::Result<SocketAddr> {
        connect(addresses, Duration::from_millis(400), |_| ())
            .await?
            .peer_addr()
    }

    #[actix_rt::test]
    async fn each_address_gets_its_turn() {
        let (good, other) = (listen(), listen());
        let closed = address(&listen());
        let (silent, _kept) = silent();
        for addresses in [
            vec![address(&good), address(&other)],
            vec![closed, address(&good)],
            vec![silent, address(&good)],
            vec![silent, closed, address(&good), silent],
        ] {
            assert_eq!(first_of(&addresses).await.unwrap(), address(&good), "{addresses:?}");
        }
        let error = first_of(&[silent, closed]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(
            first_of(&[closed, silent]).await.unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
        assert_eq!(first_of(&[]).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[actix_rt::test]
    async fn who_is_out_of_time_tries_no_more_addresses() {
        let good = listen();
        let tried = Cell::new(false);
        let connected = connect(&[address(&good)], Duration::ZERO, |_| tried.set(true)).await;
        assert_eq!(connected.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(!tried.get());
    }

    #[actix_rt::test]
    async fn a_slow_name_service_is_given_up_by_the_limit_on_connecting() {
        let route = Route {
            host: Host::Domain("platform.test".into()),
            port: 443,
            tls: None,
            proxy: None,
            proxy_tls: None,
            connect_timeout: Duration::from_millis(20),
        };
        let error = route.open_with(async |_, _| pending().await, None).await.unwrap_err();
        assert_eq!(chain(&error), "resolving the name: timed out");
        let name_error = async |_: &Host<String>, _| Err(io::Error::other("no such name"));
        let error = route.open_with(name_error, None).await.unwrap_err();
        assert_eq!(chain(&error), "resolving the name: no such name");
        // Several addresses, of which the first refuses.
        let good = listen();
        let addresses = vec![address(&listen()), address(&good)];
        let stream = route.open_with(async |_, _| Ok(addresses.clone()), None).await.unwrap();
        assert_eq!(stream.tcp().peer_addr().unwrap(), address(&good));
        assert!(stream.tcp().nodelay().unwrap());
    }

    #[test]
    fn only_the_platform_turns_a_protocol_down() {
        for (stage, alert, expected) in [
            (Stage::Handshake, AlertDescription::NoApplicationProtocol, true),
            (Stage::Handshake, AlertDescription::HandshakeFailure, false),
            (Stage::ProxyHandshake, AlertDescription::NoApplicationProtocol, false),
        ] {
            let alert = io::Error::other(rustls::Error::AlertReceived(alert));
            assert_eq!(
                turns_down_protocol(&NotConnected::error(stage, alert)),
                expected,
                "{stage:?}"
            );
        }
        assert!(!turns_down_protocol(&timed_out()));
    }
}
