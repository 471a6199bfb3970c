//! Restart on failure, panics included.

use std::{
    any::type_name,
    cell::Cell,
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    task::{self, Poll},
    time::Duration,
};

use actix::{
    Actor, ActorContext as _, Addr, AsyncContext as _, Context, Supervised,
    dev::{ContextFut, channel::channel},
};
use actix_rt::{ArbiterHandle, time::Instant};
use log::{error, warn};

use crate::util::ignore_panic;

/// Restarts within [`RESTART_WINDOW`] before the supervisor gives up.
const MAX_RESTARTS: usize = 5;
const RESTART_WINDOW: Duration = Duration::from_secs(10);

/// actix's own default.
const MAILBOX_CAPACITY: usize = 16;

/// Runs an actor and restarts it whenever it ends: after `stop`, after `terminate`, and after a panic in a handler,
/// which [`actix::Supervisor`] does not survive. (Both are called `Supervisor`: import this one explicitly.)
///
/// It works on every thread that runs an actix system (also one of `System::with_tokio_rt`) or a tokio `LocalSet`.
///
/// The address stays the same, and messages in the mailbox are kept. The actor may reset its state in
/// [`Supervised::restarting`]. Futures that the actor has spawned on its context are dropped. The supervisor ends when
/// the actor stops by its [`StopHandle`], when the last address is dropped, or after more than five restarts in ten
/// seconds, which is an error in the log and closes the mailbox.
///
/// ```
/// use actix::{Actor, Context, Supervised};
/// use result_poster::Supervisor;
///
/// struct Runner;
///
/// impl Actor for Runner {
///     type Context = Context<Self>;
/// }
///
/// impl Supervised for Runner {}
///
/// # actix_rt::System::new().block_on(async {
/// let address = Supervisor::start(|_, _| Runner);
/// assert!(address.connected());
/// # });
/// ```
pub struct Supervisor<A>
where
    A: Supervised + Actor<Context = Context<A>>,
{
    actor: ContextFut<A, Context<A>>,
    restarts: VecDeque<Instant>,
    stop: StopHandle,
}

/// Stops a supervised actor permanently; see [`Supervisor::start`].
#[derive(Debug, Clone, Default)]
pub struct StopHandle(Rc<Cell<bool>>);

impl StopHandle {
    /// Stops the actor from within one of its handlers, as `context.stop()` does, and prevents the restart. Without a
    /// supervisor it is an ordinary stop. If [`Actor::stopping`] decides to continue, nothing has happened.
    pub fn stop<A: Actor<Context = Context<A>>>(&self, context: &mut Context<A>) {
        self.0.set(true);
        context.stop();
    }
}

impl<A> Supervisor<A>
where
    A: Supervised + Actor<Context = Context<A>>,
{
    /// Starts an actor under supervision on the current arbiter. With the handle, the actor can stop permanently.
    ///
    /// # Panics
    ///
    /// On a thread that runs neither an actix system nor a tokio `LocalSet`, such as under `#[tokio::main]`.
    pub fn start(create: impl FnOnce(&mut Context<A>, StopHandle) -> A) -> Addr<A> {
        let context = Context::new();
        let address = context.address();
        Self::run(context, create);
        address
    }

    /// Starts an actor under supervision on another arbiter, where `create` runs; otherwise as [`start`](Self::start).
    pub fn start_in_arbiter(
        arbiter: &ArbiterHandle,
        create: impl FnOnce(&mut Context<A>, StopHandle) -> A + Send + 'static,
    ) -> Addr<A> {
        let (sender, receiver) = channel(MAILBOX_CAPACITY);
        arbiter.spawn_fn(move || Self::run(Context::with_receiver(receiver), create));
        Addr::new(sender)
    }

    fn run(mut context: Context<A>, create: impl FnOnce(&mut Context<A>, StopHandle) -> A) {
        check_runtime();
        let stop = StopHandle::default();
        let actor = create(&mut context, stop.clone());
        actix_rt::spawn(Self {
            actor: context.into_future(actor),
            restarts: VecDeque::new(),
            stop,
        });
    }

    /// Whether one more restart is within the limit.
    fn may_restart(&mut self) -> bool {
        let now = Instant::now();
        self.restarts
            .retain(|restart| now.saturating_duration_since(*restart) < RESTART_WINDOW);
        self.restarts.push_back(now);
        self.restarts.len() <= MAX_RESTARTS
    }
}

/// Panics unless a task can be spawned on this thread.
///
/// Checked before a context runs: one that is dropped during a panic panics again, and the process aborts.
#[expect(clippy::panic, reason = "as `Actor::start` does, and documented")]
pub(crate) fn check_runtime() {
    // tokio has no way to ask, other than to try.
    let spawned = catch_unwind(|| drop(actix_rt::spawn(async {})));
    if spawned.is_err() {
        panic!(
            "an actor can be started only on a thread that runs an actix system or a tokio `LocalSet`: \
             use `#[actix_rt::main]`, `actix_rt::System::new().block_on(…)`, or `LocalSet::run_until(…)`"
        );
    }
}

impl<A> Future for Supervisor<A>
where
    A: Supervised + Actor<Context = Context<A>>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<()> {
        let name = type_name::<A>();
        loop {
            let actor = &mut self.actor;
            let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(actor).poll(context)));
            let ended = match polled {
                Ok(Poll::Pending) => {
                    // If it was stopped, its `stopping` has decided to go on: a later stop is an ordinary one.
                    self.stop.0.set(false);
                    return Poll::Pending;
                }
                Ok(Poll::Ready(())) | Err(_) if self.stop.0.get() => return Poll::Ready(()),
                Ok(Poll::Ready(())) => "stopped",
                Err(_) => "panicked",
            };
            if !self.actor.ctx().connected() {
                // The last address was dropped: an ordinary end.
                return Poll::Ready(());
            }
            if !self.may_restart() {
                ignore_panic(|| {
                    error!("giving up on {name} ({ended}): {MAX_RESTARTS} restarts within {RESTART_WINDOW:?}");
                });
                return Poll::Ready(());
            }
            ignore_panic(|| warn!("restarting {name} ({ended})"));
            let actor = &mut self.actor;
            if catch_unwind(AssertUnwindSafe(|| actor.restart())).is_err() {
                ignore_panic(|| error!("{name} panicked in `restarting`"));
            }
        }
    }
}

impl<A> fmt::Debug for Supervisor<A>
where
    A: Supervised + Actor<Context = Context<A>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor")
            .field("restarts", &self.restarts)
            .finish_non_exhaustive()
    }
}
