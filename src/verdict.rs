//! Response classification: one pure function, and the table that it implements.
//!
//! | response | verdict |
//! |---|---|
//! | 2xx on a session endpoint, not `text/html` | delivered |
//! | 2xx on the proxy, JSON `success: true` | delivered |
//! | 2xx on the proxy, JSON `success: false` | transient if `error.retryable` is `true`, else permanent |
//! | any other 2xx | transient: an intermediary responded |
//! | 401, any 3xx | unauthorized |
//! | 408, 425, 429 with a usable `Retry-After`; any 4xx but 401 with `error.retryable: true` | transient |
//! | any other 4xx | permanent |
//! | 5xx, 1xx, anything else | transient |

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::{
    backoff::parse_retry_after,
    call::Endpoint,
    error::{AttemptError, PermanentError},
    redact::Redactor,
};

/// The response of one attempt, up to the point where reading stopped.
#[derive(Debug, Default)]
pub struct Answer<'a> {
    pub status: u16,
    pub content_type: Option<String>,
    pub retry_after: Option<String>,
    pub date: Option<String>,
    pub body: Vec<u8>,
    /// Why the body is incomplete, if it is.
    pub cut_short: Option<&'static str>,
    /// Scrubs the secrets of the request from the part of the body that an error keeps.
    pub redactor: Redactor<'a>,
}

/// The classification of a response.
#[derive(Debug)]
pub enum Verdict {
    Delivered,
    Transient {
        error: AttemptError,
        retry_after: Option<Duration>,
    },
    Permanent(PermanentError),
    /// The credentials were rejected (401, or a redirect, which may lead to a login page).
    Unauthorized(PermanentError),
}

/// The verdict on a response.
pub fn classify(endpoint: Endpoint, answer: &Answer<'_>, now: SystemTime) -> Verdict {
    let status_code = answer.status;
    let retry_after = answer
        .retry_after
        .as_deref()
        .and_then(|value| parse_retry_after(value, now));
    let excerpt = |text: &str| answer.redactor.excerpt(text);
    let body = || excerpt(&String::from_utf8_lossy(&answer.body));
    let permanent = |body| PermanentError::new(status_code, body);
    let retryable = |body| Verdict::Transient {
        error: AttemptError::RetryableResponse { status_code, body },
        retry_after,
    };
    let unexpected = |reason| Verdict::Transient {
        error: AttemptError::UnexpectedResponse {
            status_code,
            reason,
            body: body(),
        },
        retry_after,
    };

    match (status_code, endpoint) {
        (200..=299, Endpoint::Session) if is_html(answer) => unexpected("an HTML page"),
        (200..=299, Endpoint::Session) => Verdict::Delivered,
        (200..=299, Endpoint::Proxy) => match Envelope::parse(&answer.body) {
            None => unexpected(answer.cut_short.unwrap_or("not the JSON of the issue-tracker proxy")),
            Some(Envelope { success: true, .. }) => Verdict::Delivered,
            Some(envelope) if envelope.retryable => retryable(excerpt(&envelope.error)),
            Some(envelope) => Verdict::Permanent(permanent(excerpt(&envelope.error))),
        },
        (300..=399 | 401, _) => Verdict::Unauthorized(permanent(body())),
        (408 | 425 | 429, _) if retry_after.is_some() => retryable(body()),
        (400..=499, _) if asks_for_retry(&answer.body) => retryable(body()),
        (400..=499, _) => Verdict::Permanent(permanent(body())),
        (500..=599, _) => retryable(body()),
        (_, _) => unexpected("not a final HTTP status"),
    }
}

pub(crate) fn is_html(answer: &Answer<'_>) -> bool {
    let content_type = answer.content_type.as_deref().unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("text/html")
}

/// The envelope of the proxy: `{"success": …, "error": {"code": …, "message": …, "retryable": …}}`.
struct Envelope {
    success: bool,
    retryable: bool,
    error: String,
}

impl Envelope {
    fn parse(body: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(body).ok()?;
        let success = value.get("success")?.as_bool()?;
        let part = |name| value.get("error")?.get(name)?.as_str();
        let error = match (part("code"), part("message")) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(only), None) | (None, Some(only)) => only.to_owned(),
            (None, None) => value
                .get("error")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
        };
        Some(Self {
            success,
            retryable: is_retryable(&value),
            error,
        })
    }
}

fn asks_for_retry(body: &[u8]) -> bool {
    serde_json::from_slice(body).is_ok_and(|value| is_retryable(&value))
}

fn is_retryable(value: &Value) -> bool {
    value.pointer("/error/retryable") == Some(&Value::Bool(true))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn answer(status: u16, body: &str) -> Answer<'static> {
        Answer {
            status,
            body: body.into(),
            ..Answer::default()
        }
    }

    fn verdict(endpoint: Endpoint, answer: &Answer<'_>) -> String {
        match classify(endpoint, answer, UNIX_EPOCH) {
            Verdict::Delivered => "delivered".into(),
            Verdict::Unauthorized(error) => format!("unauthorized {}", error.status_code),
            Verdict::Permanent(error) => format!("permanent {} {}", error.status_code, error.body),
            Verdict::Transient { error, .. } => match &error {
                AttemptError::RetryableResponse { status_code, body } => format!("transient {status_code} {body}"),
                AttemptError::UnexpectedResponse { status_code, .. } => format!("unexpected {status_code}"),
                AttemptError::Credentials(_)
                | AttemptError::Connect(_)
                | AttemptError::Timeout { .. }
                | AttemptError::ConnectionLost(_)
                | AttemptError::StreamRefused(_) => {
                    panic!("there was a response: {error:?}")
                }
            },
        }
    }

    #[test]
    fn session_endpoints_are_classified_by_status() {
        for (status, expected) in [
            (100, "unexpected 100"),
            (101, "unexpected 101"),
            (103, "unexpected 103"),
            (200, "delivered"),
            (201, "delivered"),
            (204, "delivered"),
            (299, "delivered"),
            (300, "unauthorized 300"),
            (302, "unauthorized 302"),
            (304, "unauthorized 304"),
            (307, "unauthorized 307"),
            (308, "unauthorized 308"),
            (400, "permanent 400 text"),
            (401, "unauthorized 401"),
            (403, "permanent 403 text"),
            (404, "permanent 404 text"),
            (408, "permanent 408 text"),
            (422, "permanent 422 text"),
            (425, "permanent 425 text"),
            (429, "permanent 429 text"),
            (499, "permanent 499 text"),
            (500, "transient 500 text"),
            (501, "transient 501 text"),
            (503, "transient 503 text"),
            (599, "transient 599 text"),
            (600, "unexpected 600"),
            (999, "unexpected 999"),
        ] {
            assert_eq!(verdict(Endpoint::Session, &answer(status, " text\n")), expected);
        }
    }

    #[test]
    fn an_html_page_is_not_a_delivery() {
        for content_type in ["text/html", "Text/HTML; charset=utf-8", " text/html ;x"] {
            let page = Answer {
                content_type: Some(content_type.into()),
                ..answer(200, "")
            };
            assert_eq!(verdict(Endpoint::Session, &page), "unexpected 200", "{content_type}");
        }
        for content_type in ["application/json", "text/plain", "text/html5", ""] {
            let other = Answer {
                content_type: Some(content_type.into()),
                ..answer(200, "<html>")
            };
            assert_eq!(verdict(Endpoint::Session, &other), "delivered", "{content_type}");
        }
    }

    #[test]
    fn the_proxy_is_classified_by_its_envelope() {
        for (status, body, expected) in [
            (200, r#"{"success":true}"#, "delivered"),
            (201, r#"{"success":true,"data":{}}"#, "delivered"),
            (200, r#"{"success":true,"error":{"retryable":true}}"#, "delivered"),
            (
                200,
                r#"{"success":false,"error":{"code":"OPEN","message":"later","retryable":true}}"#,
                "transient 200 OPEN: later",
            ),
            (
                200,
                r#"{"success":false,"error":{"code":"NO","message":"never","retryable":false}}"#,
                "permanent 200 NO: never",
            ),
            (
                200,
                r#"{"success":false,"error":{"message":"never"}}"#,
                "permanent 200 never",
            ),
            (200, r#"{"success":false,"error":{"code":"NO"}}"#, "permanent 200 NO"),
            (
                200,
                r#"{"success":false,"error":{"retryable":"true"}}"#,
                "permanent 200 ",
            ),
            (200, r#"{"success":false,"error":"plain"}"#, "permanent 200 plain"),
            (200, r#"{"success":false,"error":null}"#, "permanent 200 "),
            (200, r#"{"success":false}"#, "permanent 200 "),
            (200, r#"{"success":"true"}"#, "unexpected 200"),
            (200, r#"{"success":null}"#, "unexpected 200"),
            (200, r#"{"data":{}}"#, "unexpected 200"),
            (200, r#"{"success":true"#, "unexpected 200"),
            (200, r#"{"success":true} trailing"#, "unexpected 200"),
            (200, "[]", "unexpected 200"),
            (200, "true", "unexpected 200"),
            (204, "", "unexpected 204"),
            (200, "<html>login</html>", "unexpected 200"),
            (
                400,
                r#"{"success":false,"error":{"retryable":false}}"#,
                r#"permanent 400 {"success":false,"error":{"retryable":false}}"#,
            ),
            (
                401,
                r#"{"success":false,"error":{"retryable":true}}"#,
                "unauthorized 401",
            ),
            (
                502,
                r#"{"success":false,"error":{"retryable":false}}"#,
                r#"transient 502 {"success":false,"error":{"retryable":false}}"#,
            ),
        ] {
            assert_eq!(
                verdict(Endpoint::Proxy, &answer(status, body)),
                expected,
                "{status} {body}"
            );
        }
    }

    #[test]
    fn deep_nesting_is_harmless_and_not_json() {
        let body = "[".repeat(64 * 1024);
        assert_eq!(verdict(Endpoint::Proxy, &answer(200, &body)), "unexpected 200");
    }

    #[test]
    fn a_4xx_is_transient_if_the_platform_asks_for_a_retry() {
        let asked = |status, retry_after: Option<&str>, body| {
            let answer = Answer {
                retry_after: retry_after.map(str::to_owned),
                ..answer(status, body)
            };
            verdict(Endpoint::Session, &answer)
        };
        for status in [408, 425, 429] {
            assert_eq!(asked(status, Some("5"), ""), format!("transient {status} "));
            assert_eq!(
                asked(status, Some("Thu, 01 Jan 1970 00:00:09 GMT"), ""),
                format!("transient {status} ")
            );
            assert_eq!(asked(status, Some("soon"), ""), format!("permanent {status} "));
            assert_eq!(asked(status, Some("-1"), ""), format!("permanent {status} "));
        }
        let body = r#"{"error":{"retryable":true}}"#;
        assert_eq!(asked(409, None, body), format!("transient 409 {body}"));
        assert_eq!(asked(400, Some("5"), ""), "permanent 400 ");
        assert_eq!(asked(401, Some("5"), body), "unauthorized 401");
    }

    #[test]
    fn a_verdict_carries_retry_after() {
        let answer = Answer {
            retry_after: Some("7".into()),
            ..answer(503, "")
        };
        let Verdict::Transient { retry_after, .. } = classify(Endpoint::Session, &answer, UNIX_EPOCH) else {
            panic!("a 503 is transient");
        };
        assert_eq!(retry_after, Some(Duration::from_secs(7)));
    }

    #[test]
    fn an_excerpt_of_a_body_that_is_not_utf8_is_readable() {
        let answer = Answer {
            status: 400,
            body: b"caf\xe9 \xe6\x97".to_vec(),
            ..Answer::default()
        };
        assert_eq!(
            verdict(Endpoint::Session, &answer),
            "permanent 400 caf\u{fffd} \u{fffd}"
        );
    }
}
