//! Every known fault of a network, on real sockets: the caller's error, whether the platform may have received the
//! request, and whether the connection is reused.
//!
//! The results are compared with the table in `src/docs/faults.md`. `UPDATE_DOCS=1 cargo test faults` writes the table.

use std::{
    env,
    fs::{self, File},
    io::{Read, Write},
    mem,
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{Arc, Mutex, mpsc::channel},
    thread::{self, park},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use result_poster::{
    AttemptError, CallError, CallReceipt, CreateComment, OptionsBuilder, credentials::RuntimeTokenFile,
};
use rustls::{
    ServerConfig,
    version::{TLS12, TLS13},
};
use socket2::{Domain, SockRef, Socket, Type};

use crate::support::{
    child::{ChildProcess, child_input, take_all_descriptors},
    options,
    raw_server::{
        RawServer, SUCCESS, listen, read_body, read_head, read_request, response, serve_on, success, unsized_response,
    },
    start,
    tls::{Authority, TLS_VERSIONS, accept_tls, certificate_for, server_config},
};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/docs/faults.md");
const TABLE_BEGINS: &str = "<!-- the results of the tests -->\n";

/// A name with the addresses 127.0.0.2 and 127.0.0.1.
const TWO_ADDRESSES: &str = "two-addresses.invalid";

/// The longest text that the options permit, in bytes.
const LARGEST_TEXT: usize = 192 * 1024;

/// The limit of the stalling faults. All others have the default limits, and never reach them.
const SHORT_LIMIT: Duration = Duration::from_secs(1);

#[test]
fn faults_match_the_documented_table() {
    // Each section has an actor system of its own, so that a slow section does not affect the deadlines of another.
    let sections: [(&str, Scenarios); 7] = [
        ("The host", host),
        ("No connection", no_connection),
        ("TLS", tls),
        ("Through a proxy", proxies),
        ("Before the response head", before_the_head),
        ("The head", heads),
        ("The body", bodies),
    ];
    let sections = sections.map(|(title, scenarios)| {
        thread::spawn(move || {
            let rows = scenarios().into_iter().map(|(fault, scenario)| scenario.play(fault));
            // Not all at once: on a busy machine a connection would be idle for too long to be reused.
            let rows = stream::iter(rows).buffered(8).collect::<Vec<_>>();
            let rows = actix_rt::System::new().block_on(rows);
            format!(
                "\n## {title}\n\n| fault | error | verdict | may have been delivered | connection reused |\n\
                 |---|---|---|---|---|\n{}",
                rows.concat()
            )
        })
    });
    let table = sections.map(|section| section.join().unwrap()).concat();
    let page = fs::read_to_string(PAGE).unwrap();
    let (text, documented) = page.split_once(TABLE_BEGINS).unwrap();
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(PAGE, format!("{text}{TABLE_BEGINS}{table}")).unwrap();
    } else {
        let rows: Vec<_> = table.lines().collect();
        let documented: Vec<_> = documented.lines().collect();
        for (row, documented) in rows.iter().zip(&documented) {
            assert_eq!(row, documented);
        }
        assert_eq!(rows.len(), documented.len());
    }
}

/// Makes scenarios, with their names.
type Scenarios = fn() -> Vec<(&'static str, Scenario)>;

/// A platform with a fault, which is sent the same message twice.
struct Scenario {
    /// The test that a child process plays instead, with few file descriptors.
    child: Option<&'static str>,
    /// `None` if no server of this test listens at the URL.
    server: Option<RawServer>,
    options: OptionsBuilder,
    message: CreateComment,
    /// Runs between the two messages, while the runtime stands still.
    interlude: Box<dyn Fn()>,
    /// Whether the runtime runs between the interlude and the second message.
    runs_after_interlude: bool,
}

impl Scenario {
    /// A platform at this URL, without a server.
    fn at(url: impl Into<String>) -> Self {
        Self {
            child: None,
            server: None,
            options: options(url).max_attempts(1),
            message: CreateComment::new("issue-1", "done"),
            interlude: Box::new(|| {}),
            runs_after_interlude: false,
        }
    }

    /// Serves each connection by this handler. The buffer for requests is small.
    fn serve(handler: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = listen();
        SockRef::from(&listener).set_recv_buffer_size(64 * 1024).unwrap();
        Self::serve_on(listener, handler)
    }

    fn serve_on(listener: TcpListener, handler: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let server = serve_on(listener, handler);
        Self {
            server: Some(server.clone()),
            ..Self::at(server.url())
        }
    }

    /// Serves each connection by this handler. The requests are larger than the buffers between poster and platform.
    fn serve_large(handler: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = listen();
        // The system raises the size to its minimum, and chooses the client's by the number and size of the segments.
        SockRef::from(&listener).set_recv_buffer_size(1).unwrap();
        SockRef::from(&listener).set_tcp_mss(536).unwrap();
        let scenario = Self::serve_on(listener, handler);
        Self {
            options: scenario.options.max_text_bytes(LARGEST_TEXT),
            message: CreateComment::new("issue-1", "x".repeat(LARGEST_TEXT)),
            ..scenario
        }
    }

    /// Answers every request with these bytes.
    fn answer(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::serve(
            move |mut stream| {
                while read_request(&mut stream).is_some() && stream.write_all(&bytes).is_ok() {}
            },
        )
    }

    /// Answers every request in two parts, the second a moment later.
    fn answer_in_two(first: impl Into<Vec<u8>>, second: impl Into<Vec<u8>>) -> Self {
        let (first, second) = (first.into(), second.into());
        Self::serve(move |mut stream| {
            while read_request(&mut stream).is_some() && stream.write_all(&first).is_ok() {
                thread::sleep(SHORT_LIMIT / 10);
                if stream.write_all(&second).is_err() {
                    return;
                }
            }
        })
    }

    /// Answers with these bytes and closes the connection.
    fn answer_and_close(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::serve(move |mut stream| {
            read_request(&mut stream);
            let _ = stream.write_all(&bytes);
        })
    }

    /// Answers with these bytes and resets the connection.
    fn answer_and_reset(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::serve(move |mut stream| {
            read_request(&mut stream);
            let _ = stream.write_all(&bytes);
            reset(&stream);
        })
    }

    /// Answers the head of a large request with these bytes, and reads no more of it.
    fn answer_early(bytes: impl Into<Vec<u8>>, then: fn()) -> Self {
        let bytes = bytes.into();
        Self::serve_large(move |mut stream| {
            read_head(&mut stream);
            let _ = stream.write_all(&bytes);
            then();
        })
    }

    /// Answers every request, speaking TLS by this configuration.
    fn tls(config: Arc<ServerConfig>, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::serve(move |stream| {
            let mut stream = accept_tls(&config, stream);
            while read_request(&mut stream).is_some() && stream.write_all(&bytes).is_ok() {}
        })
        .https("localhost")
    }

    /// The platform's URL is `https`, with this name.
    fn https(self, name: &str) -> Self {
        let url = self.server.as_ref().unwrap().https_url(name);
        Self {
            options: options(url).max_attempts(1),
            ..self
        }
    }

    fn trusting(mut self, authority: &Authority) -> Self {
        self.options = self.options.add_root_certificates_pem(authority.pem());
        self
    }

    /// A platform behind a proxy at this URL.
    fn behind_proxy(url: &str) -> Self {
        let mut scenario = Self::at("https://platform.test");
        scenario.options = scenario.options.proxy(url);
        scenario
    }

    /// A platform behind the server, which is its proxy.
    fn into_proxy(self) -> Self {
        let server = self.server.unwrap();
        Self {
            server: Some(server.clone()),
            ..Self::behind_proxy(&server.url())
        }
    }

    fn with_short_timeout(mut self) -> Self {
        self.options = self.options.timeout(SHORT_LIMIT);
        self
    }

    /// Keeps something, such as a listener, as long as the scenario.
    fn keeping(self, kept: impl Sized + 'static) -> Self {
        let kept = [kept];
        Self {
            interlude: Box::new(move || assert_eq!(kept.len(), 1)),
            ..self
        }
    }

    /// The deadline of an attempt is shorter than the limit on connecting.
    fn with_two_short_attempts(mut self) -> Self {
        self.options = self.options.timeout(SHORT_LIMIT).max_attempts(2);
        self
    }

    fn with_short_connect_timeout(mut self) -> Self {
        self.options = self.options.connect_timeout(SHORT_LIMIT);
        self
    }

    /// Sends the message twice, and returns the row of the table.
    async fn play(self, fault: &str) -> String {
        let server = self.server.clone();
        let cells = match self.child {
            Some(test) => cells_of_child(test, &server.as_ref().unwrap().url()),
            None => self.cells(fault).await,
        };
        let reused = match server.map_or(0, |server| server.connections()) {
            0 => "-",
            1 => "yes",
            _ => "no",
        };
        format!("| {fault} | {cells} | {reused} |\n")
    }

    /// Sends the message twice, and returns the cells of both outcomes, which are equal.
    async fn cells(self, fault: &str) -> String {
        let poster = start(self.options);
        let first = cells(&poster.send(self.message.clone()).await.unwrap());
        (self.interlude)();
        // A fixed time, since no event shows that the runtime has read from an idle connection.
        if self.runs_after_interlude {
            actix_rt::time::sleep(SHORT_LIMIT / 10).await;
        }
        let second = cells(&poster.send(self.message).await.unwrap());
        assert_eq!(first, second, "{fault}");
        first
    }
}

/// The cells that a child process with few file descriptors prints.
fn cells_of_child(test: &str, url: &str) -> String {
    let mut child = ChildProcess::start_with_few_files(test, url);
    let cells = child.line("cells: ");
    child.succeeds();
    cells.trim_start_matches("cells: ").to_owned()
}

/// The error, the verdict, and whether the call may have been delivered.
fn cells(reply: &Result<CallReceipt, CallError>) -> String {
    let Err(error) = reply else {
        return "- | delivered | yes".into();
    };
    let may_have_been_delivered = if error.may_have_been_delivered() { "yes" } else { "no" };
    let (cause, verdict) = match error {
        CallError::Permanent(error) => (format!("status {}", error.status_code), "permanent"),
        CallError::Transient(error) => (
            match &error.last {
                // The phase without the address, whose port changes.
                AttemptError::Connect(cause) => {
                    let phase = cause.to_string();
                    let phase = phase.split(" 127").next().unwrap();
                    format!("`Connect`: {}", phase.trim_end_matches(" to").trim_end_matches(" at"))
                }
                AttemptError::Timeout { phase, .. } => format!("`Timeout` {phase}"),
                AttemptError::Credentials(cause) => format!("`Credentials`: {cause}"),
                AttemptError::ConnectionLost(_) => "`ConnectionLost`".into(),
                AttemptError::RetryableResponse { status_code, .. } => {
                    format!("`RetryableResponse`, status {status_code}")
                }
                AttemptError::UnexpectedResponse {
                    status_code, reason, ..
                } => format!("`UnexpectedResponse`, status {status_code}: {reason}"),
                other => panic!("{other:?}"),
            },
            "transient",
        ),
        other => panic!("{other:?}"),
    };
    format!("{cause} | {verdict} | {may_have_been_delivered}")
}

fn reset(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// A URL without a listener.
fn closed_port() -> String {
    format!("http://{}", listen().local_addr().unwrap())
}

/// A listener whose queue is full: new connections stay pending.
fn full_queue() -> Scenario {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    listener.bind(&any.into()).unwrap();
    let queued = fill_queue(&listener);
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    Scenario::at(format!("http://{address}")).keeping((queued, listener))
}

/// Fills the queue of a bound socket, so that new connections stay pending while it and these connections are kept.
fn fill_queue(listener: &Socket) -> Vec<TcpStream> {
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let connect = |_| TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok();
    (0..4).map_while(connect).collect()
}

/// The server of a scenario is at the second address of a name. The socket is bound to the first, and does not listen.
fn at_second_address(scenario: Scenario, scheme: &str) -> (Scenario, Socket) {
    let port = scenario.server.as_ref().unwrap().address.port();
    let first = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    first.bind(&SocketAddr::from(([127, 0, 0, 2], port)).into()).unwrap();
    let scenario = Scenario {
        options: options(format!("{scheme}://{TWO_ADDRESSES}:{port}"))
            .allow_plaintext_http(true)
            .max_attempts(1),
        ..scenario
    };
    (scenario, first)
}

fn answer_all(mut stream: TcpStream) {
    while read_request(&mut stream).is_some() && stream.write_all(success().as_bytes()).is_ok() {}
}

fn first_address_refuses() -> Scenario {
    let (scenario, bound) = at_second_address(Scenario::serve(answer_all), "http");
    scenario.keeping(bound)
}

fn first_address_never_accepts() -> Scenario {
    let (scenario, first) = at_second_address(Scenario::serve(answer_all), "http");
    let queued = fill_queue(&first);
    scenario.keeping((first, queued))
}

fn first_address_is_silent() -> Scenario {
    let (scenario, first) = at_second_address(Scenario::serve(answer_all), "http");
    first.listen(8).unwrap();
    scenario.with_two_short_attempts().keeping(first)
}

fn first_address_is_silent_in_the_handshake(authority: &Authority) -> Scenario {
    let config = server_config(authority.issue(certificate_for(TWO_ADDRESSES)), TLS_VERSIONS, None);
    let (scenario, first) = at_second_address(Scenario::tls(config, success()), "https");
    first.listen(8).unwrap();
    scenario.trusting(authority).with_two_short_attempts().keeping(first)
}

fn host() -> Vec<(&'static str, Scenario)> {
    let child = |test| Scenario {
        child: Some(test),
        ..Scenario::serve(answer_all)
    };
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("token.json");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut with_fifo = Scenario::serve(answer_all).keeping(folder);
    with_fifo.options = with_fifo
        .options
        .auth_token("")
        .credential_provider(RuntimeTokenFile::new(fifo));
    vec![
        (
            "no file descriptor is left until the deadline",
            child("faults::child_process_without_descriptors"),
        ),
        (
            "no file descriptor is left for a part of the attempt",
            child("faults::child_process_without_descriptors_for_a_while"),
        ),
        ("the token file is a FIFO", with_fifo),
    ]
}

/// In a child process: prints the cells of this platform after all file descriptors were taken. `then` gets the files.
fn play_without_descriptors(then: impl FnOnce(Vec<File>) + 'static) {
    let Some(url) = child_input() else { return };
    actix_rt::System::new().block_on(async {
        let scenario = Scenario::at(url).with_short_timeout();
        then(take_all_descriptors());
        println!("cells: {}", scenario.cells("in a child process").await);
    });
}

#[test]
fn child_process_without_descriptors() {
    play_without_descriptors(mem::forget);
}

#[test]
fn child_process_without_descriptors_for_a_while() {
    play_without_descriptors(|files| {
        actix_rt::spawn(async move {
            actix_rt::time::sleep(SHORT_LIMIT / 4).await;
            drop(files);
        });
    });
}

fn no_connection() -> Vec<(&'static str, Scenario)> {
    vec![
        (
            "the lookup of the name hangs",
            Scenario::at("https://hanging-lookup.invalid").with_short_connect_timeout(),
        ),
        ("the first of two addresses refuses", first_address_refuses()),
        (
            "the first of two addresses never accepts",
            first_address_never_accepts(),
        ),
        (
            "the first of two addresses accepts and is silent; two attempts",
            first_address_is_silent(),
        ),
        ("the name does not resolve", Scenario::at("https://platform.invalid")),
        ("the connection is refused", Scenario::at(closed_port())),
        (
            "the connection is never accepted",
            full_queue().with_short_connect_timeout(),
        ),
        (
            "`timeout` expires before the connection is established",
            full_queue().with_short_timeout(),
        ),
    ]
}

fn tls() -> Vec<(&'static str, Scenario)> {
    let authority = Authority::new();
    let config = |params: CertificateParams, versions| server_config(authority.issue(params), versions, None);
    let platform = |params| Scenario::tls(config(params, TLS_VERSIONS), success()).trusting(&authority);
    let mut expired = certificate_for("localhost");
    expired.not_before = date_time_ymd(2019, 1, 1);
    expired.not_after = date_time_ymd(2020, 1, 1);
    let mut early = certificate_for("localhost");
    early.not_before = date_time_ymd(2999, 1, 1);
    early.not_after = date_time_ymd(3000, 1, 1);
    let key = KeyPair::generate().unwrap();
    let self_signed = certificate_for("localhost").self_signed(&key).unwrap();
    let self_signed = server_config((self_signed.pem(), key.serialize_pem()), TLS_VERSIONS, None);
    let fixed = |certificate: &str, authority: &str| {
        let key = include_str!("../data/tls/key.pem");
        let config = server_config((certificate.to_owned(), key.to_owned()), TLS_VERSIONS, None);
        let mut scenario = Scenario::tls(config, success());
        scenario.options = scenario.options.add_root_certificates_pem(authority);
        scenario
    };
    let asks_for_certificate = |versions| {
        server_config(
            authority.issue(certificate_for("localhost")),
            versions,
            Some(&authority),
        )
    };
    vec![
        (
            "a private authority, added to the roots",
            platform(certificate_for("localhost")),
        ),
        (
            "a private authority, not added",
            Scenario::tls(config(certificate_for("localhost"), TLS_VERSIONS), success()),
        ),
        (
            "a certificate of another host",
            platform(certificate_for("other.example.com")),
        ),
        ("an expired certificate", platform(expired)),
        ("a certificate not yet valid", platform(early)),
        ("a self-signed certificate", Scenario::tls(self_signed, success())),
        (
            "a certificate of X.509 version 1",
            fixed(
                include_str!("../data/tls/version1.pem"),
                include_str!("../data/tls/authority.pem"),
            ),
        ),
        (
            "a certificate that an authority with a P-521 key has signed",
            fixed(
                include_str!("../data/tls/signed_by_p521.pem"),
                include_str!("../data/tls/authority_p521.pem"),
            ),
        ),
        (
            "a missing client certificate, TLS 1.2",
            Scenario::tls(asks_for_certificate(&[&TLS12]), success()).trusting(&authority),
        ),
        (
            "a missing client certificate, TLS 1.3: refused after the request was sent",
            Scenario::tls(asks_for_certificate(&[&TLS13]), success()).trusting(&authority),
        ),
        (
            "an alert in the handshake",
            Scenario::serve(|mut stream| drop(stream.write_all(&[0x15, 3, 3, 0, 2, 2, 40]))).https("localhost"),
        ),
        (
            "plain HTTP instead of TLS",
            Scenario::serve(|mut stream| drop(stream.write_all(not_found().as_bytes()))).https("localhost"),
        ),
        ("closed in the handshake", Scenario::serve(drop).https("localhost")),
        (
            "silence in the handshake",
            Scenario::serve(|_stream| park())
                .https("localhost")
                .with_short_connect_timeout(),
        ),
        (
            "silence in the handshake at the first of two addresses; two attempts",
            first_address_is_silent_in_the_handshake(&authority),
        ),
        ("an unsolicited response while idle, in half a TLS record", {
            let config = config(certificate_for("localhost"), TLS_VERSIONS);
            let (go, gone) = (channel(), channel());
            let goes = Mutex::new(go.1);
            let scenario = Scenario::serve(move |mut socket| {
                let mut stream = accept_tls(&config, socket.try_clone().unwrap());
                read_request(&mut stream);
                let _ = stream.write_all(success().as_bytes());
                if goes.lock().unwrap().recv().is_ok() {
                    stream.conn.writer().write_all(not_found().as_bytes()).unwrap();
                    let mut record = Vec::new();
                    stream.conn.write_tls(&mut record).unwrap();
                    let (half, rest) = record.split_at(record.len() / 2);
                    socket.write_all(half).unwrap();
                    gone.0.send(()).unwrap();
                    // The rest follows as soon as there is another request.
                    let _ = socket.read(&mut [0]);
                    let _ = socket.write_all(rest);
                }
            });
            let scenario = scenario.https("localhost").trusting(&authority);
            Scenario {
                runs_after_interlude: true,
                interlude: Box::new(move || {
                    go.0.send(()).unwrap();
                    gone.1.recv().unwrap();
                }),
                ..scenario
            }
        }),
        ("a body up to the close, without TLS's `close_notify`", {
            let config = config(certificate_for("localhost"), TLS_VERSIONS);
            let scenario = Scenario::serve(move |stream| {
                let mut stream = accept_tls(&config, stream);
                read_request(&mut stream);
                let _ = stream.write_all(unsized_success("").as_bytes());
            });
            scenario.https("localhost").trusting(&authority)
        }),
    ]
}

fn proxies() -> Vec<(&'static str, Scenario)> {
    vec![
        ("the proxy is down", Scenario::behind_proxy(&closed_port())),
        (
            "the proxy refuses the tunnel",
            Scenario::answer(response(407, "", "")).into_proxy(),
        ),
        (
            "the proxy does not respond",
            Scenario::answer("").into_proxy().with_short_connect_timeout(),
        ),
        (
            "the proxy closes the connection",
            Scenario::answer_and_close("").into_proxy(),
        ),
        (
            "the proxy resets the connection",
            Scenario::answer_and_reset("").into_proxy(),
        ),
        (
            "the response of the proxy is not HTTP",
            Scenario::answer("SSH-2.0-OpenSSH\r\n\r\n").into_proxy(),
        ),
        (
            "the head of the proxy's response is endless",
            Scenario::answer(format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(64 * 1024))).into_proxy(),
        ),
        (
            "the proxy sends data after its response",
            Scenario::answer("HTTP/1.1 200 OK\r\n\r\nmore").into_proxy(),
        ),
    ]
}

fn before_the_head() -> Vec<(&'static str, Scenario)> {
    vec![
        ("the platform is silent", Scenario::answer("").with_short_timeout()),
        (
            "the platform does not read the request",
            Scenario::answer_early("", park).with_short_timeout(),
        ),
        ("the platform closes the connection", Scenario::answer_and_close("")),
        ("the platform resets the connection", Scenario::answer_and_reset("")),
        (
            "the platform resets the connection in the middle of the request",
            Scenario::answer_early("", || ()),
        ),
        ("the platform responds after the deadline", {
            Scenario::serve(|mut stream| {
                read_request(&mut stream);
                // Until the poster closes the connection.
                let _ = stream.read(&mut [0]);
                let _ = stream.write_all(success().as_bytes());
            })
            .with_short_timeout()
        }),
        (
            "the platform responds before the end of the request, and stops reading",
            Scenario::answer_early(not_found(), park),
        ),
        (
            "the platform responds before the end of the request, and closes the connection",
            Scenario::answer_early(not_found(), || ()),
        ),
        (
            "the platform responds with 200 before the end of the request, and reads the rest",
            Scenario::serve_large(|mut stream| {
                while let Some(head) = read_head(&mut stream) {
                    let _ = stream.write_all(success().as_bytes());
                    thread::sleep(SHORT_LIMIT / 10);
                    read_body(&mut stream, &head);
                }
            }),
        ),
        (
            "the platform sends an interim response before the end of the request, and stops reading",
            Scenario::answer_early("HTTP/1.1 103 Early Hints\r\n\r\n", park).with_short_timeout(),
        ),
        ("the platform closes the idle connection after a response", {
            let (closed, is_closed) = channel();
            let scenario = Scenario::serve(move |mut stream| {
                read_request(&mut stream);
                let _ = stream.write_all(success().as_bytes());
                drop(stream);
                closed.send(()).unwrap();
            });
            Scenario {
                interlude: Box::new(move || {
                    is_closed.recv().unwrap();
                    wait_for_the_network();
                }),
                ..scenario
            }
        }),
        ("the platform resets the idle connection after a response", {
            let (go, gone) = (channel(), channel());
            let goes = Mutex::new(go.1);
            let scenario = Scenario::serve(move |mut stream| {
                read_request(&mut stream);
                let _ = stream.write_all(success().as_bytes());
                if goes.lock().unwrap().recv().is_ok() {
                    reset(&stream);
                    drop(stream);
                    gone.0.send(()).unwrap();
                }
            });
            Scenario {
                interlude: Box::new(move || {
                    go.0.send(()).unwrap();
                    gone.1.recv().unwrap();
                    wait_for_the_network();
                }),
                ..scenario
            }
        }),
    ]
}

fn heads() -> Vec<(&'static str, Scenario)> {
    let hint = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n";
    let many_headers: String = (0..10_000).map(|number| format!("x-{number}: 1\r\n")).collect();
    let long_header = format!("x: {}\r\n", "a".repeat(1024 * 1024));
    vec![
        ("`Content-Length`", Scenario::answer(success())),
        ("bare line feeds", Scenario::answer(success().replace('\r', ""))),
        ("HTTP/1.0", Scenario::answer(success().replace("HTTP/1.1", "HTTP/1.0"))),
        (
            "HTTP/1.0 with keep-alive",
            Scenario::answer(response(200, "connection: keep-alive\r\n", SUCCESS).replace("HTTP/1.1", "HTTP/1.0")),
        ),
        (
            "`Connection: close`",
            Scenario::answer(response(200, "connection: close\r\n", SUCCESS)),
        ),
        (
            "an interim response (1xx) before the final response",
            Scenario::answer(hint.to_owned() + &success()),
        ),
        (
            "several interim responses before the final response",
            Scenario::answer(
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n".to_owned() + hint + &success(),
            ),
        ),
        (
            "endless interim responses",
            Scenario::serve(|mut stream| {
                read_request(&mut stream);
                while stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").is_ok() {}
            }),
        ),
        (
            "an interim response, then silence",
            Scenario::answer(hint).with_short_timeout(),
        ),
        (
            "an interim response, then the end of the connection",
            Scenario::answer_and_close(hint),
        ),
        (
            "another protocol (101)",
            Scenario::answer("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nx"),
        ),
        (
            "an upgrade offer whose body arrives later",
            Scenario::answer_in_two(
                "HTTP/1.1 200 OK\r\nupgrade: websocket\r\nconnection: upgrade\r\ncontent-length: 16\r\n\r\n",
                SUCCESS,
            ),
        ),
        (
            "two responses to one request",
            Scenario::answer(success() + &not_found()),
        ),
        ("an unsolicited response on the idle connection", {
            let (go, gone) = (channel(), channel());
            let goes = Mutex::new(go.1);
            let scenario = Scenario::serve(move |mut stream| {
                read_request(&mut stream);
                let _ = stream.write_all(success().as_bytes());
                if goes.lock().unwrap().recv().is_ok() {
                    let _ = stream.write_all(not_found().as_bytes());
                    gone.0.send(()).unwrap();
                    park();
                }
            });
            Scenario {
                interlude: Box::new(move || {
                    go.0.send(()).unwrap();
                    gone.1.recv().unwrap();
                    wait_for_the_network();
                }),
                ..scenario
            }
        }),
        ("an unknown status", Scenario::answer(success().replace("200", "999"))),
        ("no status", Scenario::answer(success().replace("200", "000"))),
        (
            "another version",
            Scenario::answer(success().replace("HTTP/1.1", "HTTP/2.0")),
        ),
        (
            "the greeting of another protocol",
            Scenario::answer("SSH-2.0-OpenSSH\r\n\r\n"),
        ),
        ("NUL bytes", Scenario::answer("\0\0\0\0\r\n\r\n")),
        (
            "cut short in the head",
            Scenario::answer_and_close("HTTP/1.1 200 OK\r\ncontent-len"),
        ),
        (
            "reset in the head",
            Scenario::answer_and_reset("HTTP/1.1 200 OK\r\ncontent-len"),
        ),
        (
            "a stalled head",
            Scenario::answer("HTTP/1.1 200 OK\r\ncontent-len").with_short_timeout(),
        ),
        (
            "a head byte by byte, beyond the deadline",
            Scenario::serve(|mut stream| {
                read_request(&mut stream);
                for byte in success().bytes().cycle() {
                    thread::sleep(SHORT_LIMIT / 20);
                    if stream.write_all(&[byte]).is_err() {
                        return;
                    }
                }
            })
            .with_short_timeout(),
        ),
        (
            "the same length twice",
            Scenario::answer(response(200, "content-length: 16\r\n", SUCCESS)),
        ),
        (
            "the same length twice, in one header",
            Scenario::answer(unsized_response(200, "content-length: 16, 16\r\n", SUCCESS)),
        ),
        (
            "a header that continues on the next line",
            Scenario::answer(response(200, "x-trace: a\r\n b\r\n\tc\r\n", SUCCESS)),
        ),
        (
            "two lengths",
            Scenario::answer(unsized_success("content-length: 16\r\ncontent-length: 5\r\n")),
        ),
        (
            "a negative length",
            Scenario::answer(unsized_success("content-length: -1\r\n")),
        ),
        (
            "a length out of range",
            Scenario::answer(unsized_success("content-length: 99999999999999999999\r\n")),
        ),
        (
            "ten thousand headers",
            Scenario::answer(response(200, &many_headers, SUCCESS)),
        ),
        (
            "a header of 1 MiB",
            Scenario::answer(response(200, &long_header, SUCCESS)),
        ),
    ]
}

fn bodies() -> Vec<(&'static str, Scenario)> {
    let chunked = "transfer-encoding: chunked\r\n";
    let answer = |headers: &str, body: &str| unsized_response(200, headers, body);
    vec![
        (
            "chunked",
            Scenario::answer(answer(
                chunked,
                &format!("8\r\n{}\r\n8\r\n{}\r\n0\r\n\r\n", &SUCCESS[..8], &SUCCESS[8..]),
            )),
        ),
        (
            "a length of 0 and chunked: chunked counts",
            Scenario::answer(answer(
                &format!("content-length: 0\r\n{chunked}"),
                &format!("10\r\n{SUCCESS}\r\n0\r\n\r\n"),
            )),
        ),
        (
            "a length and chunked: chunked counts",
            Scenario::answer(answer(
                &format!("content-length: 3\r\n{chunked}"),
                &format!("10\r\n{SUCCESS}\r\n0\r\n\r\n"),
            )),
        ),
        (
            "chunked, with an extension and a trailer",
            Scenario::answer(answer(
                chunked,
                &format!("10;x=y\r\n{SUCCESS}\r\n0\r\nx-end: 1\r\n\r\n"),
            )),
        ),
        (
            "`Transfer-Encoding: gzip, chunked`: opaque",
            Scenario::answer(answer(
                "transfer-encoding: gzip, chunked\r\n",
                "4\r\n\x1f\x08\x00\x00\r\n0\r\n\r\n",
            )),
        ),
        (
            "`Transfer-Encoding: gzip, chunked`, status 503",
            Scenario::answer(unsized_response(
                503,
                "transfer-encoding: gzip, chunked\r\n",
                "4\r\n\x1f\x08\x00\x00\r\n0\r\n\r\n",
            )),
        ),
        (
            "`gzip` in one header and `chunked` in the next: opaque",
            Scenario::answer(answer(
                "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
                "4\r\n\x1f\x08\x00\x00\r\n0\r\n\r\n",
            )),
        ),
        (
            "`Transfer-Encoding: gzip`, ended by the close: opaque",
            Scenario::answer_and_close(answer("transfer-encoding: gzip\r\n", "\x1f\x08\x00\x00")),
        ),
        (
            "`Transfer-Encoding: gzip`, without the close: opaque",
            Scenario::answer(answer("transfer-encoding: gzip\r\n", "\x1f\x08\x00\x00")),
        ),
        (
            "`Transfer-Encoding: gzip` and a length, without the close: opaque",
            Scenario::answer(answer(
                "transfer-encoding: gzip\r\ncontent-length: 4\r\n",
                "\x1f\x08\x00\x00",
            )),
        ),
        (
            "`Transfer-Encoding: gzip` and a length, but plain text",
            Scenario::answer(unsized_success("transfer-encoding: gzip\r\ncontent-length: 16\r\n")),
        ),
        (
            "`Transfer-Encoding: gzip` and no length, status 503",
            Scenario::answer(unsized_response(503, "transfer-encoding: gzip\r\n", "\x1f\x08\x00\x00")),
        ),
        (
            "`Transfer-Encoding: chunked, chunked`, chunked once",
            Scenario::answer(answer(
                "transfer-encoding: chunked, chunked\r\n",
                &format!("10\r\n{SUCCESS}\r\n0\r\n\r\n"),
            )),
        ),
        (
            "`Transfer-Encoding: chunked` in two headers, chunked once",
            Scenario::answer(answer(&chunked.repeat(2), &format!("10\r\n{SUCCESS}\r\n0\r\n\r\n"))),
        ),
        (
            "`Transfer-Encoding` without a coding, and a length",
            Scenario::answer(answer("transfer-encoding:\r\ncontent-length: 16\r\n", SUCCESS)),
        ),
        (
            "`Transfer-Encoding: identity`, and a length",
            Scenario::answer(answer("transfer-encoding: identity\r\ncontent-length: 16\r\n", SUCCESS)),
        ),
        (
            "chunked, and one extra line",
            Scenario::answer(answer(chunked, &format!("10\r\n{SUCCESS}\r\n0\r\n\r\n\r\n"))),
        ),
        (
            "chunked, without its end",
            Scenario::answer_and_close(answer(chunked, &format!("10\r\n{SUCCESS}\r\n"))),
        ),
        (
            "chunked, cut short",
            Scenario::answer_and_close(answer(chunked, "10\r\n{\"succ")),
        ),
        ("chunked, garbage", Scenario::answer(answer(chunked, "zz\r\nxxx"))),
        (
            "ended by the close, `Transfer-Encoding: identity`",
            Scenario::answer_and_close(unsized_success("transfer-encoding: identity\r\n")),
        ),
        (
            "ended by the close, HTTP/1.1",
            Scenario::answer_and_close(unsized_success("")),
        ),
        (
            "ended by the close, HTTP/1.0",
            Scenario::answer_and_close(unsized_success("").replace("HTTP/1.1", "HTTP/1.0")),
        ),
        (
            "ended by the close, without the close",
            Scenario::answer(unsized_success("")).with_short_timeout(),
        ),
        (
            "shorter than its length, but complete JSON",
            Scenario::answer_and_close(unsized_success("content-length: 99999\r\n")),
        ),
        (
            "shorter than its length",
            Scenario::answer_and_close(answer("content-length: 16\r\n", "{\"succ")),
        ),
        (
            "shorter than its length, then a stall",
            Scenario::answer(answer("content-length: 16\r\n", "{\"succ")).with_short_timeout(),
        ),
        (
            "shorter than its length, then a reset",
            Scenario::answer_and_reset(answer("content-length: 16\r\n", "{\"succ")),
        ),
        (
            "longer than its length",
            Scenario::answer(unsized_success("content-length: 10\r\n")),
        ),
        ("status 204", Scenario::answer("HTTP/1.1 204 No Content\r\n\r\n")),
        ("empty", Scenario::answer(response(200, "", ""))),
        (
            "a page, with status 200",
            Scenario::answer(response(200, "content-type: text/html\r\n", "<html>")),
        ),
        (
            "complete JSON of more than 64 KiB",
            Scenario::answer(response(200, "", &format!("{}{SUCCESS}", " ".repeat(100_000)))),
        ),
        (
            "an error page of 100 MB: 64 KiB are read",
            Scenario::serve(|mut stream| {
                read_request(&mut stream);
                let _ = stream.write_all(b"HTTP/1.1 503 Oops\r\ncontent-length: 100000000\r\n\r\n");
                let mut left = 100_000_000;
                while left > 0 && stream.write_all(&[b'x'; 50_000]).is_ok() {
                    left -= 50_000;
                }
                // A poster that reads it all gets this far, and loses its connection.
                assert!(left > 0);
            }),
        ),
    ]
}

/// A success with only these headers.
fn unsized_success(headers: &str) -> String {
    unsized_response(200, headers, SUCCESS)
}

fn not_found() -> String {
    response(404, "", "")
}

/// Gives bytes, a close or a reset the time to arrive at the poster's socket. A fixed time, since the runtime, which
/// would notice the arrival, stands still.
fn wait_for_the_network() {
    thread::sleep(SHORT_LIMIT / 20);
}
