//! A connection as awc sees it. What awc does not know of HTTP/1.1 is done here, underneath it:
//!
//! - Interim answers (1xx, but for 101) are left out. awc takes one for the final answer, and would hand the real one,
//!   which comes after it, to the next call on the connection.
//! - A body that is ended by the connection's close is announced as one of HTTP/1.0, which awc knows to read so.
//! - A refusal that comes before the request was read ends the sending, so that it is seen.
//! - An upgrade that is only offered is hidden: awc would read no body then, and take that for the next answer.
//! - A connection on which something came that nobody asked for, or which the platform has closed, fails the next
//!   request before a byte of it is sent, by [`Stale`].

use std::{
    fmt, io,
    mem::{MaybeUninit, take},
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll, ready},
};

use actix_rt::net::{ActixStream, Ready};
use httparse::Status;
use socket2::SockRef;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Stream;

/// The longest head that is looked at, in bytes; awc refuses a longer one.
const HEAD_LIMIT: usize = 128 * 1024;

/// As many headers as awc takes.
const MAX_HEADERS: usize = 96;

/// The connection can't serve again, and nothing of the request was sent on it.
#[derive(Debug, Error)]
#[error("the connection can't serve again")]
pub(crate) struct Stale;

/// A connection that serves one request after another.
pub struct Link {
    stream: Stream,
    state: State,
    /// Whether what comes next may be something other than the next answer.
    spent: bool,
}

#[derive(Debug)]
enum State {
    /// Not HTTP/1.1: nothing to be done.
    Opaque,
    /// A request is on its way, or about to be; its answer's head is not whole yet.
    Asked {
        /// What has come of the head.
        head: Vec<u8>,
        /// How much of that is known not to hold its end.
        seen: usize,
        /// How much was left out, of interim answers.
        skipped: usize,
    },
    /// The head is whole.
    Answered {
        /// What has become of the request.
        request: Sent,
        /// What awc has not read yet of what came with the head, itself included.
        rest: Vec<u8>,
        /// What is still to be read, `rest` included.
        left: Left,
    },
}

/// How far a request was sent when its answer began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Whole,
    /// In part, and the rest is to follow, since the answer is no refusal.
    InPart,
    /// In part, and nobody will read the rest.
    Refused,
}

/// How an answer ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Left {
    /// After so many bytes.
    Bytes(u64),
    /// In chunks: after `0\r\n\r\n`. The last bytes that were read.
    Chunks([u8; 5]),
    /// Nobody knows.
    Unknown,
}

impl Left {
    const LAST_CHUNK: [u8; 5] = *b"0\r\n\r\n";

    /// These were read.
    fn pass(&mut self, bytes: &[u8]) {
        match self {
            // To what is after its end, `None`.
            Self::Bytes(left) => match left.checked_sub(bytes.len() as u64) {
                Some(less) => *left = less,
                None => *self = Self::Unknown,
            },
            Self::Chunks(last) => {
                for &byte in bytes.iter().skip(bytes.len().saturating_sub(last.len())) {
                    last.rotate_left(1);
                    if let Some(end) = last.last_mut() {
                        *end = byte;
                    }
                }
            }
            Self::Unknown => {}
        }
    }

    /// Whether all was read, and nothing that comes after it.
    fn is_nothing(&self) -> bool {
        match self {
            Self::Bytes(left) => *left == 0,
            Self::Chunks(last) => *last == Self::LAST_CHUNK,
            Self::Unknown => false,
        }
    }
}

impl State {
    const ASKED: Self = Self::Asked {
        head: Vec::new(),
        seen: 0,
        skipped: 0,
    };
}

impl Link {
    pub(super) fn http1(stream: Stream) -> Self {
        Self {
            stream,
            state: State::ASKED,
            spent: false,
        }
    }

    pub(super) fn opaque(stream: Stream) -> Self {
        Self {
            stream,
            state: State::Opaque,
            spent: false,
        }
    }

    /// Whether the platform has neither closed the connection nor sent anything by now, as far as
    /// the host knows: what the runtime knows may be older.
    fn is_quiet(&self) -> bool {
        if !self.stream.is_between_records() {
            return false;
        }
        let peeked = SockRef::from(self.stream.tcp()).peek(&mut [MaybeUninit::new(0)]);
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Reads some more of a head.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut chunk = [MaybeUninit::uninit(); 4096];
        let mut chunk = ReadBuf::uninit(&mut chunk);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut chunk))?;
        if let State::Asked { head, .. } = &mut self.state {
            head.extend(chunk.filled());
        }
        Poll::Ready(Ok(chunk.filled().len()))
    }

    /// Goes on to the answer's head, if that is whole, or `at_the_end` of what comes.
    fn settle(&mut self, at_the_end: bool) -> bool {
        while let State::Asked { head, seen, skipped } = &mut self.state {
            skip_empty_lines(head);
            let (left, reusable) = match inspect(head, *seen) {
                Head::Partial if !at_the_end => {
                    *seen = head.len();
                    return false;
                }
                Head::Interim(length) if *skipped <= HEAD_LIMIT => {
                    head.drain(..length);
                    *seen = 0;
                    *skipped = skipped.saturating_add(length);
                    continue;
                }
                // For awc to judge.
                Head::Partial | Head::Interim(_) | Head::Unknown => (Left::Unknown, false),
                Head::Final { left, reusable, .. } => (left, reusable),
            };
            self.spent |= !reusable;
            self.state = State::Answered {
                request: Sent::Whole,
                rest: take(head),
                left,
            };
        }
        true
    }

    /// Goes on with `write`, unless the platform has refused the request before it was sent whole.
    fn poll_until_refused<T>(
        &mut self,
        cx: &mut Context<'_>,
        done: T,
        write: impl FnOnce(Pin<&mut Stream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let State::Answered {
            request: Sent::Refused, ..
        } = self.state
        {
            return Poll::Ready(Ok(done));
        }
        let written = write(Pin::new(&mut self.stream), cx);
        let (State::Asked { .. }, Poll::Pending | Poll::Ready(Err(_))) = (&self.state, &written) else {
            return written;
        };
        while !self.settle(false) {
            match (self.poll_head(cx), &written) {
                (Poll::Ready(Ok(1..)), _) => {}
                // The runtime has not heard yet of what broke the connection. When it has, there may be an answer too.
                (Poll::Pending, Poll::Ready(Err(error))) if is_broken(error) => return Poll::Pending,
                (_, _) => return written,
            }
        }
        let State::Answered { request, rest, .. } = &mut self.state else {
            return written;
        };
        if written.is_pending() && is_success(rest) {
            *request = Sent::InPart;
            return written;
        }
        *request = Sent::Refused;
        self.spent = true;
        // So that the platform does not wait for the rest either.
        let _ = SockRef::from(self.stream.tcp()).shutdown(Shutdown::Write);
        Poll::Ready(Ok(done))
    }
}

impl AsyncRead for Link {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while !this.settle(false) {
            if ready!(this.poll_head(cx))? == 0 {
                this.settle(true);
            }
        }
        let before = buf.filled().len();
        match &mut this.state {
            State::Answered { rest, .. } if !rest.is_empty() => {
                let length = rest.len().min(buf.remaining());
                buf.put_slice(rest.drain(..length).as_slice());
            }
            State::Opaque | State::Asked { .. } | State::Answered { .. } => {
                ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            }
        }
        if let State::Answered { request, left, .. } = &mut this.state {
            *request = Sent::Whole;
            left.pass(buf.filled().get(before..).unwrap_or_default());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let State::Answered {
            request: Sent::Whole,
            left,
            ..
        } = &this.state
        {
            if this.spent || !left.is_nothing() || !this.is_quiet() {
                return Poll::Ready(Err(io::Error::other(Stale)));
            }
            this.state = State::ASKED;
        }
        this.poll_until_refused(cx, buf.len(), |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut()
            .poll_until_refused(cx, (), |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl ActixStream for Link {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_read_ready(self.stream.tcp(), cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_write_ready(self.stream.tcp(), cx)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}

/// Whether an answer that begins so is a 2xx.
fn is_success(head: &[u8]) -> bool {
    head.get("HTTP/1.".len()..)
        .is_some_and(|rest| rest.get(1..3) == Some(b" 2"))
}

/// Whether it is the other side that has ended the connection.
fn is_broken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// What the start of an answer is.
#[derive(Debug, PartialEq)]
pub(crate) enum Head {
    /// Not whole yet.
    Partial,
    /// Not HTTP, or more than is looked at.
    Unknown,
    /// An interim answer of this length: another one follows.
    Interim(usize),
    Final {
        /// The head and the body.
        left: Left,
        /// Whether the connection may serve again, as far as the head goes.
        reusable: bool,
    },
}

/// Empty lines before an answer are none of it.
pub(crate) fn skip_empty_lines(bytes: &mut Vec<u8>) {
    let empty = bytes.iter().take_while(|&&byte| byte == b'\r' || byte == b'\n').count();
    bytes.drain(..empty);
}

/// Whether a line that follows another one is empty.
fn holds_empty_line(bytes: &[u8]) -> bool {
    let mut lines = bytes.split(|&byte| byte == b'\n');
    // The first may have begun before, and the last has not ended.
    let (_, _) = (lines.next(), lines.next_back());
    lines.any(|line| matches!(line, b"" | b"\r"))
}

/// Looks at the start of an answer, without empty lines before it, whose first `seen` bytes do not hold the head's end.
/// A final head whose body goes on to the connection's close is made to say so.
pub(crate) fn inspect(bytes: &mut [u8], seen: usize) -> Head {
    let partial = if bytes.len() > HEAD_LIMIT {
        Head::Unknown
    } else {
        Head::Partial
    };
    // The end is an empty line. Unless all is new, it is looked for first, so that a drip costs no more than a flood.
    let new = bytes.get(seen.saturating_sub(2)..).unwrap_or_default();
    if seen > 0 && !holds_empty_line(new) {
        return partial;
    }
    let mut headers = [MaybeUninit::uninit(); MAX_HEADERS];
    let mut head = httparse::Response::new(&mut []);
    let mut config = httparse::ParserConfig::default();
    config.allow_spaces_after_header_name_in_responses(true);
    let (length, status) = match (
        config.parse_response_with_uninit_headers(&mut head, bytes, &mut headers),
        head.code,
    ) {
        (Ok(Status::Complete(length)), Some(status)) => (length, status),
        (Ok(Status::Partial), _) => return partial,
        // However the bytes are split, they are judged by the whole head.
        (Err(_), _) if !holds_empty_line(new) => return partial,
        (Ok(Status::Complete(_)), None) | (Err(_), _) => return Head::Unknown,
    };
    if (100..=199).contains(&status) && status != 101 {
        return Head::Interim(length);
    }
    let value = |name: &str| {
        let header = head
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok().map(str::trim)
    };
    let bodiless = matches!(status, 204 | 304);
    let sized = value("content-length");
    let chunked = value("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
    let body: Option<u64> = match sized {
        Some(length) if !bodiless => length.parse().ok(),
        Some(_) => None,
        None => bodiless.then_some(0),
    };
    let left = match body.and_then(|body| body.checked_add(length as u64)) {
        _ if chunked => Left::Chunks(Default::default()),
        Some(length) => Left::Bytes(length),
        None => Left::Unknown,
    };
    let framed = bodiless || chunked || sized.is_some();
    let keeps_alive = value("connection").is_some_and(|value| value.eq_ignore_ascii_case("keep-alive"));
    let (version, switches) = (head.version, status == 101);
    // awc takes an upgrade that is only offered for one that is under way, and reads no body.
    let offer = head
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("upgrade"));
    let offer = offer.filter(|_| !switches).map(|header| header.name.as_ptr().addr());
    let offer = offer.and_then(|name| name.checked_sub(bytes.as_ptr().addr()));
    if let Some(name) = offer.and_then(|start| bytes.get_mut(start)) {
        *name = b'x';
    }
    if version == Some(1)
        && !framed
        && !switches
        && let Some(minor) = bytes.get_mut("HTTP/1.".len())
    {
        *minor = b'0';
    }
    Head::Final {
        left,
        reusable: framed && !switches && (version == Some(1) || keeps_alive),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a head is, and what became of it.
    fn look(head: &str) -> (Head, String) {
        let mut bytes = head.as_bytes().to_vec();
        let seen = inspect(&mut bytes, 0);
        (seen, String::from_utf8(bytes).unwrap())
    }

    fn last(length: Option<u64>, reusable: bool) -> Head {
        let left = length.map_or(Left::Unknown, Left::Bytes);
        Head::Final { left, reusable }
    }

    #[test]
    fn a_head_says_how_long_its_answer_is_and_whether_the_connection_goes_on() {
        for (head, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", last(Some(43), true)),
            ("HTTP/1.1 200 OK\nContent-Length:5\n\nhello", last(Some(39), true)),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n",
                Head::Final {
                    left: Left::Chunks([0; 5]),
                    reusable: true,
                },
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", last(None, true)),
            ("HTTP/1.1 204 OK\r\n\r\n", last(Some(19), true)),
            ("HTTP/1.1 304 OK\r\n\r\n", last(Some(19), true)),
            ("HTTP/1.1 101 OK\r\n\r\n", last(None, false)),
            ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n", last(Some(43), false)),
            (
                "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\ncontent-length: 5\r\n\r\n",
                last(Some(67), true),
            ),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200", Head::Interim(25)),
            ("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", Head::Interim(37)),
            ("", Head::Partial),
            ("HTTP/1.1 200 OK\r\n", Head::Partial),
            ("SSH-2.0\r\n\r\n", Head::Unknown),
            ("HTTP/2.0 200 OK\r\n\r\n", Head::Unknown),
        ] {
            assert_eq!(look(head), (expected, head.to_owned()), "{head:?}");
        }
        assert_eq!(look(&"x".repeat(HEAD_LIMIT + 1)).0, Head::Unknown);
        let many: String = (0..=MAX_HEADERS).map(|number| format!("x-{number}: 1\r\n")).collect();
        assert_eq!(look(&format!("HTTP/1.1 200 OK\r\n{many}\r\n")).0, Head::Unknown);
    }

    #[test]
    fn a_body_that_goes_on_to_the_close_is_announced_so_that_awc_reads_it() {
        let (seen, head) = look("HTTP/1.1 200 HTTP/1.1\r\nx: HTTP/1.1\r\n\r\nHTTP/1.1");
        assert_eq!(seen, last(None, false));
        assert_eq!(head, "HTTP/1.0 200 HTTP/1.1\r\nx: HTTP/1.1\r\n\r\nHTTP/1.1");
    }

    #[test]
    fn an_upgrade_that_is_only_offered_is_hidden() {
        let (_, head) =
            look("HTTP/1.1 426 No\r\nx-upgrade: 1\r\nUpgrade: websocket\r\ncontent-length: 0\r\n\r\nUpgrade:");
        assert_eq!(
            head,
            "HTTP/1.1 426 No\r\nx-upgrade: 1\r\nxpgrade: websocket\r\ncontent-length: 0\r\n\r\nUpgrade:"
        );
        let switching = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n";
        assert_eq!(look(switching).1, switching);
    }

    #[test]
    fn an_answer_has_ended_when_nothing_is_missing_and_nothing_has_come_after_it() {
        for (bytes, is_over) in [("12345678", true), ("1234567", false), ("123456789", false)] {
            let mut left = Left::Bytes(8);
            bytes.as_bytes().chunks(3).for_each(|piece| left.pass(piece));
            assert_eq!(left.is_nothing(), is_over, "{bytes}");
        }
        for (bytes, is_over) in [
            ("5\r\nhello\r\n0\r\n\r\n", true),
            ("5\r\nhello\r\n0\r\n", false),
            ("5\r\nhello\r\n0\r\n\r\n\r\n", false),
        ] {
            for size in 1..8 {
                let mut left = Left::Chunks([0; 5]);
                bytes.as_bytes().chunks(size).for_each(|piece| left.pass(piece));
                assert_eq!(left.is_nothing(), is_over, "{bytes} {size}");
            }
        }
        assert!(!Left::Unknown.is_nothing());
    }

    #[test]
    fn the_end_of_a_head_is_found_wherever_it_is_split() {
        for head in ["HTTP/1.1 204 OK\r\n\r\n", "HTTP/1.1 204 OK\n\n"] {
            for split in 0..head.len() {
                let (start, _) = head.split_at(split);
                assert_eq!(look(start).0, Head::Partial);
                assert_eq!(
                    inspect(&mut head.as_bytes().to_vec(), split),
                    last(Some(head.len() as u64), true)
                );
            }
        }
    }
}
