//! The network between a host and the server.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
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
        let state = Arc::clone(&self);
        thread::spawn(move || state.pump(Direction::ToServer, from, to));
        self.pump(Direction::FromServer, server, client);
    }

    fn pump(&self, direction: Direction, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            self.wait_until_open(direction);
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        // Nor does the end of a connection pass a silent network.
        self.wait_until_open(direction);
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
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
