//! The head of a response: parsed by a pure function, and edited where awc would misread it.

use std::mem::MaybeUninit;

use httparse::{ParserConfig, Response, Status};

use super::framing::{BodyLength, Framing};

/// The longest head that is parsed, in bytes. awc rejects a longer one.
pub(super) const HEAD_LIMIT: usize = 128 * 1024;

/// The most headers that awc accepts.
const MAX_HEADERS: usize = 96;

/// The status of the one 1xx response that is final.
const SWITCHING_PROTOCOLS: u16 = 101;

/// The start of a response.
#[derive(Debug, PartialEq, Eq)]
pub enum Head {
    /// Not complete yet.
    Partial,
    /// Not HTTP, or beyond a limit.
    Unrecognized,
    /// An interim response (1xx) of this length, in bytes. Another response follows it.
    Interim(usize),
    Final(FinalHead),
}

/// The head of a final response.
#[derive(Debug, PartialEq, Eq)]
pub struct FinalHead {
    /// The framing of the response, head included.
    pub framing: Framing,
    /// Whether the head allows another request on the connection.
    pub reusable: bool,
    /// The offset of an `Upgrade` header in a response that does not switch protocols.
    pub upgrade_at: Option<usize>,
    /// Whether the head is of HTTP/1.1 and its body ends when the connection closes.
    pub close_delimited: bool,
}

/// Removes the empty lines that may precede a response.
pub fn skip_empty_lines(bytes: &mut Vec<u8>) {
    let empty = bytes.iter().take_while(|&&byte| byte == b'\r' || byte == b'\n').count();
    bytes.drain(..empty);
}

/// Parses the start of a response, which begins without empty lines. Its first `scanned` bytes are known to be partial.
pub fn parse_head(bytes: &[u8], scanned: usize) -> Head {
    let incomplete = if bytes.len() > HEAD_LIMIT {
        Head::Unrecognized
    } else {
        Head::Partial
    };
    // An empty line ends the head, and may begin up to two bytes before the new ones. A head that arrives in pieces is
    // searched for that line first, so that it is not parsed again after each piece.
    let new = bytes.get(scanned.saturating_sub(2)..).unwrap_or_default();
    if scanned > 0 && !contains_empty_line(new) {
        return incomplete;
    }
    let mut headers = [MaybeUninit::uninit(); MAX_HEADERS];
    let mut head = Response::new(&mut []);
    let mut config = ParserConfig::default();
    config.allow_spaces_after_header_name_in_responses(true);
    match config.parse_response_with_uninit_headers(&mut head, bytes, &mut headers) {
        Ok(Status::Complete(length)) => match head.code {
            Some(status) if is_interim(status) => Head::Interim(length),
            Some(status) => Head::Final(FinalHead::new(bytes, length, status, &head)),
            None => Head::Unrecognized,
        },
        Ok(Status::Partial) => incomplete,
        // Only a whole head is rejected, so that the result does not depend on how the bytes were split.
        Err(_) if !contains_empty_line(new) => incomplete,
        Err(_) => Head::Unrecognized,
    }
}

fn is_interim(status: u16) -> bool {
    (100..=199).contains(&status) && status != SWITCHING_PROTOCOLS
}

/// Whether an empty line follows another line.
fn contains_empty_line(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair == b"\n\n") || bytes.windows(3).any(|triple| triple == b"\n\r\n")
}

impl FinalHead {
    /// The final head for `head`, which was parsed from the first `length` bytes of `bytes`.
    fn new(bytes: &[u8], length: usize, status: u16, head: &Response<'_, '_>) -> Self {
        let body = body_length(status, head);
        let ends_with_connection = body == BodyLength::UntilClose;
        let switches_protocol = status == SWITCHING_PROTOCOLS;
        let is_http11 = head.version == Some(1);
        let keeps_alive = header(head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("keep-alive"));
        let upgrade_at = find_upgrade(bytes.get(..length).unwrap_or_default(), head);
        Self {
            framing: Framing::of(length, body),
            reusable: !ends_with_connection && !switches_protocol && (is_http11 || keeps_alive),
            upgrade_at: upgrade_at.filter(|_| !switches_protocol),
            close_delimited: ends_with_connection && !switches_protocol && is_http11,
        }
    }

    /// Edits `bytes`, which begin with this head, where awc would misread it:
    ///
    /// - awc mistakes an offered upgrade for a completed one, and reads no body. The header is renamed.
    /// - awc mistakes a body that ends with the connection for an empty body, unless the version is HTTP/1.0.
    pub fn patch(&self, bytes: &mut [u8]) {
        if let Some(initial) = self.upgrade_at.and_then(|offset| bytes.get_mut(offset)) {
            *initial = b'x';
        }
        if self.close_delimited
            && let Some(minor_version) = bytes.get_mut("HTTP/1.".len())
        {
            *minor_version = b'0';
        }
    }
}

fn body_length(status: u16, head: &Response<'_, '_>) -> BodyLength {
    if header(head, "transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return BodyLength::Chunked;
    }
    let has_no_body = matches!(status, 204 | 304);
    match header(head, "content-length") {
        None if has_no_body => BodyLength::Known(0),
        None => BodyLength::UntilClose,
        Some(_) if has_no_body => BodyLength::Invalid,
        Some(length) => length.parse().map_or(BodyLength::Invalid, BodyLength::Known),
    }
}

/// The trimmed value of the first header of this name, if it is text.
fn header<'a>(head: &'a Response<'_, '_>, name: &str) -> Option<&'a str> {
    let mut headers = head.headers.iter();
    let header = headers.find(|header| header.name.eq_ignore_ascii_case(name))?;
    str::from_utf8(header.value).ok().map(str::trim)
}

/// The offset of the first `Upgrade` header in the bytes of a head. A head that was parsed has a header in each line but
/// the first.
fn find_upgrade(bytes: &[u8], head: &Response<'_, '_>) -> Option<usize> {
    // Nearly all responses have none, so the lines are not searched for it.
    let is_upgrade = |name: &[u8]| name.trim_ascii_end().eq_ignore_ascii_case(b"upgrade");
    head.headers.iter().find(|header| is_upgrade(header.name.as_bytes()))?;
    let has_name = |line: &[u8]| line.split(|&byte| byte == b':').next().is_some_and(is_upgrade);
    let lines = bytes.split_inclusive(|&byte| byte == b'\n');
    let offset = lines.take_while(|line| !has_name(line)).map(<[u8]>::len).sum();
    (offset < bytes.len()).then_some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes after the edit that their head asks for.
    fn patched(bytes: &str) -> String {
        let mut patched = bytes.as_bytes().to_vec();
        if let Head::Final(head) = parse_head(bytes.as_bytes(), 0) {
            head.patch(&mut patched);
        }
        String::from_utf8(patched).unwrap()
    }

    fn final_head(framing: Framing, reusable: bool) -> Head {
        Head::Final(FinalHead {
            framing,
            reusable,
            upgrade_at: None,
            close_delimited: false,
        })
    }

    #[test]
    fn a_head_declares_the_length_of_its_response_and_whether_the_connection_is_reusable() {
        for (head, length, reusable) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Some(43), true),
            ("HTTP/1.1 200 OK\nContent-Length:5\n\nhello", Some(39), true),
            ("HTTP/1.1 200 OK\r\ncontent-length : 5\r\n\r\n", Some(44), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", None, true),
            ("HTTP/1.1 204 OK\r\n\r\n", Some(19), true),
            ("HTTP/1.1 204 OK\r\ncontent-length: 5\r\n\r\n", None, true),
            ("HTTP/1.1 304 OK\r\n\r\n", Some(19), true),
            ("HTTP/1.1 101 OK\r\n\r\n", None, false),
            ("HTTP/1.0 200 OK\r\n\r\n", None, false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n", Some(43), false),
            (
                "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\ncontent-length: 5\r\n\r\n",
                Some(67),
                true,
            ),
        ] {
            let framing = length.map_or(Framing::Unknown, Framing::Bytes);
            assert_eq!(
                parse_head(head.as_bytes(), 0),
                final_head(framing, reusable),
                "{head:?}"
            );
            assert_eq!(patched(head), head);
        }
        let chunked = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: Chunked\r\n\r\n";
        assert_eq!(
            parse_head(chunked.as_bytes(), 0),
            final_head(Framing::Chunks([0; 5]), true)
        );
    }

    #[test]
    fn an_interim_response_is_recognized_with_its_length() {
        for (head, length) in [
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200", 25),
            ("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", 37),
        ] {
            assert_eq!(parse_head(head.as_bytes(), 0), Head::Interim(length), "{head:?}");
        }
    }

    #[test]
    fn an_incomplete_head_is_partial() {
        for head in ["", "HTTP/1.1 200 OK\r\n", "SSH-2.0\r\n"] {
            assert_eq!(parse_head(head.as_bytes(), 0), Head::Partial, "{head:?}");
        }
    }

    #[test]
    fn a_head_beyond_a_limit_or_of_another_protocol_is_unrecognized() {
        let too_long = "x".repeat(HEAD_LIMIT + 1);
        let headers: String = (0..=MAX_HEADERS).map(|number| format!("x-{number}: 1\r\n")).collect();
        let too_many_headers = format!("HTTP/1.1 200 OK\r\n{headers}\r\n");
        for head in [
            "SSH-2.0\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            &too_long,
            &too_many_headers,
        ] {
            assert_eq!(parse_head(head.as_bytes(), 0), Head::Unrecognized, "{head:?}");
        }
    }

    #[test]
    fn the_end_of_a_head_is_found_wherever_the_head_is_split() {
        for head in ["HTTP/1.1 204 OK\r\n\r\n", "HTTP/1.1 204 OK\n\n"] {
            let expected = final_head(Framing::Bytes(head.len() as u64), true);
            for split in 0..head.len() {
                let (start, _) = head.split_at(split);
                assert_eq!(parse_head(start.as_bytes(), 0), Head::Partial);
                assert_eq!(parse_head(head.as_bytes(), split), expected);
            }
        }
    }

    #[test]
    fn a_body_that_ends_with_the_connection_is_declared_as_http_1_0() {
        assert_eq!(
            patched("HTTP/1.1 200 HTTP/1.1\r\nx: HTTP/1.1\r\n\r\nHTTP/1.1"),
            "HTTP/1.0 200 HTTP/1.1\r\nx: HTTP/1.1\r\n\r\nHTTP/1.1"
        );
    }

    #[test]
    fn an_upgrade_that_is_only_offered_is_hidden() {
        let head = |name| {
            format!(
                "HTTP/1.1 426 Upgrade\r\nx-upgrade: upgrade:\r\n{name}: h2\r\nupgrade: b\r\ncontent-length: 0\r\n\r\nupgrade:"
            )
        };
        for (name, hidden) in [
            ("Upgrade", "xpgrade"),
            ("upgrade ", "xpgrade "),
            ("UPGRADE\t", "xPGRADE\t"),
        ] {
            assert_eq!(patched(&head(name)), head(hidden));
        }
    }

    #[test]
    fn an_upgrade_that_takes_place_is_not_hidden() {
        let head = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n";
        assert_eq!(patched(head), head);
    }
}
