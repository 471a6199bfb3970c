//! Restart on failure: the address stays, the mail is kept, running calls go on, and a hopeless actor is given up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix::{
    Actor, ActorContext as _, Addr, AsyncContext as _, Context, Handler, MailboxError, Message, Supervised,
    WrapFuture as _,
};
use result_poster::{
    GetCredentialActor, GetCredentials, GetStats, Options, PostResult, ResultPoster, Supervisor,
    testing::{Crash, FakePlatform, Reply},
};

use crate::support::{completed, keep_log, logged, options, platform_and_poster, post, start};

const ALL: [Crash; 3] = [Crash::Stop, Crash::Terminate, Crash::Panic];

#[actix_rt::test]
async fn a_poster_that_fails_keeps_its_address_its_mail_and_its_running_calls() {
    for crash in ALL {
        let (platform, poster) = platform_and_poster();
        platform.script("running/completion", [Reply::ok().delay(Duration::from_millis(100))]);
        let running = actix_rt::spawn(poster.send(PostResult::new("running", completed())));
        platform.wait_for_requests(1).await;
        poster.do_send(crash);
        // Queued behind the crash.
        post(&poster, "queued").await.unwrap();
        running.await.unwrap().unwrap().unwrap();
        // The counters survive too.
        let stats = poster.send(GetStats).await.unwrap();
        assert_eq!(
            (stats.restarts, stats.delivered, stats.accepted),
            (1, 4, 4),
            "{crash:?}"
        );
    }
}

#[actix_rt::test]
async fn failure_after_failure_is_survived_within_the_budget() {
    let (_platform, poster) = platform_and_poster();
    for (number, crash) in [Crash::Panic, Crash::Stop, Crash::Panic, Crash::Terminate, Crash::Panic]
        .into_iter()
        .enumerate()
    {
        poster.do_send(crash);
        post(&poster, &format!("s{number}")).await.unwrap();
    }
    assert_eq!(poster.send(GetStats).await.unwrap().restarts, 5);
}

#[actix_rt::test]
async fn a_poster_beyond_hope_is_given_up_and_its_running_calls_are_answered() {
    keep_log();
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::ok().delay(Duration::from_millis(100))]);
    let running = actix_rt::spawn(poster.send(PostResult::new("s", completed())));
    platform.wait_for_requests(1).await;
    poster.do_send(Crash::Ruin);
    while poster.connected() {
        actix_rt::task::yield_now().await;
    }
    let refused = poster.send(PostResult::new("t", completed())).await;
    assert!(matches!(refused, Err(MailboxError::Closed)));
    running.await.unwrap().unwrap().unwrap();
    assert!(
        logged()
            .iter()
            .any(|line| line.starts_with("ERROR") && line.contains("ResultPoster") && line.contains("given up"))
    );
}

#[actix_rt::test]
async fn the_credential_actor_is_restarted_too_and_started_anew_once_it_is_given_up() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()).auth_token("fixed"));
    let first = poster.send(GetCredentialActor).await.unwrap();
    for crash in ALL {
        first.do_send(crash);
        first.send(GetCredentials::default()).await.unwrap().unwrap();
    }
    first.do_send(Crash::Ruin);
    while first.connected() {
        actix_rt::task::yield_now().await;
    }
    post(&poster, "s").await.unwrap();
    assert_ne!(poster.send(GetCredentialActor).await.unwrap(), first);
}

#[actix_rt::test]
async fn an_unsupervised_poster_works_until_it_fails() {
    let platform = FakePlatform::start().unwrap();
    let poster = ResultPoster::new(options(platform.url()).build().unwrap()).start();
    post(&poster, "s").await.unwrap();
    poster.do_send(Crash::Panic);
    assert!(matches!(
        poster.send(PostResult::new("t", completed())).await,
        Err(MailboxError::Closed)
    ));
}

#[actix_rt::test]
async fn a_poster_on_another_arbiter_is_reached_and_restarted_like_any() {
    let platform = FakePlatform::start().unwrap();
    let arbiter = actix_rt::Arbiter::new();
    let options = options(platform.url()).build().unwrap();
    let poster = ResultPoster::start_supervised_in_arbiter(&arbiter.handle(), options);
    post(&poster, "s").await.unwrap();
    poster.do_send(Crash::Panic);
    post(&poster, "t").await.unwrap();
    arbiter.stop();
    arbiter.join().unwrap();
}

#[actix_rt::test]
async fn an_actor_that_nobody_can_reach_ends_quietly() {
    keep_log();
    #[derive(Default)]
    struct Quiet(Arc<AtomicUsize>);
    impl Actor for Quiet {
        type Context = Context<Self>;
        fn stopped(&mut self, _: &mut Context<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    impl Supervised for Quiet {}

    let stopped = Arc::new(AtomicUsize::new(0));
    let address = Supervisor::start({
        let stopped = Arc::clone(&stopped);
        |_| Quiet(stopped)
    });
    drop(address);
    while stopped.load(Ordering::Relaxed) == 0 {
        actix_rt::task::yield_now().await;
    }
    assert!(!logged().iter().any(|line| line.contains("Quiet")));
}

/// An actor of a runner's own, which counts what it was asked, and may fail to start.
struct Counter {
    asked: usize,
    starts: Arc<AtomicUsize>,
    fails_to_start: bool,
}

impl Counter {
    fn new(fails_to_start: bool) -> (Self, Arc<AtomicUsize>) {
        let starts = Arc::new(AtomicUsize::new(0));
        let counter = Self {
            asked: 0,
            starts: Arc::clone(&starts),
            fails_to_start,
        };
        (counter, starts)
    }

    fn start(fails_to_start: bool) -> (Addr<Self>, Arc<AtomicUsize>) {
        let (counter, starts) = Self::new(fails_to_start);
        (Supervisor::start(|_| counter), starts)
    }
}

impl Actor for Counter {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.starts.fetch_add(1, Ordering::Relaxed);
        assert!(!self.fails_to_start, "it never gets up");
        context.spawn(std::future::pending().into_actor(self));
    }
}

impl Supervised for Counter {}

struct Ask {
    panic: bool,
}

impl Message for Ask {
    type Result = usize;
}

impl Handler<Ask> for Counter {
    type Result = usize;

    fn handle(&mut self, ask: Ask, _: &mut Context<Self>) -> usize {
        self.asked += 1;
        assert!(!ask.panic, "asked too much");
        self.asked
    }
}

struct Stop;

impl Message for Stop {
    type Result = ();
}

impl Handler<Stop> for Counter {
    type Result = ();

    fn handle(&mut self, _: Stop, context: &mut Context<Self>) {
        context.stop();
    }
}

struct Finish;

impl Message for Finish {
    type Result = ();
}

impl Handler<Finish> for Counter {
    type Result = ();

    fn handle(&mut self, _: Finish, context: &mut Context<Self>) {
        Supervisor::stop_for_good(context);
    }
}

#[actix_rt::test]
async fn a_panic_costs_its_sender_alone_and_the_state_is_kept() {
    let (counter, starts) = Counter::start(false);
    let replies = [false, true, false].map(|panic| counter.send(Ask { panic }));
    let [first, panicked, queued] = replies.map(actix_rt::spawn);
    assert_eq!(first.await.unwrap().unwrap(), 1);
    assert!(matches!(panicked.await.unwrap(), Err(MailboxError::Closed)));
    assert_eq!(queued.await.unwrap().unwrap(), 3);
    assert_eq!(starts.load(Ordering::Relaxed), 2);
}

#[actix_rt::test]
async fn an_actor_that_never_gets_up_is_given_up_and_does_not_spin() {
    let (counter, starts) = Counter::start(true);
    assert!(matches!(
        counter.send(Ask { panic: false }).await,
        Err(MailboxError::Closed)
    ));
    assert_eq!(starts.load(Ordering::Relaxed), 6);
}

#[actix_rt::test]
async fn a_stop_for_good_is_no_failure() {
    let (counter, starts) = Counter::start(false);
    counter.send(Finish).await.unwrap();
    assert!(matches!(
        counter.send(Ask { panic: false }).await,
        Err(MailboxError::Closed)
    ));
    assert_eq!(starts.load(Ordering::Relaxed), 1);
}

#[actix_rt::test]
async fn a_stop_for_good_is_its_own_actors_alone() {
    let (counter, starts) = Counter::start(false);
    counter.send(Ask { panic: false }).await.unwrap();
    let unsupervised = Counter::new(false).0.start();
    unsupervised.send(Finish).await.unwrap();
    counter.do_send(Stop);
    counter.send(Ask { panic: false }).await.unwrap();
    assert_eq!(starts.load(Ordering::Relaxed), 2);
    assert!(matches!(
        unsupervised.send(Ask { panic: false }).await,
        Err(MailboxError::Closed)
    ));
}

#[actix_rt::test]
async fn options_can_be_used_for_many_posters() {
    let platform = FakePlatform::start().unwrap();
    let options: Options = options(platform.url()).build().unwrap();
    for session in ["a", "b"] {
        post(&ResultPoster::start_supervised(options.clone()), session)
            .await
            .unwrap();
    }
    assert_eq!(platform.connections(), 2);
}

#[actix_rt::test]
async fn the_budget_is_for_ten_seconds() {
    let (counter, starts) = Counter::start(false);
    tokio::time::pause();
    for _ in 0..3 {
        for _ in 0..5 {
            counter.do_send(Ask { panic: true });
        }
        counter.send(Ask { panic: false }).await.unwrap();
        tokio::time::advance(Duration::from_secs(10)).await;
    }
    assert_eq!(starts.load(Ordering::Relaxed), 16);
}

#[actix_rt::test]
async fn a_panic_in_restarting_is_one_more_failure() {
    #[derive(Default)]
    struct Clumsy {
        restarts: usize,
    }
    impl Actor for Clumsy {
        type Context = Context<Self>;
    }
    impl Supervised for Clumsy {
        fn restarting(&mut self, _: &mut Context<Self>) {
            self.restarts += 1;
            assert!(self.restarts > 1, "it stumbles");
        }
    }
    impl Handler<Ask> for Clumsy {
        type Result = usize;
        fn handle(&mut self, ask: Ask, _: &mut Context<Self>) -> usize {
            assert!(!ask.panic, "asked too much");
            self.restarts
        }
    }
    let clumsy = Supervisor::start(|_| Clumsy::default());
    clumsy.do_send(Ask { panic: true });
    assert_eq!(clumsy.send(Ask { panic: false }).await.unwrap(), 1);
}
