//! One attempt: one POST with one deadline, a capped body, and no redirects. Nothing outside of this module uses awc's
//! client.

mod addresses;
mod client;
mod config;
mod connect;
mod deadline;
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

use std::time::Duration;

use awc::{
    ClientResponse,
    http::{
        Version,
        header::{self, HeaderMap, HeaderName},
    },
};
use futures_util::{StreamExt as _, future::LocalBoxFuture};
use tokio::time::Instant;

pub use self::dialer::{ClientConnection, Dialer};
pub(crate) use self::{
    addresses::FailedAddresses,
    config::{CustomizeClient, TransportConfig, can_reach},
    connect::Upstream,
    proxy::{Proxy, ProxyChoice, is_loopback},
    request::HttpRequest,
    tls::{ClientCertificate, tls_config},
};
use self::{client::HttpClient, deadline::within};
use crate::{error::AttemptError, redact::Redactor, verdict::Answer};

/// The default deadline of an attempt.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest prefix of a body that is read, in bytes. The rest is discarded with its connection.
const BODY_LIMIT: usize = 64 * 1024;

/// The time limit for a body that the verdict does not depend on.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// The headers that tell when a rate limit ends, in the order in which they are tried.
const RATE_LIMIT_RESETS: [HeaderName; 2] = [
    HeaderName::from_static("x-ratelimit-reset"),
    HeaderName::from_static("ratelimit-reset"),
];

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

    /// The head of a response, with an empty body.
    fn answer<'a>(&'a self, request: &HttpRequest<'a>, response: &ClientResponse) -> Answer<'a> {
        Answer {
            status: response.status().as_u16(),
            content_type: text(response.headers(), &header::CONTENT_TYPE),
            retry_after: text(response.headers(), &header::RETRY_AFTER),
            rate_limit_resets: RATE_LIMIT_RESETS.each_ref().map(|name| text(response.headers(), name)),
            location: text(response.headers(), &header::LOCATION),
            date: text(response.headers(), &header::DATE),
            redactor: Redactor::new(request.token, self.client.config.proxy_credentials()),
            ..Answer::default()
        }
    }
}

impl Transport for HttpTransport {
    fn post<'a>(&'a self, request: &'a HttpRequest<'a>) -> LocalBoxFuture<'a, Result<Answer<'a>, AttemptError>> {
        Box::pin(async move {
            let limit = self.client.config.timeout;
            let started = Instant::now();
            let timed_out = || AttemptError::Timeout {
                limit,
                phase: request.phase.get(),
            };
            let head = within(limit, self.client.round_trip(request)).await;
            let response = &mut head.ok_or_else(timed_out)??.response;
            let mut answer = self.answer(request, response);
            let remaining = limit.saturating_sub(started.elapsed());
            let purpose = BodyPurpose::of(request, response);
            if let Some(limit) = reading_time(BodyEnd::of(response), purpose, remaining) {
                // A failed body does not fail the attempt: the verdict depends on the part that was read.
                answer.cut_short = read_body(response, &mut answer.body, limit).await;
            }
            Ok(answer)
        })
    }
}

/// The end of a response's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyEnd {
    /// The body is empty.
    AtOnce,
    /// The body declares its length or is chunked.
    Declared,
    /// The body ends when the platform closes the connection.
    Close,
}

impl BodyEnd {
    fn of(response: &ClientResponse) -> Self {
        let headers = response.headers();
        let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
        let length = headers.get(header::CONTENT_LENGTH).filter(|_| !is_chunked);
        match length {
            _ if matches!(response.status().as_u16(), 101 | 204 | 304) => Self::AtOnce,
            Some(length) if length == "0" => Self::AtOnce,
            // Such a body is declared as one of HTTP/1.0, see `http1`.
            None if response.version() == Version::HTTP_10 && !is_chunked => Self::Close,
            Some(_) | None => Self::Declared,
        }
    }
}

/// Why a body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyPurpose {
    /// The verdict depends on the body's text.
    Verdict,
    /// Its connection can be used again once the body is read.
    Drain,
}

impl BodyPurpose {
    fn of(request: &HttpRequest<'_>, response: &ClientResponse) -> Self {
        if request.status_decides && response.status().is_success() {
            Self::Drain
        } else {
            Self::Verdict
        }
    }
}

/// How long a body is read, with this much time before the deadline. `None` if it is not read.
fn reading_time(end: BodyEnd, purpose: BodyPurpose, remaining: Duration) -> Option<Duration> {
    match (end, purpose) {
        (BodyEnd::AtOnce, _) => None,
        (BodyEnd::Declared | BodyEnd::Close, BodyPurpose::Verdict) => Some(remaining),
        (BodyEnd::Declared, BodyPurpose::Drain) => Some(remaining.min(DRAIN_LIMIT)),
        // The connection can't be used again.
        (BodyEnd::Close, BodyPurpose::Drain) => None,
    }
}

/// Reads the start of the body into `body`. Returns why the rest is missing, if it is.
async fn read_body(response: &mut ClientResponse, body: &mut Vec<u8>, limit: Duration) -> Option<&'static str> {
    let read = async {
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
    };
    within(limit, read)
        .await
        .unwrap_or(Some("the body stalled until the deadline"))
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    Some(String::from_utf8_lossy(headers.get(name)?.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_until_the_deadline_only_where_it_matters() {
        let (long, short) = (Duration::from_secs(9), Duration::from_millis(9));
        for (end, purpose, remaining, expected) in [
            (BodyEnd::Declared, BodyPurpose::Verdict, long, Some(long)),
            (BodyEnd::Declared, BodyPurpose::Drain, long, Some(DRAIN_LIMIT)),
            (BodyEnd::Declared, BodyPurpose::Drain, short, Some(short)),
            (BodyEnd::Close, BodyPurpose::Verdict, long, Some(long)),
            (BodyEnd::Close, BodyPurpose::Drain, long, None),
            (BodyEnd::AtOnce, BodyPurpose::Verdict, long, None),
            (BodyEnd::AtOnce, BodyPurpose::Drain, long, None),
        ] {
            assert_eq!(reading_time(end, purpose, remaining), expected, "{end:?} {purpose:?}");
        }
    }
}
