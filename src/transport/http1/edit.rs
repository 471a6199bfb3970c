//! Edits in the head of a response, so that awc reads it as RFC 9112 says. Pure.
//!
//! No edit changes the length of the head, so that all offsets stay valid.

use std::ops::Range;

use httparse::{Header, Response};

/// The place of the minor version in a head: `HTTP/1.x`.
const MINOR_VERSION: Range<usize> = 7..8;

/// Bytes of a head that are all replaced with one byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    range: Range<usize>,
    replacement: u8,
}

impl Edit {
    pub(super) fn apply(&self, bytes: &mut [u8]) {
        if let Some(bytes) = bytes.get_mut(self.range.clone()) {
            bytes.fill(self.replacement);
        }
    }
}

/// Collects the edits of one head.
pub(super) struct Editor<'a> {
    /// The bytes that the head was parsed from.
    bytes: &'a [u8],
    edits: Vec<Edit>,
}

impl<'a> Editor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            edits: Vec::new(),
        }
    }

    pub(super) fn finish(self) -> Vec<Edit> {
        self.edits
    }

    /// Replaces the line breaks in values that continue on the next line (RFC 9112, 5.2). awc rejects them.
    pub(super) fn unfold(&mut self, head_length: usize) {
        let lines = self.bytes.get(..head_length).unwrap_or_default();
        let mut end = 0_usize;
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            end = end.saturating_add(line.len());
            if matches!(lines.get(end), Some(b' ' | b'\t')) {
                let break_length = if line.ends_with(b"\r\n") { 2 } else { 1 };
                self.replace(line.get(line.len().saturating_sub(break_length)..), b' ');
            }
        }
    }

    /// Renames a header, so that awc does not know it.
    pub(super) fn hide(&mut self, header: &Header<'_>) {
        self.replace(header.name.as_bytes().get(..1), b'x');
    }

    /// Leaves only the last item that counts in a list, which may be spread over several headers. awc rejects such lists.
    pub(super) fn keep_last_item(&mut self, head: &Response<'_, '_>, name: &str, counts: impl Fn(&str) -> bool) {
        let mut is_found = false;
        for line in headers(head, name).rev() {
            let item = items_of(line.value).rfind(|item| !is_found && counts(text(item)));
            let Some(item) = item else {
                self.hide(line);
                continue;
            };
            is_found = true;
            let (before, rest) = line
                .value
                .split_at_checked(offset(line.value, item))
                .unwrap_or_default();
            self.replace(Some(before), b' ');
            self.replace(rest.get(item.len()..), b' ');
        }
    }

    /// Declares the head as one of HTTP/1.0.
    pub(super) fn declare_http10(&mut self) {
        self.edits.push(Edit {
            range: MINOR_VERSION,
            replacement: b'0',
        });
    }

    /// Replaces each byte of `part`, which is a part of the head.
    fn replace(&mut self, part: Option<&[u8]>, replacement: u8) {
        let Some(part) = part.filter(|part| !part.is_empty()) else {
            return;
        };
        let start = offset(self.bytes, part);
        self.edits.push(Edit {
            range: start..start.saturating_add(part.len()),
            replacement,
        });
    }
}

/// The headers of this name.
pub(super) fn headers<'a>(
    head: &'a Response<'_, '_>,
    name: &'a str,
) -> impl DoubleEndedIterator<Item = &'a Header<'a>> {
    let headers = head.headers.iter();
    headers.filter(move |header| header.name.trim_ascii_end().eq_ignore_ascii_case(name))
}

/// The items of a list, in all headers of this name. An item that is not text is an empty one.
pub(super) fn items<'a>(head: &'a Response<'_, '_>, name: &'a str) -> impl Iterator<Item = &'a str> {
    headers(head, name).flat_map(|header| items_of(header.value).map(text))
}

/// The items of a value that are not empty.
fn items_of(value: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    let items = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    items.filter(|item| !item.is_empty())
}

fn text(item: &[u8]) -> &str {
    str::from_utf8(item).unwrap_or_default()
}

/// The offset of `part` in `whole`, of which it is a part.
fn offset(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr().saturating_sub(whole.as_ptr().addr())
}
