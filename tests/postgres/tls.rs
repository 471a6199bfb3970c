//! TLS between a poster and the server.

use std::{net::TcpListener as StdListener, sync::Arc, thread};

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use result_poster::{Options, outbox::OutboxOptions};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    inspector::texts,
    server::{Database, Way, shared},
};

type Certificate = CertifiedKey<KeyPair>;

/// A certificate that is its own root.
fn certificate() -> Certificate {
    generate_simple_self_signed(["localhost".to_owned()]).unwrap()
}

/// Ends TLS before the server, as a server with `ssl = on` does itself. Returns the port.
fn start(server: &str, certificate: &Certificate) -> u16 {
    let key = PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = server.to_owned();
    // On a thread of its own, since `build` blocks.
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(acceptor.clone(), client, server.clone()));
            }
        });
    });
    port
}

async fn forward(acceptor: TlsAcceptor, mut client: TcpStream, server: String) {
    let mut request = [0; 8];
    client.read_exact(&mut request).await.unwrap();
    assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47], "the request for TLS");
    client.write_all(b"S").await.unwrap();
    // A client that does not trust the certificate ends the connection.
    let Ok(mut client) = acceptor.accept(client).await else {
        return;
    };
    let mut server = TcpStream::connect(server).await.unwrap();
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

#[test]
fn a_server_is_trusted_by_the_root_and_the_name_of_its_certificate() {
    let Some(database) = Database::new(Way::Direct, "TLS") else {
        return;
    };
    let _shared = shared();
    let (own, other) = (certificate(), certificate());
    let port = start(&database.route.address, &own);
    let build = |host: &str, root: &Certificate| {
        let url = database.route.url_by(port).replace("127.0.0.1", host) + "?sslmode=require";
        let server = database.options(&url).add_root_certificates_pem(root.cert.pem());
        let outbox = OutboxOptions::postgres(server).build().unwrap();
        let options = Options::builder("http://127.0.0.1:1").outbox(outbox).build();
        options.map(drop).map_err(|error| texts(&error))
    };

    let refused = build("localhost", &other).unwrap_err();
    assert!(refused.contains("invalid peer certificate: "), "{refused}");
    let refused = build("127.0.0.1", &own).unwrap_err();
    assert!(
        refused.contains("certificate not valid for name \"127.0.0.1\""),
        "{refused}"
    );

    assert_eq!(build("localhost", &own), Ok(()));
    assert_eq!(database.count("calls"), 0);
}
