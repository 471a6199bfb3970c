//! A process that has no file descriptor left.

use std::io;

/// Whether a connection failed because there was no descriptor for it.
pub(super) fn are_exhausted(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(is_code_of_exhaustion)
}

/// The cause of a failed lookup. A resolver that can't open a socket says that the lookup has failed.
pub(super) fn cause_of(error: io::Error) -> io::Error {
    let probe = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None);
    probe.err().filter(are_exhausted).unwrap_or(error)
}

#[cfg(unix)]
fn is_code_of_exhaustion(code: i32) -> bool {
    matches!(code, libc::EMFILE | libc::ENFILE)
}

#[cfg(not(unix))]
fn is_code_of_exhaustion(_: i32) -> bool {
    false
}
