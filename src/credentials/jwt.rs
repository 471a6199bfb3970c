//! The expiry claim of a JWT. The signature is not verified: that is up to the platform.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::Value;

use super::parse::parse_object;

/// The longest token that is decoded: longer than any header value that servers accept.
const MAX_LENGTH: usize = 64 * 1024;

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    exp: Value,
}

/// Returns the `exp` claim of a token, or `None` if the token is not a JWT or its claim is not a valid time.
pub(crate) fn expiry(token: &str) -> Option<SystemTime> {
    if token.len() > MAX_LENGTH {
        return None;
    }
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    let claims: Claims = parse_object(&claims)?;
    let since_epoch = match claims.exp.as_u64() {
        Some(seconds) => Duration::from_secs(seconds),
        None => Duration::try_from_secs_f64(claims.exp.as_f64()?).ok()?,
    };
    UNIX_EPOCH.checked_add(since_epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(claims: &str) -> String {
        format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn an_exp_claim_is_parsed_from_integers_and_floats() {
        for (claims, millis) in [
            (r#"{"exp":1700000000}"#, 1_700_000_000_000),
            (r#"{"iat":"soon","exp":1700000000.5}"#, 1_700_000_000_500),
            (r#"{"exp":1.7e9}"#, 1_700_000_000_000),
            (r#"{"exp":0}"#, 0),
            (r#"{"exp":253402300799}"#, 253_402_300_799_000),
        ] {
            assert_eq!(
                expiry(&jwt(claims)),
                Some(UNIX_EPOCH + Duration::from_millis(millis)),
                "{claims}"
            );
        }
    }

    #[test]
    fn base64_padding_is_accepted() {
        let padded = format!("e30.{}.c2ln", base64::prelude::BASE64_URL_SAFE.encode(r#"{"exp":17}"#));
        assert_eq!(expiry(&padded), Some(UNIX_EPOCH + Duration::from_secs(17)));
    }

    #[test]
    fn malformed_exp_claims_are_ignored() {
        for claims in [
            r#"{"exp":-1}"#,
            r#"{"exp":-1.5}"#,
            r#"{"exp":18446744073709551615}"#,
            r#"{"exp":18446744073709551616}"#,
            r#"{"exp":1e30}"#,
            r#"{"exp":1e400}"#,
            r#"{"exp":"1700000000"}"#,
            r#"{"exp":null}"#,
            r#"{"exp":[]}"#,
            r#"{"iat":1700000000}"#,
            "{}",
            "[]",
            "[1700000000]",
            "null",
            "",
            "{",
            "\u{0}",
        ] {
            assert_eq!(expiry(&jwt(claims)), None, "{claims}");
        }
    }

    #[test]
    fn a_token_that_is_not_a_jwt_has_no_expiry() {
        let claims = BASE64_URL_SAFE_NO_PAD.encode(r#"{"exp":1700000000}"#);
        for token in [
            String::new(),
            "...".into(),
            "opaque".into(),
            format!("e30.{claims}"),
            format!("e30.{claims}.c2ln.more"),
            "e30.!!!.c2ln".into(),
            "e30.日本.c2ln".into(),
            format!("e30.{claims}.{}", "x".repeat(1024 * 1024)),
        ] {
            assert_eq!(expiry(&token), None);
        }
    }
}
