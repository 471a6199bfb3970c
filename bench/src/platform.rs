//! The platform, in a process of its own on loopback: it answers each request with success, after a delay or with faults if
//! these are asked for.

use std::{
    cell::Cell,
    env, fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown as Direction, SocketAddr},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use clap::Args;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;

use crate::{arguments::PlatformArguments, say};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// The latency and the faults of the platform's responses.
#[derive(Debug, Clone, Copy, Default, Args)]
#[command(next_help_heading = "The platform on loopback")]
pub(crate) struct Behaviour {
    /// Latency of each response
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub(crate) platform_latency_ms: u64,
    /// Share of the responses that are 503, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub(crate) fail_rate: f64,
    /// Share of the requests whose connection is reset, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub(crate) reset_rate: f64,
    /// Length of an outage, half a second after the first connection
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub(crate) outage_ms: u64,
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err("must be from 0 to 1".into())
    }
}

impl Behaviour {
    pub(crate) fn words(&self) -> Vec<String> {
        let Self {
            platform_latency_ms,
            fail_rate,
            reset_rate,
            outage_ms,
        } = self;
        vec![
            format!("--platform-latency-ms={platform_latency_ms}"),
            format!("--fail-rate={fail_rate}"),
            format!("--reset-rate={reset_rate}"),
            format!("--outage-ms={outage_ms}"),
        ]
    }
}

/// The process of the platform, which ends with this value.
pub(crate) struct PlatformProcess {
    pub(crate) url: String,
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl PlatformProcess {
    /// Starts the platform with these arguments.
    pub(crate) fn start(words: &[String]) -> io::Result<Self> {
        let mut process = Command::new(env::current_exe()?)
            .arg("platform")
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (input, output) = pipes.ok_or_else(|| io::Error::other("the platform has no pipes"))?;
        let mut output = BufReader::new(output);
        let mut url = String::new();
        output.read_line(&mut url)?;
        Ok(Self {
            url: url.trim().to_owned(),
            process,
            input,
            output,
        })
    }

    /// Makes a platform that was started with `--down` listen.
    pub(crate) fn come_up(&mut self) -> io::Result<()> {
        self.input.write_all(b"\n")
    }

    /// Stops the platform, and returns the number of accepted connections.
    pub(crate) fn stop(self) -> Option<u64> {
        let Self {
            mut process,
            input,
            mut output,
            ..
        } = self;
        drop(input);
        let mut connections = String::new();
        output.read_to_string(&mut connections).ok()?;
        process.wait().ok()?;
        connections.trim().parse().ok()
    }
}

/// Prints its URL, serves until stdin is closed, then prints the number of accepted connections.
pub(crate) fn serve(arguments: &PlatformArguments) -> io::Result<()> {
    actix_rt::System::new().block_on(async {
        let acceptor = arguments.tls.as_deref().map(tls_acceptor).transpose()?;
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        let address = socket.local_addr()?.as_socket();
        let port = address.map_or(0, |address| address.port());
        let scheme = if acceptor.is_some() { "https" } else { "http" };

        let mut lines = lines_of_stdin();
        if arguments.down {
            say(format!("{scheme}://127.0.0.1:{port}"));
            if lines.recv().await.is_none() {
                return Ok(());
            }
            socket.listen(BACKLOG)?;
        } else {
            socket.listen(BACKLOG)?;
            say(format!("{scheme}://127.0.0.1:{port}"));
        }
        let listener = TcpListener::from_std(socket.into())?;

        let server = Rc::new(Server {
            behaviour: arguments.behaviour,
            acceptor,
            is_down: Cell::new(false),
        });
        let mut connections: u64 = 0;
        loop {
            tokio::select! {
                line = lines.recv() => if line.is_none() { break },
                accepted = listener.accept() => {
                    if connections == 0 {
                        actix_rt::spawn(Rc::clone(&server).outage());
                    }
                    connections += 1;
                    actix_rt::spawn(Rc::clone(&server).converse(accepted?.0));
                }
            }
        }
        say(connections);
        Ok(())
    })
}

/// The lines of stdin; closed with stdin.
fn lines_of_stdin() -> mpsc::UnboundedReceiver<()> {
    let (sender, receiver) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            drop(line);
            let _ = sender.send(());
        }
    });
    receiver
}

/// TLS with a new certificate; that of its authority is written to `path`.
fn tls_acceptor(path: &std::path::Path) -> io::Result<TlsAcceptor> {
    let authority_key = KeyPair::generate().map_err(io::Error::other)?;
    let mut authority = CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&authority_key).map_err(io::Error::other)?;
    fs::write(path, certificate.pem())?;

    let key = KeyPair::generate().map_err(io::Error::other)?;
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).map_err(io::Error::other)?;
    let issuer = Issuer::new(authority, authority_key);
    let leaf = leaf.signed_by(&key, &issuer).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .map_err(io::Error::other)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

struct Server {
    behaviour: Behaviour,
    acceptor: Option<TlsAcceptor>,
    is_down: Cell<bool>,
}

/// The end of a connection.
enum End {
    ClosedByPeer,
    Reset,
}

impl Server {
    async fn outage(self: Rc<Self>) {
        actix_rt::time::sleep(Duration::from_millis(500)).await;
        self.is_down.set(self.behaviour.outage_ms > 0);
        actix_rt::time::sleep(Duration::from_millis(self.behaviour.outage_ms)).await;
        self.is_down.set(false);
    }

    async fn converse(self: Rc<Self>, mut tcp: TcpStream) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        if let Some(acceptor) = &self.acceptor {
            self.answer(&mut acceptor.accept(tcp).await?).await?;
            return Ok(());
        }
        if let End::Reset = self.answer(&mut tcp).await? {
            SockRef::from(&tcp).set_linger(Some(Duration::ZERO))?;
            SockRef::from(&tcp).shutdown(Direction::Both)?;
        }
        Ok(())
    }

    async fn answer(&self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<End> {
        const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 26\r\n\r\n{\"success\":true,\"data\":{}}";
        const LATER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        let mut buffer = Vec::with_capacity(2048);
        loop {
            let length = loop {
                if let Some(length) = request_length(&buffer)
                    && buffer.len() >= length
                {
                    break length;
                }
                if stream.read_buf(&mut buffer).await? == 0 {
                    return Ok(End::ClosedByPeer);
                }
            };
            buffer.drain(..length);
            let latency = self.behaviour.platform_latency_ms;
            if latency > 0 {
                actix_rt::time::sleep(Duration::from_millis(latency)).await;
            }
            let dice: f64 = rand::random();
            if self.is_down.get() || dice < self.behaviour.reset_rate {
                return Ok(End::Reset);
            }
            let fails = dice < self.behaviour.reset_rate + self.behaviour.fail_rate;
            stream.write_all(if fails { LATER } else { OK }).await?;
        }
    }
}

/// The length of the first request in the buffer, head and body. `None` if the head is incomplete.
fn request_length(buffer: &[u8]) -> Option<usize> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(buffer).ok()? else {
        return None;
    };
    let length = request
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))?;
    let length: usize = std::str::from_utf8(length.value).ok()?.parse().ok()?;
    head.checked_add(length)
}
