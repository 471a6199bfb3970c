//! Why a TLS handshake failed, where the text of rustls does not say what to do. Pure.

use std::io;

use rustls::Error as TlsError;
use thiserror::Error;

/// A failed handshake, with an explanation. Its source is the error of rustls.
#[derive(Debug, Error)]
#[error("{explanation}")]
pub(super) struct TlsFault {
    explanation: &'static str,
    source: TlsError,
}

impl TlsFault {
    /// The error of a handshake, with an explanation if there is one.
    pub(super) fn explain(error: io::Error) -> io::Error {
        let tls: Option<&TlsError> = error.get_ref().and_then(|error| error.downcast_ref());
        let Some((explanation, source)) = tls.and_then(|tls| Some((explanation(tls)?, tls.clone()))) else {
            return error;
        };
        io::Error::new(error.kind(), Self { explanation, source })
    }
}

fn explanation(error: &TlsError) -> Option<&'static str> {
    let TlsError::InvalidCertificate(error) = error else {
        return None;
    };
    let text = error.to_string();
    if text.contains("UnsupportedCertVersion") {
        return Some("the server's certificate is of X.509 version 1 or 2; only version 3 is supported");
    }
    if text.contains("UnsupportedSignatureAlgorithm") || text.contains("UnsupportedCrlSignatureAlgorithm") {
        return Some("a certificate of the server has a signature that ring can't verify, such as of P-521 or SHA-1");
    }
    None
}
