//! Opening a connection to the platform: DNS, TCP, proxy and TLS, with one limit.

use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use log::warn;

use rustls::{
    ClientConfig,
    pki_types::{IpAddr, ServerName},
};
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;
use url::Host;

use super::{
    addresses::{FailedAddresses, connect_to_any},
    connect_phase::{ConnectPhase, NotConnected, source},
    descriptors,
    proxy::Proxy,
    resolver,
    stream::{RecordCounter, Stream},
    tls_fault::TlsFault,
    tunnel::open_tunnel,
};
use crate::{
    clock::{after, until},
    util::ignore_panic,
};

/// How long a process without a free file descriptor waits before it tries again.
const DESCRIPTOR_WAIT: Duration = Duration::from_millis(100);

/// How long before its attempt's deadline it gives up.
const LAST_WAIT: Duration = Duration::from_millis(200);

/// The platform's address, and the way to it.
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
    /// The limit on an attempt, in which a connection waits for a file descriptor.
    pub(crate) attempt_timeout: Duration,
    pub(crate) failed_addresses: FailedAddresses,
    /// Whether the process has no file descriptor left, and the log says so.
    pub(crate) descriptors_exhausted: AtomicBool,
}

#[cfg(test)]
impl Upstream {
    /// A platform that is reached by plain http, without a proxy.
    pub(super) fn for_test(host: &str, connect_timeout: Duration) -> Self {
        Self {
            host: Host::Domain(host.to_owned()),
            port: 80,
            tls: None,
            proxy: None,
            proxy_tls: None,
            connect_timeout,
            attempt_timeout: Duration::from_secs(30),
            failed_addresses: FailedAddresses::default(),
            descriptors_exhausted: AtomicBool::default(),
        }
    }
}

/// Opens a connection to the platform, through the proxy if there is one, with `tls` on top. If the process has no file
/// descriptor left, this is tried again until the attempt's deadline.
pub(crate) async fn connect(upstream: &Upstream, tls: Option<&Arc<ClientConfig>>) -> io::Result<Stream> {
    let started = Instant::now();
    loop {
        let error = match connect_with(upstream, tls, resolve).await {
            Ok(stream) => {
                upstream.descriptors_exhausted.store(false, Ordering::Relaxed);
                return Ok(stream);
            }
            Err(error) => error,
        };
        let is_exhausted = source(&error).is_some_and(descriptors::are_exhausted);
        // Before the attempt's own deadline, whose error would not name the cause.
        let is_over = started.elapsed().saturating_add(LAST_WAIT) >= upstream.attempt_timeout;
        if is_exhausted && !upstream.descriptors_exhausted.swap(true, Ordering::Relaxed) {
            ignore_panic(|| {
                warn!("no file descriptor is left for a connection; trying again until the attempt's deadline");
            });
        }
        if !is_exhausted || is_over {
            return Err(error);
        }
        sleep(DESCRIPTOR_WAIT).await;
    }
}

async fn connect_with(
    upstream: &Upstream,
    tls: Option<&Arc<ClientConfig>>,
    resolve: impl AsyncFn(&Host<String>, u16) -> io::Result<Vec<SocketAddr>>,
) -> io::Result<Stream> {
    let phase = Cell::new(ConnectPhase::Dns);
    let connecting = pin!(async {
        let mut stream = connect_tcp(upstream, resolve, &phase).await?;
        let unproven = UnprovenAddress::of(&stream, &upstream.failed_addresses);
        // Boxed: each connection would reserve room for it, also without a proxy and TLS.
        if let Some(proxy) = &upstream.proxy {
            stream = Box::pin(connect_through(proxy, upstream, stream, &phase)).await?;
        }
        if let Some(config) = tls {
            phase.set(ConnectPhase::Tls);
            stream = Box::pin(handshake(config, &upstream.host, stream)).await?;
        }
        unproven.has_worked();
        Ok(stream)
    });
    let connected = until(|| after(upstream.connect_timeout), connecting).await;
    let connected = connected.unwrap_or_else(|| Err(timed_out()));
    connected.map_err(|error| NotConnected::error(phase.get(), error))
}

/// An address that has accepted a connection. If it is dropped before the connection is ready, the address has failed:
/// also at the deadline of an attempt, which drops all of this.
struct UnprovenAddress<'a> {
    address: Option<SocketAddr>,
    failed_addresses: &'a FailedAddresses,
}

impl<'a> UnprovenAddress<'a> {
    fn of(stream: &Stream, failed_addresses: &'a FailedAddresses) -> Self {
        Self {
            address: stream.tcp().peer_addr().ok(),
            failed_addresses,
        }
    }

    fn has_worked(mut self) {
        self.address = None;
    }
}

impl Drop for UnprovenAddress<'_> {
    fn drop(&mut self) {
        if let Some(address) = self.address {
            self.failed_addresses.note(address);
        }
    }
}

/// A TCP connection to the platform, or to the proxy if there is one.
async fn connect_tcp(
    upstream: &Upstream,
    resolve: impl AsyncFn(&Host<String>, u16) -> io::Result<Vec<SocketAddr>>,
    phase: &Cell<ConnectPhase>,
) -> io::Result<Stream> {
    let (host, port) = match &upstream.proxy {
        Some(proxy) => {
            phase.set(ConnectPhase::ProxyDns);
            (&proxy.host, proxy.port)
        }
        None => (&upstream.host, upstream.port),
    };
    let addresses = upstream.failed_addresses.order(resolve(host, port).await?);
    let report = |addresses| {
        phase.set(match upstream.proxy {
            Some(_) => ConnectPhase::ProxyTcp(addresses),
            None => ConnectPhase::Tcp(addresses),
        });
    };
    let tcp = connect_to_any(&addresses, report).await?;
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
        Host::Domain(name) => {
            let addresses = resolver::resolve(name).await?.into_iter();
            addresses.map(|address| (address, port).into()).collect()
        }
    })
}

async fn handshake(config: &Arc<ClientConfig>, host: &Host<String>, stream: Stream) -> io::Result<Stream> {
    let name = match host {
        Host::Domain(name) => ServerName::try_from(name.clone()).map_err(io::Error::other)?,
        Host::Ipv4(address) => ServerName::IpAddress(IpAddr::from(std::net::IpAddr::V4(*address))),
        Host::Ipv6(address) => ServerName::IpAddress(IpAddr::from(std::net::IpAddr::V6(*address))),
    };
    let tls = TlsConnector::from(Arc::clone(config))
        .connect(name, RecordCounter::new(stream))
        .await
        .map_err(TlsFault::explain)?;
    Ok(Stream::Tls(Box::new(tls)))
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "timed out")
}

#[cfg(test)]
mod tests {
    use std::{future::pending, net::TcpListener};

    use super::*;
    use crate::{clock::within, util::chain};

    fn address(listener: &TcpListener) -> SocketAddr {
        listener.local_addr().unwrap()
    }

    fn listen() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    fn upstream(connect_timeout: Duration) -> Upstream {
        Upstream::for_test("platform.test", connect_timeout)
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

    #[actix_rt::test]
    async fn the_next_connection_begins_with_another_address_than_the_one_that_failed() {
        // Each listener accepts connections, and the system answers for it; nobody speaks TLS.
        let (first, second) = (listen(), listen());
        let addresses = vec![address(&first), address(&second)];
        let resolve = async |_: &Host<String>, _| Ok(addresses.clone());
        let mut silent = upstream(Duration::from_millis(50));
        silent.tls = Some(Arc::new(crate::transport::tls_config(&[], None).unwrap()));
        for expected in [&first, &second, &first] {
            let error = connect_with(&silent, silent.tls.as_ref(), &resolve).await.unwrap_err();
            assert_eq!(chain(&error), "in the TLS handshake: timed out");
            expected.set_nonblocking(true).unwrap();
            expected.accept().unwrap();
            assert_eq!(expected.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[actix_rt::test]
    async fn the_address_that_an_attempts_deadline_has_cut_off_is_tried_last() {
        let (silent, other) = (listen(), listen());
        let addresses = vec![address(&silent), address(&other)];
        let resolve = async |_: &Host<String>, _| Ok(addresses.clone());
        let mut upstream = upstream(Duration::from_secs(60));
        upstream.tls = Some(Arc::new(crate::transport::tls_config(&[], None).unwrap()));
        let connecting = connect_with(&upstream, upstream.tls.as_ref(), resolve);
        assert!(within(Duration::from_millis(50), connecting).await.is_none());
        let order = upstream.failed_addresses.order(addresses.clone());
        assert_eq!(order, [address(&other), address(&silent)]);
    }

    #[actix_rt::test]
    async fn a_process_without_descriptors_is_reported_with_its_cause() {
        let exhausted = async |_: &Host<String>, _| Err(io::Error::from_raw_os_error(libc::EMFILE));
        let error = connect_with(&upstream(Duration::from_secs(5)), None, exhausted)
            .await
            .unwrap_err();
        assert!(source(&error).is_some_and(descriptors::are_exhausted));
        assert!(chain(&error).starts_with("resolving the name: "));
    }
}
