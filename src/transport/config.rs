//! The configuration of a poster's transport.

use std::{fmt, sync::Arc, time::Duration};

use awc::{
    ClientBuilder,
    error::HttpError,
    http::{Uri, header::HeaderValue, uri::PathAndQuery},
};
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    connect::Upstream,
    dialer::{Dialer, Protocol},
    proxy::Proxy,
};

/// A closure over awc's own builder, see [`OptionsBuilder::customize_client`](crate::OptionsBuilder::customize_client).
pub(crate) type CustomizeClient = Arc<dyn Fn(ClientBuilder<Dialer>) -> ClientBuilder<Dialer> + Send + Sync>;

#[derive(Clone)]
pub(crate) struct TransportConfig {
    pub(crate) upstream: Arc<Upstream>,
    /// The `Host` header.
    pub(crate) authority: HeaderValue,
    /// The limit on an attempt.
    pub(crate) timeout: Duration,
    /// One for each attempt that may be in flight, so that none waits inside the client, and one for `RefreshEndpoint`.
    pub(crate) max_connections: usize,
    pub(crate) user_agent: HeaderValue,
    /// Whether a connection is used for several requests.
    pub(crate) keep_alive: bool,
    pub(crate) customize_client: Option<CustomizeClient>,
}

impl TransportConfig {
    /// The value of `Proxy-Authorization` in each request. A proxy with a tunnel gets it in `CONNECT` instead.
    pub(super) fn proxy_authorization(&self) -> Option<&SecretString> {
        self.request_proxy()?.authorization.as_ref()
    }

    /// The secret part of [`proxy_authorization`](Self::proxy_authorization), without the scheme's name.
    pub(super) fn proxy_credentials(&self) -> Option<&str> {
        self.proxy_authorization()?.expose_secret().strip_prefix("Basic ")
    }

    /// The URI for awc. With HTTP/1.1 its scheme is always `http`, since the connection does TLS without awc.
    pub(super) fn uri(&self, url: &str, protocol: Protocol) -> Result<Uri, HttpError> {
        if self.request_proxy().is_some() {
            // The absolute form (RFC 9112, 3.2.2): the whole URL as the path.
            let mut parts = Uri::try_from(url)?.into_parts();
            parts.path_and_query = Some(PathAndQuery::try_from(url)?);
            return Ok(Uri::from_parts(parts)?);
        }
        match (protocol, url.strip_prefix("https:")) {
            (Protocol::Http1, Some(rest)) => Ok(Uri::try_from(format!("http:{rest}"))?),
            (Protocol::Http1, None) | (Protocol::Http2, _) => Ok(Uri::try_from(url)?),
        }
    }

    /// The proxy that each request is addressed to, instead of a tunnel: that of a platform reached by plain http.
    fn request_proxy(&self) -> Option<&Proxy> {
        self.upstream.proxy.as_ref().filter(|_| self.upstream.tls.is_none())
    }
}

impl fmt::Debug for TransportConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportConfig")
            .field("authority", &self.authority)
            .field("tls", &self.upstream.tls.is_some())
            .field("proxy", &self.upstream.proxy)
            .field("connect_timeout", &self.upstream.connect_timeout)
            .field("timeout", &self.timeout)
            .field("max_connections", &self.max_connections)
            .field("user_agent", &self.user_agent)
            .field("keep_alive", &self.keep_alive)
            .field("customize_client", &self.customize_client.is_some())
            .finish()
    }
}

/// Whether awc, which has its own URL parser, accepts `url`.
pub(crate) fn can_reach(url: &str) -> bool {
    url.parse::<Uri>().is_ok()
}
