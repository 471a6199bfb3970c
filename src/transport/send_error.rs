//! Conversion of awc's errors, which can't leave their thread, and do not tell whether the request was sent.

use std::{error::Error, io};

use awc::error::{ConnectError, SendRequestError};

use super::{http1::Stale, tls_fault::TlsFault};
use crate::{
    error::{AttemptError, AttemptPhase},
    util::chain,
};

/// Whether the request was not sent because its connection can't carry another request.
pub(super) fn is_stale(error: &SendRequestError) -> bool {
    matches!(error, SendRequestError::Send(error) if error.get_ref().is_some_and(|error| error.is::<Stale>()))
}

/// The error of an attempt that failed in this phase.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "awc's enum may grow, and anything else may have been sent"
)]
pub(super) fn attempt_error(error: SendRequestError, phase: AttemptPhase) -> AttemptError {
    let message = chain(&error);
    let is_refused = is_refused(&error);
    let error = match error {
        // "Disconnected": the request was sent, and the connection closed before a response.
        SendRequestError::Connect(ConnectError::Disconnected) => {
            io::Error::new(io::ErrorKind::UnexpectedEof, "closed without a response")
        }
        SendRequestError::Connect(ConnectError::Timeout) => {
            io::Error::new(io::ErrorKind::TimedOut, "timed out in the TLS handshake")
        }
        SendRequestError::Connect(ConnectError::H2(error)) | SendRequestError::H2(error) => match error.reason() {
            // Without the debug data of a GOAWAY frame, in which the platform may repeat the token.
            Some(reason) => io::Error::other(format!("HTTP/2: {reason}")),
            None => io::Error::other(error),
        },
        // For HTTP/2, awc does the TLS handshake.
        SendRequestError::Connect(ConnectError::Io(error)) => TlsFault::explain(error),
        SendRequestError::Send(error) => error,
        SendRequestError::Response(error) => head_error(&error),
        _ => io::Error::other(message),
    };
    match phase {
        // The client did not request the body: there was no connection.
        AttemptPhase::Connecting => AttemptError::Connect(error.into()),
        AttemptPhase::Sending | AttemptPhase::Waiting if is_refused => AttemptError::StreamRefused(error.into()),
        AttemptPhase::Sending | AttemptPhase::Waiting => AttemptError::ConnectionLost(error.into()),
    }
}

/// The error of a response head that could not be read. The text of awc's error contains that of its source, which is
/// therefore not kept as a source.
fn head_error(error: &(dyn Error + 'static)) -> io::Error {
    match error.source().and_then(|cause| cause.downcast_ref::<io::Error>()) {
        Some(cause) => cause.raw_os_error().map_or_else(
            || io::Error::new(cause.kind(), cause.to_string()),
            io::Error::from_raw_os_error,
        ),
        None => io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
    }
}

/// Whether the platform declares that it has not processed the request (RFC 9113, 8.7): by the code of a reset, or by
/// a GOAWAY with a lower stream id. (A request with an id up to that of the GOAWAY does not fail with this error.)
fn is_refused(error: &SendRequestError) -> bool {
    const REFUSED_STREAM: u32 = 7;
    let SendRequestError::H2(error) = error else {
        return false;
    };
    let refused = error.is_reset() && error.reason().map(u32::from) == Some(REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn disconnected() -> SendRequestError {
        SendRequestError::Connect(ConnectError::Disconnected)
    }

    #[test]
    fn the_phase_decides_whether_the_request_may_have_arrived() {
        let error = |phase| attempt_error(disconnected(), phase);
        assert!(matches!(error(AttemptPhase::Connecting), AttemptError::Connect(_)));
        for phase in [AttemptPhase::Sending, AttemptPhase::Waiting] {
            assert!(matches!(error(phase), AttemptError::ConnectionLost(_)), "{phase:?}");
        }
    }

    #[test]
    fn an_io_error_keeps_its_kind_and_message() {
        let error = SendRequestError::Send(io::Error::new(io::ErrorKind::ConnectionReset, "reset"));
        let AttemptError::ConnectionLost(error) = attempt_error(error, AttemptPhase::Sending) else {
            panic!("a reset while sending is a lost connection");
        };
        let error = error.downcast_ref::<io::Error>().unwrap();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (io::ErrorKind::ConnectionReset, "reset")
        );
    }

    #[test]
    fn an_io_error_in_the_head_replaces_awcs_error() {
        let reset = || io::Error::new(io::ErrorKind::ConnectionReset, "reset");
        let AttemptError::ConnectionLost(error) =
            attempt_error(SendRequestError::Response(reset().into()), AttemptPhase::Waiting)
        else {
            panic!("a reset while waiting is a lost connection");
        };
        assert_eq!(error.downcast_ref::<io::Error>().unwrap().kind(), reset().kind());
        assert_eq!((error.to_string().as_str(), error.source().is_none()), ("reset", true));
    }

    #[test]
    fn a_tls_fault_of_http2_is_explained() {
        let fault = rustls::OtherError(Arc::new(io::Error::other("UnsupportedCertVersion")));
        let fault = rustls::Error::InvalidCertificate(rustls::CertificateError::Other(fault));
        let error = SendRequestError::Connect(ConnectError::Io(io::Error::other(fault)));
        let AttemptError::Connect(error) = attempt_error(error, AttemptPhase::Connecting) else {
            panic!("there was no connection");
        };
        assert!(
            error
                .to_string()
                .starts_with("the server's certificate is of X.509 version 1 or 2")
        );
    }

    #[test]
    fn only_the_stale_error_marks_a_stale_connection() {
        assert!(is_stale(&SendRequestError::Send(io::Error::other(Stale))));
        assert!(!is_stale(&SendRequestError::Send(io::Error::other("other"))));
        assert!(!is_stale(&disconnected()));
    }
}
