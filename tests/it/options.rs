//! Invalid options are refused when they are built, with the option's name.

use std::{error::Error as _, time::Duration};

use result_poster::{
    OptionsBuilder, Supervisor,
    credentials::{CredentialActor, RuntimeCredentials},
};

use crate::support::{TOKEN, builder, options};

#[test]
fn invalid_urls_are_refused_with_the_reason() {
    for (url, reason) in [
        ("", "is empty"),
        ("  ", "is empty"),
        ("app.example.com", "has no scheme: begin it with `https://`"),
        ("localhost:8080", "has no scheme: begin it with `https://`"),
        ("ftp://app.example.com", "has a scheme other than http and https"),
        ("https://", "has no host"),
        ("https:///api", "has no host"),
        ("https://:8080", "has no host"),
        ("https://app.example.com:99999", "has a port out of range"),
        ("https://app.example.com:0", "has a port out of range"),
        ("https://app.example.com:-1", "has a port out of range"),
        ("https://app.example.com:http", "has a port out of range"),
        (
            "https://user@app.example.com",
            "contains credentials: pass the token as `auth_token`",
        ),
        (
            "https://user:tok-s3cret@app.example.com",
            "contains credentials: pass the token as `auth_token`",
        ),
        ("https://app.example.com?x=1", "has a query"),
        ("https://app.example.com/?", "has a query"),
        ("https://app.example.com/#top", "has a fragment"),
        (
            " https://app.example.com",
            "contains whitespace, a control character or a backslash",
        ),
        (
            "https://app.exam\nple.com",
            "contains whitespace, a control character or a backslash",
        ),
        (
            "https:\\\\app.example.com",
            "contains whitespace, a control character or a backslash",
        ),
        ("https://[::1", "is not a URL: invalid IPv6 address"),
        (
            "https://app.example.com%00",
            "is not a URL: invalid international domain name",
        ),
    ] {
        assert_eq!(
            build_error(builder(url)),
            format!("option `platform_url` {reason}"),
            "{url:?}"
        );
    }
}

#[test]
fn an_endless_id_is_refused() {
    let longest = "x".repeat(4096);
    let with_ids = |worker: &str, organization: &str| {
        options("http://127.0.0.1:1")
            .worker_id(worker)
            .organization_id(organization)
    };
    with_ids(&longest, &longest).build().unwrap();
    let endless = longest + "x";
    for (options, option) in [
        (with_ids(&endless, "o"), "worker_id"),
        (with_ids("w", &endless), "organization_id"),
    ] {
        assert_eq!(
            build_error(options),
            format!("option `{option}` is longer than 4096 bytes")
        );
    }
}

#[test]
fn a_blank_id_is_refused() {
    for (options, option) in [
        (options("http://127.0.0.1:1").worker_id(" "), "worker_id"),
        (options("http://127.0.0.1:1").organization_id("\t"), "organization_id"),
    ] {
        assert_eq!(build_error(options), format!("option `{option}` is blank"));
    }
}

#[test]
fn valid_urls_are_accepted() {
    for url in [
        "https://app.example.com",
        "HTTPS://APP.example.com:8443/tenant/acme/",
        "https://bücher.example",
        "https://192.0.2.1",
        "http://[::1]:8080",
        "http://app.example.com",
    ] {
        let options = builder(url).auth_token(TOKEN).allow_plaintext_http(true);
        options.build().unwrap();
    }
}

#[test]
fn a_token_over_plaintext_http_is_refused_except_on_loopback_or_by_permission() {
    for url in [
        "http://app.example.com",
        "http://192.0.2.1",
        "http://10.0.0.1:8080",
        "http://[2001:db8::1]",
        "http://localhost.example.com",
        "http://0.0.0.0",
    ] {
        let options = builder(url).auth_token(TOKEN);
        assert!(build_error(options.clone()).starts_with("option `platform_url` would send the token in plaintext"));
        options.allow_plaintext_http(true).build().unwrap();
    }
    for url in [
        "http://localhost:1",
        "http://127.0.0.1",
        "http://127.9.9.9",
        "http://[::1]",
        "http://[::ffff:127.0.0.1]",
    ] {
        builder(url).auth_token(TOKEN).build().unwrap();
    }
}

#[test]
fn a_missing_or_empty_token_is_refused_except_on_loopback() {
    let provider = || RuntimeCredentials::new("w", "t");
    let missing = "option `auth_token` is missing, and there is no credential provider";
    let empty = "option `auth_token` is empty";
    for url in [
        "https://app.example.com",
        "https://192.0.2.1",
        "https://localhost.example.com",
    ] {
        let base = || builder(url).worker_id("wkr_1");
        assert_eq!(build_error(base()), missing, "{url}");
        // An empty token is a mistake, even with a provider.
        for options in [
            base(),
            base().credential_provider(provider()),
            base().refresh_endpoint("registration"),
        ] {
            assert_eq!(build_error(options.auth_token("")), empty, "{url}");
        }
        for options in [
            base().auth_token(TOKEN),
            base().credential_provider(provider()),
            base().refresh_endpoint("registration"),
        ] {
            options.build().unwrap();
        }
    }
    // Plaintext, with or without permission, changes nothing.
    for allow in [false, true] {
        let options = builder("http://app.example.com").allow_plaintext_http(allow);
        assert_eq!(build_error(options), missing);
    }
    for url in [
        "http://localhost:1",
        "http://127.0.0.1",
        "http://[::1]",
        "https://localhost",
    ] {
        builder(url).build().unwrap();
        builder(url).auth_token("").build().unwrap();
    }
}

#[test]
fn invalid_values_are_refused_with_the_option_name() {
    let base = || builder("https://app.example.com");
    let with_token = || base().auth_token(TOKEN);
    for (options, message) in [
        (
            base().auth_token("tok\n"),
            "`auth_token` contains a line break or another control character",
        ),
        (
            base().auth_token("tok\r\nx: y"),
            "`auth_token` contains a line break or another control character",
        ),
        (
            base().auth_token("tok\0"),
            "`auth_token` contains a line break or another control character",
        ),
        (
            base().auth_token("töken"),
            "`auth_token` contains characters that are not valid in a header",
        ),
        (base().auth_token(" tok"), "`auth_token` begins or ends with whitespace"),
        (with_token().timeout(Duration::ZERO), "`timeout` is zero"),
        (
            with_token().connect_timeout(Duration::ZERO),
            "`connect_timeout` is zero",
        ),
        (with_token().max_in_flight(0), "`max_in_flight` is zero"),
        (
            with_token().max_in_flight(usize::MAX),
            "`max_in_flight` is more than 1,000,000",
        ),
        (with_token().jitter(-0.1), "`jitter` must be between 0 and 1"),
        (with_token().jitter(1.1), "`jitter` must be between 0 and 1"),
        (with_token().jitter(f64::NAN), "`jitter` must be between 0 and 1"),
        (with_token().max_text_bytes(63), "`max_text_bytes` is less than 64"),
        (with_token().user_agent(""), "`user_agent` is not a valid header value"),
        (
            with_token().user_agent("a\nb"),
            "`user_agent` is not a valid header value",
        ),
        (
            with_token().add_root_certificates_pem("nonsense"),
            "`add_root_certificates_pem` contains no certificate",
        ),
    ] {
        assert_eq!(build_error(options), format!("option {message}"));
    }
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let error = with_token().add_root_certificates_pem(broken).build().unwrap_err();
    let message = "option `add_root_certificates_pem` contains a certificate that can't be a root";
    assert_eq!(error.to_string(), message);
    assert!(error.source().is_some());
}

#[test]
fn a_longest_wait_below_the_first_one_is_refused() {
    let base = || builder("https://app.example.com").auth_token(TOKEN);
    let second = Duration::from_secs(1);
    let message = "option `max_delay` is shorter than `base_delay`";
    assert_eq!(
        build_error(base().base_delay(Duration::from_secs(2)).max_delay(second)),
        message
    );
    base().base_delay(second).max_delay(second).build().unwrap();
}

#[test]
fn zero_attempts_and_huge_durations_are_accepted() {
    let base = builder("https://app.example.com").auth_token(TOKEN);
    base.max_attempts(0)
        .timeout(Duration::MAX)
        .connect_timeout(Duration::MAX)
        .base_delay(Duration::MAX)
        .max_delay(Duration::MAX)
        .max_queued(0)
        .build()
        .unwrap();
}

#[test]
fn debug_output_does_not_show_the_token() {
    let options = builder("https://app.example.com").auth_token(TOKEN);
    assert!(!format!("{options:?}").contains(TOKEN));
    let options = format!("{:?}", options.build().unwrap());
    assert!(!options.contains(TOKEN));
    assert!(options.contains("[REDACTED]"), "{options}");
}

#[test]
fn a_provider_over_plaintext_http_is_refused_without_permission() {
    let provider = || RuntimeCredentials::new("w", "t");
    for options in [
        builder("http://app.example.com").credential_provider(provider()),
        builder("http://app.example.com")
            .worker_id("w")
            .refresh_endpoint("registration"),
    ] {
        assert!(build_error(options.clone()).starts_with("option `platform_url` would send the token in plaintext"));
        options.allow_plaintext_http(true).build().unwrap();
    }
}

#[test]
fn invalid_values_for_the_refresh_endpoint_are_refused() {
    let base = || builder("https://app.example.com");
    for (options, message) in [
        (base().refresh_endpoint(""), "`refresh_endpoint` is empty"),
        (
            base().worker_id("w").refresh_endpoint("a b\n"),
            "`refresh_endpoint` contains a line break or another control character",
        ),
        (
            base().refresh_endpoint("registration"),
            "`worker_id` is required by `refresh_endpoint`",
        ),
        (
            base().worker_id("..").refresh_endpoint("registration"),
            "`worker_id` is required by `refresh_endpoint`",
        ),
        (
            base().auth_token(TOKEN).credential_timeout(Duration::ZERO),
            "`credential_timeout` is zero",
        ),
    ] {
        assert_eq!(build_error(options), format!("option {message}"));
    }
}

#[actix_rt::test]
async fn a_fixed_pair_is_refused_with_a_shared_credential_actor() {
    let actor = Supervisor::start(|_, _| CredentialActor::new(RuntimeCredentials::new("w", "t")));
    let base = || builder("https://app.example.com").credential_actor(actor.clone());
    let reason = "must not be set together with `credential_actor`";
    assert_eq!(
        build_error(base().worker_id("w")),
        format!("option `worker_id` {reason}")
    );
    assert_eq!(
        build_error(base().auth_token(TOKEN)),
        format!("option `auth_token` {reason}")
    );
    base().build().unwrap();
}

/// Why these options are refused, in words that do not hold the token.
fn build_error(options: OptionsBuilder) -> String {
    let error = options.build().unwrap_err();
    assert!(!error.to_string().contains(TOKEN), "{error}");
    error.to_string()
}
