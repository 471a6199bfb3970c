use std::{
    fs::{self, Permissions},
    io::Write as _,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::Command,
};

use rcgen::date_time_ymd;
use result_poster::testing::{FakePlatform, PlatformRules, Reply};

use crate::support::{
    Fixture, Ran, command,
    raw_server::{read_request, serve},
    tls::{Authority, TlsPlatform, certificate_for},
};

/// Checks with these variables. The lines of the steps that are not fine, and the status.
fn check(variables: &[(&str, &str)]) -> Vec<String> {
    let mut command = command();
    for (name, value) in variables {
        command.env(format!("RESULT_POSTER_{name}"), value);
    }
    faults(&mut command)
}

fn faults(command: &mut Command) -> Vec<String> {
    let ran = Ran::of(command.arg("check"));
    println!("{}", ran.output);
    let failed = ran.output.lines().filter(|line| line.starts_with("failed ")).count();
    let plural = if failed == 1 { "" } else { "s" };
    assert_eq!(ran.failed(1), format!("check: {failed} step{plural} failed"));
    let faults = ran.output.lines().filter(|line| !line.starts_with("ok "));
    faults.map(str::to_owned).collect()
}

const NO_OUTBOX: &str = "skipped outbox        none is configured";
const NO_CONNECTION: &str = "skipped response      there was no connection";
const NO_RESPONSE: &str = "skipped clock         there was no response";

#[test]
fn a_good_configuration_passes_and_changes_nothing() {
    let fixture = Fixture::new();
    let path = fixture.path("outbox.db");
    let checked = Ran::of(fixture.command().env("RESULT_POSTER_OUTBOX_PATH", &path).arg("check")).succeeded();
    let steps: Vec<_> = checked
        .lines()
        .map(|line| line.split_whitespace().nth(1).unwrap())
        .collect();
    let all = [
        "configuration",
        "name",
        "connection",
        "credentials",
        "response",
        "clock",
        "outbox",
    ];
    assert_eq!(steps, all, "{checked}");
    assert!(
        checked.contains("outbox.db does not exist yet; a poster creates it\n"),
        "{checked}"
    );
    assert!(!path.exists());
    let requests = fixture.platform.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].path, "/api/sessions/result-poster-check/status");
    assert_eq!(requests[0].json().unwrap(), serde_json::json!({"workerId": "wkr_1"}));
}

#[test]
fn an_outbox_is_read_as_a_whole_and_keeps_its_calls() {
    let fixture = Fixture::new();
    let path = fixture.outbox(&["sess-1"]);
    let before = fixture.on_outbox(&["export"]).succeeded();
    let checked = Ran::of(fixture.command().env("RESULT_POSTER_OUTBOX_PATH", &path).arg("check")).succeeded();
    assert!(checked.contains("outbox.db is not damaged\n"), "{checked}");
    assert_eq!(fixture.on_outbox(&["export"]).succeeded(), before);
    assert_eq!(fixture.platform.requests().len(), 1);
}

#[test]
fn the_steps_are_printed_as_json() {
    let fixture = Fixture::new();
    let checked = Ran::of(fixture.command().args(["check", "--json"])).succeeded();
    let first: serde_json::Value = serde_json::from_str(checked.lines().next().unwrap()).unwrap();
    assert_eq!(first["outcome"], "ok");
}

#[test]
fn a_wrong_name_is_found() {
    let [name, connection, tls, response, clock, outbox] =
        check(&[("PLATFORM_URL", "https://platform.invalid"), ("AUTH_TOKEN", "t")])
            .try_into()
            .unwrap();
    assert!(
        name.starts_with("failed  name          resolving the name: failed to lookup address"),
        "{name}"
    );
    assert_eq!(connection, "skipped connection    there was no connection");
    assert_eq!(tls, "skipped tls           there was no connection");
    assert_eq!([&response, &clock, &outbox], [NO_CONNECTION, NO_RESPONSE, NO_OUTBOX]);
}

#[test]
fn a_closed_port_is_found() {
    let faults = check(&[("PLATFORM_URL", "http://127.0.0.1:1")]);
    let expected = "failed  connection    connecting to 127.0.0.1:1: Connection refused (os error 111)";
    assert_eq!(faults, [expected, NO_CONNECTION, NO_RESPONSE, NO_OUTBOX]);
}

/// Checks a platform with a certificate of this authority.
fn check_tls(platform: &TlsPlatform, trusted: Option<&Authority>) -> Vec<String> {
    let fixture = Fixture::new();
    let url = platform.url();
    let mut variables = vec![("PLATFORM_URL", url.as_str()), ("AUTH_TOKEN", "t")];
    let file = trusted.map(|authority| fixture.file("authority.pem", &authority.pem()));
    if let Some(file) = &file {
        variables.push(("ROOT_CERTIFICATES_FILE", file.to_str().unwrap()));
    }
    // The host that runs the tests may have no roots of its own.
    let roots = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls/authority.pem");
    let mut command = command();
    for (name, value) in variables {
        command.env(format!("RESULT_POSTER_{name}"), value);
    }
    faults(command.env("SSL_CERT_FILE", roots))
}

#[test]
fn an_expired_certificate_is_found() {
    let authority = Authority::new();
    let mut expired = certificate_for("localhost");
    expired.not_before = date_time_ymd(2019, 1, 1);
    expired.not_after = date_time_ymd(2020, 1, 1);
    let platform = TlsPlatform::start(authority.issue(expired));
    let faults = check_tls(&platform, Some(&authority));
    let expected = "failed  tls           in the TLS handshake: invalid peer certificate: certificate expired";
    assert!(faults[0].starts_with(expected), "{faults:?}");
}

#[test]
fn a_private_authority_is_found() {
    let authority = Authority::new();
    let platform = TlsPlatform::start(authority.issue(certificate_for("localhost")));
    let faults = check_tls(&platform, None);
    let expected = "failed  tls           in the TLS handshake: invalid peer certificate: UnknownIssuer";
    assert!(faults[0].starts_with(expected), "{faults:?}");
}

#[test]
fn a_proxy_that_refuses_is_found() {
    let proxy = serve(|mut stream| {
        let _ = read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    });
    let faults = check(&[
        ("PLATFORM_URL", "https://platform.invalid"),
        ("AUTH_TOKEN", "t"),
        ("PROXY", &proxy.url()),
    ]);
    assert!(
        faults[0].starts_with("failed  proxy         asking the proxy for a tunnel: "),
        "{faults:?}"
    );
    assert!(faults[0].contains("403"), "{faults:?}");
    assert_eq!(faults[1], "skipped tls           there was no connection");
}

#[test]
fn a_rejected_token_is_found() {
    let fixture = Fixture::new();
    let expired = Reply::status(401).body(r#"{"error":"token expired"}"#);
    fixture.platform.script("result-poster-check/status", [expired]);
    let faults = faults(fixture.command().env("RESULT_POSTER_AUTH_TOKEN", "s3cret"));
    let expected = r#"failed  credentials   the platform rejects the token: status 401: {"error":"token expired"}"#;
    assert_eq!(
        faults,
        [expected, "skipped response      the token is rejected", NO_OUTBOX]
    );
}

#[test]
fn a_wrong_worker_is_found() {
    let mut fixture = Fixture::new();
    fixture.platform = FakePlatform::start().unwrap();
    let rules = PlatformRules::new()
        .with_token("t")
        .with_owner("result-poster-check", "wkr_2");
    fixture.platform.set_rules(rules);
    let faults = faults(fixture.command().env("RESULT_POSTER_AUTH_TOKEN", "t"));
    let expected = r#"failed  response      the platform refuses worker "wkr_1": status 403"#;
    assert!(faults[0].starts_with(expected), "{faults:?}");
}

#[test]
fn an_unreadable_outbox_is_found() {
    let fixture = Fixture::new();
    let path = fixture.outbox(&["sess-1"]);
    fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(fixture.folder.path(), Permissions::from_mode(0o755)).unwrap();
    let mut command = fixture.command();
    if rustix::process::geteuid().is_root() {
        // Root may read any file. The program lies where nobody else may look.
        let program = fixture.path("result-poster");
        // Copied by another process: while this one has a file open for writing, a child of another test may have it, too,
        // and it can't be executed.
        let mut copy = Command::new("cp");
        copy.arg(env!("CARGO_BIN_EXE_result-poster")).arg(&program);
        assert!(copy.status().unwrap().success());
        let mut of_nobody = Command::new(program);
        of_nobody
            .env_clear()
            .uid(65534)
            .env("RESULT_POSTER_PLATFORM_URL", fixture.platform.url());
        command = of_nobody;
    }
    let faults = faults(command.env("RESULT_POSTER_OUTBOX_PATH", &path));
    let expected = format!("failed  outbox        {}: ", path.display());
    assert!(faults[0].starts_with(&expected), "{faults:?}");
    assert!(
        faults[0].contains("not writable") || faults[0].contains("ermission denied"),
        "{faults:?}"
    );
}

#[test]
fn a_foreign_file_is_found() {
    let fixture = Fixture::new();
    let path = fixture.file("outbox.db", "text");
    let faults = faults(fixture.command().env("RESULT_POSTER_OUTBOX_PATH", &path));
    assert_eq!(
        faults,
        [format!(
            "failed  outbox        {}: the file or schema is not an outbox",
            path.display()
        )]
    );
    assert_eq!(fs::read_to_string(path).unwrap(), "text");
}

#[test]
fn a_clock_that_is_far_off_is_found() {
    let platform = serve(|mut stream| {
        let _ = read_request(&mut stream);
        let _ = stream.write_all(
            b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 2\r\nDate: Fri, 01 Jan 2038 00:00:00 GMT\r\n\r\n{}",
        );
    });
    let faults = check(&[("PLATFORM_URL", &platform.url())]);
    assert!(
        faults[0].starts_with("failed  clock         ") && faults[0].ends_with(" s behind the platform's"),
        "{faults:?}"
    );
}

#[test]
fn a_page_instead_of_the_platform_is_found() {
    let fixture = Fixture::new();
    let page = Reply::status(404).header("Content-Type", "text/html").body("<html>");
    fixture.platform.script("result-poster-check/status", [page]);
    let faults = faults(&mut fixture.command());
    assert!(
        faults[0].starts_with("failed  response      unexpected response with status 404: an HTML page"),
        "{faults:?}"
    );
}

#[test]
fn options_that_are_refused_are_found() {
    let faults = check(&[("PLATFORM_URL", "http://app.example.com"), ("AUTH_TOKEN", "t")]);
    let expected = "failed  configuration option `platform_url` would send the token in plaintext";
    assert_eq!(faults, [expected, NO_OUTBOX]);
}
