//! A TCP server on a free port of 127.0.0.1, for HTTP/1.1 responses that `FakePlatform` can't send, such as malformed
//! ones.
//!
//! The threads of a server end with the test process.

use std::{
    collections::VecDeque,
    io::{Read, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;
use socket2::SockRef;

/// The body of a response that means success on every route.
pub(crate) const SUCCESS: &str = r#"{"success":true}"#;

/// A server whose connections are served by a handler.
#[derive(Clone)]
pub(crate) struct RawServer {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl RawServer {
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The `https` URL, with this host name.
    pub(crate) fn https_url(&self, name: &str) -> String {
        format!("https://{name}:{}", self.address.port())
    }

    /// The number of connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Serves each connection by this handler, on a thread of its own.
pub(crate) fn serve(handler: impl Fn(TcpStream) + Send + Sync + 'static) -> RawServer {
    serve_on(listen(), handler)
}

/// As [`serve`], on this listener.
pub(crate) fn serve_on(listener: TcpListener, handler: impl Fn(TcpStream) + Send + Sync + 'static) -> RawServer {
    let server = RawServer {
        address: listener.local_addr().unwrap(),
        connections: Arc::default(),
    };
    let (connections, handler) = (Arc::clone(&server.connections), Arc::new(handler));
    thread::spawn(move || {
        for stream in listener.incoming() {
            connections.fetch_add(1, Ordering::Relaxed);
            let handler = Arc::clone(&handler);
            thread::spawn(move || handler(stream.unwrap()));
        }
    });
    server
}

/// Serves the first connection by this handler, and closes all others.
pub(crate) fn serve_once(handler: impl FnOnce(TcpStream) + Send + 'static) -> RawServer {
    let handler = Mutex::new(Some(handler));
    serve(move |stream| {
        let handler = handler.lock().unwrap().take();
        if let Some(handler) = handler {
            handler(stream);
        }
    })
}

/// As [`serve`], by a task for each connection, all on one thread.
pub(crate) fn serve_async<F>(handler: impl Fn(tokio::net::TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = listen();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(handler(stream));
            }
        });
    });
    address
}

/// A listener on a free port.
pub(crate) fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// A response with this status, these headers (each with its line end), and this body with its length.
pub(crate) fn response(status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    unsized_response(status, &format!("{headers}content-length: {length}\r\n"), body)
}

/// A response with only these headers (each with its line end).
pub(crate) fn unsized_response(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} -\r\n{headers}\r\n{body}")
}

/// A response that means success on every route.
pub(crate) fn success() -> String {
    response(200, "", SUCCESS)
}

/// A request as it was read.
#[derive(Debug, Clone)]
pub(crate) struct RawRequest {
    /// The request line and the headers, up to the empty line.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl RawRequest {
    pub(crate) fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    /// The last segment of the path.
    pub(crate) fn route(&self) -> &str {
        self.path().rsplit('/').next().unwrap()
    }

    /// The first header with this name, in any case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        headers(&self.head, name).next()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// The values of a header. The case of its name does not matter.
pub(crate) fn headers<'a>(head: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(move |(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// Reads a request, unless the connection ends.
pub(crate) fn read_request(stream: &mut impl Read) -> Option<RawRequest> {
    let head = read_head(stream)?;
    let body = read_body(stream, &head)?;
    Some(RawRequest { head, body })
}

/// Reads the head of a request, byte by byte, so that its body stays unread.
pub(crate) fn read_head(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    Some(String::from_utf8(head).unwrap())
}

/// Reads the body that belongs to this head.
pub(crate) fn read_body(stream: &mut impl Read, head: &str) -> Option<Vec<u8>> {
    let length = headers(head, "content-length")
        .next()
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(body)
}

/// The behaviour of a [`ScriptedServer`] for one request.
#[derive(Clone)]
pub(crate) enum RawStep {
    /// Writes these bytes and keeps the connection.
    Write(Vec<u8>),
    /// Writes these bytes and closes the connection.
    WriteAndClose(Vec<u8>),
    /// Resets the connection.
    Reset,
    /// Answers with this status and the request's own head as the body, tokens included.
    Echo(u16),
    /// Writes nothing and keeps the connection.
    Silence,
}

impl RawStep {
    pub(crate) fn write(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Write(bytes.into())
    }

    pub(crate) fn write_and_close(bytes: impl Into<Vec<u8>>) -> Self {
        Self::WriteAndClose(bytes.into())
    }
}

/// A server that answers each request, on any connection, with the next step of a script.
pub(crate) struct ScriptedServer {
    server: RawServer,
    requests: Arc<Mutex<Vec<RawRequest>>>,
}

impl ScriptedServer {
    /// After the last step, the server closes a connection at its next request.
    pub(crate) fn start(steps: impl IntoIterator<Item = RawStep>) -> Self {
        let steps = Mutex::new(steps.into_iter().collect::<VecDeque<_>>());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let recorded = Arc::clone(&requests);
        let server = serve(move |mut stream| {
            while let Some(request) = read_request(&mut stream) {
                recorded.lock().unwrap().push(request.clone());
                let step = steps.lock().unwrap().pop_front();
                match step {
                    Some(RawStep::Write(bytes)) => drop(stream.write_all(&bytes)),
                    Some(RawStep::WriteAndClose(bytes)) => {
                        let _ = stream.write_all(&bytes);
                        let _ = stream.shutdown(Shutdown::Both);
                    }
                    Some(RawStep::Reset) => return SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(),
                    Some(RawStep::Echo(status)) => {
                        let _ = stream.write_all(response(status, "", &request.head).as_bytes());
                    }
                    Some(RawStep::Silence) => {}
                    None => return,
                }
            }
        });
        Self { server, requests }
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<RawRequest> {
        self.requests.lock().unwrap().clone()
    }
}
