//! The TLS configuration: trusted roots and the client certificate.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use secrecy::{ExposeSecret as _, SecretString};

use crate::error::OptionsError;

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
/// If a certificate or the key is not valid, or there are no roots. The error names the option.
pub(crate) fn tls_config(
    extra_roots_pem: &[Vec<u8>],
    client_certificate: Option<&ClientCertificate>,
) -> Result<ClientConfig, OptionsError> {
    let roots = |reason: String| OptionsError::new("add_root_certificates_pem", reason);
    let client = |reason: String| OptionsError::new("client_certificate_pem", reason);

    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for pem in extra_roots_pem {
        for certificate in certificates(pem).map_err(roots)? {
            store
                .add(certificate)
                .map_err(|error| roots(format!("contains a certificate that can't be a root: {error}")))?;
        }
    }
    if store.is_empty() {
        return Err(roots("is needed: this host has no root certificates of its own".into()));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| roots(error.to_string()))?
        .with_root_certificates(store);
    let mut config = match client_certificate {
        None => builder.with_no_client_auth(),
        Some(ClientCertificate { chain, key }) => {
            let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes())
                // The parser's own message may quote the key.
                .map_err(|_| client("has a key that is not PEM".into()))?;
            builder
                .with_client_auth_cert(certificates(chain).map_err(client)?, key)
                .map_err(|error| client(format!("can't be used: {error}")))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The certificates in `pem`, at least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    // The parser's own message quotes the text, which may be a key in the wrong place.
    let certificates = certificates.map_err(|_| "is not valid PEM")?;
    if certificates.is_empty() {
        return Err("contains no certificate".into());
    }
    Ok(certificates)
}
