//! The root certificates that this host trusts, and why some of them could not be loaded.

use std::env;

use rustls::RootCertStore;
use rustls_native_certs::{CertificateResult, Error, ErrorKind, load_native_certs};

/// The variables of the environment that replace the host's own roots.
const VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Adds the host's roots to `store`, and returns the fault of those that could not be loaded.
pub(super) fn add_native_roots(store: &mut RootCertStore) -> Option<String> {
    let variables = VARIABLES.map(|name| (name, env::var_os(name)));
    let variables = variables
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?.display())));
    add_roots(store, load_native_certs(), &variables.collect::<Vec<_>>())
}

/// Adds what was loaded. The fault names the variables that are set.
fn add_roots(store: &mut RootCertStore, loaded: CertificateResult, variables: &[String]) -> Option<String> {
    let CertificateResult { certs, errors, .. } = loaded;
    let mut faults = Vec::new();
    match &*errors {
        [] if certs.is_empty() => faults.push("no certificate was found, in PEM".to_owned()),
        [] => {}
        [first] => faults.push(describe(first)),
        [first, rest @ ..] => faults.push(format!("{}, and {} more", describe(first), rest.len())),
    }
    let (_, unusable) = store.add_parsable_certificates(certs);
    if unusable > 0 {
        faults.push(format!("certificates that are not valid: {unusable}"));
    }
    let faults = Some(faults.join("; ")).filter(|faults| !faults.is_empty())?;
    Some(match variables {
        [] => faults,
        _ => format!("{faults} ({})", variables.join(", ")),
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

    const GOOD: &str = include_str!("../../tests/data/tls/authority.pem");

    /// PEM that holds no certificate in DER.
    const NOT_DER: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

    /// The number of roots in this file, and their fault.
    fn loaded(content: Option<&str>) -> (usize, Option<String>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("roots.pem");
        if let Some(content) = content {
            fs::write(&path, content).unwrap();
        }
        let loaded = load_certs_from_paths(Some(&path), None);
        let variable = format!("SSL_CERT_FILE={}", path.display());
        let mut store = RootCertStore::empty();
        let fault = add_roots(&mut store, loaded, &[variable]);
        let fault = fault.map(|fault| fault.replace(&folder.path().display().to_string(), ""));
        (store.len(), fault)
    }

    fn fault_of(content: Option<&str>) -> Option<String> {
        loaded(content).1
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
        assert_eq!(loaded(Some(GOOD)), (1, None));
    }

    #[test]
    fn a_certificate_that_is_not_der_is_a_fault_beside_good_roots() {
        let fault = "certificates that are not valid: 1 (SSL_CERT_FILE=/roots.pem)";
        for (content, roots) in [(format!("{GOOD}{NOT_DER}"), 1), (NOT_DER.to_owned(), 0)] {
            assert_eq!(loaded(Some(&content)), (roots, Some(fault.to_owned())));
        }
    }
}
