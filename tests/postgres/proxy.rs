//! The network between a host and the server.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

/// What happens to the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    Works,
    /// Bytes wait until the network works again, as if TCP repeated them: no one learns of it.
    Silent,
    /// The server gets what it is sent, but its answers wait.
    LosesAnswers,
    /// All connections are broken, and new ones at once.
    Refuses,
}

/// Forwards a port to the server.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    state: Arc<State>,
}

struct State {
    server: String,
    network: Mutex<Network>,
    changed: Condvar,
    streams: Mutex<Vec<TcpStream>>,
    /// Which `COMMIT`s are not answered: one of so many. 0: none.
    unanswered: AtomicUsize,
    commits: AtomicUsize,
    cuts: AtomicUsize,
    /// Whether the network becomes silent behind the next `COMMIT` of calls.
    silenced_by_insert: AtomicBool,
}

#[derive(Clone, Copy)]
enum Direction {
    ToServer,
    FromServer,
}

impl Proxy {
    pub(crate) fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            server: server.to_owned(),
            network: Mutex::new(Network::Works),
            changed: Condvar::new(),
            streams: Mutex::default(),
            unanswered: AtomicUsize::new(0),
            commits: AtomicUsize::new(0),
            cuts: AtomicUsize::new(0),
            silenced_by_insert: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (state, stream) = (Arc::clone(&shared), stream.unwrap());
                thread::spawn(move || state.connect(stream));
            }
        });
        Self { port, state }
    }

    pub(crate) fn set(&self, network: Network) {
        *self.state.network.lock().unwrap() = network;
        self.state.changed.notify_all();
        if network == Network::Refuses {
            self.break_connections();
        }
    }

    /// From now on, breaks the connection at one of so many `COMMIT`s: in turns, it reaches the server, whose answer is lost, and
    /// is lost itself. 0: at none.
    pub(crate) fn leave_commits_unanswered(&self, one_of: usize) {
        self.state.unanswered.store(one_of, Ordering::SeqCst);
    }

    /// The next `COMMIT` of calls reaches the server, but nothing passes after it: it stays in doubt whether they are stored.
    pub(crate) fn silence_behind_insert(&self) {
        self.state.silenced_by_insert.store(true, Ordering::SeqCst);
    }

    /// Whether that has happened.
    pub(crate) fn is_silent(&self) -> bool {
        *self.state.network.lock().unwrap() == Network::Silent
    }

    /// How many `COMMIT`s were not answered.
    pub(crate) fn cuts(&self) -> usize {
        self.state.cuts.load(Ordering::SeqCst)
    }

    /// Breaks all connections that there are.
    pub(crate) fn break_connections(&self) {
        for stream in self.state.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl State {
    fn connect(self: Arc<Self>, client: TcpStream) {
        let Ok(server) = TcpStream::connect(&self.server) else {
            return;
        };
        {
            // Together with the look at the network, so that no connection is missed when it breaks.
            let network = self.network.lock().unwrap();
            if *network == Network::Refuses {
                return;
            }
            let mut streams = self.streams.lock().unwrap();
            streams.extend([&client, &server].map(|stream| stream.try_clone().unwrap()));
        }
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
        }
        let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let (state, is_cut) = (Arc::clone(&self), Arc::new(AtomicBool::new(false)));
        let is_cut_by_client = Arc::clone(&is_cut);
        thread::spawn(move || state.pump(Direction::ToServer, from, to, &is_cut_by_client));
        self.pump(Direction::FromServer, server, client, &is_cut);
    }

    fn pump(&self, direction: Direction, mut from: TcpStream, mut to: TcpStream, is_cut: &AtomicBool) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            self.wait_until_open(direction);
            if let Direction::ToServer = direction
                && self.cuts_at(&buffer[..length])
            {
                // No answer passes any more.
                is_cut.store(true, Ordering::SeqCst);
                if self.cuts.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
                    let _ = to.write_all(&buffer[..length]);
                }
                break;
            }
            if let Direction::ToServer = direction
                && self.is_silenced_by(&buffer[..length])
            {
                // Before the server can answer.
                *self.network.lock().unwrap() = Network::Silent;
            }
            if is_cut.load(Ordering::SeqCst) || to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        // Nor does the end of a connection pass a silent network.
        self.wait_until_open(direction);
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    /// Whether these bytes have a `COMMIT` that is not answered.
    fn cuts_at(&self, bytes: &[u8]) -> bool {
        let one_of = self.unanswered.load(Ordering::SeqCst);
        one_of > 0 && has(bytes, "COMMIT\0") && self.commits.fetch_add(1, Ordering::SeqCst).is_multiple_of(one_of)
    }

    /// Whether these bytes have the `COMMIT` of calls, behind which the network becomes silent.
    fn is_silenced_by(&self, bytes: &[u8]) -> bool {
        let is_insert = has(bytes, ".calls (id, queue, lane") && has(bytes, "COMMIT\0");
        is_insert && self.silenced_by_insert.swap(false, Ordering::SeqCst)
    }

    fn wait_until_open(&self, direction: Direction) {
        let is_closed = |network: &mut Network| match network {
            Network::Works | Network::Refuses => false,
            Network::Silent => true,
            Network::LosesAnswers => matches!(direction, Direction::FromServer),
        };
        let network = self.network.lock().unwrap();
        drop(self.changed.wait_while(network, is_closed).unwrap());
    }
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
