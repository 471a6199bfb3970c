//! One attempt: one POST with one deadline, a capped body, and no redirects. Nothing outside of this module uses awc's
//! client.

mod addresses;
mod client;
mod config;
mod connect;
mod connect_phase;
mod descriptors;
mod dialer;
pub mod http1;
mod proxy;
mod request;
mod resolver;
mod roots;
mod send_error;
mod stream;
mod tls;
mod tls_fault;
mod tunnel;

use std::{pin::pin, time::Duration};

use awc::{
    ClientResponse,
    http::{
        StatusCode,
        header::{self, HeaderName},
    },
};
use futures_util::{StreamExt as _, future::LocalBoxFuture};
use tokio::time::Instant;

use self::client::HttpClient;
pub use self::dialer::{ClientConnection, Dialer};
pub(crate) use self::{
    addresses::FailedAddresses,
    config::{CustomizeClient, TransportConfig, can_reach},
    connect::Upstream,
    connect_phase::ConnectStep,
    proxy::{Proxy, ProxyChoice, is_loopback},
    request::HttpRequest,
    tls::{ClientCertificate, tls_config},
};
use crate::{
    clock::{after, until},
    error::AttemptError,
    redact::Redactor,
    util::lossy,
    verdict::Answer,
};

/// The default deadline of an attempt.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest prefix of a body that is read, in bytes. The rest is discarded with its connection.
const BODY_LIMIT: usize = 64 * 1024;

/// The time limit for a body whose head means that the call is delivered.
const DETAILS_LIMIT: Duration = Duration::from_secs(1);

/// Sends requests to the platform.
pub(crate) trait Transport {
    /// Sends one POST and returns the response: its head, and as much of its body as arrived before the deadline.
    ///
    /// # Errors
    ///
    /// If no head arrives. The error tells whether the platform may have received the request.
    fn post<'a>(&'a self, request: &'a HttpRequest<'a>) -> LocalBoxFuture<'a, Result<Answer<'a>, AttemptError>>;
}

/// The transport over HTTP, by awc.
pub(crate) struct HttpTransport {
    client: HttpClient,
}

impl HttpTransport {
    pub(crate) fn new(config: TransportConfig) -> Self {
        Self {
            client: HttpClient::new(config),
        }
    }
}

/// The head of a response, with an empty body.
fn head_of<'a>(response: &ClientResponse, redactor: Redactor<'a>) -> Answer<'a> {
    let mut answer = Answer {
        status: response.status().as_u16(),
        redactor,
        ..Answer::default()
    };
    // One pass over the few headers of a response, since each lookup hashes a name.
    for (name, value) in response.headers() {
        if let Some(field) = field(&mut answer, name)
            && field.is_none()
        {
            *field = Some(lossy(value.as_bytes()).into_owned());
        }
    }
    answer
}

/// The field of an answer that holds the first value of this header.
fn field<'a>(answer: &'a mut Answer<'_>, name: &HeaderName) -> Option<&'a mut Option<String>> {
    let [rate_limit_reset, standard_reset] = &mut answer.rate_limit_resets;
    Some(match *name {
        header::CONTENT_TYPE => &mut answer.content_type,
        header::RETRY_AFTER => &mut answer.retry_after,
        header::LOCATION => &mut answer.location,
        header::DATE => &mut answer.date,
        _ if name == "x-ratelimit-reset" => rate_limit_reset,
        _ if name == "ratelimit-reset" => standard_reset,
        _ => return None,
    })
}

impl Transport for HttpTransport {
    fn post<'a>(&'a self, request: &'a HttpRequest<'a>) -> LocalBoxFuture<'a, Result<Answer<'a>, AttemptError>> {
        Box::pin(async move {
            let limit = self.client.config.timeout;
            let deadline = after(limit);
            let timed_out = || AttemptError::Timeout {
                limit,
                phase: request.phase.get(),
            };
            let head = {
                let round_trip = pin!(self.client.round_trip(request));
                until(|| deadline, round_trip).await
            };
            let response = &mut head.ok_or_else(timed_out)??.response;
            let (mut body, mut cut_short) = (Vec::new(), None);
            if has_body(response) {
                let purpose = BodyPurpose::of(request, response.status());
                // A failed body does not fail the attempt: the verdict depends on the part that was read.
                let read = pin!(read_body(response, &mut body));
                let read = until(|| purpose.deadline(deadline), read).await;
                cut_short = read.unwrap_or(Some("the body stalled until the deadline"));
            }
            Ok(Answer {
                body,
                cut_short,
                // Last, since the future would hold it while the body is read.
                ..head_of(
                    response,
                    Redactor::new(request.token, self.client.config.proxy_credentials()),
                )
            })
        })
    }
}

/// Whether the head of a response announces a body. One without a length may be empty all the same.
fn has_body(response: &ClientResponse) -> bool {
    let headers = response.headers();
    let has_length_0 = headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0");
    let is_empty = has_length_0 && !headers.contains_key(header::TRANSFER_ENCODING);
    !is_empty && !matches!(response.status().as_u16(), 101 | 204 | 304)
}

/// Why a body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyPurpose {
    /// The verdict depends on the body's text.
    Verdict,
    /// The head means that the call is delivered. The body may have warnings, or be a page without a type, and its
    /// connection can be used again once it is read.
    Details,
}

impl BodyPurpose {
    fn of(request: &HttpRequest<'_>, status: StatusCode) -> Self {
        if request.status_decides && status.is_success() {
            Self::Details
        } else {
            Self::Verdict
        }
    }

    /// Until when the body is read, in an attempt with this deadline.
    fn deadline(self, of_attempt: Instant) -> Instant {
        match self {
            Self::Verdict => of_attempt,
            Self::Details => of_attempt.min(after(DETAILS_LIMIT)),
        }
    }
}

/// Reads the start of the body into `body`. Returns why the rest is missing, if it is.
async fn read_body(response: &mut ClientResponse, body: &mut Vec<u8>) -> Option<&'static str> {
    while let Some(chunk) = response.next().await {
        let Ok(chunk) = chunk else {
            return Some("reading the body failed");
        };
        let room = BODY_LIMIT.saturating_sub(body.len());
        body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        if chunk.len() > room {
            return Some("the body is too long");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use awc::test::TestResponse;

    use super::*;

    #[test]
    fn the_first_of_equal_headers_counts() {
        let headers = [
            ("content-type", "application/json"),
            ("retry-after", "1"),
            ("x-ratelimit-reset", "2"),
            ("ratelimit-reset", "3"),
            ("location", "/there"),
            ("date", "today"),
            ("server", "test"),
        ];
        let mut response = TestResponse::default();
        for header in headers.into_iter().chain(headers.map(|(name, _)| (name, "second"))) {
            response = response.append_header(header);
        }
        let answer = head_of(&response.finish(), Redactor::default());
        let resets = answer.rate_limit_resets.each_ref().map(Option::as_deref);
        assert_eq!(answer.content_type.as_deref(), Some("application/json"));
        assert_eq!(answer.retry_after.as_deref(), Some("1"));
        assert_eq!(resets, [Some("2"), Some("3")]);
        assert_eq!(answer.location.as_deref(), Some("/there"));
        assert_eq!(answer.date.as_deref(), Some("today"));
    }

    #[actix_rt::test]
    async fn a_body_is_read_until_the_deadline_only_where_it_decides() {
        let (near, far) = (after(Duration::from_millis(9)), after(Duration::from_secs(9)));
        for of_attempt in [near, far] {
            assert_eq!(BodyPurpose::Verdict.deadline(of_attempt), of_attempt);
        }
        assert_eq!(BodyPurpose::Details.deadline(near), near);
        let details = BodyPurpose::Details.deadline(far);
        assert!(near < details && details <= after(DETAILS_LIMIT));
    }
}
