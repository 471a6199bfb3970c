//! The state of one request and its response, driven by the bytes that the connection reads. Pure.

use std::mem::take;

use super::{
    framing::Framing,
    head::{FinalHead, HEAD_LIMIT, Head, parse_head, skip_empty_lines},
};

/// The progress of an exchange.
pub(super) enum ExchangeState {
    /// No request was sent yet, or the head of its response is not complete.
    AwaitingHead(IncomingHead),
    /// The head of the response is complete.
    Responding(IncomingResponse),
}

/// The head of a response while it arrives.
#[derive(Default)]
pub(super) struct IncomingHead {
    bytes: Vec<u8>,
    /// The length of the start that is known to be partial.
    scanned: usize,
    /// The length of the interim responses that were removed.
    skipped: usize,
}

/// A response with a complete head, or bytes that can't become one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct IncomingResponse {
    pub(super) request: RequestState,
    /// Whether the response begins with a head. If not, awc rejects it.
    pub(super) has_head: bool,
    /// The head and the bytes that arrived with it, until awc reads them.
    pub(super) unread: Vec<u8>,
    /// The part of the response that awc has not read yet, `unread` included.
    pub(super) remaining: Framing,
    /// Whether the connection can't carry another request, regardless of `remaining`.
    pub(super) not_reusable: bool,
}

/// How much of a request had been sent when the head of its response was complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestState {
    Complete,
    /// A part. The rest is still sent, since the response is a 2xx.
    Partial,
    /// A part. The rest is discarded, since the platform will not read it.
    Refused,
}

impl ExchangeState {
    pub(super) fn new() -> Self {
        Self::AwaitingHead(IncomingHead::default())
    }

    /// Adds bytes that were read to the head, and moves on to the response once the head is complete.
    pub(super) fn advance_head(&mut self, bytes: &[u8]) {
        if let Self::AwaitingHead(head) = self
            && let Some(response) = head.advance(bytes)
        {
            *self = Self::Responding(response);
        }
    }

    /// Hands an incomplete head to awc, which rejects it.
    pub(super) fn give_up_head(&mut self) {
        if let Self::AwaitingHead(head) = self {
            *self = Self::Responding(head.end(None));
        }
    }
}

impl IncomingHead {
    fn advance(&mut self, bytes: &[u8]) -> Option<IncomingResponse> {
        self.bytes.extend_from_slice(bytes);
        loop {
            skip_empty_lines(&mut self.bytes);
            match parse_head(&self.bytes, self.scanned) {
                Head::Partial => {
                    self.scanned = self.bytes.len();
                    return None;
                }
                Head::Interim(length) if self.skipped <= HEAD_LIMIT => {
                    self.bytes.drain(..length);
                    self.scanned = 0;
                    self.skipped = self.skipped.saturating_add(length);
                }
                Head::Final(head) => {
                    head.patch(&mut self.bytes);
                    return Some(self.end(Some(head)));
                }
                // awc rejects it.
                Head::Interim(_) | Head::Unrecognized => return Some(self.end(None)),
            }
        }
    }

    fn end(&mut self, head: Option<FinalHead>) -> IncomingResponse {
        let has_head = head.is_some();
        let (remaining, reusable) = head.map_or((Framing::Unknown, false), |head| (head.framing, head.reusable));
        IncomingResponse {
            request: RequestState::Complete,
            has_head,
            unread: take(&mut self.bytes),
            remaining,
            not_reusable: !reusable,
        }
    }
}

impl IncomingResponse {
    /// Whether awc has read the whole response, and the connection can carry another request.
    pub(super) fn is_complete(&self) -> bool {
        !self.not_reusable && self.remaining.is_complete()
    }

    /// Whether the status is a 2xx. Valid only until awc reads the response.
    pub(super) fn is_success(&self) -> bool {
        let after_version = self.unread.get("HTTP/1.1".len()..);
        after_version.is_some_and(|rest| rest.starts_with(b" 2"))
    }

    /// Discards the rest of the request, and with it the connection.
    pub(super) fn refuse_rest(&mut self) {
        self.request = RequestState::Refused;
        self.not_reusable = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

    /// The response that arrives in these pieces.
    fn response(pieces: &[&str]) -> Option<IncomingResponse> {
        let mut state = ExchangeState::new();
        for piece in pieces {
            state.advance_head(piece.as_bytes());
        }
        match state {
            ExchangeState::AwaitingHead(_) => None,
            ExchangeState::Responding(response) => Some(response),
        }
    }

    #[test]
    fn a_response_begins_when_its_head_is_complete() {
        let (start, end) = OK.split_at(20);
        assert_eq!(response(&[start]), None);
        let response = response(&[start, end]).unwrap();
        assert_eq!(response.unread, OK.as_bytes());
        assert_eq!(response.remaining, Framing::Bytes(OK.len() as u64));
        assert!(response.has_head && !response.not_reusable && response.is_success());
    }

    #[test]
    fn interim_responses_and_empty_lines_before_a_response_are_removed() {
        let interim = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n";
        let (start, end) = interim.split_at(30);
        let response = response(&["\r\n", start, end, interim, "\n", OK]).unwrap();
        assert_eq!(response.unread, OK.as_bytes());
    }

    #[test]
    fn endless_interim_responses_are_handed_to_awc() {
        let interim = &*format!(
            "HTTP/1.1 103 Early Hints\r\nlink: {}\r\n\r\n",
            "x".repeat(HEAD_LIMIT / 2)
        );
        assert_eq!(response(&[interim; 2]), None);
        let response = response(&[interim; 4]).unwrap();
        assert!(response.unread.starts_with(b"HTTP/1.1 103"));
        assert!(!response.has_head && response.not_reusable && !response.is_complete());
    }

    #[test]
    fn a_head_that_the_connection_cuts_off_is_handed_to_awc() {
        let mut state = ExchangeState::new();
        state.advance_head(b"HTTP/1.1 200");
        assert!(matches!(state, ExchangeState::AwaitingHead(_)));
        state.give_up_head();
        let ExchangeState::Responding(response) = state else {
            panic!("the head was given up");
        };
        assert_eq!(response.unread, b"HTTP/1.1 200");
        assert!(!response.has_head && response.not_reusable);
    }

    #[test]
    fn a_refused_request_makes_its_connection_not_reusable() {
        let mut response = response(&[OK]).unwrap();
        response.remaining.consume(OK.as_bytes());
        assert!(response.is_complete());
        response.refuse_rest();
        assert!(!response.is_complete());
    }
}
