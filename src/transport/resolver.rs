//! Name lookups: on threads that never keep the process alive, and shared by all who need the same name.

use std::{
    io,
    net::{IpAddr, ToSocketAddrs as _},
    sync::LazyLock,
};

use crate::{blocking::BlockingPool, shared_work::SharedWork};

/// How many lookups of one name run at once. A second is started when the first hangs: the resolver may have
/// forgotten it.
const MAX_PER_NAME: usize = 2;

static LOOKUPS: LazyLock<SharedWork<String, Vec<IpAddr>>> = LazyLock::new(|| {
    static THREADS: BlockingPool = BlockingPool::new("result-poster-dns");
    SharedWork::new(&THREADS, MAX_PER_NAME)
});

/// The addresses of a name.
pub(super) async fn resolve(name: &str) -> io::Result<Vec<IpAddr>> {
    let name = name.to_owned();
    let lookup = LOOKUPS.join_or_start(name.clone(), move || look_up(&name));
    lookup.output().await
}

/// Asks the host's resolver.
fn look_up(name: &str) -> io::Result<Vec<IpAddr>> {
    #[cfg(feature = "__bridge")]
    if let Some(addresses) = look_up_for_tests(name) {
        return Ok(addresses);
    }
    let addresses = (name, 0).to_socket_addrs().map_err(super::descriptors::cause_of)?;
    Ok(addresses.map(|address| address.ip()).collect())
}

/// Names for tests of whole processes, which no resolver has: `.invalid` is reserved (RFC 6761).
#[cfg(feature = "__bridge")]
fn look_up_for_tests(name: &str) -> Option<Vec<IpAddr>> {
    match name {
        "hanging-lookup.invalid" => loop {
            std::thread::park();
        },
        "two-addresses.invalid" => Some(vec![[127, 0, 0, 2].into(), [127, 0, 0, 1].into()]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn the_hosts_resolver_is_asked() {
        assert!(!resolve("localhost").await.unwrap().is_empty());
        resolve("platform.invalid").await.unwrap_err();
    }

    #[cfg(feature = "__bridge")]
    #[actix_rt::test]
    async fn a_name_that_hangs_does_not_hold_up_another() {
        use futures_util::FutureExt as _;

        use crate::shared_work::HANGS_AFTER;

        tokio::time::pause();
        for _ in 0..10 {
            assert!(resolve("hanging-lookup.invalid").now_or_never().is_none());
            tokio::time::advance(HANGS_AFTER).await;
        }
        tokio::time::resume();
        assert_eq!(resolve("two-addresses.invalid").await.unwrap().len(), 2);
    }
}
