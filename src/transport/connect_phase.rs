//! The steps of a connection, and errors that name the step.

use std::io;

use rustls::AlertDescription;
use thiserror::Error;

use super::addresses::Addresses;

/// The step in which a connection failed.
#[derive(Debug, Clone, Copy, Error)]
pub(super) enum ConnectPhase {
    #[error("resolving the name")]
    Dns,
    #[error("connecting to {0}")]
    Tcp(Addresses),
    #[error("resolving the proxy's name")]
    ProxyDns,
    #[error("connecting to the proxy at {0}")]
    ProxyTcp(Addresses),
    #[error("asking the proxy for a tunnel")]
    Tunnel,
    #[error("in the TLS handshake with the proxy")]
    ProxyTls,
    #[error("in the TLS handshake")]
    Tls,
}

/// A connection failed.
#[derive(Debug, Error)]
#[error("{phase}")]
pub(super) struct NotConnected {
    phase: ConnectPhase,
    source: io::Error,
}

impl NotConnected {
    pub(super) fn error(phase: ConnectPhase, source: io::Error) -> io::Error {
        io::Error::new(source.kind(), Self { phase, source })
    }
}

/// A step of a connection, as an operator counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ConnectStep {
    Name,
    Tcp,
    Proxy,
    Tls,
}

impl ConnectStep {
    /// The step in which a connection failed, if the error says so.
    pub(crate) fn of(error: &io::Error) -> Option<Self> {
        let failed: &NotConnected = error.get_ref()?.downcast_ref()?;
        Some(match failed.phase {
            ConnectPhase::Dns => Self::Name,
            ConnectPhase::Tcp(_) => Self::Tcp,
            ConnectPhase::ProxyDns | ConnectPhase::ProxyTcp(_) | ConnectPhase::Tunnel | ConnectPhase::ProxyTls => {
                Self::Proxy
            }
            ConnectPhase::Tls => Self::Tls,
        })
    }
}

/// Whether the platform rejected a connection because it speaks none of the offered protocols.
pub(crate) fn is_alpn_rejection(error: &io::Error) -> bool {
    let source = error.get_ref();
    let source = match source.and_then(|error| error.downcast_ref()) {
        Some(NotConnected {
            phase: ConnectPhase::Tls,
            source,
        }) => source.get_ref(),
        // An alert from the proxy does not concern the platform.
        Some(NotConnected { .. }) => None,
        // awc does TLS for HTTP/2, and returns the error as it is.
        None => source,
    };
    let alert = source.and_then(|error| error.downcast_ref());
    alert == Some(&rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol))
}

/// The error of the step that failed.
pub(super) fn source(error: &io::Error) -> Option<&io::Error> {
    let failed: &NotConnected = error.get_ref()?.downcast_ref()?;
    Some(&failed.source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_platforms_own_alert_is_an_alpn_rejection() {
        for (phase, alert, expected) in [
            (ConnectPhase::Tls, AlertDescription::NoApplicationProtocol, true),
            (ConnectPhase::Tls, AlertDescription::HandshakeFailure, false),
            (ConnectPhase::ProxyTls, AlertDescription::NoApplicationProtocol, false),
        ] {
            let alert = io::Error::other(rustls::Error::AlertReceived(alert));
            let error = NotConnected::error(phase, alert);
            assert_eq!(is_alpn_rejection(&error), expected, "{phase:?}");
        }
        assert!(!is_alpn_rejection(&io::Error::from(io::ErrorKind::TimedOut)));
    }
}
