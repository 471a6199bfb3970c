//! Restart on failure, panics included.

use std::{
    any::type_name,
    cell::Cell,
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{self, Poll},
    time::Duration,
};

use actix::{
    Actor, ActorContext as _, Addr, AsyncContext as _, Context, Supervised,
    dev::{ContextFut, channel::channel},
};
use actix_rt::{ArbiterHandle, time::Instant};
use log::{error, warn};

use crate::panics::quietly;

/// Restarts within [`BUDGET_WINDOW`] before the supervisor gives up.
const BUDGET: usize = 5;
const BUDGET_WINDOW: Duration = Duration::from_secs(10);

thread_local! {
    /// Set within the poll of an actor that asks for it, and read when that poll ends.
    static STOP_FOR_GOOD: Cell<bool> = const { Cell::new(false) };
}

/// actix's own default.
const MAILBOX_CAPACITY: usize = 16;

/// Runs an actor and restarts it whenever it ends: after `stop`, after `terminate`, and after a panic
/// in a handler, which [`actix::Supervisor`] does not survive (so import this one by name, not by two globs).
///
/// The address stays the same, and messages that wait in the mailbox are kept; the state is what the
/// actor makes of it in [`Supervised::restarting`]. Futures that the actor had spawned on its context
/// are dropped. The supervisor ends with [`stop_for_good`](Self::stop_for_good), when nobody holds the
/// address any more, or after more than five restarts in ten seconds: that is an error in the log, and
/// the mailbox is closed.
pub struct Supervisor<A>
where
    A: Supervised + Actor<Context = Context<A>>,
{
    actor: ContextFut<A, Context<A>>,
    restarts: VecDeque<Instant>,
}

impl<A> Supervisor<A>
where
    A: Supervised + Actor<Context = Context<A>>,
{
    /// Starts an actor under supervision on the current arbiter.
    ///
    /// # Panics
    ///
    /// Outside of an actix system, as [`Actor::start`] does.
    pub fn start(create: impl FnOnce(&mut Context<A>) -> A) -> Addr<A> {
        let context = Context::new();
        let address = context.address();
        Self::run(context, create);
        address
    }

    /// Starts an actor under supervision on another arbiter, where `create` runs.
    pub fn start_in_arbiter(
        arbiter: &ArbiterHandle,
        create: impl FnOnce(&mut Context<A>) -> A + Send + 'static,
    ) -> Addr<A> {
        let (sender, receiver) = channel(MAILBOX_CAPACITY);
        arbiter.spawn_fn(move || Self::run(Context::with_receiver(receiver), create));
        Addr::new(sender)
    }

    fn run(mut context: Context<A>, create: impl FnOnce(&mut Context<A>) -> A) {
        let actor = create(&mut context);
        actix_rt::spawn(Self {
            actor: context.into_future(actor),
            restarts: VecDeque::new(),
        });
    }

    /// Stops the actor for good, from within one of its handlers: as `context.stop()`, and it is not
    /// restarted. Under another supervisor, or none, it is a `stop` like any other.
    pub fn stop_for_good(context: &mut Context<A>) {
        STOP_FOR_GOOD.set(true);
        context.stop();
    }

    /// Whether one more restart is within the budget.
    fn may_restart(&mut self) -> bool {
        let now = Instant::now();
        self.restarts
            .retain(|restart| now.saturating_duration_since(*restart) < BUDGET_WINDOW);
        self.restarts.push_back(now);
        self.restarts.len() <= BUDGET
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
            // Whoever set it outside of a supervisor's poll meant itself.
            STOP_FOR_GOOD.set(false);
            let actor = &mut self.actor;
            let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(actor).poll(context)));
            let stop_for_good = STOP_FOR_GOOD.take();
            let ended = match polled {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(())) if stop_for_good => return Poll::Ready(()),
                Ok(Poll::Ready(())) => "stopped",
                Err(_) => "panicked",
            };
            if !self.actor.ctx().connected() {
                // Nobody holds the address any more: an ordinary end.
                return Poll::Ready(());
            }
            if !self.may_restart() {
                quietly(|| {
                    error!("{name} {ended} again after {BUDGET} restarts within {BUDGET_WINDOW:?} and is given up");
                });
                return Poll::Ready(());
            }
            quietly(|| warn!("{name} {ended} and is restarted"));
            let actor = &mut self.actor;
            if catch_unwind(AssertUnwindSafe(|| actor.restart())).is_err() {
                quietly(|| error!("{name} panicked in `restarting`"));
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
