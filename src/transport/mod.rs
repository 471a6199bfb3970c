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

use std::time::Duration;

use awc::{
    ClientResponse,
    http::header::{self, HeaderMap, HeaderName},
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
use crate::{clock::within, error::AttemptError, redact::Redactor, util::lossy, verdict::Answer};

/// The default deadline of an attempt.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest prefix of a body that is read, in bytes. The rest is discarded with its connection.
const BODY_LIMIT: usize = 64 * 1024;

/// The time limit for a body whose head means that the call is delivered.
const DETAILS_LIMIT: Duration = Duration::from_secs(1);

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
            let (mut body, mut cut_short) = (Vec::new(), None);
            if has_body(response) {
                let remaining = limit.saturating_sub(started.elapsed());
                let limit = BodyPurpose::of(request, response).reading_time(remaining);
                // A failed body does not fail the attempt: the verdict depends on the part that was read.
                cut_short = read_body(response, &mut body, limit).await;
            }
            Ok(Answer {
                body,
                cut_short,
                // Last, since the future would hold it while the body is read.
                ..self.answer(request, response)
            })
        })
    }
}

/// Whether the head of a response announces a body. One without a length may be empty all the same.
fn has_body(response: &ClientResponse) -> bool {
    let headers = response.headers();
    let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
    let is_empty = !is_chunked && headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0");
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
    fn of(request: &HttpRequest<'_>, response: &ClientResponse) -> Self {
        if request.status_decides && response.status().is_success() {
            Self::Details
        } else {
            Self::Verdict
        }
    }

    /// How long the body is read, with this much time before the deadline.
    fn reading_time(self, remaining: Duration) -> Duration {
        match self {
            Self::Verdict => remaining,
            Self::Details => remaining.min(DETAILS_LIMIT),
        }
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
    Some(lossy(headers.get(name)?.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_until_the_deadline_only_where_it_decides() {
        let (long, short) = (Duration::from_secs(9), Duration::from_millis(9));
        for (purpose, remaining, expected) in [
            (BodyPurpose::Verdict, long, long),
            (BodyPurpose::Verdict, short, short),
            (BodyPurpose::Details, long, DETAILS_LIMIT),
            (BodyPurpose::Details, short, short),
        ] {
            assert_eq!(purpose.reading_time(remaining), expected, "{purpose:?}");
        }
    }
}
