//! Bad options are refused by name, when they are built.

use std::time::Duration;

use result_poster::{CredentialActor, OptionsBuilder, RuntimeCredentials, Supervisor};

use crate::support::{TOKEN, builder};

fn refusal(options: OptionsBuilder) -> String {
    let error = options.build().unwrap_err();
    assert!(!error.to_string().contains(TOKEN), "{error}");
    error.to_string()
}

#[test]
fn bad_urls_are_refused_with_the_reason() {
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
            "holds credentials: pass the token as `auth_token`",
        ),
        (
            "https://user:tok-s3cret@app.example.com",
            "holds credentials: pass the token as `auth_token`",
        ),
        ("https://app.example.com?x=1", "has a query"),
        ("https://app.example.com/?", "has a query"),
        ("https://app.example.com/#top", "has a fragment"),
        (
            " https://app.example.com",
            "holds white space, a control character or a backslash",
        ),
        (
            "https://app.exam\nple.com",
            "holds white space, a control character or a backslash",
        ),
        (
            "https:\\\\app.example.com",
            "holds white space, a control character or a backslash",
        ),
        ("https://[::1", "is not a URL: invalid IPv6 address"),
        (
            "https://app.example.com%00",
            "is not a URL: invalid international domain name",
        ),
    ] {
        assert_eq!(
            refusal(builder(url)),
            format!("option `platform_url` {reason}"),
            "{url:?}"
        );
    }
}

#[test]
fn good_urls_are_taken() {
    for url in [
        "https://app.example.com",
        "HTTPS://APP.example.com:8443/tenant/acme/",
        "https://bücher.example",
        "https://192.0.2.1",
        "http://[::1]:8080",
        "http://app.example.com",
    ] {
        builder(url).build().unwrap();
    }
}

#[test]
fn a_token_does_not_travel_in_clear_text_unless_told_so() {
    for url in [
        "http://app.example.com",
        "http://192.0.2.1",
        "http://10.0.0.1:8080",
        "http://[2001:db8::1]",
        "http://localhost.example.com",
        "http://0.0.0.0",
    ] {
        let options = builder(url).auth_token(TOKEN);
        assert!(refusal(options.clone()).starts_with("option `platform_url` would send the token in clear text"));
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
fn each_bad_value_names_its_option() {
    let base = || builder("https://app.example.com");
    for (options, message) in [
        (
            base().auth_token("tok\n"),
            "`auth_token` holds a line break or another control character; trim it where it is read",
        ),
        (
            base().auth_token("tok\r\nx: y"),
            "`auth_token` holds a line break or another control character; trim it where it is read",
        ),
        (
            base().auth_token("tok\0"),
            "`auth_token` holds a line break or another control character; trim it where it is read",
        ),
        (
            base().auth_token("töken"),
            "`auth_token` holds characters that can't stand in a header",
        ),
        (
            base().auth_token(" tok"),
            "`auth_token` begins or ends with white space; trim it where it is read",
        ),
        (base().timeout(Duration::ZERO), "`timeout` is zero"),
        (base().connect_timeout(Duration::ZERO), "`connect_timeout` is zero"),
        (base().max_in_flight(0), "`max_in_flight` is zero"),
        (
            base().max_in_flight(usize::MAX),
            "`max_in_flight` is more than 1,000,000",
        ),
        (base().jitter(-0.1), "`jitter` is not a share from 0 to 1"),
        (base().jitter(1.1), "`jitter` is not a share from 0 to 1"),
        (base().jitter(f64::NAN), "`jitter` is not a share from 0 to 1"),
        (base().max_summary_bytes(63), "`max_summary_bytes` is less than 64"),
        (base().user_agent(""), "`user_agent` can't stand in a header"),
        (base().user_agent("a\nb"), "`user_agent` can't stand in a header"),
        (
            base().add_root_certificates_pem("nonsense"),
            "`add_root_certificates_pem` holds no certificate",
        ),
    ] {
        assert_eq!(refusal(options), format!("option {message}"));
    }
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let message = refusal(base().add_root_certificates_pem(broken));
    assert!(
        message.starts_with("option `add_root_certificates_pem` holds a certificate that can't be a root: "),
        "{message}"
    );
}

#[test]
fn zero_attempts_and_huge_durations_do_no_harm() {
    let base = builder("https://app.example.com");
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
fn no_debug_output_shows_the_token() {
    let options = builder("https://app.example.com").auth_token(TOKEN);
    assert!(!format!("{options:?}").contains(TOKEN));
    let options = format!("{:?}", options.build().unwrap());
    assert!(!options.contains(TOKEN));
    assert!(options.contains("[REDACTED]"), "{options}");
}

#[test]
fn a_provider_is_held_to_the_same_rules_as_a_token() {
    let provider = || RuntimeCredentials::new("w", "t");
    for options in [
        builder("http://app.example.com").credential_provider(provider()),
        builder("http://app.example.com")
            .worker_id("w")
            .refresh_endpoint("registration"),
    ] {
        assert!(refusal(options.clone()).starts_with("option `platform_url` would send the token in clear text"));
        options.allow_plaintext_http(true).build().unwrap();
    }
    let base = || builder("https://app.example.com");
    for (options, message) in [
        (base().refresh_endpoint(""), "`refresh_endpoint` is empty"),
        (
            base().worker_id("w").refresh_endpoint("a b\n"),
            "`refresh_endpoint` holds a line break or another control character; trim it where it is read",
        ),
        (
            base().refresh_endpoint("registration"),
            "`worker_id` is needed by `refresh_endpoint`",
        ),
        (
            base().worker_id("..").refresh_endpoint("registration"),
            "`worker_id` is needed by `refresh_endpoint`",
        ),
        (
            base().credential_timeout(Duration::ZERO),
            "`credential_timeout` is zero",
        ),
    ] {
        assert_eq!(refusal(options), format!("option {message}"));
    }
}

#[actix_rt::test]
async fn a_shared_actor_has_the_fixed_pair_to_itself() {
    let actor = Supervisor::start(|_| CredentialActor::new(RuntimeCredentials::new("w", "t")));
    let base = || builder("https://app.example.com").credential_actor(actor.clone());
    let reason = "is the business of the actor in `credential_actor`";
    assert_eq!(refusal(base().worker_id("w")), format!("option `worker_id` {reason}"));
    assert_eq!(
        refusal(base().auth_token(TOKEN)),
        format!("option `auth_token` {reason}")
    );
    base().build().unwrap();
}
