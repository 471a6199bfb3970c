//! The root certificates that this host trusts, and why some of them could not be loaded.

use std::env;

use rustls::{RootCertStore, pki_types::CertificateDer};
use rustls_native_certs::{CertificateResult, Error, ErrorKind, load_native_certs};

/// The variables of the environment that replace the host's own roots.
const VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Adds the host's roots to `store`, and returns the fault of those that could not be loaded.
pub(super) fn add_native_roots(store: &mut RootCertStore) -> Option<String> {
    let variables = VARIABLES.map(|name| (name, env::var_os(name)));
    let variables = variables
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?.display())));
    let CertificateResult { certs, errors, .. } = load_native_certs();
    let fault = fault(&certs, &errors, &variables.collect::<Vec<_>>());
    store.add_parsable_certificates(certs);
    fault
}

/// The fault of the roots, and of the variables that are set.
fn fault(certificates: &[CertificateDer<'_>], errors: &[Error], variables: &[String]) -> Option<String> {
    let what = match (errors, certificates) {
        ([], [_, ..]) => return None,
        ([], []) => "no certificate was found, in PEM".to_owned(),
        ([first, rest @ ..], _) => match rest.len() {
            0 => describe(first),
            more => format!("{}, and {more} more", describe(first)),
        },
    };
    Some(match variables {
        [] => what,
        _ => format!("{what} ({})", variables.join(", ")),
    })
}

fn describe(error: &Error) -> String {
    if matches!(error.kind, ErrorKind::Pem(_)) {
        // The parser's own message quotes the text, which may be a key in the wrong place.
        return format!("{}: it is not valid PEM", error.context);
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustls_native_certs::load_certs_from_paths;

    use super::*;

    /// The fault of the roots in this file.
    fn fault_of(content: Option<&str>) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("roots.pem");
        if let Some(content) = content {
            fs::write(&path, content).unwrap();
        }
        let loaded = load_certs_from_paths(Some(&path), None);
        let variable = format!("SSL_CERT_FILE={}", path.display());
        let fault = fault(&loaded.certs, &loaded.errors, &[variable]);
        fault.map(|fault| fault.replace(&folder.path().display().to_string(), ""))
    }

    #[test]
    fn a_fault_names_the_variable_and_the_cause() {
        let missing = fault_of(None).unwrap();
        assert!(missing.contains("No such file or directory"), "{missing}");
        assert!(missing.ends_with("(SSL_CERT_FILE=/roots.pem)"), "{missing}");
        assert_eq!(
            fault_of(Some("")).unwrap(),
            "no certificate was found, in PEM (SSL_CERT_FILE=/roots.pem)"
        );
    }

    #[test]
    fn a_key_in_place_of_roots_is_not_quoted() {
        let fault = fault_of(Some("-----BEGIN PRIVATE KEY-----c2VjcmV0-----END PRIVATE KEY-----")).unwrap();
        assert!(!fault.contains("c2VjcmV0"), "{fault}");
    }

    #[test]
    fn good_roots_have_no_fault() {
        assert_eq!(fault_of(Some(include_str!("../../tests/data/tls/authority.pem"))), None);
    }
}
