//! What a host does to a process: no actix system, files that never answer, stopped processes, no file descriptors.

use std::{
    io::Write as _,
    net::TcpStream,
    panic::{AssertUnwindSafe, catch_unwind},
    process::Command,
    sync::{Mutex, mpsc::channel},
    thread,
    time::Duration,
};

use actix::Actor as _;
use actix_rt::{System, time::Instant};
use result_poster::{
    AttemptError, Options, ResultPoster, Shutdown, Supervisor,
    credentials::{CredentialActor, RuntimeCredentials, RuntimeTokenFile},
    testing::FakePlatform,
};
use tokio::{runtime, task::LocalSet};

use crate::support::{
    child::{ChildProcess, child_input, take_all_descriptors},
    errors::texts,
    log::{keep_log, logged},
    options,
    raw_server::{SUCCESS, read_request, response, serve, success},
    send_update, start,
};

/// The limit on the end of a process after its system has stopped, which takes less than a second on an idle machine. It
/// is below the 10 s for which a thread without work stays; a thread whose work hangs stays forever.
const END_LIMIT: Duration = Duration::from_secs(8);

// -- Outside of actix

/// Each way to start an actor of the crate on this thread.
fn starts() -> [(&'static str, fn()); 6] {
    fn poster_options() -> Options {
        options("http://127.0.0.1:1").build().unwrap()
    }
    fn credential_actor() -> CredentialActor {
        CredentialActor::builder(RuntimeCredentials::new("w", "t"))
            .build()
            .unwrap()
    }
    [
        ("start_supervised", || {
            drop(ResultPoster::start_supervised(poster_options()));
        }),
        ("ResultPoster::start", || {
            drop(ResultPoster::new(poster_options()).start());
        }),
        ("ResultPoster::create", || {
            drop(ResultPoster::create(|_| ResultPoster::new(poster_options())));
        }),
        ("CredentialActor::start", || {
            drop(credential_actor().start());
        }),
        ("CredentialActor::create", || {
            drop(CredentialActor::create(|_| credential_actor()));
        }),
        ("Supervisor::start", || {
            drop(Supervisor::start(|_, _| credential_actor()));
        }),
    ]
}

/// Starts each actor on this thread, which panics with what to do.
fn each_start_panics(place: &str) {
    for (name, start) in starts() {
        let panic = catch_unwind(AssertUnwindSafe(start)).unwrap_err();
        let message = panic.downcast_ref::<&str>().unwrap();
        assert!(message.contains("use `#[actix_rt::main]`"), "{name} {place}: {message}");
    }
}

#[test]
fn an_actor_outside_of_an_actix_system_panics_with_what_to_do() {
    let multi_thread = runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let current_thread = runtime::Builder::new_current_thread().build().unwrap();
    each_start_panics("without a runtime");
    current_thread.block_on(async { each_start_panics("in a runtime of one thread") });
    multi_thread.block_on(async {
        each_start_panics("in a runtime of several threads");
        let task = tokio::spawn(async { each_start_panics("in a task of one") });
        task.await.unwrap();
    });
    let not_running = thread::spawn(|| {
        let _system = System::new();
        each_start_panics("beside a system that does not run");
    });
    not_running.join().unwrap();
}

#[actix_rt::test]
async fn each_actor_starts_in_an_actix_system() {
    for (_, start) in starts() {
        start();
    }
}

#[test]
fn a_poster_works_in_a_local_set() {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let platform = System::new().block_on(async { FakePlatform::start().unwrap() });
    LocalSet::new().block_on(&runtime, async {
        send_update(&start(options(platform.url())), "i").await.unwrap();
    });
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(LocalSet::new().run_until(async {
        send_update(&start(options(platform.url())), "i").await.unwrap();
    }));
    assert_eq!(platform.requests().len(), 2);
}

#[test]
fn a_poster_works_in_a_system_over_a_tokio_runtime() {
    let system = System::with_tokio_rt(|| {
        runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
    });
    system.block_on(async {
        let platform = FakePlatform::start().unwrap();
        send_update(&start(options(platform.url())), "i").await.unwrap();
    });
}

// -- Names and files that never answer

#[cfg(feature = "__bridge")]
#[test]
fn child_process_with_a_lookup_that_hangs() {
    let Some(ending) = child_input() else { return };
    let system = System::new();
    system.block_on(async {
        let hanging = options("https://hanging-lookup.invalid").max_attempts(1);
        let poster = start(hanging.connect_timeout(Duration::from_millis(100)));
        let error = send_update(&poster, "i").await.unwrap_err();
        println!("error: {}", texts(&error).join(": "));
        // In flight until the end.
        actix_rt::spawn(async {
            let poster = start(options("https://hanging-lookup.invalid"));
            let _ = send_update(&poster, "i").await;
        });
        if ending == "shutdown" {
            poster.send(Shutdown::within(Duration::from_secs(10))).await.unwrap();
        }
        System::current().stop();
        println!("stopping");
    });
    system.run().unwrap();
}

#[cfg(feature = "__bridge")]
#[test]
fn a_lookup_that_hangs_keeps_no_process_alive() {
    for ending in ["shutdown", "stop"] {
        let mut child = ChildProcess::start("host::child_process_with_a_lookup_that_hangs", ending);
        let error = child.line("error: ");
        assert!(error.ends_with("resolving the name: timed out"), "{error}");
        child.line("stopping");
        let stopping = Instant::now();
        child.succeeds();
        assert!(stopping.elapsed() < END_LIMIT, "{ending}: {:?}", stopping.elapsed());
    }
}

#[test]
fn child_process_with_a_fifo_as_its_token_file() {
    let Some(fifo) = child_input() else { return };
    let (fifo, with_shutdown) = fifo.split_once('|').unwrap();
    let system = System::new();
    system.block_on(async {
        let options = options("http://127.0.0.1:1").auth_token("").max_attempts(1);
        let poster = start(options.credential_provider(RuntimeTokenFile::new(fifo)));
        let error = send_update(&poster, "i").await.unwrap_err();
        println!("error: {}", texts(&error).join(": "));
        if with_shutdown == "shutdown" {
            poster.send(Shutdown::within(Duration::from_secs(10))).await.unwrap();
        }
        System::current().stop();
        println!("stopping");
    });
    system.run().unwrap();
}

#[test]
fn a_fifo_as_the_token_file_is_an_error_and_keeps_no_process_alive() {
    for with_shutdown in ["shutdown", "stop"] {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("token.json");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let input = format!("{}|{with_shutdown}", fifo.display());
        let mut child = ChildProcess::start("host::child_process_with_a_fifo_as_its_token_file", &input);
        let error = child.line("error: ");
        assert!(error.ends_with("is not a regular file"), "{error}");
        child.line("stopping");
        let stopping = Instant::now();
        child.succeeds();
        assert!(
            stopping.elapsed() < END_LIMIT,
            "{with_shutdown}: {:?}",
            stopping.elapsed()
        );
    }
}

#[actix_rt::test]
async fn a_folder_or_a_device_as_the_token_file_is_an_error() {
    for path in ["/dev/null", "/"] {
        let options = options("http://127.0.0.1:1").auth_token("").max_attempts(1);
        let poster = start(options.credential_provider(RuntimeTokenFile::new(path)));
        let error = send_update(&poster, "i").await.unwrap_err();
        assert!(texts(&error).concat().ends_with("is not a regular file"), "{error:?}");
    }
}

// -- Stopped processes

#[test]
fn child_process_that_is_stopped() {
    let Some(url) = child_input() else { return };
    let (url, request) = url.split_once('|').unwrap();
    let limit = Duration::from_secs(1);
    System::new().block_on(async {
        let options = options(url).max_attempts(1);
        let poster = start(match request {
            "refresh" => options
                .auth_token("")
                .refresh_endpoint("registration")
                .credential_timeout(limit),
            _ => options.timeout(limit),
        });
        let receipt = send_update(&poster, "i").await;
        println!("outcome: {receipt:?}");
    });
}

/// Stops a child process after its first request, answers, and continues the child after the deadline.
fn outcome_after_a_stop_across_the_deadline(request: &str, body: &'static str) -> String {
    let (arrived, arrives) = channel();
    let arrived = Mutex::new(Some(arrived));
    let server = serve(move |mut stream: TcpStream| {
        while read_request(&mut stream).is_some() {
            let first = arrived.lock().unwrap().take();
            if let Some(arrived) = first {
                let (answer, answers) = channel::<()>();
                arrived.send(answer).unwrap();
                answers.recv().unwrap();
                stream.write_all(response(200, "", body).as_bytes()).unwrap();
            } else {
                stream.write_all(success().as_bytes()).unwrap();
            }
        }
    });
    let input = format!("{}|{request}", server.url());
    let mut child = ChildProcess::start("host::child_process_that_is_stopped", &input);
    let answer = arrives.recv().unwrap();
    child.signal("STOP");
    answer.send(()).unwrap();
    thread::sleep(Duration::from_millis(1200));
    child.signal("CONT");
    let outcome = child.line("outcome: ");
    child.succeeds();
    outcome
}

#[test]
fn an_answer_that_has_arrived_counts_after_a_stop_across_the_deadline() {
    for _ in 0..3 {
        let outcome = outcome_after_a_stop_across_the_deadline("call", SUCCESS);
        assert!(outcome.starts_with("outcome: Ok(Delivered"), "{outcome}");
    }
}

#[test]
fn credentials_that_have_arrived_count_after_a_stop_across_the_deadline() {
    for _ in 0..3 {
        let outcome = outcome_after_a_stop_across_the_deadline("refresh", r#"{"runtimeToken":"t"}"#);
        assert!(outcome.starts_with("outcome: Ok(Delivered"), "{outcome}");
    }
}

// -- File descriptors

#[test]
fn child_process_without_descriptors() {
    let Some(url) = child_input() else { return };
    let (url, recovers) = url.split_once('|').unwrap();
    keep_log();
    System::new().block_on(async {
        let options = options(url).timeout(Duration::from_secs(2)).max_attempts(1);
        let poster = start(match recovers {
            "refresh recovers" => options.auth_token("").refresh_endpoint("registration"),
            _ => options,
        });
        // What the child itself needs has been opened by now.
        let mut files = take_all_descriptors();
        if recovers.ends_with("recovers") {
            actix_rt::spawn(async move {
                actix_rt::time::sleep(Duration::from_millis(350)).await;
                files.truncate(files.len() - 5);
                std::future::pending::<()>().await;
                drop(files);
            });
            println!("outcome: {:?}", send_update(&poster, "i").await);
        } else {
            let error = send_update(&poster, "i").await.unwrap_err();
            let last = &error.transient().unwrap().last;
            assert!(matches!(last, AttemptError::Connect(_)), "{error:?}");
            println!("outcome: {}", texts(&error).join(": "));
        }
    });
    let warnings = logged()
        .iter()
        .filter(|line| line.contains("no file descriptor is left"))
        .count();
    println!("warnings: {warnings}");
}

#[test]
fn a_connection_waits_for_a_file_descriptor_within_its_attempt() {
    let server = serve(|mut stream| {
        // Both the response to a call and that to a refresh.
        let body = r#"{"success":true,"runtimeToken":"t"}"#;
        while read_request(&mut stream).is_some() {
            let _ = stream.write_all(response(200, "", body).as_bytes());
        }
    });
    for url in [server.url(), server.url().replace("127.0.0.1", "localhost")] {
        for (recovers, expected) in [
            ("recovers", "outcome: Ok(Delivered"),
            ("refresh recovers", "outcome: Ok(Delivered"),
            (
                "stays",
                "outcome: gave up after 1 attempt: could not connect; the request was not sent: ",
            ),
        ] {
            let input = format!("{url}|{recovers}");
            let mut child = ChildProcess::start_with_few_files("host::child_process_without_descriptors", &input);
            let outcome = child.line("outcome: ");
            assert!(outcome.starts_with(expected), "{outcome}");
            assert!(
                recovers != "stays" || outcome.contains("Too many open files"),
                "{outcome}"
            );
            assert_eq!(child.line("warnings: "), "warnings: 1");
            child.succeeds();
        }
    }
}
