//! `https`, with certificate authorities of the tests' own.

use std::{error::Error as _, fs};

use rcgen::{ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use result_poster::{AttemptError, CallError, CallReceipt, OptionsBuilder};
use rustls::{
    ProtocolVersion,
    version::{TLS12, TLS13},
};

use crate::support::{
    child::{child_process, output_of},
    errors,
    log::{keep_log, logged},
    options, send_update, start,
    tls::{Authority, TlsPlatform, certificate_for, server_config},
};

#[actix_rt::test]
async fn an_added_private_authority_is_trusted() {
    let authority = Authority::new();
    let platform = TlsPlatform::start(authority.issue(certificate_for("localhost")));
    send_with(options(platform.url()).add_root_certificates_pem(authority.pem()))
        .await
        .unwrap();
    // One of several roots, in one PEM text or in two.
    let both = authority.pem() + &Authority::new().pem();
    send_with(options(platform.url()).add_root_certificates_pem(both))
        .await
        .unwrap();
    let options = options(platform.url()).add_root_certificates_pem(authority.pem());
    send_with(options.add_root_certificates_pem(Authority::new().pem()))
        .await
        .unwrap();
}

#[actix_rt::test]
async fn an_unknown_authority_is_refused() {
    let authority = Authority::new();
    let platform = TlsPlatform::start(authority.issue(certificate_for("localhost")));
    for options in [
        options(platform.url()),
        options(platform.url()).add_root_certificates_pem(Authority::new().pem()),
    ] {
        assert!(
            refused_connection(options)
                .await
                .starts_with("invalid peer certificate")
        );
    }
}

#[actix_rt::test]
async fn a_certificate_for_another_host_or_time_is_refused() {
    let authority = Authority::new();
    let mut expired = certificate_for("localhost");
    expired.not_before = date_time_ymd(2019, 1, 1);
    expired.not_after = date_time_ymd(2020, 1, 1);
    let mut early = certificate_for("localhost");
    early.not_before = date_time_ymd(2999, 1, 1);
    early.not_after = date_time_ymd(3000, 1, 1);
    for (params, cause) in [
        (certificate_for("other.example.com"), "not valid for name"),
        (expired, "certificate expired"),
        (early, "not valid yet"),
    ] {
        let platform = TlsPlatform::start(authority.issue(params));
        let refused = refused_connection(options(platform.url()).add_root_certificates_pem(authority.pem())).await;
        assert!(refused.contains(cause), "{refused}");
    }
}

#[actix_rt::test]
async fn a_self_signed_certificate_is_refused() {
    let key = KeyPair::generate().unwrap();
    let certificate = certificate_for("localhost").self_signed(&key).unwrap();
    let platform = TlsPlatform::start((certificate.pem(), key.serialize_pem()));
    assert!(
        refused_connection(options(platform.url()))
            .await
            .starts_with("invalid peer certificate")
    );
}

#[actix_rt::test]
async fn tls_1_2_and_1_3_are_supported() {
    let authority = Authority::new();
    for (version, expected) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let platform = TlsPlatform::start_with(server_config(
            authority.issue(certificate_for("localhost")),
            &[version],
            None,
        ));
        send_with(options(platform.url()).add_root_certificates_pem(authority.pem()))
            .await
            .unwrap();
        assert_eq!(platform.versions(), [expected]);
    }
}

#[actix_rt::test]
async fn a_client_certificate_is_presented_on_request() {
    let authority = Authority::new();
    let clients = Authority::new();
    let platform = TlsPlatform::start_with(server_config(
        authority.issue(certificate_for("localhost")),
        &[&TLS13],
        Some(&clients),
    ));
    let base = options(platform.url()).add_root_certificates_pem(authority.pem());

    let client = |authority: &Authority| {
        let mut params = certificate_for("wkr_1");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate, key) = authority.issue(params);
        base.clone().client_certificate_pem(certificate, key)
    };
    send_with(client(&clients)).await.unwrap();
    for refused in [base.clone(), client(&Authority::new())] {
        assert!(send_with(refused).await.unwrap_err().transient().is_some());
    }
}

#[test]
fn an_unusable_client_certificate_is_refused() {
    let authority = Authority::new();
    let (certificate, key) = authority.issue(certificate_for("wkr_1"));
    let (_, other_key) = authority.issue(certificate_for("wkr_2"));
    for (certificate, key, message) in [
        ("nonsense", key.as_str(), "contains no certificate"),
        (&certificate, "s3cret nonsense", "has a key that is not PEM"),
        (&certificate, &other_key, "can't be used (ring supports"),
        (
            &certificate,
            include_str!("../data/tls/encrypted_key.pem"),
            "has an encrypted key: decrypt it first",
        ),
        (
            &certificate,
            include_str!("../data/tls/encrypted_key_traditional.pem"),
            "has an encrypted key: decrypt it first",
        ),
        (
            include_str!("../data/tls/client_p521.pem"),
            include_str!("../data/tls/client_p521_key.pem"),
            "can't be used (ring supports",
        ),
    ] {
        let options = options("https://app.example.com").client_certificate_pem(certificate, key);
        assert!(!format!("{options:?}").contains("PRIVATE KEY"));
        let error = options.build().unwrap_err();
        assert_eq!(error.source().is_some(), message.contains("ring"), "{error:?}");
        let error = errors::texts(&error).join(": ");
        assert!(
            error.starts_with(&format!("option `client_certificate_pem` {message}")),
            "{error}"
        );
        assert!(!error.contains("s3cret"));
    }
}

#[test]
fn a_certificate_in_der_is_refused_with_what_to_do() {
    let error = options("https://app.example.com")
        .add_root_certificates_pem(include_bytes!("../data/tls/authority.der"))
        .build()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "option `add_root_certificates_pem` is DER, not PEM: convert it, such as by `openssl x509 -inform der`"
    );
}

/// `openssl` made these certificates, since `rcgen` makes none of their kind.
#[actix_rt::test]
async fn a_certificate_that_ring_can_not_verify_is_refused_with_its_reason() {
    let key = || include_str!("../data/tls/key.pem").to_owned();
    for (certificate, authority, reason) in [
        (
            include_str!("../data/tls/version1.pem"),
            include_str!("../data/tls/authority.pem"),
            "the server's certificate is of X.509 version 1 or 2; only version 3 is supported",
        ),
        (
            include_str!("../data/tls/signed_by_p521.pem"),
            include_str!("../data/tls/authority_p521.pem"),
            "a certificate of the server has a signature that ring can't verify, such as of P-521 or SHA-1",
        ),
    ] {
        let platform = TlsPlatform::start((certificate.to_owned(), key()));
        let refused = refused_connection(options(platform.url()).add_root_certificates_pem(authority)).await;
        assert_eq!(refused, reason);
    }
}

#[test]
fn child_process_with_missing_roots() {
    let Ok(extra) = std::env::var("RESULT_POSTER_TEST_EXTRA_ROOTS") else {
        return;
    };
    keep_log();
    let mut options = options("https://app.example.com");
    if !extra.is_empty() {
        options = options.add_root_certificates_pem(extra);
    }
    let built = options.build();
    println!(
        "built: {}",
        built.err().map(|error| error.to_string()).unwrap_or_default()
    );
    logged().iter().for_each(|line| println!("{line}"));
}

#[test]
fn missing_roots_are_reported_with_their_variable() {
    let start = |extra: &str| {
        output_of(
            child_process("tls::child_process_with_missing_roots")
                .env("RESULT_POSTER_TEST_EXTRA_ROOTS", extra)
                .env("SSL_CERT_FILE", "/missing/roots.pem")
                .env_remove("SSL_CERT_DIR"),
        )
    };
    let warning = "WARN result_poster::transport::tls not all root certificates of this host could be loaded: ";
    for (extra, expected) in [
        (
            "",
            "built: option `add_root_certificates_pem` is needed: this host has no root certificates of its own: ",
        ),
        (include_str!("../data/tls/authority.pem"), "built: \n"),
    ] {
        let output = start(extra);
        assert!(output.contains(expected), "{output}");
        let warned = output.lines().find(|line| line.starts_with(warning)).unwrap();
        assert!(warned.contains("No such file"), "{warned}");
        assert!(warned.ends_with("(SSL_CERT_FILE=/missing/roots.pem)"), "{warned}");
    }
}

#[test]
fn a_root_in_der_is_reported_beside_good_ones() {
    let data = |name: &str| format!("{}/tests/data/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let good = tempfile::tempdir().unwrap();
    fs::copy(data("authority.pem"), good.path().join("authority.pem")).unwrap();
    let mixed = tempfile::tempdir().unwrap();
    for name in ["authority.pem", "authority.der"] {
        fs::copy(data(name), mixed.path().join(name)).unwrap();
    }
    let (good, mixed) = (good.path().display().to_string(), mixed.path().display().to_string());
    for (file, folders, fault) in [
        (data("authority.der"), good.clone(), data("authority.der")),
        (
            data("authority.pem"),
            format!("{good}:{mixed}"),
            format!("{mixed}/authority.der"),
        ),
    ] {
        let output = output_of(
            child_process("tls::child_process_with_missing_roots")
                .env("RESULT_POSTER_TEST_EXTRA_ROOTS", "")
                .env("SSL_CERT_FILE", &file)
                .env("SSL_CERT_DIR", &folders),
        );
        assert!(output.contains("built: \n"), "{output}");
        let warning = format!("{fault} is DER, not PEM (SSL_CERT_FILE={file}, SSL_CERT_DIR={folders})\n");
        assert!(output.contains(&warning), "{output}");
    }
}

#[test]
fn a_key_in_place_of_a_certificate_is_not_printed() {
    // In one line, as from an environment variable that lost its line breaks.
    let key = "-----BEGIN PRIVATE KEY-----c2VjcmV0-----END PRIVATE KEY-----";
    let error = options("https://app.example.com")
        .add_root_certificates_pem(key)
        .build()
        .unwrap_err();
    assert_eq!(error.to_string(), "option `add_root_certificates_pem` is not valid PEM");
}

/// Sends a call with these options.
async fn send_with(options: OptionsBuilder) -> Result<CallReceipt, CallError> {
    send_update(&start(options), "i").await
}

/// Why the poster refused the connection. It sent nothing on it.
async fn refused_connection(options: OptionsBuilder) -> String {
    let error = send_with(options).await.unwrap_err();
    let AttemptError::Connect(cause) = &error.transient().unwrap().last else {
        panic!("{error:?}");
    };
    assert!(!error.may_have_been_delivered());
    errors::texts(&**cause).swap_remove(1)
}
