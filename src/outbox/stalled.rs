//! A store that does not answer, as while a flush hangs: nothing waits for it beyond a shutdown's time or a cancellation.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use actix_rt::{spawn, task::JoinHandle, time::timeout};
use futures_util::future::LocalBoxFuture;
use tokio::{sync::Notify, task::yield_now};
use tokio_util::sync::CancellationToken;

use super::{
    options::OutboxOptions,
    owner::Outbox,
    replayed::Replayed,
    route::Durable,
    store::{
        ClaimRequest, LaneClaim, LaneSet, MemoryStore, NewCall, NewMessage, Settlement, Store as _, Tables, Then, Which,
    },
};
use crate::{
    call::{Call, CallKind, Endpoint, Target},
    call_id::CallId,
    clock::Clock,
    delivery::{Dispatcher, Job, Passage, Worker},
    error::{AttemptError, CallError, CancelledBy, OutboxError, ParkReason},
    options::Options,
    queue::{Bound, LaneQueue},
    receipt::Outcome,
    route::{ReplyWhen, Route},
    transport::{HttpRequest, Transport},
    verdict::Answer,
};

/// Longer than anything takes that does not hang.
const LIMIT: Duration = Duration::from_secs(10);

/// A platform that answers when it is told to.
#[derive(Default)]
struct Platform {
    was_asked: Notify,
    may_answer: Notify,
}

impl Transport for Rc<Platform> {
    fn post<'a>(&'a self, _: &'a HttpRequest<'a>) -> LocalBoxFuture<'a, Result<Answer<'a>, AttemptError>> {
        Box::pin(async {
            self.was_asked.notify_one();
            self.may_answer.notified().await;
            Ok(Answer {
                status: 200,
                body: r#"{"success":true}"#.into(),
                ..Answer::default()
            })
        })
    }
}

/// A poster without its actor, over a store in memory.
struct Poster {
    platform: Rc<Platform>,
    tables: Rc<RefCell<Tables>>,
    store: Rc<MemoryStore>,
    outbox: Outbox,
    dispatcher: Rc<Dispatcher>,
    queue: Rc<LaneQueue>,
    route: Rc<dyn Route>,
}

impl Poster {
    fn new() -> Self {
        let options = Options::builder("http://127.0.0.1:1")
            .worker_id("wkr_1")
            .build()
            .unwrap();
        let platform = Rc::<Platform>::default();
        let parts = options.into_parts_over(Rc::new(Rc::clone(&platform)));
        let tables = Rc::<RefCell<Tables>>::default();
        let store = MemoryStore::open(&tables);
        let outbox = Outbox::over(
            Rc::<MemoryStore>::clone(&store),
            Arc::default(),
            OutboxOptions::new("unused"),
            "wkr_1",
            Clock::system(),
            || 0.5,
        );
        Self {
            platform,
            tables,
            store,
            route: Rc::new(Durable::new(outbox.clone())),
            outbox,
            dispatcher: parts.dispatcher,
            queue: parts.queue,
        }
    }

    /// Sends a comment on the only issue.
    fn send(&self, text: &str, token: Option<CancellationToken>) -> JoinHandle<Vec<Outcome>> {
        let comment = self.dispatcher.platform.create_comment(&"i".into(), text, text.into());
        self.send_calls(vec![comment], token)
    }

    /// Sends a message about the only issue.
    fn send_calls(&self, calls: Vec<Call>, token: Option<CancellationToken>) -> JoinHandle<Vec<Outcome>> {
        let target = Target::Issue("i".into());
        let (ticket, permit) = self.queue.admit(target, Bound::Queue).unwrap();
        let job = Box::new(Job {
            calls,
            worker: Worker::default(),
            cancellation: self.dispatcher.cancellation(token),
            passage: Passage::Free,
            begin: crate::telemetry::Begin::Arrived(self.dispatcher.clock.instant()),
            may_send: None,
            permit,
            ticket,
        });
        let route = Rc::clone(&self.route);
        spawn(route.run(Rc::clone(&self.dispatcher), job, ReplyWhen::Done))
    }

    /// A message that could not be stored, and that asks the store at its turn whether its lane has parked calls.
    async fn message_at_its_turn(&self, token: Option<CancellationToken>) -> JoinHandle<Vec<Outcome>> {
        let first = self.send("first", None);
        self.platform.was_asked.notified().await;
        self.tables.borrow_mut().is_broken = true;
        let second = self.send("second", token);
        all_tasks_wait().await;
        self.tables.borrow_mut().is_stalled = true;
        self.platform.may_answer.notify_one();
        assert!(first.await.unwrap().iter().all(Outcome::is_ok));
        all_tasks_wait().await;
        assert!(!second.is_finished());
        second
    }
}

/// Gives every task its turns, until each waits for something.
async fn all_tasks_wait() {
    for _ in 0..100 {
        yield_now().await;
    }
}

async fn assert_cancelled(message: JoinHandle<Vec<Outcome>>, expected: CancelledBy) {
    let outcomes = timeout(LIMIT, message).await.unwrap().unwrap();
    assert!(
        matches!(outcomes[..], [Err(CallError::Cancelled { by, attempts: 0, .. })] if by == expected),
        "{outcomes:?}"
    );
}

#[actix_rt::test]
async fn a_shutdown_does_not_wait_for_the_store_at_the_turn_of_a_message() {
    let poster = Poster::new();
    let message = poster.message_at_its_turn(None).await;
    poster.dispatcher.shutdown.cancel();
    assert_cancelled(message, CancelledBy::Shutdown).await;
}

#[actix_rt::test]
async fn a_cancellation_does_not_wait_for_the_store_at_the_turn_of_a_message() {
    let poster = Poster::new();
    let token = CancellationToken::new();
    let message = poster.message_at_its_turn(Some(token.clone())).await;
    token.cancel();
    assert_cancelled(message, CancelledBy::Token).await;
}

#[actix_rt::test]
async fn a_message_that_is_not_stored_is_sent_while_the_deletion_of_the_one_before_is_written() {
    let poster = Poster::new();
    let first = poster.send("first", None);
    poster.platform.was_asked.notified().await;
    poster.tables.borrow_mut().is_broken = true;
    let message = poster.send("second", None);
    all_tasks_wait().await;
    poster.tables.borrow_mut().is_broken = false;
    poster.tables.borrow_mut().stalls_settlements = true;
    poster.platform.may_answer.notify_one();
    assert!(first.await.unwrap().iter().all(Outcome::is_ok));
    poster.platform.may_answer.notify_one();
    let outcomes = timeout(LIMIT, message).await.unwrap().unwrap();
    assert!(outcomes.iter().all(Outcome::is_ok), "{outcomes:?}");
}

#[actix_rt::test]
async fn a_lane_whose_last_call_was_deleted_by_hand_is_removed() {
    let poster = Poster::new();
    let comment = |key: &str| poster.dispatcher.platform.create_comment(&"i".into(), key, key.into());
    let message = poster.send_calls(vec![comment("first"), comment("second")], None);
    poster.platform.was_asked.notified().await;
    poster.tables.borrow_mut().lose("second");
    poster.outbox.0.become_uncertain();
    poster.platform.may_answer.notify_one();
    let outcomes = timeout(LIMIT, message).await.unwrap().unwrap();
    assert!(matches!(&*outcomes, [Ok(_), Err(CallError::Parked(_))]), "{outcomes:?}");
    all_tasks_wait().await;
    assert_eq!(poster.tables.borrow().empty_lanes(), Vec::<String>::new());
}

#[actix_rt::test]
async fn a_message_of_a_released_lane_does_not_ask_the_store() {
    let poster = Poster::new();
    let first = poster.send("first", None);
    poster.platform.was_asked.notified().await;
    let second = poster.send("second", None);
    all_tasks_wait().await;
    let lane = LaneClaim {
        lane: "issue i".into(),
        claim: 1,
    };
    let inner = &poster.outbox.0;
    inner.unwritten.add(Settlement {
        lane,
        changes: Vec::new(),
        then: Then::Park {
            wait: Duration::ZERO,
            reason: ParkReason::AttemptsFailed,
        },
        now: inner.now(),
    });
    inner.become_uncertain();
    poster.tables.borrow_mut().is_stalled = true;
    poster.platform.may_answer.notify_one();
    assert!(first.await.unwrap().iter().all(Outcome::is_ok));
    let outcomes = timeout(LIMIT, second).await.unwrap().unwrap();
    assert!(matches!(&*outcomes, [Err(CallError::Parked(_))]), "{outcomes:?}");
}

#[actix_rt::test]
async fn a_shutdown_does_not_wait_for_the_settlement_of_an_unreadable_call() {
    let poster = Poster::new();
    let readable = poster
        .dispatcher
        .platform
        .create_comment(&"i".into(), "text", "key".into());
    let call = |body: &str, key: &str| NewCall {
        id: CallId::new(&Clock::system()),
        kind: CallKind::CreateComment,
        target_id: "i".into(),
        idempotency_key: key.into(),
        headers: None,
        body: body.into(),
    };
    let message = NewMessage {
        lane: "issue i".into(),
        calls: vec![call("no JSON", "other"), call(readable.stored_body(), "key")],
        worker_id: None,
        park: Some(ParkReason::QueueFull),
        round: 0,
        withdrawn: None,
        now: poster.outbox.0.now(),
    };
    poster.store.insert(message).await.unwrap();
    let request = ClaimRequest {
        round: 1,
        now: poster.outbox.0.now(),
        which: Which::Due { outages: Vec::new() },
        endpoint: Endpoint::Proxy,
        due: Vec::new(),
        delayed: LaneSet::default(),
        max_calls: 10,
        max_bytes: usize::MAX,
    };
    let claimed = poster.store.claim(request).await.unwrap().messages.remove(0);
    poster.tables.borrow_mut().is_stalled = true;
    let (outbox, dispatcher, queue) = (&poster.outbox, &poster.dispatcher, &poster.queue);
    let replayed = Replayed::admit(outbox, dispatcher, queue, claimed, Passage::FirstCall, outbox.0.since());
    let replayed = spawn(replayed.run());
    all_tasks_wait().await;
    assert!(!replayed.is_finished());
    poster.queue.close();
    poster.dispatcher.shutdown.cancel();
    timeout(LIMIT, poster.queue.drained()).await.unwrap();
}

#[actix_rt::test]
async fn cancelled_messages_are_bounded_while_the_store_does_not_answer() {
    const MIB: usize = 1024 * 1024;
    let poster = Poster::new();
    poster.tables.borrow_mut().is_stalled = true;
    let text = "x".repeat(90_000);
    for _ in 0..750 {
        let token = CancellationToken::new();
        let message = poster.send(&text, Some(token.clone()));
        all_tasks_wait().await;
        token.cancel();
        assert_cancelled(message, CancelledBy::Token).await;
    }
    let waiting = poster.outbox.0.overflowing.bytes();
    assert!((64 * MIB..65 * MIB).contains(&waiting), "{waiting}");
    // A message that can't be stored is sent all the same, if the store says that no call of its lane waits.
    poster.tables.borrow_mut().is_stalled = false;
    poster.platform.may_answer.notify_one();
    let message = poster.send("unstored", None);
    let outcomes = timeout(LIMIT, message).await.unwrap().unwrap();
    assert!(
        matches!(&outcomes[..], [Ok(receipt)] if receipt.outbox_error() == Some(&OutboxError::TimedOut)),
        "{outcomes:?}"
    );
}
