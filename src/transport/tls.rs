//! The TLS configuration: trusted roots and the client certificate.

use std::sync::Arc;

use log::warn;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use secrecy::{ExposeSecret as _, SecretString};

use super::roots::{DER_SEQUENCE, add_native_roots};
use crate::{error::OptionsError, util::ignore_panic};

/// A certificate chain and its key, both in PEM, which authenticate the client to the platform.
#[derive(Clone)]
pub(crate) struct ClientCertificate {
    pub(crate) chain: Vec<u8>,
    pub(crate) key: SecretString,
}

/// A TLS configuration for HTTP/1.1 that trusts the host's roots and the extra ones.
///
/// # Errors
///
/// If a certificate or the key is not valid, or there are no roots. The error names the option. Roots of the host that
/// could not be loaded are a warning.
pub(crate) fn tls_config(
    extra_roots_pem: &[Vec<u8>],
    client_certificate: Option<&ClientCertificate>,
) -> Result<ClientConfig, OptionsError> {
    let roots = |reason: String| OptionsError::new("add_root_certificates_pem", reason);
    let client = |reason: String| OptionsError::new("client_certificate_pem", reason);

    let mut store = RootCertStore::empty();
    let fault = add_native_roots(&mut store);
    if let Some(fault) = &fault {
        ignore_panic(|| warn!("not all root certificates of this host could be loaded: {fault}"));
    }
    for pem in extra_roots_pem {
        for certificate in certificates(pem).map_err(roots)? {
            let refuse = |error| roots("contains a certificate that can't be a root".into()).with_source(error);
            store.add(certificate).map_err(refuse)?;
        }
    }
    if store.is_empty() {
        let fault = fault.unwrap_or_default();
        let reason = format!("is needed: this host has no root certificates of its own: {fault}");
        return Err(roots(reason));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| roots("can't be used".into()).with_source(error))?
        .with_root_certificates(store);
    let mut config = match client_certificate {
        None => builder.with_no_client_auth(),
        Some(ClientCertificate { chain, key }) => {
            let key = private_key(key.expose_secret()).map_err(|reason| client(reason.to_owned()))?;
            builder
                .with_client_auth_cert(certificates(chain).map_err(client)?, key)
                .map_err(|error| {
                    let reason = "can't be used (ring supports keys of RSA, P-256, P-384 and Ed25519)";
                    client(reason.into()).with_source(error)
                })?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, &'static str> {
    if pem.contains("ENCRYPTED") {
        return Err("has an encrypted key: decrypt it first, such as by `openssl pkey`");
    }
    // The parser's own message may quote the key.
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| "has a key that is not PEM")
}

/// The certificates in `pem`, at least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    if pem.first() == Some(&DER_SEQUENCE) {
        return Err("is DER, not PEM: convert it, such as by `openssl x509 -inform der`".into());
    }
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    // The parser's own message quotes the text, which may be a key in the wrong place.
    let certificates = certificates.map_err(|_| "is not valid PEM")?;
    if certificates.is_empty() {
        return Err("contains no certificate".into());
    }
    Ok(certificates)
}
