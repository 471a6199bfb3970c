//! A platform that speaks HTTP/2.

use std::{
    collections::VecDeque,
    future::{pending, poll_fn},
    io,
    net::Shutdown,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _,
    future::{Either, select},
};
use h2::{Reason, RecvStream, server::SendResponse};
use http::Response;
use result_poster::OptionsBuilder;
use rustls::ServerConfig;
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        watch,
    },
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    options,
    raw_server::{SUCCESS, serve_async, success},
    tls::{Authority, TLS_VERSIONS, certificate_for, server_config},
    wait::in_time,
};

/// The names of the protocols in ALPN.
pub(crate) const H2: &str = "h2";
pub(crate) const HTTP1: &str = "http/1.1";

/// The behaviour of an [`Http2Platform`] for one request.
#[derive(Clone, Debug)]
pub(crate) enum Http2Step {
    /// Reads the request and answers with this status and body.
    Answer(u16, String),
    /// Refuses an issue call, with the issue id as the message.
    Name,
    /// Answers with this status, without reading the body.
    AnswerEarly(u16),
    /// Reads the request and resets its stream.
    Reset(Reason),
    /// Reads the request and closes the connection.
    Close,
    /// Reads the request and closes the connection in the middle of the response body.
    BreakOff,
    /// Reads the request and does not answer.
    Stall,
    /// Does not read the body of the request.
    NeverRead,
    /// Reads the request and writes these frames, and nothing else on the connection.
    Raw(Vec<u8>),
}

/// Tells a connection to write pending data, and to close.
struct HangUp;

/// A request as it was received.
#[derive(Clone, Debug)]
pub(crate) struct Http2Request {
    /// The number of its connection, from 0.
    pub(crate) connection: usize,
    pub(crate) protocol: &'static str,
    pub(crate) method: String,
    pub(crate) scheme: String,
    pub(crate) authority: String,
    path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Http2Request {
    pub(crate) fn route(&self) -> &str {
        self.path.rsplit('/').next().unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        Some(value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// A platform that speaks TLS as `localhost`, and HTTP/2 or HTTP/1.1 inside.
pub(crate) struct Http2Platform {
    pub(crate) url: String,
    authority: String,
    shared: Arc<Shared>,
}

struct Shared {
    alpn: Mutex<Vec<Vec<u8>>>,
    steps: Mutex<VecDeque<Http2Step>>,
    requests: watch::Sender<Vec<Http2Request>>,
    /// The protocol agreed on each connection.
    connections: Mutex<Vec<String>>,
    orders: Mutex<Vec<UnboundedSender<HangUp>>>,
    /// The number of closed connections.
    closed: watch::Sender<usize>,
}

impl Http2Platform {
    /// Handles each request by the next step of the script; after the last step, with success.
    pub(crate) fn start(alpn: &[&str], steps: impl IntoIterator<Item = Http2Step>) -> Self {
        let authority = Authority::new();
        let config = server_config(authority.issue(certificate_for("localhost")), TLS_VERSIONS, None);
        let shared = Arc::new(Shared {
            alpn: Mutex::default(),
            steps: Mutex::new(steps.into_iter().collect()),
            requests: watch::Sender::default(),
            connections: Mutex::default(),
            orders: Mutex::default(),
            closed: watch::Sender::default(),
        });
        let server = Arc::clone(&shared);
        let address =
            serve_async(move |stream| serve_connection(stream, ServerConfig::clone(&config), Arc::clone(&server)));
        let platform = Self {
            url: format!("https://localhost:{}", address.port()),
            authority: authority.pem(),
            shared,
        };
        platform.speak(alpn);
        platform
    }

    /// Agrees to these protocols from the next connection on.
    pub(crate) fn speak(&self, alpn: &[&str]) {
        *self.shared.alpn.lock().unwrap() = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    }

    pub(crate) fn options(&self) -> OptionsBuilder {
        options(&self.url).add_root_certificates_pem(self.authority.clone())
    }

    pub(crate) fn requests(&self) -> Vec<Http2Request> {
        self.shared.requests.borrow().clone()
    }

    pub(crate) fn connections(&self) -> Vec<String> {
        self.shared.connections.lock().unwrap().clone()
    }

    /// Closes all connections, and waits until the poster has closed those with HTTP/2, and its system knows of the others.
    pub(crate) async fn hang_up(&self) {
        for connection in self.shared.orders.lock().unwrap().drain(..) {
            let _ = connection.send(HangUp);
        }
        let count = self.connections().len();
        await_state(&self.shared.closed, |closed| *closed >= count).await;
    }

    /// Waits until the platform has received this many requests.
    pub(crate) async fn wait_for_requests(&self, count: usize) {
        await_state(&self.shared.requests, |requests| requests.len() >= count).await;
    }
}

async fn await_state<T>(state: &watch::Sender<T>, is_reached: impl FnMut(&T) -> bool) {
    let mut state = state.subscribe();
    in_time(state.wait_for(is_reached)).await.unwrap();
}

impl Shared {
    /// A channel that closes a connection: the sending end, which is kept here too, and the receiving end.
    fn take_orders(&self) -> (UnboundedSender<HangUp>, UnboundedReceiver<HangUp>) {
        let (order, orders) = unbounded_channel();
        self.orders.lock().unwrap().push(order.clone());
        (order, orders)
    }

    fn next_if_raw(&self) -> Option<Vec<u8>> {
        let mut steps = self.steps.lock().unwrap();
        let Some(Http2Step::Raw(frames)) = steps.front().cloned() else {
            return None;
        };
        steps.pop_front();
        Some(frames)
    }
}

async fn serve_connection(tcp: TcpStream, mut config: ServerConfig, shared: Arc<Shared>) {
    config.alpn_protocols = shared.alpn.lock().unwrap().clone();
    let Ok(stream) = TlsAcceptor::from(Arc::new(config)).accept(tcp).await else {
        return;
    };
    let agreed = String::from_utf8(stream.get_ref().1.alpn_protocol().unwrap_or_default().to_vec()).unwrap();
    let connection = {
        let mut connections = shared.connections.lock().unwrap();
        connections.push(agreed.clone());
        connections.len() - 1
    };
    let _ = if agreed != H2 {
        serve_http1(stream, connection, &shared).await
    } else if let Some(frames) = shared.next_if_raw() {
        serve_raw(stream, &frames).await
    } else {
        serve_http2(stream, connection, &shared).await.map_err(io::Error::other)
    };
    shared.closed.send_modify(|closed| *closed += 1);
}

async fn serve_http2(stream: TlsStream<TcpStream>, connection: usize, shared: &Arc<Shared>) -> Result<(), h2::Error> {
    let (order, mut orders) = shared.take_orders();
    let socket = SockRef::from(stream.get_ref().0).try_clone().unwrap();
    let mut http2 = h2::server::handshake(stream).await?;
    loop {
        let next = match select(pin!(http2.accept()), pin!(orders.recv())).await {
            Either::Left((None, _)) => return Ok(()),
            Either::Left((Some(request), _)) => Either::Left(request?),
            Either::Right((order, _)) => Either::Right(order.unwrap()),
        };
        match next {
            Either::Left((request, respond)) => {
                tokio::spawn(answer_request(
                    request,
                    respond,
                    connection,
                    Arc::clone(shared),
                    order.clone(),
                ));
            }
            Either::Right(HangUp) => {
                let _ = poll_fn(|cx| http2.poll_closed(cx)).now_or_never();
                // Data that arrives meanwhile is still read: with unread data, the system resets the connection.
                socket.shutdown(Shutdown::Write).unwrap();
            }
        }
    }
}

async fn answer_request(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    connection: usize,
    shared: Arc<Shared>,
    order: UnboundedSender<HangUp>,
) -> Result<(), h2::Error> {
    let (head, mut stream) = request.into_parts();
    let step = shared.steps.lock().unwrap().pop_front();
    let step = step.unwrap_or(Http2Step::Answer(200, SUCCESS.into()));
    let mut body = Vec::new();
    if !matches!(step, Http2Step::NeverRead | Http2Step::AnswerEarly(_)) {
        while let Some(chunk) = stream.data().await {
            let chunk = chunk?;
            stream.flow_control().release_capacity(chunk.len())?;
            body.extend(chunk);
        }
    }
    let request = Http2Request {
        connection,
        protocol: H2,
        method: head.method.to_string(),
        scheme: head.uri.scheme_str().unwrap_or_default().into(),
        authority: head.uri.authority().map(ToString::to_string).unwrap_or_default(),
        path: head.uri.path().into(),
        headers: head
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect(),
        body: String::from_utf8(body).unwrap(),
    };
    shared.requests.send_modify(|requests| requests.push(request.clone()));
    let mut answer = |status: u16, body: String, is_whole: bool| {
        let head = Response::builder()
            .status(status)
            .header("content-type", "application/json");
        let mut stream = respond.send_response(head.body(()).unwrap(), false)?;
        stream.send_data(body.into(), is_whole)?;
        Ok::<_, h2::Error>(stream)
    };
    match step {
        Http2Step::Answer(status, body) => {
            answer(status, body, true)?;
        }
        Http2Step::Name => {
            let issue = request.json()["args"][0].clone();
            let error = json!({"success": false, "error": {"code": "X", "message": issue}});
            answer(200, error.to_string(), true)?;
        }
        Http2Step::AnswerEarly(status) => {
            answer(status, String::new(), true)?;
        }
        Http2Step::Reset(reason) => respond.send_reset(reason),
        Http2Step::Close => {
            let _ = order.send(HangUp);
            // The stream lasts as long as the connection.
            pending::<()>().await;
        }
        Http2Step::BreakOff => {
            let _stream = answer(200, r#"{"success":"#.into(), false)?;
            let _ = order.send(HangUp);
            pending::<()>().await;
        }
        Http2Step::Stall | Http2Step::NeverRead => {
            poll_fn(|cx| respond.poll_reset(cx)).await?;
        }
        Http2Step::Raw(_) => panic!("raw frames need a connection of their own"),
    }
    drop(stream);
    Ok(())
}

/// Reads a request without parsing it, and writes these frames.
async fn serve_raw(mut stream: TlsStream<TcpStream>, frames: &[u8]) -> io::Result<()> {
    const END_STREAM: u8 = 1;
    stream
        .read_exact(&mut [0; "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()])
        .await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, ..] = head;
        stream
            .read_exact(&mut vec![0; u32::from_be_bytes([0, a, b, c]) as usize])
            .await?;
        if matches!(kind, 0 | 1) && flags & END_STREAM != 0 {
            break;
        }
    }
    stream.write_all(frames).await?;
    stream.flush().await?;
    stream.read_to_end(&mut Vec::new()).await?;
    Ok(())
}

async fn serve_http1(mut stream: TlsStream<TcpStream>, connection: usize, shared: &Shared) -> io::Result<()> {
    let (_order, mut orders) = shared.take_orders();
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match select(pin!(stream.read_u8()), pin!(orders.recv())).await {
                Either::Left((byte, _)) => head.push(byte?),
                Either::Right(_) => {
                    // The close returns once the other end has the news, since the poster asks its own system
                    // whether an idle connection is open.
                    SockRef::from(stream.get_ref().0).set_linger(Some(Duration::from_secs(10)))?;
                    return Ok(());
                }
            }
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let start = lines.next().unwrap();
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let header = |name| {
            headers
                .iter()
                .find(|(header, _)| header == name)
                .map(|(_, value)| value.clone())
        };
        let mut body = vec![0; header("content-length").unwrap().parse().unwrap()];
        stream.read_exact(&mut body).await?;
        let request = Http2Request {
            connection,
            protocol: HTTP1,
            method: start.split(' ').next().unwrap().into(),
            scheme: "https".into(),
            authority: header("host").unwrap(),
            path: start.split(' ').nth(1).unwrap().into(),
            headers,
            body: String::from_utf8(body).unwrap(),
        };
        shared.requests.send_modify(|requests| requests.push(request));
        stream.write_all(success().as_bytes()).await?;
        stream.flush().await?;
    }
}
