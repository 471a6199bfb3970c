//! The head of a response: parsed by a pure function, and edited where awc would misread it.

use std::mem::MaybeUninit;

use httparse::{ParserConfig, Response, Status};

use super::{
    edit::{Edit, Editor, headers, items},
    framing::{BodyLength, Framing},
};

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
    /// The changes that the head needs before awc reads it.
    pub edits: Vec<Edit>,
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
    // Nearly all heads have no header that continues on the next line.
    let parsed = parse(bytes, false).or_else(|_| parse(bytes, true));
    match parsed {
        Ok(Some(head)) => head,
        Ok(None) => incomplete,
        // Only a whole head is rejected, so that the result does not depend on how the bytes were split.
        Err(_) if !contains_empty_line(new) => incomplete,
        Err(_) => Head::Unrecognized,
    }
}

/// Parses a head, `None` if it is not complete. `folded`: whether a header may continue on the next line.
fn parse(bytes: &[u8], folded: bool) -> Result<Option<Head>, httparse::Error> {
    let mut headers = [MaybeUninit::uninit(); MAX_HEADERS];
    let mut head = Response::new(&mut []);
    let mut config = ParserConfig::default();
    config.allow_spaces_after_header_name_in_responses(true);
    config.allow_obsolete_multiline_headers_in_responses(folded);
    let Status::Complete(length) = config.parse_response_with_uninit_headers(&mut head, bytes, &mut headers)? else {
        return Ok(None);
    };
    Ok(Some(match head.code {
        Some(status) if is_interim(status) => Head::Interim(length),
        Some(status) => {
            let mut editor = Editor::new(bytes);
            if folded {
                editor.unfold(length);
            }
            Head::Final(FinalHead::new(length, status, &head, editor))
        }
        None => Head::Unrecognized,
    }))
}

fn is_interim(status: u16) -> bool {
    (100..=199).contains(&status) && status != SWITCHING_PROTOCOLS
}

/// Whether an empty line follows another line.
fn contains_empty_line(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair == b"\n\n") || bytes.windows(3).any(|triple| triple == b"\n\r\n")
}

impl FinalHead {
    /// The final head for `head`, which has this length.
    fn new(length: usize, status: u16, head: &Response<'_, '_>, mut editor: Editor<'_>) -> Self {
        let is_http11 = head.version == Some(1);
        let body = body_length(status, is_http11, head, &mut editor);
        let switches_protocol = status == SWITCHING_PROTOCOLS;
        let ends_with_connection = body == BodyLength::UntilClose;
        if !switches_protocol {
            // awc mistakes an offered upgrade for a completed one, and reads no body.
            headers(head, "upgrade").for_each(|header| editor.hide(header));
            // awc mistakes a body that ends with the connection for an empty body, unless the version is HTTP/1.0.
            if ends_with_connection && is_http11 {
                editor.declare_http10();
            }
        }
        // The sender of these transfer codings may mean another end than its length (RFC 9112, 6.1 and 6.3).
        let has_doubtful_end = if is_http11 {
            transfer_codings(head) == Some(TransferCodings::EndOtherwise)
        } else {
            header(head, "transfer-encoding").is_some()
        };
        let keeps_alive =
            is_http11 || header(head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("keep-alive"));
        Self {
            framing: Framing::of(length, body),
            reusable: !ends_with_connection && !switches_protocol && keeps_alive && !has_doubtful_end,
            edits: editor.finish(),
        }
    }

    /// Edits `bytes`, which begin with this head, where awc would misread it. No edit changes the length.
    pub fn patch(&self, bytes: &mut [u8]) {
        self.edits.iter().for_each(|edit| edit.apply(bytes));
    }
}

/// The length of the body (RFC 9112, 6.3), with edits where awc would not find it.
fn body_length(status: u16, is_http11: bool, head: &Response<'_, '_>, editor: &mut Editor<'_>) -> BodyLength {
    // Only HTTP/1.1 has transfer codings. awc ignores them in HTTP/1.0, too.
    let codings = is_http11.then(|| transfer_codings(head)).flatten();
    if codings == Some(TransferCodings::EndChunked) {
        editor.keep_last_item(head, "transfer-encoding", is_transfer_coding);
        headers(head, "content-length")
            .skip(1)
            .for_each(|header| editor.hide(header));
        return BodyLength::Chunked;
    }
    // awc knows a single `identity` only.
    headers(head, "transfer-encoding").for_each(|header| editor.hide(header));
    let has_no_body = matches!(status, 204 | 304);
    let mut lengths = items(head, "content-length").peekable();
    match lengths.peek() {
        None if has_no_body => BodyLength::Known(0),
        None if codings == Some(TransferCodings::EndOtherwise) => BodyLength::Unreadable,
        None => BodyLength::UntilClose,
        Some(_) if has_no_body => BodyLength::Invalid,
        Some(first) => {
            let first = *first;
            let is_valid = first.bytes().all(|byte| byte.is_ascii_digit()) && lengths.all(|length| length == first);
            match first.parse() {
                Ok(length) if is_valid => {
                    if !is_only_value(head, "content-length", first) {
                        editor.keep_last_item(head, "content-length", |_| true);
                    }
                    BodyLength::Known(length)
                }
                Ok(_) | Err(_) => BodyLength::Invalid,
            }
        }
    }
}

/// The transfer codings of a body, by the last of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TransferCodings {
    EndChunked,
    /// The body should end with the connection, which the platform may keep open all the same. A `Content-Length` beside
    /// the codings is believed, for this response only.
    EndOtherwise,
}

/// The transfer codings that the head declares. A proxy that says `chunked` twice has chunked the body once: read so, it
/// has an end on a kept connection.
fn transfer_codings(head: &Response<'_, '_>) -> Option<TransferCodings> {
    let last = items(head, "transfer-encoding")
        .filter(|coding| is_transfer_coding(coding))
        .last()?;
    Some(if last.eq_ignore_ascii_case("chunked") {
        TransferCodings::EndChunked
    } else {
        TransferCodings::EndOtherwise
    })
}

/// Whether a coding is more than `identity`, which older servers send for none.
fn is_transfer_coding(coding: &str) -> bool {
    !coding.eq_ignore_ascii_case("identity")
}

/// Whether one header has this name, with this value and nothing else.
fn is_only_value(head: &Response<'_, '_>, name: &str, value: &str) -> bool {
    let mut headers = headers(head, name);
    headers.next().is_some_and(|header| header.value == value.as_bytes()) && headers.next().is_none()
}

/// The trimmed value of the first header of this name, if it is text.
fn header<'a>(head: &'a Response<'_, '_>, name: &'a str) -> Option<&'a str> {
    str::from_utf8(headers(head, name).next()?.value).ok().map(str::trim)
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
            edits: Vec::new(),
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

    /// The framing of a head, and the head as awc sees it, with `|` for a line end.
    fn read(headers: &str) -> (Framing, String) {
        let bytes = format!("HTTP/1.1 200 OK|{headers}||").replace('|', "\r\n");
        let Head::Final(head) = parse_head(bytes.as_bytes(), 0) else {
            panic!("{headers:?} is not a head");
        };
        let seen = patched(&bytes).replace("\r\n", "|");
        (head.framing, seen)
    }

    #[test]
    fn a_body_is_chunked_if_that_is_the_last_of_its_codings() {
        for (headers, seen) in [
            ("transfer-encoding: gzip, chunked", "transfer-encoding:       chunked"),
            ("Transfer-Encoding: gzip,Chunked", "Transfer-Encoding:      Chunked"),
            ("transfer-encoding: chunked,", "transfer-encoding: chunked "),
            ("transfer-encoding: ,, chunked , ", "transfer-encoding:    chunked   "),
            (
                "transfer-encoding: gzip|x: y|transfer-encoding: chunked",
                "xransfer-encoding: gzip|x: y|transfer-encoding: chunked",
            ),
            (
                "transfer-encoding: chunked|transfer-encoding: ",
                "transfer-encoding: chunked|xransfer-encoding: ",
            ),
            (
                "transfer-encoding: chunked, chunked",
                "transfer-encoding:          chunked",
            ),
            (
                "transfer-encoding: chunked|transfer-encoding: chunked",
                "xransfer-encoding: chunked|transfer-encoding: chunked",
            ),
            (
                "transfer-encoding: identity, chunked",
                "transfer-encoding:           chunked",
            ),
            (
                "transfer-encoding: chunked, Identity",
                "transfer-encoding: chunked          ",
            ),
            (
                "transfer-encoding: gzip,|\tchunked",
                "transfer-encoding:        \tchunked",
            ),
            (
                "content-length: 5|content-length: 6|transfer-encoding: gzip, chunked",
                "content-length: 5|xontent-length: 6|transfer-encoding:       chunked",
            ),
        ] {
            let seen = format!("HTTP/1.1 200 OK|{seen}||");
            // In a value, awc sees a tab as a blank.
            let (framing, read) = read(headers);
            assert_eq!(
                (framing, read.replace('\t', " ")),
                (Framing::Chunks([0; 5]), seen.replace('\t', " "))
            );
        }
    }

    #[test]
    fn a_body_with_another_last_coding_is_as_long_as_its_length_or_unreadable() {
        for coding in [
            "gzip",
            "chunked, gzip",
            "chunked, chunked, gzip",
            "chunked;q=1",
            "identity, gzip",
            "gzip, identity",
        ] {
            for (length, body) in [
                ("x: y", None),
                ("content-length: x", None),
                ("content-length: 5", Some(5)),
            ] {
                let bytes = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: {coding}\r\n{length}\r\n\r\n");
                let Head::Final(head) = parse_head(bytes.as_bytes(), 0) else {
                    panic!("{bytes:?} is not a head");
                };
                let framing = body.map_or(Framing::Unknown, |body| Framing::Bytes(bytes.len() as u64 + body));
                assert_eq!((head.framing, head.reusable), (framing, false), "{bytes:?}");
                let seen = bytes.replace("transfer", "xransfer");
                assert_eq!(patched(&bytes), seen, "without a length, awc sees an empty body");
            }
        }
    }

    #[test]
    fn equal_lengths_are_one_length() {
        for (headers, seen) in [
            (
                "content-length: 5|content-length: 5",
                "xontent-length: 5|content-length: 5",
            ),
            ("content-length: 5, 5", "content-length:    5"),
            (
                "content-length: 5|x: y|Content-Length: 5,5,",
                "xontent-length: 5|x: y|Content-Length:   5 ",
            ),
        ] {
            let length = format!("HTTP/1.1 200 OK|{headers}||").replace('|', "\r\n").len() as u64;
            let expected = (Framing::Bytes(length + 5), format!("HTTP/1.1 200 OK|{seen}||"));
            assert_eq!(read(headers), expected);
        }
    }

    #[test]
    fn a_body_without_a_transfer_coding_has_its_declared_length() {
        for coding in ["", ",", "identity", "Identity, ,identity"] {
            let header = |first| format!("{first}ransfer-encoding: {coding}");
            let length = format!("HTTP/1.1 200 OK|{}|content-length: 5||", header('t'))
                .replace('|', "\r\n")
                .len() as u64;
            let expected = format!("HTTP/1.1 200 OK|{}|content-length: 5||", header('x'));
            assert_eq!(
                read(&format!("{}|content-length: 5", header('t'))),
                (Framing::Bytes(length + 5), expected)
            );
            // Without a length, it ends with the connection.
            let expected = format!("HTTP/1.0 200 OK|{}||", header('x'));
            assert_eq!(read(&header('t')), (Framing::Unknown, expected));
        }
    }

    #[test]
    fn http_1_0_with_a_transfer_coding_has_its_declared_length_and_is_not_reusable() {
        let head =
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n";
        let Head::Final(read) = parse_head(head.as_bytes(), 0) else {
            panic!("{head:?} is not a head");
        };
        assert_eq!(read.framing, Framing::Bytes(head.len() as u64 + 5));
        assert!(!read.reusable);
    }

    #[test]
    fn different_lengths_are_left_to_awc() {
        for headers in [
            "content-length: 5|content-length: 6",
            "content-length: 5, 6",
            "content-length: 5|content-length: 05",
            "content-length: +5",
            "content-length: -5",
            "content-length: 18446744073709551616",
        ] {
            assert_eq!(
                read(headers),
                (Framing::Unknown, format!("HTTP/1.1 200 OK|{headers}||"))
            );
        }
    }

    #[test]
    fn a_header_that_continues_on_the_next_line_is_joined() {
        let (framing, seen) = read("content-length:|  5|x-trace: a|\tb|y: c| |z: d");
        let expected = "HTTP/1.1 200 OK|content-length:    5|x-trace: a  \tb|y: c   |z: d||";
        let length = expected.replace('|', "\r\n").len() as u64;
        assert_eq!((framing, &*seen), (Framing::Bytes(length + 5), expected));
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
                "HTTP/1.1 426 Upgrade\r\nx-upgrade: upgrade:\r\n{name}: h2\r\nx-b: b\r\ncontent-length: 0\r\n\r\nupgrade:"
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
