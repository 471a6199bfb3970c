//! The options of connections and requests.

use std::{sync::Arc, time::Duration};

use awc::ClientBuilder;
use secrecy::SecretString;

use super::builder::OptionsBuilder;
use crate::transport::{ClientCertificate, Dialer, ProxyChoice};

impl OptionsBuilder {
    /// The deadline of one request, in real time, from the connection to the end of the body. The credential fetch is
    /// not included. A request that is sent again within its attempt has its own deadline. Default: 30 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The time limit of a new connection: DNS, TCP, proxy and TLS. If the name has several addresses, each is tried as
    /// soon as the one before has failed or has not answered for 250 ms; an address that accepted a connection and then
    /// failed is tried last for 5 min. For a platform that
    /// speaks only HTTP/2, the TLS handshake has a second limit of the same length. Default: 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The `User-Agent` header. Default: `result-poster/<version>`.
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = user_agent.into();
        self
    }

    /// Uses each connection for one request, which says so (`Connection: close`): for a platform or a load balancer that
    /// closes idle connections without a word, or balances by connection. Default: a connection is kept for 4 s after
    /// its last response.
    pub fn without_keep_alive(mut self) -> Self {
        self.keep_alive = false;
        self
    }

    /// Uses this forward proxy, `[http[s]://][user:password@]host[:port]`: a `CONNECT` tunnel for an `https` platform,
    /// so that the proxy sees nothing of the requests. In user and password, special characters are percent-encoded, such as
    /// the backslash of a domain user: `DOMAIN%5Cuser`. The default port is 1080, or 443 with `https`. A platform on
    /// loopback is always reached directly.
    ///
    /// Default: the proxy of the environment: `https_proxy` (`http_proxy` for an `http` platform) or
    /// `all_proxy`, or the same in upper case, read in [`build`](Self::build). (`HTTP_PROXY` is ignored when
    /// `REQUEST_METHOD` is set, to avoid *httpoxy*.)
    pub fn proxy(mut self, url: impl Into<SecretString>) -> Self {
        self.proxy = ProxyChoice::Url(url.into());
        self
    }

    /// Uses no forward proxy, regardless of the environment. Default: see [`proxy`](Self::proxy).
    pub fn without_proxy(mut self) -> Self {
        self.proxy = ProxyChoice::Direct;
        self
    }

    /// The hosts that are reached without a proxy, separated by commas, by the rules of Go: names (`example.com` includes
    /// `app.example.com`; `.example.com` and `*.example.com` mean the subdomains alone), addresses, networks
    /// (`10.0.0.0/8`), or `*` for all. A name or an address may have a port (`example.com:8443`), and then applies to that
    /// port of the platform alone.
    /// Default: `no_proxy` or `NO_PROXY` of the environment.
    pub fn proxy_exemptions(mut self, list: impl Into<String>) -> Self {
        self.proxy_exemptions = Some(list.into());
        self
    }

    /// Trusts these certificates, one or more in PEM, in addition to the host's own roots: for a platform with a
    /// private certificate authority. May be called more than once. Default: none.
    pub fn add_root_certificates_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificates.push(pem.into());
        self
    }

    /// Presents this certificate chain, in PEM, to a platform that asks for one (mutual TLS), with its private key, in
    /// PEM as well. Default: none.
    pub fn client_certificate_pem(mut self, chain: impl Into<Vec<u8>>, key: impl Into<SecretString>) -> Self {
        self.client_certificate = Some(ClientCertificate {
            chain: chain.into(),
            key: key.into(),
        });
        self
    }

    /// Changes the HTTP client in ways that no option covers, such as default headers. Default: no change.
    ///
    /// The poster's own settings are applied after the closure: redirects are off, and the deadline is
    /// [`timeout`](Self::timeout). Connections are the poster's own: the builder's `local_address` and
    /// `max_http_version` have no effect, or break the client. The closure runs on the poster's arbiter, before the
    /// first call and whenever the client is built again: for each request to a platform that speaks only HTTP/2. If
    /// the closure panics, the call ends with [`CallError::Internal`](crate::CallError::Internal).
    ///
    /// ```
    /// # use result_poster::Options;
    /// let options = Options::builder("https://app.example.com")
    ///     .auth_token("token")
    ///     .customize_client(|client| client.add_default_header(("x-runner", "7")))
    ///     .build()?;
    /// # Ok::<_, result_poster::OptionsError>(())
    /// ```
    pub fn customize_client(
        mut self,
        customize: impl Fn(ClientBuilder<Dialer>) -> ClientBuilder<Dialer> + Send + Sync + 'static,
    ) -> Self {
        self.customize_client = Some(Arc::new(customize));
        self
    }
}
