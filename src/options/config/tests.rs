use std::{ffi::OsString, fs, os::unix::ffi::OsStringExt as _};

use super::*;

fn json(text: &str) -> Result<OptionsConfig, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// As `from_env` with the prefix `RP_`.
fn variables(values: &[(&str, &str)]) -> Result<OptionsConfig, ConfigError> {
    let values = values.iter().map(|(name, value)| (name.into(), value.into()));
    OptionsConfig::from_variables("RP_", values)
}

fn refused(config: OptionsConfig) -> String {
    crate::util::chain(&config.into_builder().unwrap_err())
}

#[test]
fn an_error_names_the_key() {
    for (text, expected) in [
        (
            r#"{"timeout":"soon"}"#,
            "`timeout`: \"soon\" is not a duration such as `500ms`, `30s`, `5m` or `7d`",
        ),
        (
            r#"{"timeout":30}"#,
            "`timeout`: invalid type: integer `30`, expected a duration",
        ),
        (r#"{"timeout":"-1s"}"#, "`timeout`: \"-1s\" is not a duration"),
        (
            r#"{"max_attempts":-1}"#,
            "`max_attempts`: invalid value: integer `-1`, expected u32",
        ),
        (
            r#"{"wire_format":"newest"}"#,
            "`wire_format`: unknown variant `newest`, expected `extended` or `baseline`",
        ),
        (
            r#"{"tiemout":"1s"}"#,
            "unknown field `tiemout`, expected one of `platform_url`",
        ),
        (r#"{"timeout":"1s","timeout":"2s"}"#, "duplicate field `timeout`"),
        (r#"[]"#, "invalid type: sequence, expected the options of a poster"),
    ] {
        let error = json(text).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
        assert!(error.contains(" at line 1 column "), "{error}");
    }
}

#[cfg(feature = "outbox")]
#[test]
fn an_error_names_the_key_of_the_outbox() {
    for (text, expected) in [
        (
            r#"{"outbox":{"max_delay":"x"}}"#,
            "`outbox.max_delay`: \"x\" is not a duration",
        ),
        (
            r#"{"outbox":{"pth":"x"}}"#,
            "`outbox`: unknown field `pth`, expected one of `path`, `url`",
        ),
        (
            r#"{"outbox":"x"}"#,
            "`outbox`: invalid type: string \"x\", expected a table `outbox`",
        ),
    ] {
        let error = json(text).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
    let config = json(r#"{"platform_url":"https://a.test","outbox":{}}"#).unwrap();
    assert_eq!(refused(config), "`outbox.path`: is missing");
    let config = json(r#"{"platform_url":"https://a.test","outbox":{"path":"a","max_bytes":0}}"#).unwrap();
    assert_eq!(refused(config), "`outbox.max_bytes`: is zero");
}

#[test]
fn a_secret_of_another_type_is_not_quoted() {
    for key in ["auth_token", "registration_token", "proxy"] {
        for value in ["4711", "-4711", "4711.5", "true", "[4711]", "{\"4711\":1}"] {
            let error = json(&format!("{{\"{key}\":{value}}}")).unwrap_err();
            assert!(error.starts_with(&format!("`{key}`: ")), "{error}");
            assert!(!error.contains("4711") && !error.contains("true"), "{error}");
        }
    }
}

#[test]
fn debug_output_shows_no_secret() {
    let config =
        json(r#"{"platform_url":"https://u:s3cret@a.test","auth_token":"s3cret","proxy":"http://u:s3cret@p"}"#);
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn durations_are_texts_with_units() {
    for (text, milliseconds) in [
        ("500ms", 500),
        ("30s", 30_000),
        ("5m", 300_000),
        ("1m 30s", 90_000),
        ("1.5s", 1_500),
        ("2h", 7_200_000),
        ("7d", 604_800_000),
        ("0s", 0),
    ] {
        let parsed = value::parse_duration(text);
        assert_eq!(
            parsed.map(|duration| duration.as_millis()),
            Some(milliseconds),
            "{text}"
        );
    }
    for text in ["", "30", "s", "1 month", "1y", "-1s", "1s ago", "30 s x"] {
        assert_eq!(value::parse_duration(text), None, "{text}");
    }
}

#[test]
fn a_variable_has_the_name_of_its_key() {
    let config = variables(&[
        ("RP_PLATFORM_URL", "https://a.test"),
        ("RP_TIMEOUT", "10s"),
        ("RP_MAX_ATTEMPTS", "7"),
        ("RP_JITTER", "0.5"),
        ("RP_WITHOUT_PROXY", "true"),
        ("RP_WIRE_FORMAT", "baseline"),
        ("OTHER", "x"),
    ])
    .unwrap();
    let builder = config.into_builder().unwrap();
    assert_eq!(builder.platform_url, "https://a.test");
    assert_eq!(builder.timeout.as_secs(), 10);
    assert_eq!(
        (builder.retry_policy.max_attempts, builder.retry_policy.jitter),
        (7, 0.5)
    );
    assert_eq!(builder.wire_format, crate::WireFormat::Baseline);
}

#[test]
fn an_error_names_the_variable() {
    for (name, value, expected) in [
        ("RP_TIEMOUT", "1s", "`RP_TIEMOUT`: is unknown"),
        ("RP_timeout", "1s", "`RP_timeout`: is unknown"),
        ("RP_", "1s", "`RP_`: is unknown"),
        ("RP_MAX_ATTEMPTS", "many", "`RP_MAX_ATTEMPTS`: is not a whole number"),
        ("RP_MAX_ATTEMPTS", "", "`RP_MAX_ATTEMPTS`: is not a whole number"),
        ("RP_WITHOUT_PROXY", "1", "`RP_WITHOUT_PROXY`: is not `true` or `false`"),
        ("RP_JITTER", "x", "`RP_JITTER`: is not a number"),
        ("RP_OUTBOX_PTH", "x", "`RP_OUTBOX_PTH`: is unknown"),
    ] {
        let error = variables(&[
            ("RP_ALLOW_PLAINTEXT_HTTP", "true"),
            ("RP_WORKER_ID", "w"),
            (name, value),
        ])
        .unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    let error = variables(&[("RP_TIMEOUT", "30")]).unwrap_err().to_string();
    assert!(
        error.starts_with("`RP_TIMEOUT`: \"30\" is not a duration such as `500ms`"),
        "{error}"
    );
    assert_eq!(refused(variables(&[]).unwrap()), "`RP_PLATFORM_URL`: is missing");
    let not_unicode = OsString::from_vec(vec![0xff]);
    let error = OptionsConfig::from_variables("RP_", [("RP_WORKER_ID".into(), not_unicode)].into_iter());
    assert_eq!(error.unwrap_err().to_string(), "`RP_WORKER_ID`: is not Unicode");
}

#[test]
fn a_secret_is_read_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    fs::write(&path, " s3cret\n").unwrap();
    let config = variables(&[
        ("RP_PLATFORM_URL", "https://a.test"),
        ("RP_AUTH_TOKEN_FILE", path.to_str().unwrap()),
    ]);
    let builder = config.unwrap().into_builder().unwrap();
    assert_eq!(
        secrecy::ExposeSecret::expose_secret(&builder.auth_token.unwrap()),
        "s3cret"
    );
}

#[test]
fn a_file_that_can_not_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str| folder.path().join(name);
    fs::write(of("empty"), "\n").unwrap();
    fs::write(of("binary"), [0xff]).unwrap();
    fs::write(of("long"), vec![b'x'; 1024 * 1024 + 1]).unwrap();
    for (name, expected) in [
        ("missing", "which can't be read: No such file"),
        ("", "which is not a regular file"),
        ("empty", "which is empty"),
        ("binary", "which is not UTF-8"),
        ("long", "which is longer than 1 MiB"),
    ] {
        let config = serde_json::json!({"platform_url": "https://a.test", "auth_token_file": of(name)});
        let error = refused(json(&config.to_string()).unwrap());
        assert!(
            error.starts_with("`auth_token_file`: names ") && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn keys_that_exclude_each_other_are_refused() {
    for (keys, expected) in [
        (
            r#""auth_token":"t","auth_token_file":"f""#,
            "`auth_token_file`: is set together with `auth_token`",
        ),
        (
            r#""runtime_token_file":"f","registration_token":"t""#,
            "`runtime_token_file`: is set together with `registration_token`",
        ),
        (
            r#""proxy":"http://p","without_proxy":true"#,
            "`without_proxy`: is set together with `proxy`",
        ),
        (
            r#""client_key_file":"f""#,
            "`client_certificate_file`: is missing: a client certificate has a chain and a key",
        ),
        (
            r#""client_certificate_file":"f""#,
            "`client_key_file`: is missing: a client certificate has a chain and a key",
        ),
    ] {
        let config = json(&format!(r#"{{"platform_url":"https://a.test",{keys}}}"#)).unwrap();
        assert_eq!(refused(config), expected);
    }
}

/// The public methods of the builders in a source file.
fn setters(source: &str) -> Vec<&str> {
    let names = source.split("    pub fn ").skip(1).filter_map(|rest| {
        let (name, parameters) = rest.split_once('(')?;
        parameters.starts_with("mut self").then_some(name)
    });
    names.collect()
}

/// The keys of a table, which the error of an unknown one lists.
fn keys(text: &str) -> String {
    json(text).unwrap_err()
}

#[test]
fn each_option_has_a_key() {
    let keys = keys(r#"{"?":0}"#);
    let options = [include_str!("../builder.rs"), include_str!("../network.rs")]
        .map(setters)
        .concat();
    assert!(options.len() > 25, "{options:?}");
    for option in options {
        let key = match option {
            // Options that only a program can set.
            "clock" | "credential_actor" | "customize_client" | "subscriber" => continue,
            "credential_provider" => "runtime_token_file",
            "refresh_endpoint" => "registration_token",
            "add_root_certificates_pem" => "root_certificates_file",
            "client_certificate_pem" => "client_certificate_file",
            #[cfg(not(feature = "outbox"))]
            "outbox" => continue,
            option => option,
        };
        assert!(keys.contains(&format!("`{key}`")), "no key for {option}: {keys}");
    }
}

#[cfg(feature = "outbox")]
#[test]
fn each_option_of_the_outbox_has_a_key() {
    let keys = keys(r#"{"outbox":{"?":0}}"#);
    let options = [
        include_str!("../../outbox/options.rs"),
        include_str!("../../outbox/location/postgres.rs"),
    ];
    let options = options.map(setters).concat();
    assert!(options.len() > 10, "{options:?}");
    for option in options {
        let option = match option {
            // A closure, and a setting for tests.
            "on_dead_letter" | "lease" => continue,
            "add_root_certificates_pem" => "root_certificates_file",
            option => option,
        };
        assert!(keys.contains(&format!("`{option}`")), "no key for {option}: {keys}");
    }
}

#[cfg(feature = "outbox")]
#[test]
fn the_keys_of_a_server_and_those_of_a_file_exclude_each_other() {
    let with_outbox =
        |keys: &str| json(&format!(r#"{{"platform_url":"https://a.test","outbox":{{{keys}}}}}"#)).unwrap();
    for (keys, expected) in [
        (
            r#""path":"a","url":"b""#,
            "`outbox.url`: is set together with `outbox.path`",
        ),
        (
            r#""path":"a","schema":"b""#,
            "`outbox.schema`: is only for an outbox with a `url`",
        ),
        (
            r#""path":"a","password":"s3cret""#,
            "`outbox.password`: is only for an outbox with a `url`",
        ),
    ] {
        assert_eq!(refused(with_outbox(keys)), expected);
    }
    let file = with_outbox(r#""url":"postgres://u@h/d","schema":"b","queue":"q""#).with_outbox("a.db");
    let file = file.outbox().unwrap().unwrap();
    assert_eq!(
        file,
        crate::outbox::OutboxOptions::builder("a.db")
            .queue("q")
            .build()
            .unwrap()
    );
}

#[cfg(feature = "outbox")]
#[test]
fn a_secret_of_the_outbox_is_not_quoted() {
    for key in ["url", "password"] {
        let error = json(&format!("{{\"outbox\":{{\"{key}\":4711}}}}")).unwrap_err();
        assert!(error.starts_with(&format!("`outbox.{key}`: is not text")), "{error}");
    }
}

#[cfg(feature = "outbox-postgres")]
mod on_postgres {
    use super::*;
    use crate::outbox::{OutboxOptions, PostgresOptions};

    #[test]
    fn a_server_is_configured_by_variables() {
        let config = variables(&[
            ("RP_OUTBOX_URL", "postgres://u@localhost/d"),
            ("RP_OUTBOX_PASSWORD", "s3cret"),
            ("RP_OUTBOX_SCHEMA", "results"),
            ("RP_OUTBOX_STATEMENT_TIMEOUT", "2s"),
            ("RP_OUTBOX_CONNECT_TIMEOUT", "1s"),
        ]);
        let server = PostgresOptions::new("postgres://u@localhost/d")
            .password("s3cret")
            .schema("results")
            .statement_timeout(std::time::Duration::from_secs(2))
            .connect_timeout(std::time::Duration::from_secs(1));
        let expected = OutboxOptions::postgres(server).build().unwrap();
        assert_eq!(config.unwrap().outbox().unwrap(), Some(expected));
    }

    #[test]
    fn an_error_names_the_variable_of_a_server_and_no_secret() {
        for (name, value, expected) in [
            (
                "RP_OUTBOX_URL",
                "mysql://u:s3cret@h/d",
                "`RP_OUTBOX_URL`: does not begin with `postgres://`",
            ),
            ("RP_OUTBOX_SCHEMA", "a-b", "`RP_OUTBOX_SCHEMA`: may only have"),
            (
                "RP_OUTBOX_PASSWORD_FILE",
                "/missing",
                "`RP_OUTBOX_PASSWORD_FILE`: names \"/missing\", which can't be read",
            ),
            (
                "RP_OUTBOX_ROOT_CERTIFICATES_FILE",
                "/missing",
                "`RP_OUTBOX_ROOT_CERTIFICATES_FILE`: names \"/missing\", which can't be read",
            ),
        ] {
            let server = ("RP_OUTBOX_URL", "postgres://u:s3cret@localhost/d");
            let given = [server, (name, value)];
            let skip = usize::from(name == server.0);
            let error = variables(&given[skip..]).unwrap().outbox().unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
