//! Name lookups: on threads that never keep the process alive, and shared by all who need the same name.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, ToSocketAddrs as _},
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::blocking::BlockingPool;

/// The age from which a lookup is no longer joined: the name service may have forgotten it.
const JOIN_LIMIT: Duration = Duration::from_secs(5);

static RESOLVER: LazyLock<Resolver> = LazyLock::new(|| {
    static THREADS: BlockingPool = BlockingPool::new("result-poster-dns");
    Resolver::new(&THREADS, look_up)
});

/// The addresses of a name.
pub(super) async fn resolve(name: &str) -> io::Result<Vec<IpAddr>> {
    RESOLVER.resolve(name).await
}

/// Asks the host's name service.
fn look_up(name: &str) -> io::Result<Vec<IpAddr>> {
    #[cfg(feature = "__bridge")]
    if let Some(addresses) = look_up_for_tests(name) {
        return Ok(addresses);
    }
    let addresses = (name, 0).to_socket_addrs().map_err(super::descriptors::cause_of)?;
    Ok(addresses.map(|address| address.ip()).collect())
}

/// Names for tests of whole processes, which no name service has: `.invalid` is reserved (RFC 6761).
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

struct Resolver {
    threads: &'static BlockingPool,
    look_up: fn(&str) -> io::Result<Vec<IpAddr>>,
    /// The lookups that are running, or wait for a thread.
    running: Mutex<HashMap<String, NameLookup>>,
}

struct NameLookup {
    started_at: Instant,
    answer: watch::Receiver<Option<Resolved>>,
}

type Resolved = Result<Vec<IpAddr>, Arc<io::Error>>;

impl Resolver {
    fn new(threads: &'static BlockingPool, look_up: fn(&str) -> io::Result<Vec<IpAddr>>) -> Self {
        Self {
            threads,
            look_up,
            running: Mutex::default(),
        }
    }

    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let mut answer = self.join_or_start(name);
        let answer = answer.wait_for(Option::is_some).await;
        let failed = || io::Error::other("the lookup failed on its thread");
        let answer = answer.map_err(|_| failed())?.clone().ok_or_else(failed)?;
        answer.map_err(|error| match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error),
        })
    }

    fn join_or_start(&self, name: &str) -> watch::Receiver<Option<Resolved>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // An answer is not kept: a sender that is gone has sent it.
        running.retain(|_, lookup| lookup.answer.has_changed().is_ok());
        if let Some(lookup) = running.get(name)
            && lookup.started_at.elapsed() < JOIN_LIMIT
        {
            return lookup.answer.clone();
        }
        let (sender, answer) = watch::channel(None);
        let lookup = NameLookup {
            started_at: Instant::now(),
            answer: answer.clone(),
        };
        running.insert(name.to_owned(), lookup);
        let (name, look_up) = (name.to_owned(), self.look_up);
        self.threads.submit(move || {
            if sender.is_closed() {
                // Nobody waits for it any more.
                return;
            }
            sender.send_replace(Some(look_up(&name).map_err(Arc::new)));
        });
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Condvar,
        atomic::{AtomicUsize, Ordering},
    };

    use futures_util::{FutureExt as _, future::join_all};

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[actix_rt::test]
    async fn the_hosts_name_service_is_asked() {
        assert!(!resolve("localhost").await.unwrap().is_empty());
        resolve("platform.invalid").await.unwrap_err();
    }

    #[actix_rt::test]
    async fn a_lookup_is_shared_by_all_who_wait_for_the_name() {
        static THREADS: BlockingPool = BlockingPool::new("test");
        static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
        static GATE: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());
        let resolver = Resolver::new(&THREADS, |_| {
            LOOKUPS.fetch_add(1, Ordering::SeqCst);
            drop(GATE.1.wait_while(GATE.0.lock().unwrap(), |is_open| !*is_open));
            Ok(vec![ADDRESS])
        });
        let waiting = join_all((0..10).map(|_| resolver.resolve("a.test")));
        let open = async {
            *GATE.0.lock().unwrap() = true;
            GATE.1.notify_all();
        };
        let (answers, ()) = tokio::join!(waiting, open);
        assert!(answers.into_iter().all(|answer| answer.unwrap() == [ADDRESS]));
        assert_eq!(LOOKUPS.load(Ordering::SeqCst), 1);
        // An answer is not kept.
        resolver.resolve("a.test").await.unwrap();
        assert_eq!(LOOKUPS.load(Ordering::SeqCst), 2);
    }

    #[actix_rt::test]
    async fn another_name_does_not_wait_for_a_lookup_that_hangs() {
        static THREADS: BlockingPool = BlockingPool::new("test");
        let resolver = Resolver::new(&THREADS, hangs_for_a);
        assert!(resolver.resolve("a.test").now_or_never().is_none());
        assert_eq!(resolver.resolve("b.test").await.unwrap(), [ADDRESS]);
    }

    #[actix_rt::test]
    async fn a_lookup_of_five_seconds_is_not_joined() {
        static THREADS: BlockingPool = BlockingPool::new("test");
        static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
        let resolver = Resolver::new(&THREADS, |_| match LOOKUPS.fetch_add(1, Ordering::SeqCst) {
            0 => hang(),
            _ => Ok(vec![ADDRESS]),
        });
        assert!(resolver.resolve("a.test").now_or_never().is_none());
        while LOOKUPS.load(Ordering::SeqCst) == 0 {
            actix_rt::task::yield_now().await;
        }
        tokio::time::pause();
        tokio::time::advance(Duration::from_millis(4999)).await;
        assert!(resolver.resolve("a.test").now_or_never().is_none());
        assert_eq!(LOOKUPS.load(Ordering::SeqCst), 1);
        tokio::time::advance(Duration::from_millis(1)).await;
        tokio::time::resume();
        assert_eq!(resolver.resolve("a.test").await.unwrap(), [ADDRESS]);
    }

    #[actix_rt::test]
    async fn a_failure_is_returned_to_all_with_its_code() {
        static THREADS: BlockingPool = BlockingPool::new("test");
        let resolver = Resolver::new(&THREADS, |name| match name {
            "code.test" => Err(io::Error::from_raw_os_error(24)),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such name")),
        });
        for error in join_all((0..2).map(|_| resolver.resolve("code.test"))).await {
            assert_eq!(error.unwrap_err().raw_os_error(), Some(24));
        }
        let error = resolver.resolve("a.test").await.unwrap_err();
        assert_eq!(
            (error.kind(), &*error.to_string()),
            (io::ErrorKind::NotFound, "no such name")
        );
    }

    #[actix_rt::test]
    async fn a_panicking_lookup_is_a_failure() {
        static THREADS: BlockingPool = BlockingPool::new("test");
        let resolver = Resolver::new(&THREADS, |_| panic!("on purpose"));
        resolver.resolve("a.test").await.unwrap_err();
    }

    fn hangs_for_a(name: &str) -> io::Result<Vec<IpAddr>> {
        if name == "a.test" { hang() } else { Ok(vec![ADDRESS]) }
    }

    fn hang() -> ! {
        loop {
            std::thread::park();
        }
    }
}
