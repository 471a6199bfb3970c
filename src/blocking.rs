//! Blocking work on threads of the crate's own, which never keep the process alive.
//!
//! The pool of the runtime is not used: a runtime that ends waits for work in its pool that has begun, such as a lookup
//! in a resolver that hangs.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use crate::util::ignore_panic;

/// How many threads a pool has at most. Further work waits for one of them.
const MAX_THREADS: usize = 4;

/// How long a thread waits for more work before it ends.
const IDLE_LIMIT: Duration = Duration::from_secs(10);

type Work = Box<dyn FnOnce() + Send>;

/// A pool of threads for one kind of work, so that hanging work delays its own kind only.
pub(crate) struct BlockingPool {
    thread_name: &'static str,
    state: Mutex<PoolState>,
    submitted: Condvar,
}

struct PoolState {
    waiting: VecDeque<Work>,
    threads: usize,
    idle_threads: usize,
}

impl BlockingPool {
    pub(crate) const fn new(thread_name: &'static str) -> Self {
        Self {
            thread_name,
            state: Mutex::new(PoolState {
                waiting: VecDeque::new(),
                threads: 0,
                idle_threads: 0,
            }),
            submitted: Condvar::new(),
        }
    }

    /// Runs `work`, or drops it if no thread could be started.
    pub(crate) fn submit(&'static self, work: impl FnOnce() + Send + 'static) {
        let mut state = self.state();
        state.waiting.push_back(Box::new(work));
        if state.idle_threads >= state.waiting.len() {
            self.submitted.notify_one();
        } else if state.threads < MAX_THREADS {
            let builder = thread::Builder::new().name(self.thread_name.to_owned());
            match builder.spawn(|| self.work()) {
                Ok(_) => state.threads = state.threads.saturating_add(1),
                Err(_) if state.threads == 0 => state.waiting.clear(),
                Err(_) => {}
            }
        }
    }

    /// The life of a thread.
    fn work(&self) {
        let mut state = self.state();
        loop {
            while let Some(work) = state.waiting.pop_front() {
                drop(state);
                ignore_panic(work);
                state = self.state();
            }
            state.idle_threads = state.idle_threads.saturating_add(1);
            let waited = self.submitted.wait_timeout(state, IDLE_LIMIT);
            let (woken, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle_threads = state.idle_threads.saturating_sub(1);
            if waited.timed_out() && state.waiting.is_empty() {
                state.threads = state.threads.saturating_sub(1);
                return;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "the numbers are small constants")]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
            mpsc::channel,
        },
        time::Duration,
    };

    use futures_util::future::join_all;
    use tokio::sync::oneshot::{self, error::RecvError};

    use super::*;

    /// Runs `work` in the pool and returns its output, or an error if it panicked.
    async fn run<T: Send + 'static>(
        pool: &'static BlockingPool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RecvError> {
        let (sender, receiver) = oneshot::channel();
        pool.submit(move || drop(sender.send(work())));
        receiver.await
    }

    #[actix_rt::test]
    async fn work_runs_on_other_threads_and_returns_its_output() {
        static POOL: BlockingPool = BlockingPool::new("test");
        let here = thread::current().id();
        for _ in 0..3 {
            let there = run(&POOL, || thread::current().id()).await.unwrap();
            assert_ne!(there, here);
        }
    }

    #[actix_rt::test]
    async fn at_most_four_threads_work_at_once() {
        static POOL: BlockingPool = BlockingPool::new("test");
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let work = (0..20).map(|_| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            run(&POOL, move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(2));
                running.fetch_sub(1, Ordering::SeqCst);
            })
        });
        join_all(work).await.into_iter().for_each(|done| done.unwrap());
        assert_eq!(most.load(Ordering::SeqCst), MAX_THREADS);
    }

    #[actix_rt::test]
    async fn a_panic_costs_its_own_work_only() {
        static POOL: BlockingPool = BlockingPool::new("test");
        for _ in 0..2 * MAX_THREADS {
            run(&POOL, || panic!("on purpose")).await.unwrap_err();
        }
        assert_eq!(run(&POOL, || 7).await.unwrap(), 7);
    }

    #[test]
    fn a_runtime_does_not_wait_for_work_that_hangs() {
        static POOL: BlockingPool = BlockingPool::new("test");
        let (_never, hangs) = channel::<()>();
        let system = actix_rt::System::new();
        system.block_on(async {
            POOL.submit(move || {
                hangs.recv().unwrap_err();
            });
        });
        // Ends at once: with the pool of the runtime, it would never.
        drop(system);
    }
}
