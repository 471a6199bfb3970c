//! awc's client: how it is built, how a request is built and sent, and when a request is sent again.

use std::{
    cell::{Cell, RefCell},
    panic::catch_unwind,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use awc::{
    Client, ClientRequest, ClientResponse, Connector, SendClientRequest,
    error::{HttpError, SendRequestError},
    http::{
        Version,
        header::{self, HeaderName, HeaderValue},
    },
};
use rustls::{ClientConfig, crypto::ring};
use secrecy::ExposeSecret as _;

use super::{
    config::TransportConfig,
    connect_phase::is_alpn_rejection,
    dialer::{Dialer, Protocol},
    request::{HttpRequest, TrackedBody},
    send_error::{attempt_error, is_stale},
};
use crate::error::{AttemptError, AttemptPhase};

/// How long an idle connection is kept: less than the 5 s after which common servers close theirs.
const IDLE_LIMIT: Duration = Duration::from_secs(4);

/// awc's client for one platform.
pub(super) struct HttpClient {
    pub(super) config: TransportConfig,
    /// The client for HTTP/1.1. Built on first use: it can't leave its thread, and a panic in a user's
    /// `customize_client` then costs a call, not the actor.
    http1: RefCell<Option<Client>>,
    /// The protocol that the platform is believed to speak.
    protocol: Cell<Protocol>,
    /// The last `Authorization` header, since most requests have the same token.
    authorization: RefCell<Option<HeaderValue>>,
}

/// A response with a complete head. Its body is still to be read.
pub(super) struct OpenResponse {
    pub(super) response: ClientResponse,
    /// A client for HTTP/2 must live as long as its response.
    _client: Client,
}

impl HttpClient {
    pub(super) fn new(config: TransportConfig) -> Self {
        Self {
            config,
            http1: RefCell::new(None),
            protocol: Cell::new(Protocol::Http1),
            authorization: RefCell::new(None),
        }
    }

    /// Sends `request` and waits for the head of the response.
    ///
    /// The request is sent again if nothing of it was sent: on another connection if an idle connection turns out to
    /// be closed, and once by the other protocol if the platform rejects this one.
    pub(super) async fn round_trip(&self, request: &HttpRequest<'_>) -> Result<OpenResponse, AttemptError> {
        let mut may_switch_protocol = true;
        loop {
            let protocol = self.protocol.get();
            let (client, answered) = self.client(protocol);
            match self.start(&client, request, protocol).await {
                Ok(response) => {
                    if let Some(answered) = answered {
                        answered.set(true);
                    }
                    if protocol == Protocol::Http2 && response.version() != Version::HTTP_2 {
                        // The platform selected no protocol by ALPN, which means HTTP/1.1.
                        self.protocol.set(Protocol::Http1);
                    }
                    return Ok(OpenResponse {
                        response,
                        _client: client,
                    });
                }
                // The loop ends, since each iteration discards an idle connection.
                Err(error) if is_stale(&error) => {}
                Err(error) => {
                    let error = attempt_error(error, request.phase.get());
                    let is_rejected = matches!(&error, AttemptError::Connect(cause)
                        if cause.downcast_ref().is_some_and(is_alpn_rejection));
                    if !is_rejected || !may_switch_protocol {
                        return Err(error);
                    }
                    may_switch_protocol = false;
                    self.protocol.set(protocol.other());
                }
            }
        }
    }

    /// Begins to send `request`.
    fn start(&self, client: &Client, request: &HttpRequest<'_>, protocol: Protocol) -> SendClientRequest {
        match self.build_request(client, request, protocol) {
            Ok(post) => {
                request.phase.set(AttemptPhase::Connecting);
                post.send_body(TrackedBody::of(request))
            }
            Err(error) => SendRequestError::from(error).into(),
        }
    }

    fn build_request(
        &self,
        client: &Client,
        request: &HttpRequest<'_>,
        protocol: Protocol,
    ) -> Result<ClientRequest, HttpError> {
        let uri = self.config.uri(request.url, protocol)?;
        // The limit on a body applies to the bytes that are sent, and a feature that another crate enables could make
        // awc decompress them.
        let mut post = client.post(uri).no_decompress();
        if !self.config.keep_alive {
            post = post.force_close();
        }
        let headers = post.headers_mut();
        for (name, value) in request.headers {
            headers.insert(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        headers.insert(header::HOST, self.config.authority.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, self.config.user_agent.clone());
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(key) = request.idempotency_key {
            headers.insert(HeaderName::from_static("idempotency-key"), key.try_into()?);
        }
        if let Some(token) = request.token {
            headers.insert(header::AUTHORIZATION, self.authorization(token)?);
        }
        if let Some(value) = self.config.proxy_authorization() {
            headers.insert(
                header::PROXY_AUTHORIZATION,
                sensitive(value.expose_secret().to_owned())?,
            );
        }
        // A user's default `Expect` header: awc would wait for an interim response that `http1` removes.
        headers.remove(header::EXPECT);
        Ok(post)
    }

    fn authorization(&self, token: &str) -> Result<HeaderValue, HttpError> {
        let mut last = self.authorization.borrow_mut();
        let is_same = |value: &&HeaderValue| value.as_bytes().strip_prefix(b"Bearer ") == Some(token.as_bytes());
        if let Some(value) = last.as_ref().filter(is_same) {
            return Ok(value.clone());
        }
        let value = sensitive(["Bearer ", token].concat())?;
        Ok(last.insert(value).clone())
    }

    /// The client for this protocol. For HTTP/2, also the flag that the platform has answered on its connection. With
    /// HTTP/1.1, the connection knows.
    fn client(&self, protocol: Protocol) -> (Client, Option<Rc<Cell<bool>>>) {
        match protocol {
            Protocol::Http1 => {
                let mut client = self.http1.borrow_mut();
                let client = client.get_or_insert_with(|| self.build_client(protocol, &Rc::default()));
                (client.clone(), None)
            }
            // A client for each request, and with it a connection. awc would share a connection: it does not notice
            // when one has ended, and a request that is dropped while its body is sent on a shared one makes its h2
            // panic in a way that aborts the process (<https://github.com/hyperium/h2/issues/607>).
            Protocol::Http2 => {
                let answered = Rc::default();
                (self.build_client(protocol, &answered), Some(answered))
            }
        }
    }

    fn build_client(&self, protocol: Protocol, answered: &Rc<Cell<bool>>) -> Client {
        let upstream = &self.config.upstream;
        // Where another crate has enabled awc's root features, awc's builder begins with its own TLS configuration. It
        // panics if the build has two providers and the process has chosen none.
        let builder = catch_unwind(Client::builder).unwrap_or_else(|_| {
            let _ = ring::default_provider().install_default();
            Client::builder()
        });
        let mut connector = Connector::new()
            .connector(Dialer {
                upstream: Arc::clone(upstream),
                protocol,
                answered: Rc::clone(answered),
            })
            .limit(self.config.max_connections)
            // Never reached: the limit on connecting is shorter, and its error names the phase.
            .timeout(self.config.timeout.saturating_mul(2))
            .handshake_timeout(upstream.connect_timeout)
            .conn_keep_alive(IDLE_LIMIT);
        if let (Protocol::Http2, Some(tls)) = (protocol, &upstream.tls) {
            let mut tls = ClientConfig::clone(tls);
            tls.alpn_protocols = vec![b"h2".to_vec()];
            connector = connector.rustls_0_23(Arc::new(tls));
        }
        let mut builder = builder.connector(connector);
        if let Some(customize) = &self.config.customize_client {
            builder = customize(builder);
        }
        // awc would send the body again to the target of a redirect. Its time limit ends with the head; ours does not.
        builder.disable_redirects().disable_timeout().finish()
    }
}

/// A header value that awc does not print.
fn sensitive(secret: String) -> Result<HeaderValue, HttpError> {
    let mut value = HeaderValue::try_from(secret)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{
        super::{
            connect::Upstream,
            proxy::{Proxy, ProxyChoice},
        },
        *,
    };
    use crate::message::Headers;

    fn client_with_proxy(proxy: &str) -> HttpClient {
        let platform = "http://platform.test".parse().unwrap();
        let proxy = Proxy::choose(&platform, &ProxyChoice::Url(proxy.into()), Some(""), |_| String::new()).unwrap();
        HttpClient::new(TransportConfig {
            upstream: Arc::new(Upstream {
                proxy,
                ..Upstream::for_test("platform.test", Duration::from_secs(1))
            }),
            authority: HeaderValue::from_static("platform.test"),
            timeout: Duration::from_secs(1),
            max_connections: 1,
            user_agent: HeaderValue::from_static("test"),
            keep_alive: true,
            customize_client: None,
        })
    }

    /// awc prints requests in log lines and panics.
    #[actix_rt::test]
    async fn debug_output_of_a_request_shows_no_secret() {
        let client = client_with_proxy("http://user:hunter2@127.0.0.1:2");
        let request = HttpRequest {
            url: "http://platform.test/",
            token: Some("s3cret"),
            idempotency_key: None,
            headers: &Headers::new(),
            body: Bytes::new(),
            status_decides: true,
            phase: Rc::new(Cell::new(AttemptPhase::Connecting)),
        };
        let (awc_client, _) = client.client(Protocol::Http1);
        let post = client.build_request(&awc_client, &request, Protocol::Http1).unwrap();
        let credentials = client.config.proxy_credentials().unwrap();
        for (name, secret) in [
            (header::AUTHORIZATION, "s3cret"),
            (header::PROXY_AUTHORIZATION, credentials),
        ] {
            let value = post.headers().get(&name).unwrap();
            assert!(value.to_str().unwrap().ends_with(secret));
            let shown = format!("{post:?}");
            assert!(shown.contains(name.as_str()) && !shown.contains(secret), "{shown}");
        }
    }
}
