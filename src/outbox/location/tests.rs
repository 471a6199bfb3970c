use std::{fs, time::Duration};

use secrecy::SecretString;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};

use super::{PostgresOptions, PostgresServer, place::Location, postgres_url::PostgresUrl};
use crate::outbox::OutboxOptions;

fn refused(url: &str) -> String {
    PostgresUrl::parse(url).map(|url| url.to_string()).unwrap_err()
}

fn mode(url: &str) -> SslMode {
    PostgresUrl::parse(url).unwrap().config.get_ssl_mode()
}

/// The option that is refused, and why.
fn refused_option(options: PostgresOptions) -> (&'static str, String) {
    let error = OutboxOptions::postgres(options).build().unwrap_err();
    (error.option, error.reason)
}

fn local() -> PostgresOptions {
    PostgresOptions::new("postgres://u@localhost/d")
}

#[test]
fn a_url_is_shown_without_its_password_and_parameters() {
    for (url, shown) in [
        ("postgres://u:s3cret@h/d", "postgres://u@h:5432/d"),
        (
            "postgresql://u:s3cret@h:6432/d?application_name=a",
            "postgres://u@h:6432/d",
        ),
        ("postgres://u@h/d?password=s3cret", "postgres://u@h:5432/d"),
        ("postgres://u@a:1,b:2/d", "postgres://u@a:1,b:2/d"),
        ("postgres://u@[::1]:1/d", "postgres://u@[::1]:1/d"),
        (
            "postgres:///d?user=u&host=/run/postgresql",
            "postgres://u@/run/postgresql/d",
        ),
        ("postgres://u@h", "postgres://u@h:5432/u"),
        ("postgres://u:s3@cret@h/d", "postgres://…"),
    ] {
        let location = Location::Postgres(url.into());
        assert_eq!(location.to_string(), shown);
        assert!(!format!("{location:?}").contains("cret"));
    }
}

#[test]
fn an_unusable_url_is_refused_without_a_part_of_its_password() {
    for (url, reason) in [
        ("h/d", "does not begin with `postgres://`"),
        ("postgres:///d?user=u", "names no host"),
        ("postgres://h/d", "names no user"),
        ("postgres://u@h:port/d", "has an invalid `port`"),
        ("postgres://u@h/d?connect_timeout=x", "has an invalid `connect_timeout`"),
        ("postgres://u@h/d?s3cret=1", "has an unknown parameter"),
        (
            "postgres://u@h/d?sslmode=s3cret",
            "has an unknown `sslmode`: use `require` or `disable`",
        ),
        ("postgres://u@h/d?x", "is not a valid URL of a PostgreSQL server"),
        (
            "postgres://u@h/d?sslrootcert=a",
            "has the parameter `sslrootcert`: use `add_root_certificates_pem`",
        ),
        (
            "postgres://u:s3@cret@h/d",
            "has a password with `@`, `/` or `?`: write them as `%40`, `%2F` and `%3F`",
        ),
        (
            "postgres://h/d?user=u&password=s3@cret",
            "has a password with `@`, `/` or `?`: write them as `%40`, `%2F` and `%3F`",
        ),
    ] {
        assert_eq!(refused(url), reason, "{url}");
    }
}

#[test]
fn a_server_elsewhere_is_reached_by_tls_unless_the_url_says_otherwise() {
    for (url, expected) in [
        ("postgres://u@h/d", SslMode::Require),
        ("postgres://u@localhost,h/d", SslMode::Require),
        ("postgres://u@h/d?sslmode=verify-full", SslMode::Require),
        ("postgres://u@h/d?application_name=a&sslmode=disable", SslMode::Disable),
        ("postgres://u@localhost/d", SslMode::Disable),
        ("postgres://u@127.0.0.2/d", SslMode::Disable),
        ("postgres://u@[::1]/d", SslMode::Disable),
        ("postgres://u@%2Frun%2Fpostgresql/d", SslMode::Disable),
        ("postgres://u@localhost/d?sslmode=prefer", SslMode::Prefer),
        ("postgres://u@localhost/d?sslmode=require", SslMode::Require),
    ] {
        assert_eq!(mode(url), expected, "{url}");
    }
    for mode in ["prefer", "allow"] {
        assert_eq!(
            refused(&format!("postgres://u@h/d?sslmode={mode}")),
            "may send calls in plaintext: use `sslmode=require`, or `sslmode=disable`"
        );
    }
}

#[test]
fn of_several_hosts_the_one_that_writes_is_used() {
    let attrs = |url| PostgresUrl::parse(url).unwrap().config.get_target_session_attrs();
    assert_eq!(attrs("postgres://u@a,b/d"), TargetSessionAttrs::ReadWrite);
    assert_eq!(attrs("postgres://u@a/d"), TargetSessionAttrs::Any);
}

#[test]
fn the_password_of_the_options_goes_before_that_of_the_url_and_of_the_variable() {
    let of = |options: PostgresOptions, variable: Option<&str>| {
        let server = PostgresServer::with_password(&options, variable.map(Into::into)).unwrap();
        let password = server.config().unwrap().get_password().map(<[u8]>::to_vec);
        password.map(|password| String::from_utf8(password).unwrap())
    };
    let with_password = || PostgresOptions::new("postgres://u:a@localhost/d");
    assert_eq!(of(with_password().password("b"), Some("c")).as_deref(), Some("b"));
    assert_eq!(of(with_password(), Some("c")).as_deref(), Some("a"));
    assert_eq!(of(local(), Some("c")).as_deref(), Some("c"));
    assert_eq!(of(local(), Some("")), None);
    assert_eq!(of(local(), None), None);
}

#[test]
fn the_file_of_the_password_is_read_for_each_connection() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    fs::write(&path, "one\n").unwrap();
    let server = PostgresServer::new(&local().password_file(&path)).unwrap();
    let password = || server.config().map(|config| config.get_password().map(<[u8]>::to_vec));
    assert_eq!(password().unwrap(), Some(b"one".to_vec()));
    fs::write(&path, "two\n").unwrap();
    assert_eq!(password().unwrap(), Some(b"two".to_vec()));
    fs::remove_file(&path).unwrap();
    let error = password().unwrap_err();
    assert_eq!(error.to_string(), "the server denies access");
}

#[test]
fn options_that_can_not_work_are_refused() {
    let (short, long) = (Duration::from_millis(99), Duration::from_millis(20_001));
    let limits = "is not from 100 ms to 20 s";
    for (options, option, reason) in [
        (PostgresOptions::new("postgres://u@/d"), "outbox.url", "names no host"),
        (local().schema(""), "outbox.schema", "is empty"),
        (
            local().schema("Results"),
            "outbox.schema",
            "may only have lower-case letters, digits and `_`",
        ),
        (
            local().schema("a\"b"),
            "outbox.schema",
            "may only have lower-case letters, digits and `_`",
        ),
        (
            local().schema("a".repeat(49)),
            "outbox.schema",
            "is longer than 48 bytes",
        ),
        (local().schema("1a"), "outbox.schema", "begins with a digit"),
        (
            local().schema("pg_a"),
            "outbox.schema",
            "begins with `pg_`, as the server's own schemas do",
        ),
        (local().statement_timeout(short), "outbox.statement_timeout", limits),
        (local().statement_timeout(long), "outbox.statement_timeout", limits),
        (local().connect_timeout(short), "outbox.connect_timeout", limits),
        (
            PostgresOptions::new("postgres://u@localhost/d?connect_timeout=60"),
            "outbox.connect_timeout",
            limits,
        ),
        (
            local().password_file("/missing"),
            "outbox.password_file",
            "names \"/missing\", which can't be read",
        ),
        (
            PostgresOptions::new("postgres://u@localhost/d?sslmode=require").add_root_certificates_pem("x"),
            "outbox.add_root_certificates_pem",
            "contains no certificate",
        ),
    ] {
        assert_eq!(refused_option(options), (option, reason.to_owned()));
    }
}

#[test]
fn debug_output_shows_no_password() {
    let secret = || SecretString::from("s3cret");
    let options = PostgresOptions::new("postgres://u:s3cret@localhost/d").password(secret());
    let server = PostgresServer::new(&options).unwrap();
    let outbox = OutboxOptions::postgres(options.clone());
    let texts = [
        format!("{options:?}"),
        format!("{server:?}"),
        format!("{outbox:?}"),
        server.to_string(),
    ];
    assert!(texts.iter().all(|text| !text.contains("s3cret")), "{texts:?}");
}

#[test]
fn a_request_has_to_end_within_a_third_of_the_lease() {
    let refused = |seconds| {
        let outbox = OutboxOptions::postgres("postgres://u@127.0.0.1:1/d").build().unwrap();
        let options = crate::Options::builder("http://127.0.0.1:1").timeout(Duration::from_secs(seconds));
        options
            .outbox(outbox)
            .build()
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let reason = "option `timeout` is longer than 30s, a third of the lease of an outbox on PostgreSQL";
    assert_eq!(refused(31), Err(reason.to_owned()));
    // Nothing listens there: the poster tries again.
    assert_eq!(refused(30), Ok(()));
}
