//! What an answer means. One pure function, and the table that it implements:
//!
//! | answer | verdict |
//! |---|---|
//! | 2xx on a session endpoint, not `text/html` | delivered |
//! | 2xx on the proxy, JSON `success: true` | delivered |
//! | 2xx on the proxy, JSON `success: false` | transient if `error.retryable` is `true`, else permanent |
//! | any other 2xx | transient: something in between answered |
//! | 401, any 3xx | the credentials were rejected |
//! | 408, 425, 429 with a usable `Retry-After`; any 4xx but 401 with `error.retryable: true` | transient |
//! | any other 4xx | permanent |
//! | 5xx, 1xx, anything else | transient |

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::{
    error::{AttemptError, PermanentError},
    retry::parse_retry_after,
    text::prefix,
};

/// What an error keeps of an answer's body, in bytes.
const BODY_EXCERPT: usize = 4 * 1024;

/// The two kinds of endpoints, which say "done" in different ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `completion` and `status`: the HTTP status says it.
    Session,
    /// `issue-tracker-proxy`: the envelope in the body says it.
    Proxy,
}

/// What came back for one attempt, as far as it was read.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: Option<String>,
    pub(crate) retry_after: Option<String>,
    pub(crate) body: Vec<u8>,
    /// Why there is no more of the body than this, if there should be.
    pub(crate) cut_short: Option<&'static str>,
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum Verdict {
    Delivered,
    Transient {
        error: AttemptError,
        retry_after: Option<Duration>,
    },
    Permanent(PermanentError),
    /// The credentials were rejected (401, or a redirect to a login page).
    Unauthorized(PermanentError),
}

/// The verdict on `answer`. `secrets` are what was sent, so that they are scrubbed from what errors keep.
pub(crate) fn classify(endpoint: Endpoint, answer: &Answer, secrets: &[&str], now: SystemTime) -> Verdict {
    let status_code = answer.status;
    let retry_after = answer
        .retry_after
        .as_deref()
        .and_then(|value| parse_retry_after(value, now));
    let body = || excerpt(&String::from_utf8_lossy(&answer.body), secrets);
    let permanent = |body| PermanentError::new(status_code, body);
    let unavailable = |body| Verdict::Transient {
        error: AttemptError::Unavailable { status_code, body },
        retry_after,
    };
    let unrecognized = |reason| Verdict::Transient {
        error: AttemptError::Unrecognized {
            status_code,
            reason,
            body: body(),
        },
        retry_after,
    };

    match (status_code, endpoint) {
        (200..=299, Endpoint::Session) if is_html(answer) => unrecognized("it is an HTML page"),
        (200..=299, Endpoint::Session) => Verdict::Delivered,
        (200..=299, Endpoint::Proxy) => match Envelope::parse(&answer.body) {
            None => unrecognized(answer.cut_short.unwrap_or("it is not the proxy's JSON")),
            Some(Envelope { success: true, .. }) => Verdict::Delivered,
            Some(envelope) if envelope.retryable => unavailable(excerpt(&envelope.error, secrets)),
            Some(envelope) => Verdict::Permanent(permanent(excerpt(&envelope.error, secrets))),
        },
        (300..=399 | 401, _) => Verdict::Unauthorized(permanent(body())),
        (408 | 425 | 429, _) if retry_after.is_some() => unavailable(body()),
        (400..=499, _) if asks_for_retry(&answer.body) => unavailable(body()),
        (400..=499, _) => Verdict::Permanent(permanent(body())),
        (500..=599, _) => unavailable(body()),
        (_, _) => unrecognized("it is not a final HTTP status"),
    }
}

fn is_html(answer: &Answer) -> bool {
    let content_type = answer.content_type.as_deref().unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("text/html")
}

/// The proxy's `{"success": …, "error": {"code": …, "message": …, "retryable": …}}`.
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

/// What an error keeps of a text: no secret, no white space around it, at most 4 KiB.
fn excerpt(text: &str, secrets: &[&str]) -> String {
    let secrets = secrets.iter().filter(|secret| !secret.is_empty());
    let scrubbed = secrets.fold(text.to_owned(), |text, secret| scrub(&text, secret));
    prefix(scrubbed.trim(), BODY_EXCERPT).trim_end().to_owned()
}

/// `text` without `secret`: as it is, as JSON may write it, and either cut short at the end of what was read.
fn scrub(text: &str, secret: &str) -> String {
    const REDACTED: &str = "[REDACTED]";
    let forms = [secret.to_owned(), secret.replace('/', r"\/")];
    let mut scrubbed = forms
        .iter()
        .fold(text.to_owned(), |text, form| text.replace(form, REDACTED));
    let cut_short = forms
        .iter()
        .flat_map(|form| (4..form.len()).filter_map(|length| form.get(..length)))
        .filter(|start| scrubbed.ends_with(start))
        .map(str::len)
        .max();
    if let Some(length) = cut_short {
        scrubbed.truncate(scrubbed.len().saturating_sub(length));
        scrubbed.push_str(REDACTED);
    }
    scrubbed
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status,
            body: body.into(),
            ..Answer::default()
        }
    }

    fn verdict(endpoint: Endpoint, answer: &Answer) -> String {
        match classify(endpoint, answer, &["s3cret"], UNIX_EPOCH) {
            Verdict::Delivered => "delivered".into(),
            Verdict::Unauthorized(error) => format!("unauthorized {}", error.status_code),
            Verdict::Permanent(error) => format!("permanent {} {}", error.status_code, error.body),
            Verdict::Transient { error, .. } => match &error {
                AttemptError::Unavailable { status_code, body } => format!("transient {status_code} {body}"),
                AttemptError::Unrecognized { status_code, .. } => format!("unrecognized {status_code}"),
                AttemptError::Credentials(_)
                | AttemptError::NotAttempted { .. }
                | AttemptError::Connect(_)
                | AttemptError::Timeout { .. }
                | AttemptError::Disconnected(_)
                | AttemptError::Refused(_) => {
                    panic!("there was an answer: {error:?}")
                }
            },
        }
    }

    #[test]
    fn session_endpoints_go_by_the_status() {
        for (status, expected) in [
            (100, "unrecognized 100"),
            (101, "unrecognized 101"),
            (103, "unrecognized 103"),
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
            (600, "unrecognized 600"),
            (999, "unrecognized 999"),
        ] {
            assert_eq!(verdict(Endpoint::Session, &answer(status, " text\n")), expected);
        }
    }

    #[test]
    fn a_page_in_place_of_an_answer_is_not_a_delivery() {
        for content_type in ["text/html", "Text/HTML; charset=utf-8", " text/html ;x"] {
            let page = Answer {
                content_type: Some(content_type.into()),
                ..answer(200, "")
            };
            assert_eq!(verdict(Endpoint::Session, &page), "unrecognized 200", "{content_type}");
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
    fn proxy_goes_by_its_envelope() {
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
            (200, r#"{"success":"true"}"#, "unrecognized 200"),
            (200, r#"{"success":null}"#, "unrecognized 200"),
            (200, r#"{"data":{}}"#, "unrecognized 200"),
            (200, r#"{"success":true"#, "unrecognized 200"),
            (200, r#"{"success":true} trailing"#, "unrecognized 200"),
            (200, "[]", "unrecognized 200"),
            (200, "true", "unrecognized 200"),
            (204, "", "unrecognized 204"),
            (200, "<html>login</html>", "unrecognized 200"),
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
    fn deep_nesting_is_not_json_and_does_no_harm() {
        let body = "[".repeat(64 * 1024);
        assert_eq!(verdict(Endpoint::Proxy, &answer(200, &body)), "unrecognized 200");
    }

    #[test]
    fn a_4xx_is_retried_where_the_platform_asks_for_it() {
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
    fn a_verdict_carries_the_pause_that_was_asked_for() {
        let answer = Answer {
            retry_after: Some("7".into()),
            ..answer(503, "")
        };
        let Verdict::Transient { retry_after, .. } = classify(Endpoint::Session, &answer, &[], UNIX_EPOCH) else {
            panic!("a 503 is transient");
        };
        assert_eq!(retry_after, Some(Duration::from_secs(7)));
    }

    #[test]
    fn an_excerpt_is_short_scrubbed_and_whole_characters() {
        assert_eq!(excerpt(" bad token s3cret! \n", &["s3cret"]), "bad token [REDACTED]!");
        assert_eq!(excerpt("s3cret", &[]), "s3cret");
        assert_eq!(excerpt("cut short: s3cre", &["s3cret"]), "cut short: [REDACTED]");
        assert_eq!(
            excerpt(r#"{"token":"ab\/cd=="}"#, &["ab/cd=="]),
            r#"{"token":"[REDACTED]"}"#
        );
        assert_eq!(excerpt(r#"{"token":"ab\/cd"#, &["ab/cd=="]), r#"{"token":"[REDACTED]"#);
        assert_eq!(excerpt("anything", &[""]), "anything");
        let long = excerpt(&"日".repeat(5000), &[]);
        assert_eq!(long.len(), 4095);
        assert!(long.chars().all(|character| character == '日'));
        // The token is scrubbed before the cut, so that no half of it is left at the edge.
        let edge = format!("{}s3cret", "x".repeat(BODY_EXCERPT - 3));
        assert!(!excerpt(&edge, &["s3cret"]).contains("s3c"));
    }

    #[test]
    fn a_body_that_is_not_utf8_is_kept_readable() {
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
