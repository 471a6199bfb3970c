//! `https`, with a private certificate authority.

use std::{io::Write as _, net::TcpListener, sync::Arc, thread};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use result_poster::{AttemptError, UpdateIssueStatus};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{PrivateKeyDer, pem::PemObject as _},
};

use crate::support::{options, read_request, start};

/// A platform that speaks TLS with a certificate for `localhost`, and the PEM of the authority that signed it.
fn start_platform() -> (String, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &authority)
        .unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
        )
        .unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let config = Arc::new(config);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream.unwrap());
            if read_request(&mut stream).is_some() {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{\"success\":true}");
            }
        }
    });
    (url, authority.pem())
}

#[actix_rt::test]
async fn a_private_authority_is_trusted_once_it_is_added() {
    let (url, authority) = start_platform();
    let poster = start(options(&url).add_root_certificates_pem(authority));
    poster
        .send(UpdateIssueStatus::new("i", "Finished"))
        .await
        .unwrap()
        .unwrap();
}

#[actix_rt::test]
async fn an_unknown_authority_is_a_connection_that_failed() {
    let (url, _) = start_platform();
    let (_, other) = start_platform();
    for poster in [
        start(options(&url)),
        start(options(&url).add_root_certificates_pem(other)),
    ] {
        let error = poster
            .send(UpdateIssueStatus::new("i", "Finished"))
            .await
            .unwrap()
            .unwrap_err();
        let transient = error.transient().unwrap();
        let AttemptError::Connect(cause) = &transient.last else {
            panic!("{error:?}");
        };
        assert!(cause.to_string().contains("invalid peer certificate"), "{cause}");
        assert!(!error.may_have_been_delivered());
    }
}
