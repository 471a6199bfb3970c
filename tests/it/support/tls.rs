//! Certificates, and servers that speak TLS.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ProtocolVersion, RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use tokio::io::copy_bidirectional;
use tokio_rustls::TlsAcceptor;

use super::raw_server::{RawServer, read_request, serve, serve_async, success};

/// The versions that the poster supports.
pub(crate) const TLS_VERSIONS: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];

/// A certificate and its key, in PEM.
pub(crate) type CertificateAndKey = (String, String);

/// Signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// The certificate of the authority.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn issue(&self, params: CertificateParams) -> CertificateAndKey {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// The parameters of a certificate for this name.
pub(crate) fn certificate_for(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

/// Presents this certificate, and requires a client certificate of `client_authority`, if there is one.
pub(crate) fn server_config(
    (certificate, key): CertificateAndKey,
    versions: &[&'static SupportedProtocolVersion],
    client_authority: Option<&Authority>,
) -> Arc<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap();
    let builder = match client_authority {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap())
                .unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    // Without the checks of `with_single_cert`: the certificate may be a bad one.
    let key = provider.key_provider.load_private_key(key).unwrap();
    let certified = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    Arc::new(builder.with_cert_resolver(Arc::new(certified)))
}

/// A connection that speaks TLS, as the server.
pub(crate) type TlsServerStream = StreamOwned<ServerConnection, TcpStream>;

/// Speaks TLS on a connection; the handshake is done with the first read or write.
pub(crate) fn accept_tls(config: &Arc<ServerConfig>, stream: TcpStream) -> TlsServerStream {
    StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), stream)
}

/// A platform that speaks TLS as `localhost`, accepts one request per connection, and records the agreed versions.
pub(crate) struct TlsPlatform {
    server: RawServer,
    versions: Arc<Mutex<Vec<ProtocolVersion>>>,
}

impl TlsPlatform {
    pub(crate) fn start(certificate: CertificateAndKey) -> Self {
        Self::start_with(server_config(certificate, TLS_VERSIONS, None))
    }

    pub(crate) fn start_with(config: Arc<ServerConfig>) -> Self {
        let versions = Arc::new(Mutex::new(Vec::new()));
        let agreed = Arc::clone(&versions);
        let server = serve(move |stream| {
            let mut stream = accept_tls(&config, stream);
            if read_request(&mut stream).is_some() {
                agreed.lock().unwrap().extend(stream.conn.protocol_version());
                let _ = stream.write_all(success().as_bytes());
            }
        });
        Self { server, versions }
    }

    pub(crate) fn url(&self) -> String {
        self.server.https_url("localhost")
    }

    /// The TLS version of each connection that carried a request.
    pub(crate) fn versions(&self) -> Vec<ProtocolVersion> {
        self.versions.lock().unwrap().clone()
    }
}

/// Terminates TLS under this name, and relays the decrypted bytes to another server and back.
pub(crate) fn terminate_tls(authority: &Authority, name: &str, to: SocketAddr) -> SocketAddr {
    let config = server_config(authority.issue(certificate_for(name)), TLS_VERSIONS, None);
    serve_async(move |stream| {
        let acceptor = TlsAcceptor::from(Arc::clone(&config));
        async move {
            let Ok(mut outer) = acceptor.accept(stream).await else {
                return;
            };
            if let Ok(mut inner) = tokio::net::TcpStream::connect(to).await {
                let _ = copy_bidirectional(&mut outer, &mut inner).await;
            }
        }
    })
}
