//! The thread of a scripted platform: its listener and its connections.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::pending,
    io,
    net::{self, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use actix_http::{HttpMessage as _, HttpService, Request, Response, body::BoxBody};
use actix_rt::net::{TcpListener, TcpStream};
use actix_service::{Service as _, ServiceFactory as _, fn_service};
use futures_util::{
    StreamExt as _,
    future::{Either, select},
};
use socket2::{SockRef, Socket};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    RecordedRequest, Reply,
    reply::{Answer, error_response},
    script::Shared,
};

/// The connections that are open, by the client's address.
type Connections = Arc<Mutex<HashMap<SocketAddr, Arc<Connection>>>>;

/// A connection, as its requests see it.
struct Connection {
    /// From 0.
    number: usize,
    /// The same socket as that of the server.
    socket: Socket,
    close: CancellationToken,
}

impl Connection {
    /// Closes the connection with a reset.
    fn reset(&self) {
        // An error leaves an ordinary close.
        let _ = self.socket.set_linger(Some(Duration::ZERO));
        self.close.cancel();
    }
}

/// A request of the handle to the thread, with the channel for its answer.
enum Command {
    Down(mpsc::SyncSender<()>),
    Up(mpsc::SyncSender<io::Result<()>>),
}

/// A running thread. Dropping it ends the thread and waits until it has ended.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    commands: Option<UnboundedSender<Command>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(address: SocketAddr, shared: Arc<Shared>) -> io::Result<Self> {
        let listener = net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (commands, receiver) = unbounded_channel();
        let thread = thread::Builder::new().name("fake-platform".into()).spawn(move || {
            let served = actix_rt::Runtime::new()
                .and_then(|runtime| runtime.block_on(serve(listener, address, receiver, shared)));
            if let Err(error) = served {
                log::error!("the fake platform is down: {error}");
            }
        })?;
        Ok(Self {
            address,
            commands: Some(commands),
            thread: Some(thread),
        })
    }

    pub(super) fn down(&self) {
        let (done, wait) = mpsc::sync_channel(1);
        self.send(Command::Down(done));
        // A thread that has ended is down, too.
        let _ = wait.recv();
    }

    pub(super) fn up(&self) -> io::Result<()> {
        let (done, wait) = mpsc::sync_channel(1);
        self.send(Command::Up(done));
        wait.recv()
            .unwrap_or_else(|_| Err(io::Error::other("the platform's thread has ended")))
    }

    fn send(&self, command: Command) {
        if let Some(commands) = &self.commands {
            let _ = commands.send(command);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.commands.take();
        if let Some(thread) = self.thread.take() {
            // An error is a panic of the thread, which was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// To be called within a runtime.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// The next connection. None comes while the platform is down.
async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => pending().await,
    }
}

/// Accepts connections, and follows the commands, until the handle is dropped.
async fn serve(
    listener: net::TcpListener,
    address: SocketAddr,
    mut commands: UnboundedReceiver<Command>,
    shared: Arc<Shared>,
) -> io::Result<()> {
    let connections = Connections::default();
    let service = HttpService::build()
        .on_connect_ext({
            let connections = Arc::clone(&connections);
            move |stream: &TcpStream, extensions| {
                let open = connections.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(connection) = stream.peer_addr().ok().and_then(|peer| open.get(&peer)) {
                    extensions.insert(Arc::clone(connection));
                }
            }
        })
        .h1({
            let shared = Arc::clone(&shared);
            fn_service(move |request| answer(Arc::clone(&shared), request))
        })
        .tcp()
        .new_service(())
        .await
        .map_err(|()| io::Error::other("no HTTP service"))?;
    let mut listener = Some(TcpListener::from_std(listener)?);
    let (mut close_all, tasks) = (CancellationToken::new(), TaskTracker::new());
    loop {
        let next = match select(pin!(commands.recv()), pin!(accept(listener.as_ref()))).await {
            Either::Left((command, _)) => Either::Left(command),
            Either::Right((accepted, _)) => Either::Right(accepted?),
        };
        let (stream, peer) = match next {
            Either::Left(None) => return Ok(()),
            Either::Left(Some(Command::Down(done))) => {
                listener = None;
                close_all.cancel();
                tasks.close();
                tasks.wait().await;
                tasks.reopen();
                close_all = CancellationToken::new();
                let _ = done.send(());
                continue;
            }
            Either::Left(Some(Command::Up(done))) => {
                let up = match listener {
                    Some(_) => Ok(()),
                    None => listen(address).map(|new| listener = Some(new)),
                };
                let _ = done.send(up);
                continue;
            }
            Either::Right(accepted) => accepted,
        };
        stream.set_nodelay(true)?;
        let connection = Arc::new(Connection {
            number: shared.count_connection(),
            socket: SockRef::from(&stream).try_clone()?,
            close: close_all.child_token(),
        });
        let close = connection.close.clone();
        let open = Arc::clone(&connections);
        open.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(peer, connection);
        let served = service.call(stream);
        actix_rt::spawn(tasks.track_future(async move {
            // An error is that of the client.
            let _ = close.run_until_cancelled_owned(served).await;
            open.lock().unwrap_or_else(PoisonError::into_inner).remove(&peer);
        }));
    }
}

async fn answer(shared: Arc<Shared>, mut request: Request) -> Result<Response<BoxBody>, Infallible> {
    let mut payload = request.take_payload();
    let mut body = Vec::new();
    while let Some(chunk) = payload.next().await {
        match chunk {
            Ok(chunk) => body.extend_from_slice(&chunk),
            // The client disconnected before the end of the body: the request is not recorded.
            Err(_) => return Ok(error_response()),
        }
    }
    let path = request.path().to_owned();
    let connection = request.conn_data::<Arc<Connection>>().cloned();
    let mut recorded = RecordedRequest {
        connection: connection.as_ref().map_or(0, |connection| connection.number),
        method: request.method().to_string(),
        path: request.uri().to_string(),
        headers: request
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect(),
        body,
        answered_with: 0,
    };
    let Reply { answer, delay } = shared.next_reply(&path, &recorded);
    recorded.answered_with = answer.status_code();
    shared.record(recorded);
    // A sleep takes at least a millisecond.
    if !delay.is_zero() {
        actix_rt::time::sleep(delay).await;
    }
    match answer {
        Answer::Response(response) => Ok(response.into_http()),
        Answer::Reset => {
            if let Some(connection) = &connection {
                connection.reset();
            }
            pending().await
        }
        Answer::Nothing => pending().await,
    }
}
