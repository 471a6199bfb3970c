//! `https`, with certificate authorities of the tests' own.

use std::{
    error::Error as _,
    io::Write as _,
    net::TcpListener,
    sync::{Arc, Mutex},
    thread,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use result_poster::{AttemptError, CallError, CallReceipt, OptionsBuilder, UpdateIssueStatus};
use rustls::{
    ProtocolVersion, RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};

use crate::support::{options, read_request, start};

/// Signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key, in PEM.
    pub fn issue(&self, params: CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

pub fn params(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

/// A platform that speaks TLS as `localhost`, and the versions that its connections agreed on.
pub struct TlsPlatform {
    pub url: String,
    versions: Arc<Mutex<Vec<ProtocolVersion>>>,
}

impl TlsPlatform {
    pub fn start((certificate, key): (String, String)) -> Self {
        Self::start_with((certificate, key), &[&TLS12, &TLS13], None)
    }

    pub fn start_with(
        (certificate, key): (String, String),
        versions: &[&'static SupportedProtocolVersion],
        client_authority: Option<&Authority>,
    ) -> Self {
        let config = server_config((certificate, key), versions, client_authority);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let platform = Self {
            url: format!("https://localhost:{}", listener.local_addr().unwrap().port()),
            versions: Arc::default(),
        };
        let versions = Arc::clone(&platform.versions);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = StreamOwned::new(connection, stream.unwrap());
                if read_request(&mut stream).is_some() {
                    versions.lock().unwrap().extend(stream.conn.protocol_version());
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{\"success\":true}");
                }
            }
        });
        platform
    }
}

/// Shows this certificate, and asks for one of `client_authority`, if there is one.
pub fn server_config(
    (certificate, key): (String, String),
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
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}

async fn update(options: OptionsBuilder) -> Result<CallReceipt, CallError> {
    start(options)
        .send(UpdateIssueStatus::new("i", "Finished"))
        .await
        .unwrap()
}

/// The cause of a connection that was refused by this side: nothing was sent on it.
async fn refusal(options: OptionsBuilder) -> String {
    let error = update(options).await.unwrap_err();
    let AttemptError::Connect(cause) = &error.transient().unwrap().last else {
        panic!("{error:?}");
    };
    assert!(!error.may_have_been_delivered());
    cause.source().unwrap().to_string()
}

#[actix_rt::test]
async fn a_private_authority_is_trusted_once_it_is_added() {
    let authority = Authority::new();
    let platform = TlsPlatform::start(authority.issue(params("localhost")));
    update(options(&platform.url).add_root_certificates_pem(authority.pem()))
        .await
        .unwrap();
    // One of several, in one file or in two.
    let both = authority.pem() + &Authority::new().pem();
    update(options(&platform.url).add_root_certificates_pem(both))
        .await
        .unwrap();
    let options = options(&platform.url).add_root_certificates_pem(authority.pem());
    update(options.add_root_certificates_pem(Authority::new().pem()))
        .await
        .unwrap();
}

#[actix_rt::test]
async fn an_unknown_authority_is_refused() {
    let authority = Authority::new();
    let platform = TlsPlatform::start(authority.issue(params("localhost")));
    for options in [
        options(&platform.url),
        options(&platform.url).add_root_certificates_pem(Authority::new().pem()),
    ] {
        assert!(refusal(options).await.starts_with("invalid peer certificate"));
    }
}

#[actix_rt::test]
async fn a_certificate_of_another_host_or_another_time_is_refused() {
    let authority = Authority::new();
    let mut expired = params("localhost");
    expired.not_before = date_time_ymd(2019, 1, 1);
    expired.not_after = date_time_ymd(2020, 1, 1);
    let mut early = params("localhost");
    early.not_before = date_time_ymd(2999, 1, 1);
    early.not_after = date_time_ymd(3000, 1, 1);
    for (params, cause) in [
        (params("other.example.com"), "not valid for name"),
        (expired, "certificate expired"),
        (early, "not valid yet"),
    ] {
        let platform = TlsPlatform::start(authority.issue(params));
        let refused = refusal(options(&platform.url).add_root_certificates_pem(authority.pem())).await;
        assert!(refused.contains(cause), "{refused}");
    }
}

#[actix_rt::test]
async fn a_self_signed_certificate_is_refused() {
    let key = KeyPair::generate().unwrap();
    let certificate = params("localhost").self_signed(&key).unwrap();
    let platform = TlsPlatform::start((certificate.pem(), key.serialize_pem()));
    assert!(
        refusal(options(&platform.url))
            .await
            .starts_with("invalid peer certificate")
    );
}

#[actix_rt::test]
async fn tls_1_2_and_1_3_are_spoken() {
    let authority = Authority::new();
    for (version, expected) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let platform = TlsPlatform::start_with(authority.issue(params("localhost")), &[version], None);
        update(options(&platform.url).add_root_certificates_pem(authority.pem()))
            .await
            .unwrap();
        assert_eq!(*platform.versions.lock().unwrap(), [expected]);
    }
}

#[actix_rt::test]
async fn a_client_certificate_is_shown_to_a_platform_that_asks_for_one() {
    let authority = Authority::new();
    let clients = Authority::new();
    let platform = TlsPlatform::start_with(authority.issue(params("localhost")), &[&TLS13], Some(&clients));
    let base = options(&platform.url).add_root_certificates_pem(authority.pem());

    let client = |authority: &Authority| {
        let mut params = params("wkr_1");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate, key) = authority.issue(params);
        base.clone().client_certificate_pem(certificate, key)
    };
    update(client(&clients)).await.unwrap();
    for refused in [base.clone(), client(&Authority::new())] {
        assert!(update(refused).await.unwrap_err().transient().is_some());
    }
}

#[test]
fn a_client_certificate_that_can_not_be_used_is_refused() {
    let authority = Authority::new();
    let (certificate, key) = authority.issue(params("wkr_1"));
    let (_, other_key) = authority.issue(params("wkr_2"));
    for (certificate, key, message) in [
        ("nonsense", key.as_str(), "holds no certificate"),
        (&certificate, "s3cret nonsense", "has a key that is not PEM"),
        (&certificate, &other_key, "can't be used: keys may not be consistent"),
    ] {
        let options = options("https://app.example.com").client_certificate_pem(certificate, key);
        assert!(!format!("{options:?}").contains("PRIVATE KEY"));
        let error = options.build().unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("option `client_certificate_pem` {message}")),
            "{error}"
        );
        assert!(!error.contains("s3cret"));
    }
}

#[test]
fn what_is_put_in_the_place_of_a_certificate_is_not_repeated() {
    // A key in one line, as from a variable whose line breaks were lost.
    let key = "-----BEGIN PRIVATE KEY-----c2VjcmV0-----END PRIVATE KEY-----";
    let error = options("https://app.example.com")
        .add_root_certificates_pem(key)
        .build()
        .unwrap_err();
    assert_eq!(error.to_string(), "option `add_root_certificates_pem` is not valid PEM");
}
