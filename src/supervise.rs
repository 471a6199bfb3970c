//! Restart on failure, panics included.

use std::{
    any::type_name,
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{self, Poll},
    time::Duration,
};

use actix::{
    Actor, Addr, AsyncContext as _, Context, Supervised,
    dev::{ContextFut, channel::channel},
};
use actix_rt::{ArbiterHandle, time::Instant};
use log::{error, warn};

/// Restarts within [`BUDGET_WINDOW`] before the supervisor gives up.
const BUDGET: usize = 5;
const BUDGET_WINDOW: Duration = Duration::from_secs(10);

/// actix's own default.
const MAILBOX_CAPACITY: usize = 16;

/// Runs an actor and restarts it whenever it ends: after `stop`, after `terminate`, and after a panic
/// in a handler, which actix's own supervisor does not survive.
///
/// The address stays the same, and messages that wait in the mailbox are kept; the state is what the
/// actor makes of it in [`Supervised::restarting`]. Futures that the actor had spawned on its context
/// are dropped. The supervisor ends when nobody holds the address any more, or after more
/// than five restarts in ten seconds: that is an error in the log, and the mailbox is closed.
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
            let actor = &mut self.actor;
            match catch_unwind(AssertUnwindSafe(|| Pin::new(actor).poll(context))) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(())) => warn!("{name} stopped, restarting it"),
                Err(_) => error!("{name} panicked, restarting it"),
            }
            if !self.may_restart() {
                error!("{name} was restarted {BUDGET} times within {BUDGET_WINDOW:?} and is given up");
                return Poll::Ready(());
            }
            let actor = &mut self.actor;
            match catch_unwind(AssertUnwindSafe(|| actor.restart())) {
                Ok(true) => {}
                // Nobody holds the address any more.
                Ok(false) => return Poll::Ready(()),
                Err(_) => error!("{name} panicked while it restarted"),
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
