//! Every fault of a network that we know of, on real sockets: what the caller gets, whether the platform may have the
//! request, and whether the connection serves again.
//!
//! What is seen is compared with the table in `src/docs/faults.md`, so that what is documented is what happens.
//! `UPDATE_DOCS=1 cargo test faults` writes the table anew.

use std::{
    env, fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::channel,
    },
    thread::{self, park},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use result_poster::{AttemptError, CallError, CallReceipt, OptionsBuilder, UpdateIssueStatus};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    version::{TLS12, TLS13},
};
use socket2::{Domain, SockRef, Socket, Type};

use crate::{
    support::{options, read_body, read_head, read_request, start},
    tls::{Authority, params, server_config},
};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/docs/faults.md");
const TABLE_BEGINS: &str = "<!-- what the tests saw -->\n";

/// The limit of what stalls on purpose. All else has the default limits, and never reaches them.
const SOON: Duration = Duration::from_secs(1);

const TAKEN: &str = r#"{"success":true}"#;

/// An answer of 200 with this head, and the body that means success.
fn ok(headers: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{headers}\r\n{TAKEN}")
}

fn sized() -> String {
    ok("content-length: 16\r\n")
}

fn not_found() -> String {
    "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".into()
}

/// Faults by their names.
type Scenes = fn() -> Vec<(&'static str, Scene)>;

/// A platform with a fault, to which a call is made twice.
struct Scene {
    url: String,
    options: OptionsBuilder,
    message: UpdateIssueStatus,
    /// How many connections it has taken.
    connections: Arc<AtomicUsize>,
    /// What happens between the two calls, while the runtime stands still.
    interlude: Box<dyn Fn()>,
    /// Whether the runtime hears of that before the second call.
    heard: bool,
}

impl Scene {
    fn new(url: impl Into<String>) -> Self {
        let url = url.into();
        Self {
            options: options(&url).max_attempts(1),
            url,
            message: UpdateIssueStatus::new("issue-1", "Finished"),
            connections: Arc::default(),
            interlude: Box::new(|| {}),
            heard: false,
        }
    }

    /// Does this with each connection, on a thread of its own, which ends with the test's process.
    fn serve(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        SockRef::from(&listener).set_recv_buffer_size(64 * 1024).unwrap();
        let scene = Self::new(format!("http://{}", listener.local_addr().unwrap()));
        let (connections, handle) = (Arc::clone(&scene.connections), Arc::new(handle));
        thread::spawn(move || {
            for stream in listener.incoming() {
                connections.fetch_add(1, Ordering::Relaxed);
                let handle = Arc::clone(&handle);
                thread::spawn(move || handle(stream.unwrap()));
            }
        });
        scene
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

    /// Answers every request with these bytes, and once that is read, with those.
    fn answer_in_two(first: impl Into<Vec<u8>>, second: impl Into<Vec<u8>>) -> Self {
        let (first, second) = (first.into(), second.into());
        Self::serve(move |mut stream| {
            while read_request(&mut stream).is_some() && stream.write_all(&first).is_ok() {
                thread::sleep(SOON / 10);
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
        let mut scene = Self::serve(move |mut stream| {
            read_head(&mut stream);
            let _ = stream.write_all(&bytes);
            then();
        });
        // More than fits into the buffers on its way, of which the receiver's is small.
        scene.message = UpdateIssueStatus::new("issue-1", "x".repeat(5 * 1024 * 1024));
        scene
    }

    /// Answers every request, speaking TLS by this configuration.
    fn tls(config: Arc<ServerConfig>, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let scene = Self::serve(move |stream| {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream);
            while read_request(&mut stream).is_some() && stream.write_all(&bytes).is_ok() {}
        });
        scene.https("localhost")
    }

    fn https(self, name: &str) -> Self {
        let port = self.url.rsplit(':').next().unwrap();
        Self {
            options: options(format!("https://{name}:{port}")).max_attempts(1),
            ..self
        }
    }

    fn trusting(mut self, authority: &Authority) -> Self {
        self.options = self.options.add_root_certificates_pem(authority.pem());
        self
    }

    /// A platform that only this one, as a proxy, leads to.
    fn into_proxy(self) -> Self {
        Self {
            options: options("https://platform.test").max_attempts(1).proxy(self.url.clone()),
            ..self
        }
    }

    fn timeout_soon(mut self) -> Self {
        self.options = self.options.timeout(SOON);
        self
    }

    fn connect_timeout_soon(mut self) -> Self {
        self.options = self.options.connect_timeout(SOON);
        self
    }

    /// Takes both calls, and writes the row.
    async fn play(self, fault: &str) -> String {
        let poster = start(self.options);
        let first = cells(&poster.send(self.message.clone()).await.unwrap());
        (self.interlude)();
        // What it has sent is under way; meanwhile the runtime hears of it, or it does not.
        if self.heard {
            actix_rt::time::sleep(SOON / 10).await;
        }
        let second = cells(&poster.send(self.message).await.unwrap());
        assert_eq!(first, second, "{fault}");
        let (error, verdict, may_have_been_delivered) = first;
        let reused = match self.connections.load(Ordering::Relaxed) {
            0 => "-",
            1 => "yes",
            _ => "no",
        };
        format!("| {fault} | {error} | {verdict} | {may_have_been_delivered} | {reused} |\n")
    }
}

fn cells(reply: &Result<CallReceipt, CallError>) -> (String, &'static str, &'static str) {
    let Err(error) = reply else {
        return ("-".into(), "delivered", "yes");
    };
    let may_have_been_delivered = if error.may_have_been_delivered() { "yes" } else { "no" };
    let (cause, verdict) = match error {
        CallError::Permanent(error) => (format!("status {}", error.status_code), "permanent"),
        CallError::Transient(error) => (
            match &error.last {
                // With a stage, and without the port, which is another one each time.
                AttemptError::Connect(cause) => {
                    let stage = cause.to_string();
                    let stage = stage.split(" 127").next().unwrap();
                    format!("`Connect`: {}", stage.trim_end_matches(" to").trim_end_matches(" at"))
                }
                AttemptError::Timeout { stage, .. } => format!("`Timeout` {stage}"),
                AttemptError::Disconnected(_) => "`Disconnected`".into(),
                AttemptError::Unavailable { status_code, .. } => format!("`Unavailable`, status {status_code}"),
                AttemptError::Unrecognized {
                    status_code, reason, ..
                } => format!("`Unrecognized`, status {status_code}: {reason}"),
                other => panic!("{other:?}"),
            },
            "transient",
        ),
        other => panic!("{other:?}"),
    };
    (cause, verdict, may_have_been_delivered)
}

fn reset(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Where nobody listens.
fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// A listener whose queue is full: what comes next waits for ever.
fn full_queue() -> Scene {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let queued: Vec<_> = (0..4)
        .map_while(|_| TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok())
        .collect();
    Scene {
        // It holds what keeps the queue full.
        interlude: Box::new(move || assert!(listener.local_addr().is_ok() && !queued.is_empty())),
        ..Scene::new(format!("http://{address}"))
    }
}

fn no_connection() -> Vec<(&'static str, Scene)> {
    vec![
        ("the name does not resolve", Scene::new("https://platform.invalid")),
        ("the connection is refused", Scene::new(closed_port())),
        ("the connection is never taken", full_queue().connect_timeout_soon()),
        (
            "`timeout` is over before there is a connection",
            full_queue().timeout_soon(),
        ),
    ]
}

fn tls() -> Vec<(&'static str, Scene)> {
    let authority = Authority::new();
    let config = |params: CertificateParams, versions| server_config(authority.issue(params), versions, None);
    let both = &[&TLS12, &TLS13];
    let platform = |params| Scene::tls(config(params, both), sized()).trusting(&authority);
    let mut expired = params("localhost");
    expired.not_before = date_time_ymd(2019, 1, 1);
    expired.not_after = date_time_ymd(2020, 1, 1);
    let mut early = params("localhost");
    early.not_before = date_time_ymd(2999, 1, 1);
    early.not_after = date_time_ymd(3000, 1, 1);
    let key = KeyPair::generate().unwrap();
    let self_signed = params("localhost").self_signed(&key).unwrap();
    let self_signed = server_config((self_signed.pem(), key.serialize_pem()), both, None);
    let asks_for_certificate =
        |versions| server_config(authority.issue(params("localhost")), versions, Some(&authority));
    vec![
        ("a private authority, added to the roots", platform(params("localhost"))),
        (
            "a private authority, not added",
            Scene::tls(config(params("localhost"), both), sized()),
        ),
        ("a certificate of another host", platform(params("other.example.com"))),
        ("a certificate that has expired", platform(expired)),
        ("a certificate that is not valid yet", platform(early)),
        ("a self-signed certificate", Scene::tls(self_signed, sized())),
        (
            "a client certificate is asked for, and there is none, TLS 1.2",
            Scene::tls(asks_for_certificate(&[&TLS12]), sized()).trusting(&authority),
        ),
        (
            "a client certificate is asked for, and there is none, TLS 1.3: the client learns of it after it has sent",
            Scene::tls(asks_for_certificate(&[&TLS13]), sized()).trusting(&authority),
        ),
        (
            "an alert in the handshake",
            Scene::serve(|mut stream| drop(stream.write_all(&[0x15, 3, 3, 0, 2, 2, 40]))).https("localhost"),
        ),
        (
            "plain HTTP in the place of TLS",
            Scene::serve(|mut stream| drop(stream.write_all(not_found().as_bytes()))).https("localhost"),
        ),
        ("closed in the handshake", Scene::serve(drop).https("localhost")),
        (
            "silence in the handshake",
            Scene::serve(|_stream| park()).https("localhost").connect_timeout_soon(),
        ),
        ("another answer while the connection is idle, in half a TLS record", {
            let (config, (go, gone)) = (config(params("localhost"), both), (channel(), channel()));
            let goes = Mutex::new(go.1);
            let scene = Scene::serve(move |mut socket| {
                let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = StreamOwned::new(connection, socket.try_clone().unwrap());
                read_request(&mut stream);
                let _ = stream.write_all(sized().as_bytes());
                if goes.lock().unwrap().recv().is_ok() {
                    stream.conn.writer().write_all(not_found().as_bytes()).unwrap();
                    let mut record = Vec::new();
                    stream.conn.write_tls(&mut record).unwrap();
                    let (half, rest) = record.split_at(record.len() / 2);
                    socket.write_all(half).unwrap();
                    gone.0.send(()).unwrap();
                    // The rest comes as soon as there is another request.
                    let _ = socket.read(&mut [0]);
                    let _ = socket.write_all(rest);
                }
            });
            let scene = scene.https("localhost").trusting(&authority);
            Scene {
                heard: true,
                interlude: Box::new(move || {
                    go.0.send(()).unwrap();
                    gone.1.recv().unwrap();
                }),
                ..scene
            }
        }),
        ("the end of a body that goes on to the close, without TLS's own end", {
            let config = config(params("localhost"), both);
            let scene = Scene::serve(move |stream| {
                let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = StreamOwned::new(connection, stream);
                read_request(&mut stream);
                let _ = stream.write_all(ok("").as_bytes());
            });
            scene.https("localhost").trusting(&authority)
        }),
    ]
}

fn proxies() -> Vec<(&'static str, Scene)> {
    let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
    vec![
        ("the proxy is down", Scene::new(closed_port()).into_proxy()),
        ("it refuses the tunnel", Scene::answer(refusal).into_proxy()),
        ("it hangs", Scene::answer("").into_proxy().connect_timeout_soon()),
        ("it closes the connection", Scene::answer_and_close("").into_proxy()),
        ("it resets the connection", Scene::answer_and_reset("").into_proxy()),
        (
            "it answers with garbage",
            Scene::answer("SSH-2.0-OpenSSH\r\n\r\n").into_proxy(),
        ),
        (
            "it answers with an endless head",
            Scene::answer(format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(64 * 1024))).into_proxy(),
        ),
        (
            "it says more than it was asked for",
            Scene::answer("HTTP/1.1 200 OK\r\n\r\nmore").into_proxy(),
        ),
    ]
}

fn before_the_head() -> Vec<(&'static str, Scene)> {
    vec![
        ("the platform is silent", Scene::answer("").timeout_soon()),
        (
            "it does not read the request",
            Scene::answer_early("", park).timeout_soon(),
        ),
        ("it closes the connection", Scene::answer_and_close("")),
        ("it resets the connection", Scene::answer_and_reset("")),
        (
            "it resets the connection in the middle of the request",
            Scene::answer_early("", || ()),
        ),
        ("it answers after the deadline", {
            Scene::serve(|mut stream| {
                read_request(&mut stream);
                // Until the poster hangs up.
                let _ = stream.read(&mut [0]);
                let _ = stream.write_all(sized().as_bytes());
            })
            .timeout_soon()
        }),
        (
            "it answers before it has read the request, and reads no more of it",
            Scene::answer_early(not_found(), park),
        ),
        (
            "it answers before it has read the request, and hangs up",
            Scene::answer_early(not_found(), || ()),
        ),
        (
            "it answers with 200 before it has read the request, and reads it all the same",
            {
                let scene = Scene::answer_early("", || ());
                Scene {
                    message: scene.message,
                    ..Scene::serve(|mut stream| {
                        while let Some(head) = read_head(&mut stream) {
                            let _ = stream.write_all(sized().as_bytes());
                            thread::sleep(SOON / 10);
                            read_body(&mut stream, &head);
                        }
                    })
                }
            },
        ),
        (
            "it sends a hint before it has read the request, and reads no more of it",
            Scene::answer_early("HTTP/1.1 103 Early Hints\r\n\r\n", park).timeout_soon(),
        ),
        ("it closes the connection after an answer, while that is idle", {
            let (closed, is_closed) = channel();
            let scene = Scene::serve(move |mut stream| {
                read_request(&mut stream);
                let _ = stream.write_all(sized().as_bytes());
                drop(stream);
                closed.send(()).unwrap();
            });
            Scene {
                interlude: Box::new(move || {
                    is_closed.recv().unwrap();
                    thread::sleep(SOON / 20);
                }),
                ..scene
            }
        }),
        ("it resets the connection after an answer, while that is idle", {
            let (go, gone) = (channel(), channel());
            let goes = Mutex::new(go.1);
            let scene = Scene::serve(move |mut stream| {
                read_request(&mut stream);
                let _ = stream.write_all(sized().as_bytes());
                if goes.lock().unwrap().recv().is_ok() {
                    reset(&stream);
                    drop(stream);
                    gone.0.send(()).unwrap();
                }
            });
            Scene {
                interlude: Box::new(move || {
                    go.0.send(()).unwrap();
                    gone.1.recv().unwrap();
                    thread::sleep(SOON / 20);
                }),
                ..scene
            }
        }),
    ]
}

fn heads() -> Vec<(&'static str, Scene)> {
    let hint = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n";
    let many_headers: String = (0..10_000).map(|number| format!("x-{number}: 1\r\n")).collect();
    let long_header = format!("x: {}\r\n", "a".repeat(1024 * 1024));
    vec![
        ("`Content-Length`", Scene::answer(sized())),
        ("bare line feeds", Scene::answer(sized().replace('\r', ""))),
        ("HTTP/1.0", Scene::answer(sized().replace("HTTP/1.1", "HTTP/1.0"))),
        (
            "HTTP/1.0 with keep-alive",
            Scene::answer(ok("connection: keep-alive\r\ncontent-length: 16\r\n").replace("HTTP/1.1", "HTTP/1.0")),
        ),
        (
            "`Connection: close`",
            Scene::answer(ok("connection: close\r\ncontent-length: 16\r\n")),
        ),
        (
            "an interim answer (1xx) before the answer",
            Scene::answer(hint.to_owned() + &sized()),
        ),
        (
            "several interim answers before the answer",
            Scene::answer("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n".to_owned() + hint + &sized()),
        ),
        (
            "interim answers without end",
            Scene::serve(|mut stream| {
                read_request(&mut stream);
                while stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").is_ok() {}
            }),
        ),
        (
            "an interim answer, and then silence",
            Scene::answer(hint).timeout_soon(),
        ),
        ("an interim answer, and then the end", Scene::answer_and_close(hint)),
        (
            "another protocol (101)",
            Scene::answer("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nx"),
        ),
        (
            "an upgrade that is only offered, and its body later",
            Scene::answer_in_two(
                "HTTP/1.1 200 OK\r\nupgrade: websocket\r\nconnection: upgrade\r\ncontent-length: 16\r\n\r\n",
                TAKEN,
            ),
        ),
        ("two answers to one request", Scene::answer(sized() + &not_found())),
        ("another answer while the connection is idle", {
            let (go, gone) = (channel(), channel());
            let goes = Mutex::new(go.1);
            let scene = Scene::serve(move |mut stream| {
                read_request(&mut stream);
                let _ = stream.write_all(sized().as_bytes());
                if goes.lock().unwrap().recv().is_ok() {
                    let _ = stream.write_all(not_found().as_bytes());
                    gone.0.send(()).unwrap();
                    park();
                }
            });
            Scene {
                interlude: Box::new(move || {
                    go.0.send(()).unwrap();
                    gone.1.recv().unwrap();
                    thread::sleep(SOON / 20);
                }),
                ..scene
            }
        }),
        ("an unknown status", Scene::answer(sized().replace("200", "999"))),
        ("no status", Scene::answer(sized().replace("200", "000"))),
        (
            "another version",
            Scene::answer(sized().replace("HTTP/1.1", "HTTP/2.0")),
        ),
        ("another protocol's greeting", Scene::answer("SSH-2.0-OpenSSH\r\n\r\n")),
        ("noise", Scene::answer("\0\0\0\0\r\n\r\n")),
        (
            "cut short in the head",
            Scene::answer_and_close("HTTP/1.1 200 OK\r\ncontent-len"),
        ),
        (
            "reset in the head",
            Scene::answer_and_reset("HTTP/1.1 200 OK\r\ncontent-len"),
        ),
        (
            "a head that stalls",
            Scene::answer("HTTP/1.1 200 OK\r\ncontent-len").timeout_soon(),
        ),
        (
            "a head that drips, byte by byte, beyond the deadline",
            Scene::serve(|mut stream| {
                read_request(&mut stream);
                for byte in sized().bytes().cycle() {
                    thread::sleep(SOON / 20);
                    if stream.write_all(&[byte]).is_err() {
                        return;
                    }
                }
            })
            .timeout_soon(),
        ),
        (
            "two lengths",
            Scene::answer(ok("content-length: 16\r\ncontent-length: 5\r\n")),
        ),
        ("a negative length", Scene::answer(ok("content-length: -1\r\n"))),
        (
            "a length beyond all numbers",
            Scene::answer(ok("content-length: 99999999999999999999\r\n")),
        ),
        (
            "ten thousand headers",
            Scene::answer(ok(&(many_headers + "content-length: 16\r\n"))),
        ),
        (
            "a header of 1 MiB",
            Scene::answer(ok(&(long_header + "content-length: 16\r\n"))),
        ),
    ]
}

fn bodies() -> Vec<(&'static str, Scene)> {
    let chunked = "transfer-encoding: chunked\r\n";
    let answer = |headers: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{headers}\r\n{body}");
    vec![
        (
            "chunked",
            Scene::answer(answer(
                chunked,
                &format!("8\r\n{}\r\n8\r\n{}\r\n0\r\n\r\n", &TAKEN[..8], &TAKEN[8..]),
            )),
        ),
        (
            "a length of 0 and chunked: chunked counts",
            Scene::answer(answer(
                &format!("content-length: 0\r\n{chunked}"),
                &format!("10\r\n{TAKEN}\r\n0\r\n\r\n"),
            )),
        ),
        (
            "a length and chunked: chunked counts",
            Scene::answer(answer(
                &format!("content-length: 3\r\n{chunked}"),
                &format!("10\r\n{TAKEN}\r\n0\r\n\r\n"),
            )),
        ),
        (
            "chunked, and a line too many",
            Scene::answer(answer(chunked, &format!("10\r\n{TAKEN}\r\n0\r\n\r\n\r\n"))),
        ),
        (
            "chunked, without its end",
            Scene::answer_and_close(answer(chunked, &format!("10\r\n{TAKEN}\r\n"))),
        ),
        (
            "chunked, cut short",
            Scene::answer_and_close(answer(chunked, "10\r\n{\"succ")),
        ),
        ("chunked, garbage", Scene::answer(answer(chunked, "zz\r\nxxx"))),
        (
            "ended by the close, `Transfer-Encoding: identity`",
            Scene::answer_and_close(ok("transfer-encoding: identity\r\n")),
        ),
        ("ended by the close, HTTP/1.1", Scene::answer_and_close(ok(""))),
        (
            "ended by the close, HTTP/1.0",
            Scene::answer_and_close(ok("").replace("HTTP/1.1", "HTTP/1.0")),
        ),
        (
            "ended by the close, which does not come",
            Scene::answer(ok("")).timeout_soon(),
        ),
        (
            "shorter than its length, but whole JSON",
            Scene::answer_and_close(ok("content-length: 99999\r\n")),
        ),
        (
            "shorter than its length",
            Scene::answer_and_close(answer("content-length: 16\r\n", "{\"succ")),
        ),
        (
            "shorter than its length, and then a stall",
            Scene::answer(answer("content-length: 16\r\n", "{\"succ")).timeout_soon(),
        ),
        (
            "shorter than its length, and then a reset",
            Scene::answer_and_reset(answer("content-length: 16\r\n", "{\"succ")),
        ),
        ("longer than its length", Scene::answer(ok("content-length: 10\r\n"))),
        ("status 204", Scene::answer("HTTP/1.1 204 No Content\r\n\r\n")),
        ("empty", Scene::answer("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")),
        (
            "a page, with status 200",
            Scene::answer(answer("content-type: text/html\r\ncontent-length: 6\r\n", "<html>")),
        ),
        (
            "whole JSON of more than 64 KiB",
            Scene::answer(answer(
                "content-length: 100016\r\n",
                &format!("{}{TAKEN}", " ".repeat(100_000)),
            )),
        ),
        (
            "an error page of 100 MB: 64 KiB are read",
            Scene::serve(|mut stream| {
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

#[test]
fn faults_are_as_documented() {
    // Each section has a system of its own, so that what is slow in one does not touch the deadlines in another.
    let sections: [(&str, Scenes); 6] = [
        ("No connection", no_connection),
        ("TLS", tls),
        ("Through a proxy", proxies),
        ("Before the head of an answer", before_the_head),
        ("The head", heads),
        ("The body", bodies),
    ];
    let sections = sections.map(|(what, scenes)| {
        thread::spawn(move || {
            let rows = scenes().into_iter().map(|(fault, scene)| scene.play(fault));
            // Not all at once: on a busy machine an idle connection would be too old before it is used again.
            let rows = stream::iter(rows).buffered(8).collect::<Vec<_>>();
            let rows = actix_rt::System::new().block_on(rows);
            format!(
                "\n## {what}\n\n| fault | error | verdict | may have been delivered | connection serves again |\n\
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
