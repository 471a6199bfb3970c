//! One attempt: one POST, one deadline over all of it, a capped body, no redirects. The only user of awc.

use std::{cell::RefCell, fmt, io, panic::catch_unwind, sync::Arc, time::Duration};

use actix_rt::net::TcpStream;
use actix_service::Service;
use actix_tls::connect::{ConnectError as DialError, ConnectInfo, Connection, ConnectorService as DialService};
use awc::{
    Client, ClientBuilder, Connector, SendClientRequest,
    error::{ConnectError, HttpError, SendRequestError},
    http::{
        Uri,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
};
use futures_util::{StreamExt as _, TryFutureExt as _, future::LocalBoxFuture};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    task::coop::unconstrained,
    time::{Instant, timeout},
};

use crate::{
    classify::Answer,
    error::{AttemptError, OptionsError, chain},
};

/// The deadline of one attempt, by default: 30 s.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// What is read of an answer's body at the most; the rest is dropped with its connection.
const BODY_LIMIT: usize = 64 * 1024;

/// How long an idle connection is kept: less than the 5 s after which common servers close theirs.
const IDLE_LIMIT: Duration = Duration::from_secs(4);

/// A closure over awc's own builder, see [`OptionsBuilder::customize_client`](crate::OptionsBuilder::customize_client).
pub(crate) type CustomizeClient = Arc<dyn Fn(ClientBuilder<Dialer>) -> ClientBuilder<Dialer> + Send + Sync>;

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) timeout: Duration,
    pub(crate) connect_timeout: Duration,
    /// One for each slot, so that no call ever waits inside the client, and one for `RefreshEndpoint`.
    pub(crate) max_connections: usize,
    pub(crate) user_agent: String,
    /// `None` for a platform that is reached by plain http.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) customize_client: Option<CustomizeClient>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("timeout", &self.timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("max_connections", &self.max_connections)
            .field("user_agent", &self.user_agent)
            .field("tls", &self.tls.is_some())
            .field("customize_client", &self.customize_client.is_some())
            .finish()
    }
}

/// What one attempt sends.
pub(crate) struct Request<'a> {
    pub(crate) url: &'a str,
    pub(crate) token: Option<&'a str>,
    pub(crate) idempotency_key: Option<&'a str>,
    pub(crate) body: Vec<u8>,
}

pub(crate) struct Transport {
    settings: Settings,
    /// Built on first use: awc's client can't leave its thread, and a panic in a user's
    /// `customize_client` then costs a call, not the actor.
    client: RefCell<Option<Client>>,
}

impl Transport {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            client: RefCell::new(None),
        }
    }

    /// Sends the request and reads the answer's head and the start of its body.
    ///
    /// Once there is a head, there is an answer, with as much of the body as came in time.
    pub(crate) async fn post(&self, request: Request<'_>) -> Result<Answer, AttemptError> {
        let limit = self.settings.timeout;
        let started = Instant::now();
        // Unconstrained: what goes to the client's pool for a connection must get it in the same
        // poll, so that no call can be left with a pool that is dropped below.
        let mut response = timeout(limit, unconstrained(self.start(request)))
            .await
            .map_err(|_| AttemptError::Timeout(limit))?
            .map_err(attempt_error)?;
        let mut answer = Answer {
            status: response.status().as_u16(),
            content_type: text(response.headers(), &header::CONTENT_TYPE),
            retry_after: text(response.headers(), &header::RETRY_AFTER),
            body: Vec::new(),
        };
        if response.status().is_informational() {
            // awc takes it for the final answer and has put the connection back into its pool, where
            // the real answer would be taken for the next call's. So that pool is dropped before
            // anything else can run; calls that are under way keep their connections to the end.
            self.client.take();
            return Ok(answer);
        }
        let read = async {
            while let Some(Ok(chunk)) = response.next().await {
                let room = BODY_LIMIT.saturating_sub(answer.body.len());
                answer.body.extend(chunk.iter().take(room));
                if chunk.len() > room {
                    return;
                }
            }
        };
        // Late, cut short or broken: the verdict goes by what was read so far.
        let _ = timeout(limit.saturating_sub(started.elapsed()), read).await;
        Ok(answer)
    }

    fn start(&self, request: Request<'_>) -> SendClientRequest {
        let mut post = self
            .client()
            .post(request.url)
            .insert_header((header::CONTENT_TYPE, "application/json"))
            .insert_header((header::USER_AGENT, self.settings.user_agent.as_str()))
            // Another crate's features may have taught awc to decompress; the limit is on what is sent.
            .insert_header((header::ACCEPT_ENCODING, "identity"))
            .no_decompress();
        if let Some(key) = request.idempotency_key {
            post = post.insert_header(("idempotency-key", key));
        }
        if let Some(token) = request.token {
            post = match HeaderValue::try_from(format!("Bearer {token}")) {
                Ok(mut value) => {
                    value.set_sensitive(true);
                    post.insert_header((header::AUTHORIZATION, value))
                }
                // awc keeps this error and reports it in place of sending.
                Err(error) => return SendRequestError::from(HttpError::from(error)).into(),
            };
        }
        post.send_body(request.body)
    }

    fn client(&self) -> Client {
        self.client
            .borrow_mut()
            .get_or_insert_with(|| self.settings.build_client())
            .clone()
    }
}

impl Settings {
    fn build_client(&self) -> Client {
        // awc's builder begins with a TLS configuration of its own where another crate has enabled its
        // root features, and panics if the build then holds two providers and the process has chosen none.
        let builder = catch_unwind(Client::builder).unwrap_or_else(|_| {
            let _ = ring::default_provider().install_default();
            Client::builder()
        });
        let mut connector = Connector::new()
            .connector(Dialer(DialService::default()))
            .limit(self.max_connections)
            .timeout(self.connect_timeout)
            .handshake_timeout(self.connect_timeout)
            .conn_keep_alive(IDLE_LIMIT);
        if let Some(tls) = &self.tls {
            connector = connector.rustls_0_23(Arc::clone(tls));
        }
        let mut builder = builder.connector(connector);
        if let Some(customize) = &self.customize_client {
            builder = customize(builder);
        }
        // awc would re-send the body to wherever a redirect leads. Its time-out ends with the head; ours does not.
        builder.disable_redirects().disable_timeout().finish()
    }
}

/// What the platform asks a client to show: a certificate chain and its key, both in PEM.
#[derive(Clone)]
pub(crate) struct ClientCertificate {
    pub(crate) chain: Vec<u8>,
    pub(crate) key: SecretString,
}

/// A TLS configuration that trusts the host's roots and these, and talks HTTP/1.1.
///
/// The error names the option that is at fault.
pub(crate) fn tls_config(
    extra_roots_pem: &[Vec<u8>],
    client_certificate: Option<&ClientCertificate>,
) -> Result<ClientConfig, OptionsError> {
    let roots = |reason: String| OptionsError::new("add_root_certificates_pem", reason);
    let client = |reason: String| OptionsError::new("client_certificate_pem", reason);

    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for pem in extra_roots_pem {
        for certificate in certificates(pem).map_err(roots)? {
            store
                .add(certificate)
                .map_err(|error| roots(format!("holds a certificate that can't be a root: {error}")))?;
        }
    }
    if store.is_empty() {
        return Err(roots("is needed: this host has no root certificates of its own".into()));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| roots(error.to_string()))?
        .with_root_certificates(store);
    let mut config = match client_certificate {
        None => builder.with_no_client_auth(),
        Some(ClientCertificate { chain, key }) => {
            let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes())
                // Without the parser's own message, which may quote the key.
                .map_err(|_| client("has a key that is not PEM".into()))?;
            builder
                .with_client_auth_cert(certificates(chain).map_err(client)?, key)
                .map_err(|error| client(format!("can't be used: {error}")))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// One certificate at least.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|error| format!("is not valid PEM: {error}"))?;
    if certificates.is_empty() {
        return Err("holds no certificate".into());
    }
    Ok(certificates)
}

/// Whether the client can be sent there at all: it has a parser of its own.
pub(crate) fn can_reach(url: &str) -> bool {
    url.parse::<Uri>().is_ok()
}

/// Opens the TCP connections of a poster's client. It has no use but to name the type of the builder in
/// [`OptionsBuilder::customize_client`](crate::OptionsBuilder::customize_client).
#[derive(Clone)]
pub struct Dialer(DialService);

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialer")
    }
}

impl Service<ConnectInfo<Uri>> for Dialer {
    type Response = Connection<Uri, TcpStream>;
    type Error = DialError;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Self::Error>>;

    actix_service::always_ready!();

    fn call(&self, info: ConnectInfo<Uri>) -> Self::Future {
        Box::pin(self.0.call(info).map_ok(|connection| {
            // A body that does not fit into one packet must not wait for an acknowledgement.
            let _ = connection.set_nodelay(true);
            connection
        }))
    }
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    Some(String::from_utf8_lossy(headers.get(name)?.as_bytes()).into_owned())
}

/// awc's errors can't leave their thread and do not tell apart what was sent and what was not.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "awc's enum may grow, and anything else may have been sent"
)]
fn attempt_error(error: SendRequestError) -> AttemptError {
    let message = chain(&error);
    match error {
        // "Disconnected": the request was sent, and the connection closed before an answer came.
        SendRequestError::Connect(ConnectError::Disconnected) => {
            AttemptError::Disconnected(io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer"))
        }
        SendRequestError::Connect(ConnectError::H2(error)) => AttemptError::Disconnected(io::Error::other(error)),
        SendRequestError::Connect(ConnectError::Io(error)) => AttemptError::Connect(error),
        SendRequestError::Connect(ConnectError::Timeout) => {
            AttemptError::Connect(io::Error::new(io::ErrorKind::TimedOut, "timed out"))
        }
        SendRequestError::Connect(_) | SendRequestError::Url(_) | SendRequestError::Http(_) => {
            AttemptError::Connect(io::Error::other(message))
        }
        SendRequestError::Send(error) => AttemptError::Disconnected(error),
        SendRequestError::Response(error) => {
            AttemptError::Disconnected(io::Error::new(io::ErrorKind::InvalidData, error))
        }
        _ => AttemptError::Disconnected(io::Error::other(message)),
    }
}
