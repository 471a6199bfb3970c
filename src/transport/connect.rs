//! Opening a connection to the platform: DNS, TCP, proxy and TLS, with one limit.

use std::{cell::Cell, io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    AlertDescription, ClientConfig,
    pki_types::{IpAddr, ServerName},
};
use thiserror::Error;
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;
use url::Host;

use super::{
    proxy::Proxy,
    stream::{RecordCounter, Stream},
    tunnel::open_tunnel,
};

/// The platform's address, and the way to it.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) host: Host<String>,
    pub(crate) port: u16,
    /// `None` for a platform that is reached by plain http.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) proxy: Option<Proxy>,
    /// For a proxy that is itself reached by TLS.
    pub(crate) proxy_tls: Option<Arc<ClientConfig>>,
    /// The limit on all steps together.
    pub(crate) connect_timeout: Duration,
}

/// The step in which a connection failed.
#[derive(Debug, Clone, Copy, Error)]
enum ConnectPhase {
    #[error("resolving the name")]
    Dns,
    #[error("connecting to {0}")]
    Tcp(SocketAddr),
    #[error("resolving the proxy's name")]
    ProxyDns,
    #[error("connecting to the proxy at {0}")]
    ProxyTcp(SocketAddr),
    #[error("asking the proxy for a tunnel")]
    Tunnel,
    #[error("in the TLS handshake with the proxy")]
    ProxyTls,
    #[error("in the TLS handshake")]
    Tls,
}

/// A connection failed.
#[derive(Debug, Error)]
#[error("{phase}")]
struct NotConnected {
    phase: ConnectPhase,
    source: io::Error,
}

impl NotConnected {
    fn error(phase: ConnectPhase, source: io::Error) -> io::Error {
        io::Error::new(source.kind(), Self { phase, source })
    }
}

/// Whether the platform rejected a connection because it speaks none of the offered protocols.
pub(crate) fn is_alpn_rejection(error: &io::Error) -> bool {
    let source = error.get_ref();
    let source = match source.and_then(|error| error.downcast_ref()) {
        Some(NotConnected {
            phase: ConnectPhase::Tls,
            source,
        }) => source.get_ref(),
        // An alert from the proxy does not concern the platform.
        Some(NotConnected { .. }) => None,
        // awc does TLS for HTTP/2, and returns the error as it is.
        None => source,
    };
    let alert = source.and_then(|error| error.downcast_ref());
    alert == Some(&rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol))
}

/// Opens a connection to the platform, through the proxy if there is one, with `tls` on top.
pub(crate) async fn connect(upstream: &Upstream, tls: Option<&Arc<ClientConfig>>) -> io::Result<Stream> {
    connect_with(upstream, tls, resolve).await
}

async fn connect_with(
    upstream: &Upstream,
    tls: Option<&Arc<ClientConfig>>,
    resolve: impl AsyncFn(&Host<String>, u16) -> io::Result<Vec<SocketAddr>>,
) -> io::Result<Stream> {
    let phase = Cell::new(ConnectPhase::Dns);
    let connecting = async {
        let mut stream = connect_tcp(upstream, resolve, &phase).await?;
        if let Some(proxy) = &upstream.proxy {
            stream = connect_through(proxy, upstream, stream, &phase).await?;
        }
        if let Some(config) = tls {
            phase.set(ConnectPhase::Tls);
            stream = handshake(config, &upstream.host, stream).await?;
        }
        Ok(stream)
    };
    timeout(upstream.connect_timeout, connecting)
        .await
        .unwrap_or_else(|_| Err(timed_out()))
        .map_err(|error| NotConnected::error(phase.get(), error))
}

/// A TCP connection to the platform, or to the proxy if there is one.
async fn connect_tcp(
    upstream: &Upstream,
    resolve: impl AsyncFn(&Host<String>, u16) -> io::Result<Vec<SocketAddr>>,
    phase: &Cell<ConnectPhase>,
) -> io::Result<Stream> {
    let started = Instant::now();
    let (host, port) = match &upstream.proxy {
        Some(proxy) => {
            phase.set(ConnectPhase::ProxyDns);
            (&proxy.host, proxy.port)
        }
        None => (&upstream.host, upstream.port),
    };
    let addresses = resolve(host, port).await?;
    let remaining = upstream.connect_timeout.saturating_sub(started.elapsed());
    let before_each = |address| {
        phase.set(match upstream.proxy {
            Some(_) => ConnectPhase::ProxyTcp(address),
            None => ConnectPhase::Tcp(address),
        });
    };
    let tcp = connect_to_first(&addresses, remaining, before_each).await?;
    // A body that does not fit into one packet must not wait for an acknowledgement.
    tcp.set_nodelay(true)?;
    Ok(Stream::Tcp(tcp))
}

/// Prepares `stream`, a TCP connection to `proxy`, for requests to the platform.
async fn connect_through(
    proxy: &Proxy,
    upstream: &Upstream,
    mut stream: Stream,
    phase: &Cell<ConnectPhase>,
) -> io::Result<Stream> {
    if let Some(config) = &upstream.proxy_tls {
        phase.set(ConnectPhase::ProxyTls);
        stream = handshake(config, &proxy.host, stream).await?;
    }
    // For plain http, each request is addressed to the proxy instead.
    if upstream.tls.is_some() {
        phase.set(ConnectPhase::Tunnel);
        open_tunnel(&mut stream, proxy, &upstream.host, upstream.port).await?;
    }
    Ok(stream)
}

async fn resolve(host: &Host<String>, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(match host {
        Host::Ipv4(address) => vec![(*address, port).into()],
        Host::Ipv6(address) => vec![(*address, port).into()],
        Host::Domain(name) => lookup_host((name.as_str(), port)).await?.collect(),
    })
}

/// A connection to the first of the addresses that accepts one. An address that does not answer gets half of the
/// remaining time, so that the next ones are tried too; the last one gets all of it.
async fn connect_to_first(
    addresses: &[SocketAddr],
    limit: Duration,
    before_each: impl Fn(SocketAddr),
) -> io::Result<TcpStream> {
    let started = Instant::now();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (address, addresses_after) in addresses.iter().zip((0..addresses.len()).rev()) {
        let remaining = limit.saturating_sub(started.elapsed());
        if remaining.is_zero() {
            return Err(timed_out());
        }
        before_each(*address);
        let share = match addresses_after {
            0 => remaining,
            _ => remaining.checked_div(2).unwrap_or_default(),
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
        .connect(name, RecordCounter::new(stream))
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
    use crate::util::chain;

    fn address(listener: &TcpListener) -> SocketAddr {
        listener.local_addr().unwrap()
    }

    fn listen() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    /// An address that does not answer until the returned guard is dropped.
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
        connect_to_first(addresses, Duration::from_millis(400), |_| ())
            .await?
            .peer_addr()
    }

    fn upstream(connect_timeout: Duration) -> Upstream {
        Upstream {
            host: Host::Domain("platform.test".into()),
            port: 443,
            tls: None,
            proxy: None,
            proxy_tls: None,
            connect_timeout,
        }
    }

    #[actix_rt::test]
    async fn the_first_address_that_accepts_is_used() {
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
    }

    #[actix_rt::test]
    async fn the_failure_of_the_last_address_is_reported() {
        let closed = address(&listen());
        let (silent, _kept) = silent();
        for (addresses, expected) in [
            (vec![silent, closed], io::ErrorKind::ConnectionRefused),
            (vec![closed, silent], io::ErrorKind::TimedOut),
            (vec![], io::ErrorKind::NotFound),
        ] {
            assert_eq!(
                first_of(&addresses).await.unwrap_err().kind(),
                expected,
                "{addresses:?}"
            );
        }
    }

    #[actix_rt::test]
    async fn no_address_is_tried_after_the_limit() {
        let good = listen();
        let tried = Cell::new(false);
        let connected = connect_to_first(&[address(&good)], Duration::ZERO, |_| tried.set(true)).await;
        assert_eq!(connected.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(!tried.get());
    }

    #[actix_rt::test]
    async fn slow_dns_is_cut_off_by_the_limit_on_connecting() {
        let upstream = upstream(Duration::from_millis(20));
        let error = connect_with(&upstream, None, async |_, _| pending().await)
            .await
            .unwrap_err();
        assert_eq!(chain(&error), "resolving the name: timed out");
    }

    #[actix_rt::test]
    async fn a_dns_error_is_reported_with_its_phase() {
        let fail = async |_: &Host<String>, _| Err(io::Error::other("no such name"));
        let error = connect_with(&upstream(Duration::from_secs(5)), None, fail)
            .await
            .unwrap_err();
        assert_eq!(chain(&error), "resolving the name: no such name");
    }

    #[actix_rt::test]
    async fn a_connection_sends_small_packets_at_once() {
        let good = listen();
        let addresses = vec![address(&listen()), address(&good)];
        let resolve = async |_: &Host<String>, _| Ok(addresses.clone());
        let stream = connect_with(&upstream(Duration::from_secs(5)), None, resolve)
            .await
            .unwrap();
        assert_eq!(stream.tcp().peer_addr().unwrap(), address(&good));
        assert!(stream.tcp().nodelay().unwrap());
    }

    #[test]
    fn only_the_platforms_own_alert_is_an_alpn_rejection() {
        for (phase, alert, expected) in [
            (ConnectPhase::Tls, AlertDescription::NoApplicationProtocol, true),
            (ConnectPhase::Tls, AlertDescription::HandshakeFailure, false),
            (ConnectPhase::ProxyTls, AlertDescription::NoApplicationProtocol, false),
        ] {
            let alert = io::Error::other(rustls::Error::AlertReceived(alert));
            let error = NotConnected::error(phase, alert);
            assert_eq!(is_alpn_rejection(&error), expected, "{phase:?}");
        }
        assert!(!is_alpn_rejection(&timed_out()));
    }
}
