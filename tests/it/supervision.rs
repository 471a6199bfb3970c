//! Restarts after failures: the address, the mail and the running calls survive. After too many failures the actor is
//! stopped.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix::{
    Actor, ActorContext as _, Addr, AsyncContext as _, Context, Handler, MailboxError, Message, Running, Supervised,
    WrapFuture as _,
};
use result_poster::{
    Options, PostResult, ResultPoster, StopHandle, Supervisor,
    credentials::{GetCredentialActor, GetCredentials},
    events::GetStats,
    testing::{Crash, FakePlatform, Reply},
};

use crate::support::{
    completed,
    log::{keep_log, logged},
    options, platform_and_poster, post, start,
    wait::wait_until,
};

const ALL: [Crash; 3] = [Crash::Stop, Crash::Terminate, Crash::Panic];

#[actix_rt::test]
async fn a_restarted_poster_keeps_its_address_its_mail_and_its_running_calls() {
    for crash in ALL {
        let (platform, poster) = platform_and_poster();
        platform.script("running/completion", [Reply::ok().delay(Duration::from_millis(100))]);
        let running = actix_rt::spawn(poster.send(PostResult::new("running", completed())));
        platform.wait_for_requests(1).await;
        poster.do_send(crash);
        // Queued behind the crash.
        post(&poster, "queued").await.unwrap();
        running.await.unwrap().unwrap().unwrap();
        // The counters survive as well.
        let stats = poster.send(GetStats).await.unwrap();
        assert_eq!(
            (stats.restarts, stats.delivered, stats.accepted),
            (1, 4, 4),
            "{crash:?}"
        );
    }
}

#[actix_rt::test]
async fn five_failures_in_a_row_are_survived() {
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
async fn a_poster_beyond_the_restart_budget_is_stopped_with_a_log_line() {
    keep_log();
    let (_platform, poster) = platform_and_poster();
    poster.do_send(Crash::PanicRepeatedly);
    wait_until(|| !poster.connected()).await;
    let refused = poster.send(PostResult::new("t", completed())).await;
    assert!(matches!(refused, Err(MailboxError::Closed)));
    let lines = logged();
    let poster = std::any::type_name::<ResultPoster>();
    for line in [
        format!("WARN result_poster::supervisor restarting {poster} (panicked)"),
        format!("ERROR result_poster::supervisor giving up on {poster} (panicked): 5 restarts within 10s"),
    ] {
        assert!(lines.contains(&line), "{line}");
    }
}

#[actix_rt::test]
async fn running_calls_are_answered_after_the_poster_is_stopped() {
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::ok().delay(Duration::from_millis(100))]);
    let running = actix_rt::spawn(poster.send(PostResult::new("s", completed())));
    platform.wait_for_requests(1).await;
    poster.do_send(Crash::PanicRepeatedly);
    wait_until(|| !poster.connected()).await;
    running.await.unwrap().unwrap().unwrap();
}

#[actix_rt::test]
async fn the_credential_actor_is_restarted() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()).auth_token("fixed"));
    let actor = poster.send(GetCredentialActor).await.unwrap();
    for crash in ALL {
        actor.do_send(crash);
        actor.send(GetCredentials::default()).await.unwrap().unwrap();
    }
}

#[actix_rt::test]
async fn a_failed_credential_actor_is_replaced() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()).auth_token("fixed"));
    let first = poster.send(GetCredentialActor).await.unwrap();
    first.do_send(Crash::PanicRepeatedly);
    wait_until(|| !first.connected()).await;
    post(&poster, "s").await.unwrap();
    assert_ne!(poster.send(GetCredentialActor).await.unwrap(), first);
}

#[actix_rt::test]
async fn an_unsupervised_poster_stops_at_its_first_failure() {
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
async fn a_poster_on_another_arbiter_is_restarted() {
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
async fn an_unreachable_actor_stops_without_a_log_line() {
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
        |_, _| Quiet(stopped)
    });
    drop(address);
    wait_until(|| stopped.load(Ordering::Relaxed) > 0).await;
    assert!(!logged().iter().any(|line| line.contains("Quiet")));
}

#[actix_rt::test]
async fn a_panic_affects_only_its_sender_and_keeps_the_state() {
    let (counter, starts) = Counter::start(false);
    let replies = [false, true, false].map(|panic| counter.send(Count { panic }));
    let [first, panicked, queued] = replies.map(actix_rt::spawn);
    assert_eq!(first.await.unwrap().unwrap(), 1);
    assert!(matches!(panicked.await.unwrap(), Err(MailboxError::Closed)));
    assert_eq!(queued.await.unwrap().unwrap(), 3);
    assert_eq!(starts.load(Ordering::Relaxed), 2);
}

#[actix_rt::test]
async fn a_failing_start_ends_the_actor_after_five_restarts() {
    let (counter, starts) = Counter::start(true);
    assert!(matches!(
        counter.send(Count { panic: false }).await,
        Err(MailboxError::Closed)
    ));
    assert_eq!(starts.load(Ordering::Relaxed), 6);
}

#[actix_rt::test]
async fn a_stop_by_handle_is_not_a_failure() {
    let (counter, starts) = Counter::start(false);
    counter.send(Finish).await.unwrap();
    assert!(matches!(
        counter.send(Count { panic: false }).await,
        Err(MailboxError::Closed)
    ));
    assert_eq!(starts.load(Ordering::Relaxed), 1);
}

#[actix_rt::test]
async fn a_stop_handle_affects_only_its_own_actor() {
    let (counter, starts) = Counter::start(false);
    counter.send(Count { panic: false }).await.unwrap();
    let unsupervised = Counter::new(false, StopHandle::default()).0.start();
    unsupervised.send(Finish).await.unwrap();
    counter.do_send(Stop);
    counter.send(Count { panic: false }).await.unwrap();
    assert_eq!(starts.load(Ordering::Relaxed), 2);
    assert!(matches!(
        unsupervised.send(Count { panic: false }).await,
        Err(MailboxError::Closed)
    ));
}

#[actix_rt::test]
async fn a_stop_by_handle_that_was_declined_does_not_prevent_a_later_restart() {
    let (counter, starts) = Counter::start(false);
    counter.send(DeclineNextStop).await.unwrap();
    counter.send(Finish).await.unwrap();
    counter.send(Count { panic: false }).await.unwrap();
    assert_eq!(starts.load(Ordering::Relaxed), 1);
    counter.do_send(Stop);
    counter.send(Count { panic: false }).await.unwrap();
    assert_eq!(starts.load(Ordering::Relaxed), 2);
}

#[actix_rt::test]
async fn options_can_start_several_posters() {
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
async fn the_restart_budget_covers_ten_seconds() {
    let (counter, starts) = Counter::start(false);
    tokio::time::pause();
    for _ in 0..3 {
        for _ in 0..5 {
            counter.do_send(Count { panic: true });
        }
        counter.send(Count { panic: false }).await.unwrap();
        tokio::time::advance(Duration::from_secs(10)).await;
    }
    assert_eq!(starts.load(Ordering::Relaxed), 16);
}

#[actix_rt::test]
async fn a_panic_while_restarting_is_another_failure() {
    #[derive(Default)]
    struct Unsteady {
        restarts: usize,
    }
    impl Actor for Unsteady {
        type Context = Context<Self>;
    }
    impl Supervised for Unsteady {
        fn restarting(&mut self, _: &mut Context<Self>) {
            self.restarts += 1;
            assert!(self.restarts > 1, "the first restart panics");
        }
    }
    impl Handler<Count> for Unsteady {
        type Result = usize;
        fn handle(&mut self, count: Count, _: &mut Context<Self>) -> usize {
            assert!(!count.panic, "a handler panics");
            self.restarts
        }
    }
    let unsteady = Supervisor::start(|_, _| Unsteady::default());
    unsteady.do_send(Count { panic: true });
    assert_eq!(unsteady.send(Count { panic: false }).await.unwrap(), 1);
}

/// An actor of a runner's own, which counts its messages, and may fail to start.
struct Counter {
    messages: usize,
    starts: Arc<AtomicUsize>,
    fails_to_start: bool,
    declines_next_stop: bool,
    stop: StopHandle,
}

impl Counter {
    fn new(fails_to_start: bool, stop: StopHandle) -> (Self, Arc<AtomicUsize>) {
        let starts = Arc::new(AtomicUsize::new(0));
        let counter = Self {
            messages: 0,
            starts: Arc::clone(&starts),
            fails_to_start,
            declines_next_stop: false,
            stop,
        };
        (counter, starts)
    }

    fn start(fails_to_start: bool) -> (Addr<Self>, Arc<AtomicUsize>) {
        let mut starts = None;
        let address = Supervisor::start(|_, stop| {
            let (counter, counted) = Self::new(fails_to_start, stop);
            starts = Some(counted);
            counter
        });
        (address, starts.unwrap())
    }
}

impl Actor for Counter {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.starts.fetch_add(1, Ordering::Relaxed);
        assert!(!self.fails_to_start, "the actor fails to start");
        context.spawn(std::future::pending().into_actor(self));
    }

    fn stopping(&mut self, _: &mut Context<Self>) -> Running {
        if mem::take(&mut self.declines_next_stop) {
            Running::Continue
        } else {
            Running::Stop
        }
    }
}

impl Supervised for Counter {}

struct Count {
    panic: bool,
}

impl Message for Count {
    type Result = usize;
}

impl Handler<Count> for Counter {
    type Result = usize;

    fn handle(&mut self, count: Count, _: &mut Context<Self>) -> usize {
        self.messages += 1;
        assert!(!count.panic, "a handler panics");
        self.messages
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

struct DeclineNextStop;

impl Message for DeclineNextStop {
    type Result = ();
}

impl Handler<DeclineNextStop> for Counter {
    type Result = ();

    fn handle(&mut self, _: DeclineNextStop, _: &mut Context<Self>) {
        self.declines_next_stop = true;
    }
}

struct Finish;

impl Message for Finish {
    type Result = ();
}

impl Handler<Finish> for Counter {
    type Result = ();

    fn handle(&mut self, _: Finish, context: &mut Context<Self>) {
        self.stop.stop(context);
    }
}
