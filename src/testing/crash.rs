use actix::{Actor, ActorContext as _, AsyncContext as _, Context, Handler, Message};

/// Makes a [`ResultPoster`](crate::ResultPoster) or a [`CredentialActor`](crate::CredentialActor) fail, to see
/// what becomes of those who use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Crash {
    /// The actor stops, as after `context.stop()`.
    Stop,
    /// The actor terminates, as after `context.terminate()`.
    Terminate,
    /// A handler of the actor panics.
    Panic,
    /// A handler panics again and again, until the supervisor gives up.
    Ruin,
}

impl Message for Crash {
    type Result = ();
}

impl Crash {
    #[expect(clippy::panic, reason = "that is what it is for")]
    pub(crate) fn strike<A>(self, context: &mut Context<A>)
    where
        A: Actor<Context = Context<A>> + Handler<Self>,
    {
        match self {
            Self::Stop => context.stop(),
            Self::Terminate => context.terminate(),
            Self::Panic => panic!("crashed by a test"),
            Self::Ruin => {
                context.address().do_send(self);
                panic!("ruined by a test");
            }
        }
    }
}
