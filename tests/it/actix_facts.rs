//! The properties of actix that the design relies on. An update of actix that changes one fails here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix::{
    Actor, ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, Handler, MailboxError, Message,
    ResponseActFuture, ResponseFuture, Supervised, Supervisor, WrapFuture as _,
};
use actix_rt::time::sleep;

#[actix_rt::test]
async fn the_actix_supervisor_restarts_an_actor_only_after_a_stop() {
    let address = Supervisor::start(|_| Subject::default());
    address.do_send(Do::Stop);
    address.send(Do::Count).await.unwrap();
    address.do_send(Do::Panic);
    assert!(matches!(address.send(Do::Count).await, Err(MailboxError::Closed)));
    assert!(!address.connected());
}

#[actix_rt::test]
async fn only_a_response_future_survives_a_restart() {
    let address = Supervisor::start(|_| Subject::default());
    let detached = actix_rt::spawn(address.send(Detached { panic: false }));
    let attached = actix_rt::spawn(address.send(Attached));
    actix_rt::task::yield_now().await;
    address.do_send(Do::Stop);
    assert_eq!(detached.await.unwrap().unwrap(), "answered");
    assert!(matches!(attached.await.unwrap(), Err(MailboxError::Closed)));
}

#[actix_rt::test]
async fn a_panic_in_a_response_future_is_a_closed_mailbox_for_its_sender() {
    let address = Subject::default().start();
    assert!(matches!(
        address.send(Detached { panic: true }).await,
        Err(MailboxError::Closed)
    ));
    address.send(Do::Count).await.unwrap();
}

#[actix_rt::test]
async fn send_ignores_the_mailbox_capacity() {
    let subject = Subject::default();
    let handled = Arc::clone(&subject.handled);
    let address = subject.start();
    let replies: Vec<_> = (0..1000).map(|_| address.send(Do::Count)).collect();
    for reply in replies {
        reply.await.unwrap();
    }
    assert_eq!(handled.load(Ordering::Relaxed), 1000);
}

#[actix_rt::test]
async fn a_dropped_send_is_not_delivered() {
    let subject = Subject::default();
    let handled = Arc::clone(&subject.handled);
    let address = subject.start();
    let kept = address.send(Do::Count);
    drop(address.send(Do::Count));
    kept.await.unwrap();
    address.send(Do::Count).await.unwrap();
    assert_eq!(handled.load(Ordering::Relaxed), 2);
}

#[actix_rt::test]
async fn try_send_respects_the_mailbox_capacity() {
    let address = Subject::default().start();
    address.do_send(Do::Block);
    actix_rt::task::yield_now().await;
    let taken = (0..1000).take_while(|_| address.try_send(Do::Count).is_ok()).count();
    assert!(taken <= 17, "{taken}");
}

#[derive(Default)]
struct Subject {
    handled: Arc<AtomicUsize>,
}

impl Actor for Subject {
    type Context = Context<Self>;
}

impl Supervised for Subject {}

enum Do {
    Count,
    Stop,
    Panic,
    /// Keeps all further messages waiting.
    Block,
}

impl Message for Do {
    type Result = ();
}

impl Handler<Do> for Subject {
    type Result = ();

    fn handle(&mut self, message: Do, context: &mut Context<Self>) {
        match message {
            Do::Count => {
                self.handled.fetch_add(1, Ordering::Relaxed);
            }
            Do::Stop => context.stop(),
            Do::Panic => panic!("in a handler"),
            Do::Block => context.wait(std::future::pending().into_actor(self)),
        }
    }
}

/// Is answered after a while, by a task.
struct Detached {
    panic: bool,
}

impl Message for Detached {
    type Result = &'static str;
}

impl Handler<Detached> for Subject {
    type Result = ResponseFuture<&'static str>;

    fn handle(&mut self, message: Detached, _: &mut Context<Self>) -> Self::Result {
        Box::pin(async move {
            sleep(Duration::from_millis(20)).await;
            assert!(!message.panic, "in a task");
            "answered"
        })
    }
}

/// Is answered after a while, by a future of the actor.
struct Attached;

impl Message for Attached {
    type Result = ();
}

impl Handler<Attached> for Subject {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: Attached, _: &mut Context<Self>) -> Self::Result {
        Box::pin(sleep(Duration::from_millis(20)).into_actor(self).map(|(), _, _| ()))
    }
}
