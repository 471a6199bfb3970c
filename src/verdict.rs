//! Response classification: one pure function, and the table that it implements.
//!
//! The first row that matches applies. HTML is `text/html` or `application/xhtml+xml`, or, without a type, a body that
//! begins with `<!doctype html` or `<html`.
//!
//! | response | verdict |
//! |---|---|
//! | 2xx on a session endpoint, HTML | transient: an intermediary responded |
//! | any other 2xx on a session endpoint | delivered |
//! | 2xx on the proxy, JSON `success: true` | delivered |
//! | 2xx on the proxy, JSON `success: false` that breaks off before its `error` | transient: the response was cut |
//! | 2xx on the proxy, JSON `success: false` | transient if `error.retryable` is `true`, else permanent |
//! | any other 2xx on the proxy | transient: an intermediary responded |
//! | 401, 403 on the proxy, JSON `success: false` | permanent: the tracker rejected the platform |
//! | 401, 302, 303, 307 | unauthorized |
//! | 301, 308 | permanent, with the location |
//! | any other 3xx | transient: an intermediary responded |
//! | 407 | transient: the credentials of the forward proxy |
//! | 403 on a session endpoint, not HTML, if the call may change its worker | another worker |
//! | 413 on a session endpoint, if the call may be reduced | too large |
//! | 408, 425, 429 | transient |
//! | 403, 404, 421, HTML | transient: an intermediary responded |
//! | any other 4xx, JSON `error.retryable: true` | transient |
//! | any other 4xx | permanent |
//! | 5xx, 1xx, anything else | transient |

mod envelope;

use std::time::SystemTime;

use self::envelope::Envelope;
use crate::{
    backoff::{Hint, parse_reset, parse_retry_after},
    call::Endpoint,
    error::{AttemptError, PermanentError, RejectionCause},
    redact::Redactor,
    warning::Warning,
};

/// The response of one attempt, up to the point where reading stopped.
#[derive(Debug, Default)]
pub struct Answer<'a> {
    pub status: u16,
    pub content_type: Option<String>,
    /// The first `Retry-After`.
    pub retry_after: Option<String>,
    /// The first `X-RateLimit-Reset`, and the first `RateLimit-Reset`. The first that can be read applies.
    pub rate_limit_resets: [Option<String>; 2],
    pub location: Option<String>,
    pub date: Option<String>,
    pub body: Vec<u8>,
    /// Why the body is incomplete, if it is.
    pub cut_short: Option<&'static str>,
    /// Scrubs the secrets of the request from the part of the body that an error keeps.
    pub redactor: Redactor<'a>,
}

/// The forms of a call that are left to try. Each is sent at most once, at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alternatives {
    /// With the worker id of other credentials.
    pub other_worker: bool,
    /// With its texts shortened.
    pub reduced: bool,
}

/// The classification of a response.
#[derive(Debug)]
pub enum Verdict {
    Delivered {
        warnings: Vec<Warning>,
    },
    Transient {
        error: AttemptError,
        hint: Option<Hint>,
    },
    Permanent(PermanentError),
    /// The credentials were rejected (401, or a redirect that may lead to a login page).
    Unauthorized(PermanentError),
    /// The call is to be sent in another form.
    Resend(Resend),
}

/// The other form of a call, after a response to the first.
#[derive(Debug)]
pub enum Resend {
    /// With the worker id of other credentials: this worker does not own the session. If there are no others, the
    /// verdict is `otherwise`.
    OtherWorker { otherwise: Box<Verdict> },
    /// With its texts shortened: the body is too large.
    Reduced,
}

/// The verdict on a response. `now` is the time of the host, for a response without a `Date`.
pub fn classify(endpoint: Endpoint, answer: &Answer<'_>, alternatives: Alternatives, now: SystemTime) -> Verdict {
    let status_code = answer.status;
    let excerpt = |text: &str| answer.redactor.excerpt(text);
    let body = || excerpt(&String::from_utf8_lossy(&answer.body));
    let hint = || hint(answer, now);
    let rejected = |cause, body| PermanentError::new(status_code, body).with_cause(cause);
    let permanent = |cause, body| Verdict::Permanent(rejected(cause, body));
    let retryable = |body| Verdict::Transient {
        error: AttemptError::RetryableResponse { status_code, body },
        hint: hint(),
    };
    let unexpected = |reason| Verdict::Transient {
        error: AttemptError::UnexpectedResponse {
            status_code,
            reason,
            body: body(),
        },
        hint: hint(),
    };
    let is_html = || is_html(answer);
    let envelope = || Envelope::read(&answer.body);

    match (status_code, endpoint) {
        (200..=299, Endpoint::Session) if is_html() => unexpected("an HTML page"),
        (200..=299, Endpoint::Session) => Verdict::Delivered {
            warnings: warnings(answer),
        },
        (200..=299, Endpoint::Proxy) => {
            let envelope = envelope();
            let error = || excerpt(&envelope.error());
            match envelope.success {
                None => unexpected(answer.cut_short.unwrap_or("not the JSON of the issue-tracker proxy")),
                Some(true) => Verdict::Delivered { warnings: Vec::new() },
                Some(false) if envelope.is_retryable => retryable(error()),
                Some(false) if !envelope.has_whole_error => {
                    unexpected(answer.cut_short.unwrap_or("its JSON breaks off"))
                }
                Some(false) => permanent(RejectionCause::Tracker, error()),
            }
        }
        (401 | 403, Endpoint::Proxy) if envelope().success == Some(false) => {
            permanent(RejectionCause::TrackerAuthorization, excerpt(&envelope().error()))
        }
        (401 | 302 | 303 | 307, _) => Verdict::Unauthorized(rejected(RejectionCause::Credentials, body())),
        (301 | 308, _) => {
            let location = answer.location.as_deref().map(excerpt);
            permanent(RejectionCause::Moved { location }, body())
        }
        (300..=399, _) => unexpected("not a status of the platform"),
        (407, _) => retryable(body()),
        (403, Endpoint::Session) if alternatives.other_worker && !is_html() => {
            let others = Alternatives {
                other_worker: false,
                ..alternatives
            };
            let otherwise = Box::new(classify(endpoint, answer, others, now));
            Verdict::Resend(Resend::OtherWorker { otherwise })
        }
        (413, Endpoint::Session) if alternatives.reduced => Verdict::Resend(Resend::Reduced),
        (408 | 425 | 429, _) => retryable(body()),
        (403 | 404 | 421, _) if is_html() => unexpected("an HTML page"),
        (400..=499, _) if envelope().is_retryable => retryable(body()),
        (400..=499, _) => permanent(RejectionCause::Call, body()),
        (500..=599, _) => retryable(body()),
        (_, _) => unexpected("not a final HTTP status"),
    }
}

/// Whether the response is a page, which the platform itself does not send.
pub(crate) fn is_html(answer: &Answer<'_>) -> bool {
    let Some(content_type) = &answer.content_type else {
        let text = answer.body.trim_ascii_start();
        let begins_with = |start: &str| {
            text.get(..start.len())
                .is_some_and(|begin| begin.eq_ignore_ascii_case(start.as_bytes()))
        };
        return begins_with("<!doctype html") || begins_with("<html");
    };
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    ["text/html", "application/xhtml+xml"]
        .iter()
        .any(|html| media_type.eq_ignore_ascii_case(html))
}

/// The wait that a response asks for, counted from its own `Date`.
fn hint(answer: &Answer<'_>, now: SystemTime) -> Option<Hint> {
    let date = answer.date.as_deref();
    let now = date
        .and_then(|date| httpdate::parse_http_date(date).ok())
        .unwrap_or(now);
    let retry_after = answer.retry_after.as_deref();
    let retry_after = retry_after.and_then(|value| parse_retry_after(value, now));
    if answer.status != 429 {
        return retry_after.map(Hint::Busy);
    }
    let resets = answer.rate_limit_resets.iter().flatten();
    let reset = || resets.into_iter().find_map(|value| parse_reset(value, now));
    retry_after.or_else(reset).map(Hint::RateLimit)
}

/// The platform's remarks on a delivery that it did not carry out in full.
fn warnings(answer: &Answer<'_>) -> Vec<Warning> {
    // The usual acknowledgement is not parsed.
    let mentions = |name: &str| {
        let mut parts = answer.body.windows(name.len());
        parts.any(|part| part == name.as_bytes())
    };
    if !mentions("errors") && !mentions("partsPosted") {
        return Vec::new();
    }
    let envelope = Envelope::read(&answer.body);
    let parts = envelope
        .missing_parts()
        .map(|(posted, total)| Warning::PartlyPosted { posted, total });
    let errors = Some(envelope.errors()).filter(|errors| !errors.is_empty());
    let errors = errors
        .map(|errors| answer.redactor.excerpt(&errors))
        .filter(|errors| !errors.is_empty())
        .map(|errors| Warning::PlatformErrors { errors });
    parts.into_iter().chain(errors).collect()
}

#[cfg(test)]
#[expect(clippy::wildcard_enum_match_arm, reason = "an unexpected verdict fails the test")]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const HTML: Option<&str> = Some("text/html; charset=utf-8");
    const JSON: Option<&str> = Some("application/json");

    const NONE_LEFT: Alternatives = Alternatives {
        other_worker: false,
        reduced: false,
    };
    const ALL_LEFT: Alternatives = Alternatives {
        other_worker: true,
        reduced: true,
    };

    fn answer(status: u16, content_type: Option<&str>, body: &str) -> Answer<'static> {
        Answer {
            status,
            content_type: content_type.map(str::to_owned),
            body: body.into(),
            ..Answer::default()
        }
    }

    fn verdict_of(endpoint: Endpoint, answer: &Answer<'_>, alternatives: Alternatives) -> String {
        name(&classify(endpoint, answer, alternatives, UNIX_EPOCH))
    }

    fn name(verdict: &Verdict) -> String {
        match verdict {
            Verdict::Delivered { .. } => "delivered".into(),
            Verdict::Unauthorized(error) => format!("unauthorized {}", error.status_code),
            Verdict::Resend(Resend::OtherWorker { otherwise }) => format!("other worker, {}", name(otherwise)),
            Verdict::Resend(Resend::Reduced) => "reduced".into(),
            Verdict::Permanent(error) => format!("permanent {} {}", error.status_code, error.body),
            Verdict::Transient { error, .. } => match error {
                AttemptError::RetryableResponse { status_code, body } => format!("transient {status_code} {body}"),
                AttemptError::UnexpectedResponse { status_code, .. } => format!("unexpected {status_code}"),
                AttemptError::Credentials(_)
                | AttemptError::Connect(_)
                | AttemptError::Timeout { .. }
                | AttemptError::ConnectionLost(_)
                | AttemptError::StreamRefused(_)
                | AttemptError::Rejected(_) => {
                    panic!("there was a response: {error:?}")
                }
            },
        }
    }

    fn verdict(endpoint: Endpoint, answer: &Answer<'_>) -> String {
        verdict_of(endpoint, answer, NONE_LEFT)
    }

    #[test]
    fn a_status_without_html_or_json_decides_alone() {
        for (status, expected) in [
            (100, "unexpected 100"),
            (101, "unexpected 101"),
            (103, "unexpected 103"),
            (300, "unexpected 300"),
            (301, "permanent 301 text"),
            (302, "unauthorized 302"),
            (303, "unauthorized 303"),
            (304, "unexpected 304"),
            (307, "unauthorized 307"),
            (308, "permanent 308 text"),
            (400, "permanent 400 text"),
            (401, "unauthorized 401"),
            (403, "permanent 403 text"),
            (404, "permanent 404 text"),
            (407, "transient 407 text"),
            (408, "transient 408 text"),
            (409, "permanent 409 text"),
            (413, "permanent 413 text"),
            (421, "permanent 421 text"),
            (422, "permanent 422 text"),
            (425, "transient 425 text"),
            (429, "transient 429 text"),
            (499, "permanent 499 text"),
            (500, "transient 500 text"),
            (501, "transient 501 text"),
            (503, "transient 503 text"),
            (599, "transient 599 text"),
            (600, "unexpected 600"),
            (999, "unexpected 999"),
        ] {
            for endpoint in [Endpoint::Session, Endpoint::Proxy] {
                assert_eq!(verdict(endpoint, &answer(status, None, " text\n")), expected);
            }
        }
        for status in [200, 201, 204, 299] {
            assert_eq!(verdict(Endpoint::Session, &answer(status, None, "text")), "delivered");
            assert_eq!(
                verdict(Endpoint::Proxy, &answer(status, None, "text")),
                format!("unexpected {status}")
            );
        }
    }

    #[test]
    fn html_is_told_by_its_type_or_without_one_by_its_beginning() {
        for (content_type, body, is_page) in [
            (Some("text/html"), "", true),
            (Some("Text/HTML; charset=utf-8"), "{}", true),
            (Some(" text/html ;x"), "", true),
            (Some("application/xhtml+xml"), "", true),
            (Some("application/json"), "<html>", false),
            (Some("text/plain"), "<html>", false),
            (Some("text/html5"), "", false),
            (Some(""), "<html>", false),
            (None, "<html>", true),
            (None, "\r\n <!DOCTYPE HTML PUBLIC>", true),
            (None, "<htm", false),
            (None, "{\"a\":\"<html>\"}", false),
            (None, "", false),
        ] {
            assert_eq!(
                is_html(&answer(200, content_type, body)),
                is_page,
                "{content_type:?} {body}"
            );
        }
    }

    #[test]
    fn html_is_not_the_platform_where_the_platform_would_reject_or_deliver() {
        for (status, expected) in [
            (200, "unexpected 200"),
            (204, "unexpected 204"),
            (301, "permanent 301 page"),
            (302, "unauthorized 302"),
            (400, "permanent 400 page"),
            (401, "unauthorized 401"),
            (403, "unexpected 403"),
            (404, "unexpected 404"),
            (409, "permanent 409 page"),
            (413, "permanent 413 page"),
            (421, "unexpected 421"),
            (429, "transient 429 page"),
            (502, "transient 502 page"),
        ] {
            for endpoint in [Endpoint::Session, Endpoint::Proxy] {
                assert_eq!(verdict(endpoint, &answer(status, HTML, "page")), expected);
            }
        }
    }

    #[test]
    fn the_proxy_is_classified_by_its_envelope() {
        for (status, body, expected) in [
            (200, r#"{"success":true}"#, "delivered"),
            (201, r#"{"success":true,"data":{}}"#, "delivered"),
            (200, r#"{"success":true,"error":{"retryable":true}}"#, "delivered"),
            (200, r#"{"success":true,"data":"#, "delivered"),
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
            (200, r#"{"success":false,"error":"plain"}"#, "permanent 200 plain"),
            (200, r#"{"success":false}"#, "permanent 200 "),
            (
                200,
                r#"{"success":false,"error":{"code":"OPEN","retr"#,
                "unexpected 200",
            ),
            (200, r#"{"success":false,"err"#, "unexpected 200"),
            (200, r#"{"success":false,"error":{"code":"NO"},"da"#, "permanent 200 NO"),
            (200, r#"{"success":"true"}"#, "unexpected 200"),
            (200, "[]", "unexpected 200"),
            (204, "", "unexpected 204"),
            (200, "<html>login</html>", "unexpected 200"),
            (
                401,
                r#"{"success":false,"error":{"code":"AUTH_ERROR","message":"tracker","retryable":false}}"#,
                "permanent 401 AUTH_ERROR: tracker",
            ),
            (403, r#"{"success":false}"#, "permanent 403 "),
            (401, r#"{"success":true}"#, "unauthorized 401"),
            (401, r#"{"error":"Unauthorized"}"#, "unauthorized 401"),
            (
                400,
                r#"{"success":false,"error":{"retryable":false}}"#,
                r#"permanent 400 {"success":false,"error":{"retryable":false}}"#,
            ),
            (
                502,
                r#"{"success":false,"error":{"retryable":false}}"#,
                r#"transient 502 {"success":false,"error":{"retryable":false}}"#,
            ),
        ] {
            let answer = answer(status, JSON, body);
            assert_eq!(verdict(Endpoint::Proxy, &answer), expected, "{status} {body}");
        }
    }

    #[test]
    fn the_envelope_of_a_session_call_changes_no_401_or_403() {
        let body = r#"{"success":false}"#;
        assert_eq!(verdict(Endpoint::Session, &answer(401, JSON, body)), "unauthorized 401");
        assert_eq!(
            verdict(Endpoint::Session, &answer(403, JSON, body)),
            format!("permanent 403 {body}")
        );
    }

    #[test]
    fn a_4xx_is_transient_if_the_platform_asks_for_a_retry() {
        let body = r#"{"error":{"retryable":true}}"#;
        for (status, expected) in [
            (400, "transient"),
            (403, "transient"),
            (409, "transient"),
            (413, "transient"),
            (301, "permanent"),
            (401, "unauthorized"),
        ] {
            let verdict = verdict(Endpoint::Session, &answer(status, JSON, body));
            assert!(verdict.starts_with(expected), "{verdict}");
        }
    }

    #[test]
    fn a_session_call_has_another_form_after_a_403_and_a_413() {
        let retryable = r#"{"error":{"retryable":true}}"#;
        for (status, content_type, body, expected) in [
            (403, JSON, "not yours", "other worker, permanent 403 not yours"),
            (
                403,
                JSON,
                retryable,
                r#"other worker, transient 403 {"error":{"retryable":true}}"#,
            ),
            (403, HTML, "page", "unexpected 403"),
            (403, HTML, retryable, "unexpected 403"),
            (404, HTML, retryable, "unexpected 404"),
            (404, JSON, "no", "permanent 404 no"),
            (413, JSON, "large", "reduced"),
            (413, HTML, "large", "reduced"),
            (413, JSON, retryable, "reduced"),
        ] {
            let answer = answer(status, content_type, body);
            assert_eq!(verdict_of(Endpoint::Session, &answer, ALL_LEFT), expected);
        }
        for status in [403, 413] {
            let answer = answer(status, JSON, "no");
            assert_eq!(
                verdict_of(Endpoint::Proxy, &answer, ALL_LEFT),
                format!("permanent {status} no")
            );
        }
    }

    #[test]
    fn a_rejection_knows_its_cause() {
        let cause = |endpoint, answer: &Answer<'_>| match classify(endpoint, answer, NONE_LEFT, UNIX_EPOCH) {
            Verdict::Permanent(error) | Verdict::Unauthorized(error) => error.cause,
            other => panic!("{other:?}"),
        };
        let moved = Answer {
            location: Some("https://x/".into()),
            ..answer(301, None, "")
        };
        let location = Some("https://x/".to_owned());
        assert_eq!(cause(Endpoint::Session, &moved), RejectionCause::Moved { location });
        let refused = r#"{"success":false}"#;
        for (endpoint, answer, expected) in [
            (Endpoint::Session, answer(401, None, ""), RejectionCause::Credentials),
            (Endpoint::Session, answer(404, None, ""), RejectionCause::Call),
            (Endpoint::Proxy, answer(200, JSON, refused), RejectionCause::Tracker),
            (
                Endpoint::Proxy,
                answer(403, JSON, refused),
                RejectionCause::TrackerAuthorization,
            ),
        ] {
            assert_eq!(cause(endpoint, &answer), expected);
        }
    }

    fn hint_of(answer: &Answer<'_>) -> Option<Hint> {
        match classify(Endpoint::Session, answer, NONE_LEFT, UNIX_EPOCH) {
            Verdict::Transient { hint, .. } => hint,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_verdict_carries_the_hint() {
        let [limit, busy] = [Hint::RateLimit, Hint::Busy].map(|hint| move |s| Some(hint(Duration::from_secs(s))));
        for (status, retry_after, resets, expected) in [
            (503, Some("7"), [None, None], busy(7)),
            (503, None, [Some("7"), Some("7")], None),
            (408, Some("1.5"), [None, None], busy(2)),
            (429, Some("1.5"), [None, None], limit(2)),
            (429, Some("3"), [Some("9"), None], limit(3)),
            (429, Some("soon"), [Some("9"), None], limit(9)),
            (429, None, [Some("2"), Some("9")], limit(2)),
            (429, None, [None, Some("9")], limit(9)),
            (429, None, [Some("soon"), Some("9")], limit(9)),
            (429, None, [Some("soon"), None], None),
            (429, None, [None, None], None),
        ] {
            let answer = Answer {
                retry_after: retry_after.map(str::to_owned),
                rate_limit_resets: resets.map(|reset| reset.map(str::to_owned)),
                ..answer(status, None, "")
            };
            assert_eq!(hint_of(&answer), expected, "{status} {retry_after:?} {resets:?}");
        }
    }

    #[test]
    fn a_date_is_counted_from_the_date_of_its_response() {
        let date = |seconds| httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
        for (sent_at, expected) in [(Some(70), 2), (None, 72)] {
            let answer = Answer {
                retry_after: Some(date(72)),
                date: sent_at.map(date),
                ..answer(503, None, "")
            };
            assert_eq!(hint_of(&answer), Some(Hint::Busy(Duration::from_secs(expected))));
        }
    }

    #[test]
    fn a_delivery_in_part_has_warnings() {
        let warnings = |status, body| {
            let answer = answer(status, JSON, body);
            match classify(Endpoint::Session, &answer, NONE_LEFT, UNIX_EPOCH) {
                Verdict::Delivered { warnings } => warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
                other => panic!("{other:?}"),
            }
        };
        let partly = r#"{"posted":true,"partsPosted":3,"totalParts":7,"errors":["x"]}"#;
        assert_eq!(
            warnings(200, partly),
            [
                "the platform posted 3 of 7 parts of the comment",
                "the platform reported errors: x"
            ]
        );
        for body in ["", "{", "[]", "ok", r#"{"partsPosted":7,"totalParts":7,"errors":[]}"#] {
            assert_eq!(warnings(200, body), [""; 0]);
        }
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
