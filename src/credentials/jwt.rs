//! The times in a JWT. The signature is not verified: that is up to the platform.

use std::time::SystemTime;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

use super::parse::{parse_members, parse_time};

/// The longest token that is decoded: longer than any header value that servers accept.
const MAX_LENGTH: usize = 64 * 1024;

/// When a token was issued, and when it expires, by the clock of its issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) issued_at: Option<SystemTime>,
    pub(crate) expires_at: SystemTime,
}

/// Reads the `exp` and `iat` claims of a token. `None` if the token is not a JWT or its `exp` is not a valid time.
pub(crate) fn validity(token: &str) -> Option<Validity> {
    if token.len() > MAX_LENGTH {
        return None;
    }
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    let [iat, exp] = parse_members(&claims, ["iat", "exp"])?;
    Some(Validity {
        issued_at: iat.as_deref().and_then(parse_time),
        expires_at: parse_time(exp.as_deref()?)?,
    })
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "the numbers are small constants")]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn jwt(claims: &str) -> String {
        format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims))
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_times_of_a_jwt_are_read() {
        for (claims, issued_at, expires_at) in [
            (r#"{"exp":1700000000}"#, None, 1_700_000_000),
            (
                r#"{"iat":1600000000,"exp":1700000000.0}"#,
                Some(1_600_000_000),
                1_700_000_000,
            ),
            (r#"{"iat":"soon","exp":1.7e9}"#, None, 1_700_000_000),
            (r#"{"iat":1e999,"exp":1700000000}"#, None, 1_700_000_000),
            (r#"{"exp":1,"exp":1700000000}"#, None, 1_700_000_000),
        ] {
            let expected = Validity {
                issued_at: issued_at.map(at),
                expires_at: at(expires_at),
            };
            assert_eq!(validity(&jwt(claims)), Some(expected), "{claims}");
        }
    }

    #[test]
    fn base64_padding_is_accepted() {
        let claims = r#"{"exp":1700000000 }"#;
        let padded = base64::prelude::BASE64_URL_SAFE.encode(claims);
        assert!(padded.ends_with('='));
        assert_eq!(validity(&format!("e30.{padded}.c2ln")), validity(&jwt(claims)));
        assert!(validity(&jwt(claims)).is_some());
    }

    #[test]
    fn a_jwt_without_a_usable_expiry_has_no_validity() {
        for claims in [
            r#"{"exp":0}"#,
            r#"{"exp":-1}"#,
            r#"{"exp":18446744073709551615}"#,
            r#"{"exp":1e400}"#,
            r#"{"exp":null}"#,
            r#"{"exp":[]}"#,
            r#"{"iat":1700000000}"#,
            "{}",
            "[]",
            "[1600000000,1700000000]",
            "null",
            "",
            "{",
            "\u{0}",
        ] {
            assert_eq!(validity(&jwt(claims)), None, "{claims}");
        }
    }

    #[test]
    fn a_token_that_is_not_a_jwt_has_no_validity() {
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
            assert_eq!(validity(&token), None);
        }
    }
}
