//! The bytes of a connection: TCP, optionally with TLS on top. Through a proxy that is itself reached by TLS, there are
//! two layers of TLS.

use std::{
    io,
    mem::MaybeUninit,
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<RecordCounter>>),
}

impl Stream {
    /// The TCP connection below all layers of TLS.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0.stream.tcp(),
        }
    }

    /// Whether the peer has neither closed the connection nor sent anything that was not read. Asks the kernel, since
    /// the runtime may not know yet.
    pub(crate) fn is_quiet(&self) -> bool {
        if !self.is_between_records() {
            return false;
        }
        let peeked = SockRef::from(self.tcp()).peek(&mut [MaybeUninit::new(0)]);
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Closes the sending side of the TCP connection.
    pub(crate) fn close_sending_side(&self) {
        // A failure means that the connection is closed already.
        let _ = SockRef::from(self.tcp()).shutdown(Shutdown::Write);
    }

    /// Whether the last byte that was read ended a TLS record. Else, rustls holds the start of a record back until the
    /// record is complete.
    fn is_between_records(&self) -> bool {
        match self {
            Self::Tcp(_) => true,
            Self::Tls(tls) => {
                let counter = tls.get_ref().0;
                counter.position == RecordPosition::default() && counter.stream.is_between_records()
            }
        }
    }
}

/// The stream below a layer of TLS. It tracks the ends of the TLS records that are read.
#[derive(Debug)]
pub(crate) struct RecordCounter {
    stream: Stream,
    position: RecordPosition,
}

impl RecordCounter {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            position: RecordPosition::default(),
        }
    }
}

/// The position of the next byte in a record: a header, which is a type (1 byte), a version (2) and a length (2), and
/// then as many bytes as that length says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct RecordPosition {
    /// The bytes of the header that were read, less than [`HEADER_LENGTH`].
    in_header: u8,
    /// The remaining bytes of the record after its header, as far as its length is known.
    remaining: u16,
}

/// The length of a record's header, in bytes.
const HEADER_LENGTH: u8 = 5;

impl RecordPosition {
    /// Moves past bytes that were read.
    fn advance(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.in_header == 0 && self.remaining > 0 {
                let length = usize::from(self.remaining).min(bytes.len());
                self.remaining = self.remaining.saturating_sub(u16::try_from(length).unwrap_or(u16::MAX));
                bytes = bytes.get(length..).unwrap_or_default();
                continue;
            }
            match self.in_header {
                3 => self.remaining = u16::from(byte) << 8,
                4 => self.remaining |= u16::from(byte),
                _ => {}
            }
            self.in_header = self.in_header.saturating_add(1);
            if self.in_header == HEADER_LENGTH {
                self.in_header = 0;
            }
            bytes = rest;
        }
    }
}

impl AsyncRead for RecordCounter {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        this.position.advance(buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for RecordCounter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_record_is_found_however_the_bytes_are_split() {
        let records = [
            b"\x17\x03\x03\x00\x03abc".as_slice(),
            b"\x16\x03\x03\x00\x00",
            b"\x15\x03\x03\x01\x00",
            &[7; 256],
        ];
        let bytes = records.concat();
        let ends = [0, 8, 13, 13 + 5 + 256];
        for size in 1..20 {
            let mut position = RecordPosition::default();
            let mut read = 0;
            for piece in bytes.chunks(size) {
                position.advance(piece);
                read += piece.len();
                assert_eq!(
                    position == RecordPosition::default(),
                    ends.contains(&read),
                    "{read} in pieces of {size}"
                );
            }
        }
    }
}
