//! One reply of a scripted platform.

use std::{fmt, time::Duration};

use actix_http::{Response, StatusCode, body::BoxBody};

/// One reply of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Reply {
    pub(super) answer: Answer,
    pub(super) delay: Duration,
}

/// A response, or a fault instead of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Response(HttpResponse),
    /// The connection is reset.
    Reset,
    /// Nothing, for as long as the client waits.
    Nothing,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct HttpResponse {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Reply {
    /// The platform's ordinary response on every path: 200, `{"success":true,"data":{}}`.
    pub fn ok() -> Self {
        Self::status(200).body(r#"{"success":true,"data":{}}"#)
    }

    /// A response with this status, 200 to 999, and an empty body. Any other status is sent as 500.
    pub fn status(status: u16) -> Self {
        Self::new(Answer::Response(HttpResponse {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }))
    }

    /// An HTML page with this status, as a proxy or a load balancer answers in place of the platform.
    pub fn html(status: u16) -> Self {
        Self::status(status)
            .header("content-type", "text/html")
            .body("<!doctype html><title>Error</title>")
    }

    /// The connection is reset when the request was received.
    pub fn reset() -> Self {
        Self::new(Answer::Reset)
    }

    /// The request is never answered: the connection stays open until the client gives up.
    pub fn hang() -> Self {
        Self::new(Answer::Nothing)
    }

    fn new(answer: Answer) -> Self {
        Self {
            answer,
            delay: Duration::ZERO,
        }
    }

    /// Sets the body. Its `Content-Type` is `application/json` unless [`header`](Self::header) says otherwise. A reset and
    /// a hang have none.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        if let Answer::Response(response) = &mut self.answer {
            response.body = body.into();
        }
        self
    }

    /// Adds a header, which may be a repeated one. An invalid one turns the response into a 500.
    ///
    /// `Connection: close` closes the connection after the response. Another `Connection` header is not sent.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        if let Answer::Response(response) = &mut self.answer {
            response.headers.push((name.into(), value.into()));
        }
        self
    }

    /// Delays the response, or the reset, by this much real time after the request was received. Default: no delay.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

impl Answer {
    /// 0 if there is no response.
    pub(super) fn status_code(&self) -> u16 {
        match self {
            Self::Response(response) => response.status,
            Self::Reset | Self::Nothing => 0,
        }
    }
}

impl HttpResponse {
    pub(super) fn into_http(self) -> Response<BoxBody> {
        let status = StatusCode::from_u16(self.status)
            .ok()
            .filter(|status| !status.is_informational())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::build(status);
        if !self
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        {
            response.insert_header(("content-type", "application/json"));
        }
        for (name, value) in self.headers {
            // Sent by the server, which ignores the header.
            if name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close") {
                response.force_close();
            }
            response.append_header((name, value));
        }
        response.body(self.body).map_into_boxed_body()
    }
}

impl fmt::Debug for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpResponse")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .field("body", &String::from_utf8_lossy(&self.body))
            .finish()
    }
}

/// The response to a request that can't be read.
pub(super) fn error_response() -> Response<BoxBody> {
    Response::build(StatusCode::BAD_REQUEST).finish().map_into_boxed_body()
}
