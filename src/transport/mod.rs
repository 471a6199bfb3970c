//! One attempt: one POST, one deadline over all of it, a capped body, no redirects. The only user of awc.

mod dialer;
pub(crate) mod link;
mod proxy;
mod stream;
mod tls;

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    fmt, io,
    panic::catch_unwind,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use awc::{
    Client, ClientBuilder, ClientRequest, ClientResponse, Connector, SendClientRequest,
    body::{BodySize, MessageBody},
    error::{ConnectError, HttpError, SendRequestError},
    http::{
        Uri, Version,
        header::{self, HeaderMap, HeaderName, HeaderValue},
        uri::PathAndQuery,
    },
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use rustls::{ClientConfig, crypto::ring};
use secrecy::ExposeSecret as _;
use tokio::time::{Instant, timeout};

pub use self::dialer::Dialer;
pub(crate) use self::{
    dialer::Route,
    proxy::{Proxy, is_loopback},
    tls::{ClientCertificate, tls_config},
};
use self::{
    dialer::{Protocol, turns_down_protocol},
    link::Stale,
};
use crate::{
    classify::Answer,
    error::{AttemptError, Stage, chain},
};

/// The deadline of one attempt, by default: 30 s.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// What is read of an answer's body at the most; the rest is dropped with its connection.
const BODY_LIMIT: usize = 64 * 1024;

/// How long a body is read that says nothing new.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// How much of a request's body is handed to the client at once.
const BODY_CHUNK: usize = 64 * 1024;

/// How long an idle connection is kept: less than the 5 s after which common servers close theirs.
const IDLE_LIMIT: Duration = Duration::from_secs(4);

/// A closure over awc's own builder, see [`OptionsBuilder::customize_client`](crate::OptionsBuilder::customize_client).
pub(crate) type CustomizeClient = Arc<dyn Fn(ClientBuilder<Dialer>) -> ClientBuilder<Dialer> + Send + Sync>;

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) route: Arc<Route>,
    /// The `Host` header.
    pub(crate) authority: HeaderValue,
    pub(crate) timeout: Duration,
    /// One for each slot, so that no call ever waits inside the client, and one for `RefreshEndpoint`.
    pub(crate) max_connections: usize,
    pub(crate) user_agent: HeaderValue,
    pub(crate) customize_client: Option<CustomizeClient>,
    /// Whether each call is answered with 200, and nothing is sent.
    #[cfg(feature = "testing")]
    pub(crate) without_network: bool,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("authority", &self.authority)
            .field("tls", &self.route.tls.is_some())
            .field("proxy", &self.route.proxy)
            .field("connect_timeout", &self.route.connect_timeout)
            .field("timeout", &self.timeout)
            .field("max_connections", &self.max_connections)
            .field("user_agent", &self.user_agent)
            .field("customize_client", &self.customize_client.is_some())
            .finish()
    }
}

/// What one attempt sends.
pub(crate) struct Request<'a> {
    pub(crate) url: &'a str,
    pub(crate) token: Option<&'a str>,
    pub(crate) idempotency_key: Option<&'a str>,
    pub(crate) body: Bytes,
    /// Whether an answer of 2xx says all in its head.
    pub(crate) head_says_all: bool,
    /// How far it has got; kept up to date.
    pub(crate) stage: Rc<Cell<Stage>>,
}

pub(crate) struct Transport {
    settings: Settings,
    /// Of HTTP/1.1. Built on first use: awc's client can't leave its thread, and a panic in a user's
    /// `customize_client` then costs a call, not the actor.
    client: RefCell<Option<Client>>,
    /// What the platform speaks.
    protocol: Cell<Protocol>,
}

impl Transport {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            client: RefCell::new(None),
            protocol: Cell::new(Protocol::Http1),
        }
    }

    /// What a proxy is sent in each request, without the scheme's name.
    pub(crate) fn proxy_credentials(&self) -> Option<&str> {
        let value = self.settings.proxied_http()?.authorization.as_ref()?.expose_secret();
        value.strip_prefix("Basic ")
    }

    /// Sends the request and reads the answer's head and the start of its body.
    ///
    /// Once there is a head, there is an answer, with as much of the body as came in time.
    pub(crate) async fn post(&self, request: &Request<'_>) -> Result<Answer, AttemptError> {
        #[cfg(feature = "testing")]
        if self.settings.without_network {
            return Ok(Answer {
                status: 200,
                ..Answer::default()
            });
        }
        let limit = self.settings.timeout;
        let started = Instant::now();
        // An HTTP/2 client lives as long as its request.
        let (_client, mut response) =
            timeout(limit, self.send(request))
                .await
                .map_err(|_| AttemptError::Timeout {
                    limit,
                    stage: request.stage.get(),
                })??;
        let mut answer = Answer {
            status: response.status().as_u16(),
            content_type: text(response.headers(), &header::CONTENT_TYPE),
            retry_after: text(response.headers(), &header::RETRY_AFTER),
            ..Answer::default()
        };
        let chunked = response.headers().contains_key(header::TRANSFER_ENCODING);
        let length = response.headers().get(header::CONTENT_LENGTH).filter(|_| !chunked);
        if matches!(answer.status, 101 | 204 | 304) || length.is_some_and(|length| length == "0") {
            return Ok(answer);
        }
        let left = limit.saturating_sub(started.elapsed());
        let left = match (response.status().is_success() && request.head_says_all, length) {
            (false, _) => left,
            // It goes on until the platform closes the connection, whenever that is.
            (true, None) if response.version() == Version::HTTP_10 && !chunked => return Ok(answer),
            // For the sake of the connection only.
            (true, _) => left.min(DRAIN_LIMIT),
        };
        let read = async {
            while let Some(chunk) = response.next().await {
                let Ok(chunk) = chunk else {
                    return Some("its body broke off");
                };
                let room = BODY_LIMIT.saturating_sub(answer.body.len());
                answer.body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
                if chunk.len() > room {
                    return Some("its body is too long");
                }
            }
            None
        };
        // Whatever becomes of it, the verdict goes by what was read.
        let read = timeout(left, read).await;
        answer.cut_short = read.unwrap_or(Some("its body stalled until the deadline"));
        Ok(answer)
    }

    /// Until there is a head. What is known not to have been sent is sent anew, as often as it takes.
    async fn send(&self, request: &Request<'_>) -> Result<(Client, ClientResponse), AttemptError> {
        let mut may_change_protocol = true;
        loop {
            let protocol = self.protocol.get();
            let client = self.client(protocol);
            let error = match self.start(&client, request, protocol).await {
                Ok(response) => {
                    if protocol == Protocol::Http2 && response.version() != Version::HTTP_2 {
                        // It agreed to no protocol by name, which means HTTP/1.1.
                        self.protocol.set(Protocol::Http1);
                    }
                    return Ok((client, response));
                }
                Err(error) => error,
            };
            if is_stale(&error) {
                // Each time, there is one idle connection less.
                continue;
            }
            let error = attempt_error(error, request.stage.get());
            let turned_down = matches!(&error, AttemptError::Connect(cause) if turns_down_protocol(cause));
            if !turned_down || !may_change_protocol {
                return Err(error);
            }
            may_change_protocol = false;
            self.protocol.set(protocol.other());
        }
    }

    fn start(&self, client: &Client, request: &Request<'_>, protocol: Protocol) -> SendClientRequest {
        match self.prepare(client, request, protocol) {
            Ok(post) => {
                request.stage.set(Stage::Connecting);
                post.send_body(StagedBody {
                    rest: request.body.clone(),
                    stage: Rc::clone(&request.stage),
                })
            }
            Err(error) => SendRequestError::from(error).into(),
        }
    }

    fn prepare(&self, client: &Client, request: &Request<'_>, protocol: Protocol) -> Result<ClientRequest, HttpError> {
        let uri = self.settings.uri(request.url, protocol)?;
        // Another crate's features may have taught awc to decompress; the limit is on what is sent.
        let mut post = client.post(uri).no_decompress();
        let headers = post.headers_mut();
        headers.insert(header::HOST, self.settings.authority.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, self.settings.user_agent.clone());
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(key) = request.idempotency_key {
            headers.insert(HeaderName::from_static("idempotency-key"), key.try_into()?);
        }
        let proxy_authorization = self
            .settings
            .proxied_http()
            .and_then(|proxy| proxy.authorization.as_ref());
        let secrets = [
            (
                header::AUTHORIZATION,
                request.token.map(|token| ["Bearer ", token].concat()),
            ),
            (
                header::PROXY_AUTHORIZATION,
                proxy_authorization.map(|value| value.expose_secret().to_owned()),
            ),
        ];
        for (name, secret) in secrets {
            let Some(secret) = secret else { continue };
            let mut value = HeaderValue::try_from(secret)?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        // A default header of the user's, whose interim answer awc would wait for in vain.
        headers.remove(header::EXPECT);
        Ok(post)
    }

    fn client(&self, protocol: Protocol) -> Client {
        match protocol {
            Protocol::Http1 => {
                let mut client = self.client.borrow_mut();
                client
                    .get_or_insert_with(|| self.settings.build_client(protocol))
                    .clone()
            }
            // One for each request, and with it a connection. awc would share that: it does not see that one has ended,
            // and a request given up in the middle of its body on one that is shared makes its h2 panic, in a way
            // that aborts the process (<https://github.com/hyperium/h2/issues/607>).
            Protocol::Http2 => self.settings.build_client(protocol),
        }
    }
}

impl Settings {
    /// The proxy that is asked in each request, in place of a tunnel.
    fn proxied_http(&self) -> Option<&Proxy> {
        self.route.proxy.as_ref().filter(|_| self.route.tls.is_none())
    }

    /// What awc is told of `url`: the dialer knows the way, and with HTTP/1.1 does TLS by itself, unseen by awc.
    fn uri(&self, url: &str, protocol: Protocol) -> Result<Uri, HttpError> {
        if self.proxied_http().is_some() {
            // The absolute form: all of the URL in place of the path.
            let mut parts = Uri::try_from(url)?.into_parts();
            parts.path_and_query = Some(PathAndQuery::try_from(url)?);
            return Ok(Uri::from_parts(parts)?);
        }
        match (protocol, url.strip_prefix("https:")) {
            (Protocol::Http1, Some(rest)) => Ok(Uri::try_from(format!("http:{rest}"))?),
            (Protocol::Http1, None) | (Protocol::Http2, _) => Ok(Uri::try_from(url)?),
        }
    }

    fn build_client(&self, protocol: Protocol) -> Client {
        // awc's builder begins with a TLS configuration of its own where another crate has enabled its
        // root features, and panics if the build then holds two providers and the process has chosen none.
        let builder = catch_unwind(Client::builder).unwrap_or_else(|_| {
            let _ = ring::default_provider().install_default();
            Client::builder()
        });
        let mut connector = Connector::new()
            .connector(Dialer {
                route: Arc::clone(&self.route),
                protocol,
            })
            .limit(self.max_connections)
            // The dialer has its own limit, which says where it was reached: this one never is.
            .timeout(self.timeout.saturating_mul(2))
            .handshake_timeout(self.route.connect_timeout)
            .conn_keep_alive(IDLE_LIMIT);
        if let (Protocol::Http2, Some(tls)) = (protocol, &self.route.tls) {
            let mut tls = ClientConfig::clone(tls);
            tls.alpn_protocols = vec![b"h2".to_vec()];
            connector = connector.rustls_0_23(Arc::new(tls));
        }
        let mut builder = builder.connector(connector);
        if let Some(customize) = &self.customize_client {
            builder = customize(builder);
        }
        // awc would re-send the body to wherever a redirect leads. Its time-out ends with the head; ours does not.
        builder.disable_redirects().disable_timeout().finish()
    }
}

/// A request's body, which tells how far it has got. The client asks for it once it has a connection.
struct StagedBody {
    rest: Bytes,
    stage: Rc<Cell<Stage>>,
}

impl MessageBody for StagedBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.rest.len() as u64)
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let this = self.get_mut();
        let chunk = this.rest.split_to(this.rest.len().min(BODY_CHUNK));
        if chunk.is_empty() {
            this.stage.set(Stage::Waiting);
            return Poll::Ready(None);
        }
        this.stage.set(Stage::Sending);
        Poll::Ready(Some(Ok(chunk)))
    }
}

/// Whether the client can be sent there at all: it has a parser of its own.
pub(crate) fn can_reach(url: &str) -> bool {
    url.parse::<Uri>().is_ok()
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    Some(String::from_utf8_lossy(headers.get(name)?.as_bytes()).into_owned())
}

fn is_stale(error: &SendRequestError) -> bool {
    matches!(error, SendRequestError::Send(error) if error.get_ref().is_some_and(|error| error.is::<Stale>()))
}

/// Whether the platform says that it has not begun with the request (RFC 9113, 8.7): by the code of the reset, or
/// because the request came after the last one that it takes on this connection. The requests up to that one do not
/// fail with this error.
fn is_refused(error: &SendRequestError) -> bool {
    const REFUSED_STREAM: u32 = 7;
    let SendRequestError::H2(error) = error else {
        return false;
    };
    let refused = error.is_reset() && error.reason().map(u32::from) == Some(REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

/// awc's errors can't leave their thread and do not tell apart what was sent and what was not.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "awc's enum may grow, and anything else may have been sent"
)]
fn attempt_error(error: SendRequestError, stage: Stage) -> AttemptError {
    let message = chain(&error);
    let is_refused = is_refused(&error);
    let error = match error {
        // "Disconnected": the request was sent, and the connection closed before an answer came.
        SendRequestError::Connect(ConnectError::Disconnected) => {
            io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer")
        }
        SendRequestError::Connect(ConnectError::Timeout) => {
            io::Error::new(io::ErrorKind::TimedOut, "timed out in the TLS handshake")
        }
        SendRequestError::Connect(ConnectError::H2(error)) | SendRequestError::H2(error) => match error.reason() {
            // Without the words that the platform may put beside it, in which it may repeat the token.
            Some(reason) => io::Error::other(format!("HTTP/2: {reason}")),
            None => io::Error::other(error),
        },
        SendRequestError::Connect(ConnectError::Io(error)) | SendRequestError::Send(error) => error,
        SendRequestError::Response(error) => io::Error::new(io::ErrorKind::InvalidData, error),
        _ => io::Error::other(message),
    };
    match stage {
        // The body was not asked for yet: there was no connection.
        Stage::Connecting => AttemptError::Connect(error),
        Stage::Sending | Stage::Waiting if is_refused => AttemptError::Refused(error),
        Stage::Sending | Stage::Waiting => AttemptError::Disconnected(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    /// What awc prints of a request, into logs and panics.
    #[actix_rt::test]
    async fn a_request_shows_no_token() {
        let options = Options::builder("http://platform.test").allow_plaintext_http(true);
        let options = options.proxy("http://user:hunter2@127.0.0.1:2").build().unwrap();
        let (courier, _) = options.into_parts();
        let transport = &courier.transport;
        let request = Request {
            url: "http://platform.test/",
            token: Some("s3cret"),
            idempotency_key: None,
            body: Bytes::new(),
            head_says_all: true,
            stage: Rc::new(Cell::new(Stage::Connecting)),
        };
        let client = transport.client(Protocol::Http1);
        let post = transport.prepare(&client, &request, Protocol::Http1).unwrap();
        let credentials = transport.proxy_credentials().unwrap().to_owned();
        for (name, secret) in [
            (header::AUTHORIZATION, "s3cret"),
            (header::PROXY_AUTHORIZATION, &credentials),
        ] {
            let value = post.headers().get(&name).unwrap();
            assert!(value.to_str().unwrap().ends_with(secret));
            let shown = format!("{post:?}");
            assert!(shown.contains(name.as_str()) && !shown.contains(secret), "{shown}");
        }
    }
}
