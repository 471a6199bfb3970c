//! One request, as a scripted platform received it.

use std::fmt;

use serde_json::Value;

/// A request as the platform received it. Its `Debug` does not show its token.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordedRequest {
    /// The number of the connection that carried the request. Connections are numbered from 0, in the order of opening.
    pub connection: usize,
    /// The method, such as `POST`.
    pub method: String,
    /// The path as it was on the wire, with its percent-encoding and its query, if any.
    pub path: String,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The status of the response; 0 if the connection was reset or nothing was sent.
    pub answered_with: u16,
}

impl RecordedRequest {
    /// The first header with this name, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Errors
    ///
    /// The error of the parser, if the body is not JSON.
    pub fn json(&self) -> serde_json::Result<Value> {
        serde_json::from_slice(&self.body)
    }
}

impl fmt::Debug for RecordedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(name, value): &(String, String)| match name.as_str() {
            "authorization" => format!("{name}: [REDACTED]"),
            _ => format!("{name}: {value}"),
        };
        f.debug_struct("RecordedRequest")
            .field("connection", &self.connection)
            .field("method", &self.method)
            .field("path", &self.path)
            .field("headers", &self.headers.iter().map(shown).collect::<Vec<_>>())
            .field("body", &String::from_utf8_lossy(&self.body))
            .field("answered_with", &self.answered_with)
            .finish()
    }
}
