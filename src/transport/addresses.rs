//! The addresses of the platform, or of its proxy: their order, and a connection to the first that accepts one.

use std::{
    io,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

/// How long one address is waited for before the next is tried as well (RFC 8305, 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// How long an address that has failed is tried after all others.
const FAILURE_MEMORY: Duration = Duration::from_secs(5 * 60);

/// The most failures that are kept. No name has as many addresses.
const MAX_FAILURES: usize = 64;

/// A connection to the first address that accepts one. Each is tried as soon as the one before has failed or has not
/// answered for 250 ms. `before_each` is told each address.
///
/// # Errors
///
/// The failure of the address that failed last.
pub(super) async fn connect_to_any(
    addresses: &[SocketAddr],
    before_each: impl Fn(SocketAddr),
) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut untried = addresses.iter().copied();
    let mut running = FuturesUnordered::new();
    loop {
        if let Some(address) = untried.next() {
            before_each(address);
            running.push(async move { (address, TcpStream::connect(address).await) });
        }
        let ended = match untried.len() {
            0 => running.next().await,
            _ => match timeout(ATTEMPT_DELAY, running.next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            },
        };
        match ended {
            Some((_, Ok(stream))) => return Ok(stream),
            Some((address, Err(error))) => {
                before_each(address);
                failure = error;
            }
            None => return Err(failure),
        }
    }
}

/// Addresses that have accepted a connection and then failed: in the TLS handshake, or without an answer.
#[derive(Debug, Default)]
pub(crate) struct FailedAddresses(Mutex<Vec<(SocketAddr, Instant)>>);

impl FailedAddresses {
    /// Tries this address after all others, for a while.
    pub(super) fn note(&self, address: SocketAddr) {
        let now = Instant::now();
        let mut failures = self.failures();
        failures.retain(|(failed, at)| *failed != address && now.saturating_duration_since(*at) < FAILURE_MEMORY);
        if failures.len() < MAX_FAILURES {
            failures.push((address, now));
        }
    }

    /// Forgets the failures of this address before `connected_at`, the start of a connection on which it has answered.
    /// Later failures stay: an idle connection may end long after its answer.
    pub(super) fn forgive(&self, address: SocketAddr, connected_at: Instant) {
        self.failures()
            .retain(|(failed, at)| *failed != address || *at > connected_at);
    }

    /// Orders the addresses of a name: those that have failed come last, the latest failure at the end. Else the order
    /// of the resolver stays, with IPv6 and IPv4 in turn (RFC 8305, 4).
    pub(super) fn order(&self, addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let mut ordered = alternate_families(addresses);
        let now = Instant::now();
        let failures = self.failures();
        // Stable, and `None` comes first.
        ordered.sort_by_key(|address| {
            let failure = failures.iter().find(|(failed, _)| failed == address);
            let failed_at = failure.map(|(_, failed_at)| *failed_at);
            failed_at.filter(|at| now.saturating_duration_since(*at) < FAILURE_MEMORY)
        });
        ordered
    }

    fn failures(&self) -> MutexGuard<'_, Vec<(SocketAddr, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The addresses, with the family of the first and the other family in turn.
fn alternate_families(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_ipv6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_ipv6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut alternating = Vec::with_capacity(first.len().saturating_add(second.len()));
    while first.len() > 0 || second.len() > 0 {
        alternating.extend(first.next());
        alternating.extend(second.next());
    }
    alternating
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "the numbers are small constants")]
mod tests {
    use std::{cell::RefCell, net::TcpListener};

    use super::*;

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
        connect_to_any(addresses, |_| ()).await?.peer_addr()
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
            vec![silent, closed, silent, address(&good), silent],
        ] {
            assert_eq!(first_of(&addresses).await.unwrap(), address(&good), "{addresses:?}");
        }
    }

    #[actix_rt::test]
    async fn an_address_behind_one_that_swallows_packets_is_tried_after_a_quarter_of_a_second() {
        let good = listen();
        let (silent, _kept) = silent();
        let started = Instant::now();
        assert_eq!(first_of(&[silent, address(&good)]).await.unwrap(), address(&good));
        let elapsed = started.elapsed();
        assert!(elapsed >= ATTEMPT_DELAY && elapsed < 4 * ATTEMPT_DELAY, "{elapsed:?}");
    }

    #[actix_rt::test]
    async fn the_failure_of_the_last_address_is_reported() {
        let closed = [address(&listen()), address(&listen())];
        let tried = RefCell::new(Vec::new());
        let error = connect_to_any(&closed, |address| tried.borrow_mut().push(address))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(tried.borrow().last(), closed.last());
    }

    #[actix_rt::test]
    async fn a_name_without_an_address_is_reported() {
        assert_eq!(first_of(&[]).await.unwrap_err().to_string(), "the name has no address");
    }

    fn addresses<const N: usize>(texts: [&str; N]) -> Vec<SocketAddr> {
        texts.map(|text| text.parse().unwrap()).to_vec()
    }

    #[test]
    fn the_families_take_turns_in_the_order_of_the_name_service() {
        for (given, ordered) in [
            (
                addresses(["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"]),
                addresses(["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]),
            ),
            (
                addresses(["1.1.1.1:1", "1.1.1.2:1", "[::1]:1", "[::2]:1"]),
                addresses(["1.1.1.1:1", "[::1]:1", "1.1.1.2:1", "[::2]:1"]),
            ),
            (
                addresses(["1.1.1.2:1", "1.1.1.1:1"]),
                addresses(["1.1.1.2:1", "1.1.1.1:1"]),
            ),
            (Vec::new(), Vec::new()),
        ] {
            assert_eq!(FailedAddresses::default().order(given), ordered);
        }
    }

    #[actix_rt::test]
    async fn the_address_that_failed_last_is_tried_last() {
        tokio::time::pause();
        let all = addresses(["1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1"]);
        let failed = FailedAddresses::default();
        let order = || {
            let ordered = failed.order(all.clone());
            ordered
                .iter()
                .map(|address| all.iter().position(|other| other == address).unwrap())
                .collect::<Vec<_>>()
        };
        let second = Duration::from_secs(1);
        failed.note(all[0]);
        assert_eq!(order(), [1, 2, 0]);
        tokio::time::advance(second).await;
        failed.note(all[1]);
        assert_eq!(order(), [2, 0, 1]);
        tokio::time::advance(second).await;
        failed.note(all[0]);
        assert_eq!(order(), [2, 1, 0]);
        failed.forgive(all[1], Instant::now());
        assert_eq!(order(), [1, 2, 0]);
        tokio::time::advance(FAILURE_MEMORY).await;
        assert_eq!(order(), [0, 1, 2]);
    }

    #[actix_rt::test]
    async fn a_failure_after_the_start_of_an_answered_connection_is_not_forgiven() {
        tokio::time::pause();
        let all = addresses(["1.1.1.1:1", "1.1.1.2:1"]);
        let failed = FailedAddresses::default();
        let connected_at = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        failed.note(all[0]);
        failed.forgive(all[0], connected_at);
        assert_eq!(failed.order(all.clone()), [all[1], all[0]]);
        failed.forgive(all[0], Instant::now());
        assert_eq!(failed.order(all.clone()), all);
    }
}
