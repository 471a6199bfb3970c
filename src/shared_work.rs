//! Blocking work whose output is shared by all who need it, so that work that hangs occupies few threads.

use std::{
    collections::HashMap,
    hash::Hash,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::blocking::BlockingPool;

/// The age from which work is taken to hang.
pub(crate) const HANGS_AFTER: Duration = Duration::from_secs(5);

/// Work that is running, or waits for a thread, by its key.
pub(crate) struct SharedWork<K, T> {
    pool: &'static BlockingPool,
    /// How many works of one key run at once. They are threads that a key which hangs occupies.
    max_per_key: usize,
    running: Mutex<HashMap<K, Vec<Running<T>>>>,
}

/// Work that was begun, and its output.
#[derive(Clone)]
pub(crate) struct Running<T> {
    started_at: Instant,
    output: watch::Receiver<Option<Output<T>>>,
}

type Output<T> = Result<T, Arc<io::Error>>;

impl<K: Hash + Eq, T: Clone + Send + Sync + 'static> SharedWork<K, T> {
    pub(crate) fn new(pool: &'static BlockingPool, max_per_key: usize) -> Self {
        Self {
            pool,
            max_per_key,
            running: Mutex::default(),
        }
    }

    /// The last work of this key that is running. Starts `work` if there is none, or if the last one hangs and not too
    /// many run.
    pub(crate) fn join_or_start(&self, key: K, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Running<T> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, works| {
            works.retain(Running::goes_on);
            !works.is_empty()
        });
        let works = running.entry(key).or_default();
        if let Some(last) = works.last()
            && (last.started_at.elapsed() < HANGS_AFTER || works.len() >= self.max_per_key)
        {
            return last.clone();
        }
        let (sender, output) = watch::channel(None);
        let started = Running {
            started_at: Instant::now(),
            output,
        };
        works.push(started.clone());
        self.pool.submit(move || {
            sender.send_replace(Some(work().map_err(Arc::new)));
        });
        started
    }
}

impl<T> Running<T> {
    /// Whether there is neither an output nor a panic yet.
    fn goes_on(&self) -> bool {
        self.output.has_changed().is_ok() && self.output.borrow().is_none()
    }
}

impl<T: Clone> Running<T> {
    /// When the work is taken to hang, if it has not ended by then.
    pub(crate) fn hangs_from(&self) -> Instant {
        self.started_at.checked_add(HANGS_AFTER).unwrap_or(self.started_at)
    }

    /// Waits for the output. If the future is dropped, the work goes on.
    ///
    /// # Errors
    ///
    /// That of the work, or if no thread could be started, or the work panicked.
    pub(crate) async fn output(mut self) -> io::Result<T> {
        let failed = || io::Error::other("the work on another thread failed");
        let output = self.output.wait_for(Option::is_some).await;
        let output = output.map_err(|_| failed())?.clone().ok_or_else(failed)?;
        output.map_err(|error| match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error),
        })
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "the numbers are small constants")]
mod tests {
    use std::sync::{
        Condvar,
        atomic::{AtomicUsize, Ordering},
    };

    use futures_util::{FutureExt as _, future::join_all};

    use super::*;

    fn hang() -> ! {
        loop {
            std::thread::park();
        }
    }

    /// Waits until this many works have begun.
    async fn wait_for(begun: &AtomicUsize, count: usize) {
        while begun.load(Ordering::SeqCst) < count {
            actix_rt::task::yield_now().await;
        }
    }

    #[actix_rt::test]
    async fn work_is_shared_by_all_who_wait_for_its_key() {
        static POOL: BlockingPool = BlockingPool::new("test");
        static BEGUN: AtomicUsize = AtomicUsize::new(0);
        static GATE: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());
        let shared = SharedWork::new(&POOL, 2);
        let join = || {
            shared.join_or_start("a", || {
                let begun = BEGUN.fetch_add(1, Ordering::SeqCst);
                drop(GATE.1.wait_while(GATE.0.lock().unwrap(), |is_open| !*is_open));
                Ok(begun)
            })
        };
        let waiting = join_all((0..10).map(|_| join().output()).collect::<Vec<_>>());
        *GATE.0.lock().unwrap() = true;
        GATE.1.notify_all();
        assert!(waiting.await.into_iter().all(|output| output.unwrap() == 0));
    }

    #[actix_rt::test]
    async fn an_output_is_not_kept() {
        static POOL: BlockingPool = BlockingPool::new("test");
        static BEGUN: AtomicUsize = AtomicUsize::new(0);
        let shared = SharedWork::new(&POOL, 1);
        for round in 0..5_000 {
            let output = shared
                .join_or_start("a", || Ok(BEGUN.fetch_add(1, Ordering::SeqCst)))
                .output();
            assert_eq!(output.await.unwrap(), round);
        }
    }

    #[actix_rt::test]
    async fn a_key_that_hangs_occupies_at_most_its_threads() {
        static POOL: BlockingPool = BlockingPool::new("test");
        static BEGUN: AtomicUsize = AtomicUsize::new(0);
        tokio::time::pause();
        for (key, max_per_key, begun) in [("a", 1, 1), ("b", 2, 3)] {
            let shared = SharedWork::<_, ()>::new(&POOL, max_per_key);
            for _ in 0..10 {
                let joined = shared.join_or_start(key, || {
                    BEGUN.fetch_add(1, Ordering::SeqCst);
                    hang()
                });
                assert!(joined.output().now_or_never().is_none());
                tokio::time::advance(HANGS_AFTER).await;
            }
            wait_for(&BEGUN, begun).await;
            let other = shared.join_or_start("other", || Ok(()));
            other.output().await.unwrap();
            assert_eq!(BEGUN.load(Ordering::SeqCst), begun);
        }
    }

    #[actix_rt::test]
    async fn work_is_joined_until_it_is_taken_to_hang() {
        static POOL: BlockingPool = BlockingPool::new("test");
        let shared = SharedWork::<_, u8>::new(&POOL, 2);
        tokio::time::pause();
        let first = shared.join_or_start("a", || hang());
        tokio::time::advance(HANGS_AFTER - Duration::from_millis(1)).await;
        let second = shared.join_or_start("a", || Ok(2));
        assert_eq!(second.hangs_from(), first.hangs_from());
        assert!(second.output().now_or_never().is_none());
        tokio::time::advance(Duration::from_millis(1)).await;
        tokio::time::resume();
        let third = shared.join_or_start("a", || Ok(3));
        assert_eq!(third.output().await.unwrap(), 3);
    }

    #[actix_rt::test]
    async fn a_failure_is_returned_to_all_with_its_code() {
        static POOL: BlockingPool = BlockingPool::new("test");
        let shared = SharedWork::<_, ()>::new(&POOL, 2);
        let failing = shared.join_or_start("code", || Err(io::Error::from_raw_os_error(24)));
        for error in join_all([failing.clone().output(), failing.output()]).await {
            assert_eq!(error.unwrap_err().raw_os_error(), Some(24));
        }
        let failing = shared.join_or_start("text", || Err(io::Error::new(io::ErrorKind::NotFound, "no such name")));
        let error = failing.output().await.unwrap_err();
        assert_eq!(
            (error.kind(), &*error.to_string()),
            (io::ErrorKind::NotFound, "no such name")
        );
    }

    #[actix_rt::test]
    async fn a_panic_is_a_failure() {
        static POOL: BlockingPool = BlockingPool::new("test");
        let shared = SharedWork::<_, ()>::new(&POOL, 2);
        let panicking = shared.join_or_start("a", || panic!("on purpose"));
        panicking.output().await.unwrap_err();
    }
}
