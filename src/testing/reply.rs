//! One reply of a scripted platform.

use std::{fmt, time::Duration};

use actix_http::{Response, StatusCode, body::BoxBody};

/// One reply of a script.
#[derive(Clone, PartialEq, Eq)]
#[must_use]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    pub(super) delay: Duration,
}

impl Reply {
    /// The platform's ordinary response on every path: 200, `{"success":true,"data":{}}`.
    pub fn ok() -> Self {
        Self::status(200).body(r#"{"success":true,"data":{}}"#)
    }

    /// A response with this status, 200 to 999, and an empty body. Any other status is sent as 500.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            delay: Duration::ZERO,
        }
    }

    /// Sets the body. Its `Content-Type` is `application/json` unless [`header`](Self::header) says otherwise.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Adds a header, which may be a repeated one. An invalid one turns the response into a 500.
    ///
    /// `Connection: close` closes the connection after the response. Another `Connection` header is not sent.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Delays the response by this much real time after the request was received. Default: no delay.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    pub(super) fn status_code(&self) -> u16 {
        self.status
    }

    pub(super) fn into_response(self) -> Response<BoxBody> {
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

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .field("body", &String::from_utf8_lossy(&self.body))
            .field("delay", &self.delay)
            .finish()
    }
}
