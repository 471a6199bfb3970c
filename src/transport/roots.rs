//! The root certificates that this host trusts, and why some of them could not be loaded.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use rustls::RootCertStore;
use rustls_native_certs::{CertificateResult, Error, ErrorKind, load_native_certs};

/// The first byte of any certificate or key in DER.
pub(super) const DER_SEQUENCE: u8 = 0x30;

/// The variables of the environment that replace the host's own roots.
const FILE: &str = "SSL_CERT_FILE";
const DIR: &str = "SSL_CERT_DIR";

/// The contents that a file of roots may have. Folders for OpenSSL hold revocation lists beside certificates.
const USEFUL: [&[u8]; 2] = [b"-----BEGIN CERTIFICATE-----", b"-----BEGIN X509 CRL-----"];

/// Adds the host's roots to `store`, and returns the fault of those that could not be loaded.
pub(super) fn add_native_roots(store: &mut RootCertStore) -> Option<String> {
    let (file, folders) = (env::var_os(FILE), env::var_os(DIR));
    let variables = [(FILE, &file), (DIR, &folders)];
    let variables = variables
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?.display())));
    let folders = folders.iter().flat_map(|folders| env::split_paths(folders));
    let loaded = load_native_certs();
    // If there is only one file, it holds what was loaded.
    let file = file.as_ref().map(Path::new);
    let file = file.filter(|_| loaded.certs.is_empty() || env::var_os(DIR).is_some());
    let useless = useless_files(file, folders);
    add_roots(store, loaded, useless, &variables.collect::<Vec<_>>())
}

/// The files that hold no certificate that could be loaded, with the reason. The loader skips them silently.
fn useless_files(file: Option<&Path>, folders: impl Iterator<Item = PathBuf>) -> Vec<String> {
    let entries = folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    // A folder for OpenSSL has several links to each file.
    let mut files = BTreeMap::new();
    for path in file.map(Path::to_owned).into_iter().chain(paths) {
        if let Ok(target) = fs::canonicalize(&path)
            && target.is_file()
        {
            files.entry(target).or_insert(path);
        }
    }
    let read = files
        .into_values()
        .filter_map(|path| fs::read(&path).ok().map(|content| (path, content)));
    read.filter_map(|(path, content)| Some(format!("{} {}", path.display(), uselessness(&content)?)))
        .collect()
}

fn uselessness(content: &[u8]) -> Option<&'static str> {
    if content.first() == Some(&DER_SEQUENCE) {
        return Some("is DER, not PEM");
    }
    let contains = |label: &[u8]| content.windows(label.len()).any(|part| part == label);
    (!USEFUL.into_iter().any(contains)).then_some("contains no certificate in PEM")
}

/// Adds what was loaded. The fault names the first of the files that could not be, and the variables that are set.
fn add_roots(
    store: &mut RootCertStore,
    loaded: CertificateResult,
    useless: Vec<String>,
    variables: &[String],
) -> Option<String> {
    let CertificateResult { certs, errors, .. } = loaded;
    let mut faults = Vec::new();
    let files: Vec<_> = errors.iter().map(describe).chain(useless).collect();
    match &*files {
        [] if certs.is_empty() => faults.push("no certificate was found, in PEM".to_owned()),
        [] => {}
        [first] => faults.push(first.clone()),
        [first, rest @ ..] => faults.push(format!("{first}, and {} more", rest.len())),
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
        let useless = useless_files(Some(&path), std::iter::empty());
        let variable = format!("SSL_CERT_FILE={}", path.display());
        let mut store = RootCertStore::empty();
        let fault = add_roots(&mut store, loaded, useless, &[variable]);
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
            "/roots.pem contains no certificate in PEM (SSL_CERT_FILE=/roots.pem)"
        );
    }

    #[test]
    fn a_key_in_place_of_roots_is_not_quoted() {
        let fault = fault_of(Some("-----BEGIN PRIVATE KEY-----c2VjcmV0-----END PRIVATE KEY-----")).unwrap();
        assert!(!fault.contains("c2VjcmV0"), "{fault}");
    }

    #[test]
    fn a_file_without_a_certificate_in_pem_is_a_fault_beside_good_roots() {
        let folder = tempfile::tempdir().unwrap();
        let useless = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            let faults = useless_files(None, std::iter::once(folder.path().to_owned()));
            fs::remove_file(&path).unwrap();
            faults.concat().replace(&folder.path().display().to_string(), "")
        };
        fs::write(folder.path().join("good.pem"), GOOD).unwrap();
        fs::create_dir(folder.path().join("folder")).unwrap();
        for (name, content, fault) in [
            ("more.pem", GOOD.as_bytes(), ""),
            ("list.r0", b"-----BEGIN X509 CRL-----", ""),
            (
                "a.cer",
                include_bytes!("../../tests/data/tls/authority.der"),
                "/a.cer is DER, not PEM",
            ),
            ("empty.pem", b"", "/empty.pem contains no certificate in PEM"),
            (
                "README",
                b"Put your roots here.",
                "/README contains no certificate in PEM",
            ),
            (
                "key.pem",
                b"-----BEGIN PRIVATE KEY-----",
                "/key.pem contains no certificate in PEM",
            ),
        ] {
            assert_eq!(useless(name, content), fault);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_with_several_links_is_one_fault() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.cer");
        fs::write(&path, b"\x30").unwrap();
        std::os::unix::fs::symlink(&path, folder.path().join("1234abcd.0")).unwrap();
        std::os::unix::fs::symlink("missing", folder.path().join("dangling")).unwrap();
        let faults = useless_files(Some(&path), std::iter::once(folder.path().to_owned()));
        assert_eq!(faults, [format!("{} is DER, not PEM", path.display())]);
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
