//! What a host does to a process: no actix system, files that never answer, stopped processes, no file descriptors.

use std::{
    env,
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    panic::{AssertUnwindSafe, catch_unwind},
    process::{Child, ChildStdout, Command, Stdio},
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
    errors::texts,
    log::{keep_log, logged},
    options,
    outbox::child_process,
    raw_server::{read_request, serve, success},
    send_update, start,
};

/// The environment variable by which a child process knows its platform, or its folder.
const CHILD_INPUT: &str = "RESULT_POSTER_TEST_HOST";

/// "Within a second", on a busy machine.
const SOON: Duration = Duration::from_secs(3);

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

// -- Files that never answer

#[test]
fn child_process_with_a_fifo_as_its_token_file() {
    let Ok(fifo) = env::var(CHILD_INPUT) else { return };
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
        assert!(stopping.elapsed() < SOON, "{with_shutdown}: {:?}", stopping.elapsed());
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
    let Ok(url) = env::var(CHILD_INPUT) else { return };
    System::new().block_on(async {
        let poster = start(options(url).timeout(Duration::from_secs(1)).max_attempts(1));
        let receipt = send_update(&poster, "i").await;
        println!("outcome: {receipt:?}");
    });
}

#[test]
fn an_answer_that_has_arrived_counts_after_a_stop_across_the_deadline() {
    for _ in 0..3 {
        let (arrived, arrives) = channel();
        let arrived = Mutex::new(arrived);
        let server = serve(move |mut stream: TcpStream| {
            if read_request(&mut stream).is_some() {
                let (answer, answers) = channel::<()>();
                arrived.lock().unwrap().send(answer).unwrap();
                let _ = answers.recv();
                let _ = stream.write_all(success().as_bytes());
                // Open until the child has ended.
                let _ = read_request(&mut stream);
            }
        });
        let mut child = ChildProcess::start("host::child_process_that_is_stopped", &server.url());
        let answer = arrives.recv().unwrap();
        child.signal("STOP");
        answer.send(()).unwrap();
        thread::sleep(Duration::from_millis(1200));
        child.signal("CONT");
        let outcome = child.line("outcome: ");
        assert!(outcome.starts_with("outcome: Ok(Delivered"), "{outcome}");
        child.succeeds();
    }
}

// -- File descriptors

#[test]
fn child_process_without_descriptors() {
    let Ok(url) = env::var(CHILD_INPUT) else { return };
    let (url, recovers) = url.split_once('|').unwrap();
    keep_log();
    System::new().block_on(async {
        let poster = start(options(url).timeout(Duration::from_secs(2)).max_attempts(1));
        // What the child itself needs has been opened by now.
        let mut files: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        if recovers == "recovers" {
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
        while read_request(&mut stream).is_some() {
            let _ = stream.write_all(success().as_bytes());
        }
    });
    for url in [server.url(), server.url().replace("127.0.0.1", "localhost")] {
        for (recovers, expected) in [
            ("recovers", "outcome: Ok(Delivered"),
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
                recovers == "recovers" || outcome.contains("Too many open files"),
                "{outcome}"
            );
            assert_eq!(child.line("warnings: "), "warnings: 1");
            child.succeeds();
        }
    }
}

/// This program, with one test to run, and its output.
struct ChildProcess {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl ChildProcess {
    fn start(test: &str, input: &str) -> Self {
        Self::spawn(&mut child_process(test), input)
    }

    /// The process may have few files open at once.
    fn start_with_few_files(test: &str, input: &str) -> Self {
        let program = child_process(test);
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""]);
        command.arg(program.get_program()).args(program.get_args());
        Self::spawn(&mut command, input)
    }

    fn spawn(command: &mut Command, input: &str) -> Self {
        let mut process = command.env(CHILD_INPUT, input).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, output }
    }

    /// The next line of the output that begins with this text.
    fn line(&mut self, begin: &str) -> String {
        let mut read = String::new();
        loop {
            let start = read.len();
            assert_ne!(self.output.read_line(&mut read).unwrap(), 0, "no {begin:?} in {read}");
            // The test harness does not end its own line.
            if let Some(at) = read[start..].find(begin) {
                return read[start + at..].trim_end().to_owned();
            }
        }
    }

    fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().unwrap();
        assert!(sent.success());
    }

    fn succeeds(mut self) {
        assert!(self.process.wait().unwrap().success());
    }
}
