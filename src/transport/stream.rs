//! A connection's bytes: TCP, with TLS on top, once or (through a proxy that is reached by TLS) twice.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<Records>>),
}

impl Stream {
    /// What is at the bottom of it.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0.stream.tcp(),
        }
    }

    /// Whether what was read so far ends with a TLS record: the start of another one is held back until it is whole.
    pub(crate) fn is_between_records(&self) -> bool {
        match self {
            Self::Tcp(_) => true,
            Self::Tls(tls) => {
                let records = tls.get_ref().0;
                records.position == Position::default() && records.stream.is_between_records()
            }
        }
    }
}

/// What TLS reads from, with an eye on where its records end.
#[derive(Debug)]
pub(crate) struct Records {
    stream: Stream,
    position: Position,
}

impl Records {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            position: Position::default(),
        }
    }
}

/// Where in a record the next byte belongs. A record is a type, a version, a length, in 1, 2 and 2 bytes, and so many
/// more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Position {
    /// Bytes of the header that were read, less than 5.
    header: u8,
    /// What the record is still to have, as far as that is known.
    left: u16,
}

impl Position {
    fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.header == 0 && self.left > 0 {
                let within = usize::from(self.left).min(bytes.len());
                self.left = self.left.saturating_sub(u16::try_from(within).unwrap_or(u16::MAX));
                bytes = bytes.get(within..).unwrap_or_default();
                continue;
            }
            match self.header {
                3 => self.left = u16::from(byte) << 8,
                4 => self.left |= u16::from(byte),
                _ => {}
            }
            self.header = if self.header >= 4 {
                0
            } else {
                self.header.saturating_add(1)
            };
            bytes = rest;
        }
    }
}

impl AsyncRead for Records {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        this.position.pass(buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Records {
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
    fn records_are_followed_however_they_are_split() {
        let records = [
            b"\x17\x03\x03\x00\x03abc".as_slice(),
            b"\x16\x03\x03\x00\x00",
            b"\x15\x03\x03\x01\x00",
            &[7; 256],
        ];
        let bytes = records.concat();
        let ends = [0, 8, 13, 13 + 5 + 256];
        for size in 1..20 {
            let mut position = Position::default();
            let mut read = 0;
            for piece in bytes.chunks(size) {
                position.pass(piece);
                read += piece.len();
                assert_eq!(
                    position == Position::default(),
                    ends.contains(&read),
                    "{read} in pieces of {size}"
                );
            }
        }
    }
}
