//! The addresses of the platform, or of its proxy: their order, and a connection to the first that accepts one.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use super::descriptors;

/// How long one address is waited for before the next is tried as well (RFC 8305, 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// How long an address that has failed is tried after all others.
const FAILURE_MEMORY: Duration = Duration::from_secs(5 * 60);

/// The most failures that are kept. No name has as many addresses.
const MAX_FAILURES: usize = 64;

/// Some addresses, of which one is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Addresses {
    named: SocketAddr,
    others: usize,
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { named, others } = self;
        match others {
            0 => write!(f, "{named}"),
            1 => write!(f, "{named} and 1 other address"),
            _ => write!(f, "{named} and {others} other addresses"),
        }
    }
}

/// A connection to the first address that accepts one. Each is tried as soon as the one before has failed or has not
/// answered for 250 ms. `report` is told which addresses have not answered yet, and at the end which have failed.
///
/// # Errors
///
/// If all addresses have failed: the first failure, or one for want of a file descriptor, which the others would hide.
pub(super) async fn connect_to_any(addresses: &[SocketAddr], report: impl Fn(Addresses)) -> io::Result<TcpStream> {
    let mut untried = addresses.iter().copied();
    let mut running = FuturesUnordered::new();
    let mut unanswered = Vec::new();
    let mut failures = Vec::new();
    loop {
        if let Some(address) = untried.next() {
            unanswered.push(address);
            running.push(async move { (address, TcpStream::connect(address).await) });
        }
        if let [named, others @ ..] = &*unanswered {
            let (named, others) = (*named, others.len());
            report(Addresses { named, others });
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
                unanswered.retain(|other| *other != address);
                failures.push((address, error));
            }
            None => {
                let Some((failed, error)) = main_failure(failures) else {
                    return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
                };
                report(failed);
                return Err(error);
            }
        }
    }
}

/// The failure that stands for all of them.
fn main_failure(mut failures: Vec<(SocketAddr, io::Error)>) -> Option<(Addresses, io::Error)> {
    let others = failures.len().checked_sub(1)?;
    let exhausted = failures.iter().position(|(_, error)| descriptors::are_exhausted(error));
    let (named, error) = failures.swap_remove(exhausted.unwrap_or(0));
    Some((Addresses { named, others }, error))
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

    /// The result, and the last report as text.
    async fn reported(addresses: &[SocketAddr], limit: Duration) -> (Option<io::Result<TcpStream>>, String) {
        let last = RefCell::new(String::new());
        let connecting = connect_to_any(addresses, |addresses| *last.borrow_mut() = addresses.to_string());
        let result = timeout(limit, connecting).await.ok();
        (result, last.into_inner())
    }

    #[actix_rt::test]
    async fn the_first_failure_is_reported_with_the_number_of_the_others() {
        let closed = [listen(), listen(), listen()].map(|listener| address(&listener));
        for (count, others) in [(1, ""), (2, " and 1 other address"), (3, " and 2 other addresses")] {
            let (result, report) = reported(&closed[..count], 40 * ATTEMPT_DELAY).await;
            assert_eq!(result.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
            assert_eq!(report, format!("{}{others}", closed[0]));
        }
    }

    #[actix_rt::test]
    async fn an_address_that_does_not_answer_is_reported_rather_than_one_that_has_failed() {
        let (silent, _kept) = silent();
        let closed = address(&listen());
        let (first, second) = ([silent, closed], [closed, silent]);
        let reports =
            futures_util::future::join_all([&first, &second].map(|addresses| reported(addresses, 4 * ATTEMPT_DELAY)));
        for (result, report) in reports.await {
            assert!(result.is_none());
            assert_eq!(report, silent.to_string());
        }
    }

    #[test]
    fn a_failure_for_want_of_a_descriptor_is_reported_rather_than_another() {
        let failure = |code| io::Error::from_raw_os_error(code);
        let [first, second, third] = *addresses(["1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1"]) else {
            panic!("three addresses");
        };
        for (codes, code, named) in [
            (
                [libc::ECONNREFUSED, libc::EMFILE, libc::ENETUNREACH],
                libc::EMFILE,
                second,
            ),
            (
                [libc::EMFILE, libc::ECONNREFUSED, libc::ECONNREFUSED],
                libc::EMFILE,
                first,
            ),
            (
                [libc::ENETUNREACH, libc::ECONNREFUSED, libc::ECONNREFUSED],
                libc::ENETUNREACH,
                first,
            ),
        ] {
            let failures = [first, second, third].into_iter().zip(codes.map(failure)).collect();
            let (failed, error) = main_failure(failures).unwrap();
            assert_eq!(
                (failed, error.raw_os_error()),
                (Addresses { named, others: 2 }, Some(code))
            );
        }
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
