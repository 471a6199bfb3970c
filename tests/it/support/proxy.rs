//! A forward proxy.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use super::raw_server::{RawServer, read_head, serve};

/// The response to `CONNECT` that opens a tunnel.
pub(crate) const ESTABLISHED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

/// A forward proxy to one address, for any request.
pub(crate) struct ForwardProxy {
    server: RawServer,
    traffic: Arc<Traffic>,
}

#[derive(Default)]
struct Traffic {
    /// The first head of each connection.
    heads: Mutex<Vec<String>>,
    /// All bytes in either direction.
    bytes: Mutex<Vec<u8>>,
}

impl ForwardProxy {
    pub(crate) fn start(to: SocketAddr) -> Self {
        Self::start_answering(ESTABLISHED.to_owned(), to)
    }

    /// Answers `CONNECT` with these bytes.
    pub(crate) fn start_answering(answer: String, to: SocketAddr) -> Self {
        let traffic = Arc::new(Traffic::default());
        let recorded = Arc::clone(&traffic);
        let server = serve(move |client| {
            let platform = TcpStream::connect(to).unwrap();
            relay(&client, &platform, &answer, &recorded);
        });
        Self { server, traffic }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// The first head of each connection.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.traffic.heads.lock().unwrap().clone()
    }

    /// Whether the proxy saw this text unencrypted.
    pub(crate) fn saw(&self, text: &str) -> bool {
        let bytes = self.traffic.bytes.lock().unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

fn relay(mut client: &TcpStream, mut platform: &TcpStream, answer: &str, traffic: &Traffic) {
    let Some(head) = read_head(&mut client) else { return };
    let is_tunnel = head.starts_with("CONNECT ");
    traffic.bytes.lock().unwrap().extend(head.as_bytes());
    traffic.heads.lock().unwrap().push(head.clone());
    let written = if is_tunnel {
        client.write_all(answer.as_bytes())
    } else {
        platform.write_all(head.as_bytes())
    };
    if written.is_ok() {
        thread::scope(|scope| {
            scope.spawn(|| copy(client, platform, traffic));
            copy(platform, client, traffic);
        });
    }
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, traffic: &Traffic) {
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut chunk) {
        traffic.bytes.lock().unwrap().extend(&chunk[..length]);
        if to.write_all(&chunk[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
