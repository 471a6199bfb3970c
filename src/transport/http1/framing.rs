//! Where a response ends. Pure.

/// The length of a response's body, as its head declares it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// In bytes.
    Known(u64),
    Chunked,
    /// Not declared: the body ends when the connection closes.
    UntilClose,
    /// Not declared, in a transfer coding that can't be read. awc sees an empty body.
    Unreadable,
    /// Declared, but not valid.
    Invalid,
}

/// The part of a response that is still to be read. Decides whether its connection can serve another request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Framing {
    /// This many bytes.
    Bytes(u64),
    /// Chunks, of which the last is `0\r\n\r\n`. Holds the last bytes that were read.
    Chunks([u8; 5]),
    /// Unknown: the connection can't serve another request.
    Unknown,
}

impl Framing {
    const LAST_CHUNK: [u8; 5] = *b"0\r\n\r\n";

    /// The framing of a whole response, head included.
    pub fn of(head_length: usize, body: BodyLength) -> Self {
        match body {
            BodyLength::Known(body) => body.checked_add(head_length as u64).map_or(Self::Unknown, Self::Bytes),
            BodyLength::Chunked => Self::Chunks([0; 5]),
            BodyLength::UntilClose | BodyLength::Unreadable | BodyLength::Invalid => Self::Unknown,
        }
    }

    /// Moves past bytes that were read.
    pub fn consume(&mut self, bytes: &[u8]) {
        match self {
            Self::Bytes(remaining) => match remaining.checked_sub(bytes.len() as u64) {
                Some(rest) => *remaining = rest,
                // More than the response: where the surplus ends is unknown.
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

    /// Whether the whole response was read, and nothing after it.
    pub fn is_complete(&self) -> bool {
        match self {
            Self::Bytes(remaining) => *remaining == 0,
            Self::Chunks(last) => *last == Self::LAST_CHUNK,
            Self::Unknown => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_of_known_length_is_complete_after_exactly_its_length() {
        for (bytes, complete) in [("12345678", true), ("1234567", false), ("123456789", false)] {
            let mut framing = Framing::of(3, BodyLength::Known(5));
            bytes.as_bytes().chunks(3).for_each(|piece| framing.consume(piece));
            assert_eq!(framing.is_complete(), complete, "{bytes}");
        }
    }

    #[test]
    fn a_chunked_response_is_complete_after_its_last_chunk() {
        for (bytes, complete) in [
            ("5\r\nhello\r\n0\r\n\r\n", true),
            ("5\r\nhello\r\n0\r\n", false),
            ("5\r\nhello\r\n0\r\n\r\n\r\n", false),
        ] {
            for size in 1..8 {
                let mut framing = Framing::of(0, BodyLength::Chunked);
                bytes.as_bytes().chunks(size).for_each(|piece| framing.consume(piece));
                assert_eq!(framing.is_complete(), complete, "{bytes} {size}");
            }
        }
    }

    #[test]
    fn a_response_of_unknown_length_is_never_complete() {
        for body in [BodyLength::UntilClose, BodyLength::Unreadable, BodyLength::Invalid] {
            assert!(!Framing::of(0, body).is_complete());
        }
        assert!(!Framing::of(1, BodyLength::Known(u64::MAX)).is_complete());
    }
}
