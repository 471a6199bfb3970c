//! Failures on demand.

use actix::{Actor, ActorContext as _, AsyncContext as _, Context, Handler, Message};

use crate::{credentials::CredentialActor, poster::ResultPoster};

/// Makes a [`ResultPoster`] or a [`CredentialActor`] fail, to test the code that uses it.
///
/// ```
/// use result_poster::{Options, ResultPoster, UpdateIssueStatus, events::GetStats, testing::{Crash, FakePlatform}};
///
/// # actix_rt::System::new().block_on(async {
/// let platform = FakePlatform::start()?;
/// let poster = ResultPoster::start_supervised(Options::builder(platform.url()).build()?);
///
/// poster.do_send(Crash::Panic);
/// poster.send(UpdateIssueStatus::new("issue-1", "Finished")).await??; // the poster was restarted
/// assert_eq!(poster.send(GetStats).await?.restarts, 1);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
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
    PanicRepeatedly,
}

impl Message for Crash {
    type Result = ();
}

impl Crash {
    #[expect(clippy::panic, reason = "its purpose")]
    fn strike<A>(self, context: &mut Context<A>)
    where
        A: Actor<Context = Context<A>> + Handler<Self>,
    {
        match self {
            Self::Stop => context.stop(),
            Self::Terminate => context.terminate(),
            Self::Panic => panic!("crashed by a test"),
            Self::PanicRepeatedly => {
                context.address().do_send(self);
                panic!("crashed by a test, again");
            }
        }
    }
}

impl Handler<Crash> for ResultPoster {
    type Result = ();

    fn handle(&mut self, crash: Crash, context: &mut Context<Self>) {
        crash.strike(context);
    }
}

impl Handler<Crash> for CredentialActor {
    type Result = ();

    fn handle(&mut self, crash: Crash, context: &mut Context<Self>) {
        crash.strike(context);
    }
}
