//! The headers that a message adds to its requests.

use std::collections::BTreeMap;

use crate::error::InvalidMessageError;

/// Headers by their names in lower case.
pub(crate) type Headers = BTreeMap<String, String>;

/// The longest headers of a message, in bytes. Servers refuse a head of more than 8 to 16 KiB.
const MAX_BYTES: usize = 4096;

/// The headers that a message may not set: secrets, those that frame an HTTP message, and those that this crate sets.
const RESERVED: [&str; 19] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "accept-encoding",
    "content-encoding",
    "content-type",
    "idempotency-key",
    "user-agent",
];

/// Checks headers, which may come from outside, in a deserialized message or from the outbox.
pub(crate) fn check_headers(headers: &Headers) -> Result<(), InvalidMessageError> {
    let invalid = |reason: String| Err(InvalidMessageError::new("header", reason));
    for (name, value) in headers {
        if !is_token(name) {
            return invalid(format!("has the invalid name {name:?}"));
        }
        if RESERVED.contains(&&*name.to_ascii_lowercase()) {
            return invalid(format!("names `{name}`, which a message can't set"));
        }
        if !value.chars().all(|c| matches!(c, ' ' | '\t') || c.is_ascii_graphic()) {
            return invalid(format!("has a value for `{name}` that is not visible ASCII"));
        }
    }
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.len().saturating_add(value.len()))
        .sum();
    if bytes > MAX_BYTES {
        return invalid(format!("is longer than {MAX_BYTES} bytes in total"));
    }
    Ok(())
}

/// Whether a text is a token (RFC 9110).
fn is_token(text: &str) -> bool {
    let is_in_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    !text.is_empty() && text.chars().all(is_in_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str) -> Result<(), String> {
        let headers = Headers::from([(name.to_owned(), value.to_owned())]);
        check_headers(&headers).map_err(|error| error.to_string())
    }

    #[test]
    fn a_header_of_the_runner_is_accepted() {
        assert_eq!(check("traceparent", "00-0af7651916cd43dd-b7ad6b7169203331-01"), Ok(()));
        assert_eq!(check("x-note", "a b\tc"), Ok(()));
    }

    #[test]
    fn a_header_that_frames_authorizes_or_is_set_already_is_refused() {
        for name in [
            "authorization",
            "Cookie",
            "Proxy-Authorization",
            "Host",
            "content-length",
            "TE",
            "Content-Type",
        ] {
            assert_eq!(
                check(name, "x"),
                Err(format!("`header` names `{name}`, which a message can't set"))
            );
        }
    }

    #[test]
    fn a_header_that_is_not_one_is_refused() {
        for (name, value) in [
            ("", "x"),
            ("a b", "x"),
            ("ä", "x"),
            ("a:", "x"),
            ("a", "x\r\ny: z"),
            ("a", "ä"),
            ("a", "\0"),
        ] {
            assert!(check(name, value).is_err(), "{name:?} {value:?}");
        }
        assert!(check("a", &"x".repeat(5000)).is_err());
    }
}
