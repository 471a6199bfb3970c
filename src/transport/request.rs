//! The content of one attempt, and a body that records the phase of the attempt.

use std::{
    cell::Cell,
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use awc::body::{BodySize, MessageBody};
use bytes::Bytes;

use crate::{error::AttemptPhase, message::Headers};

/// How much of a body is handed to the client at once, in bytes.
const CHUNK_SIZE: usize = 64 * 1024;

/// The content of one attempt.
pub(crate) struct HttpRequest<'a> {
    pub(crate) url: &'a str,
    pub(crate) token: Option<&'a str>,
    pub(crate) idempotency_key: Option<&'a str>,
    /// The headers that the message adds.
    pub(crate) headers: &'a Headers,
    pub(crate) body: Bytes,
    /// Whether a status of 2xx is enough to classify the response.
    pub(crate) status_decides: bool,
    /// The phase of the attempt, updated while the attempt runs.
    pub(crate) phase: Rc<Cell<AttemptPhase>>,
}

/// The body of a request, which records the attempt's phase. The client requests the first chunk once it has a
/// connection, and each next chunk once it has sent the last one.
pub(super) struct TrackedBody {
    rest: Bytes,
    phase: Rc<Cell<AttemptPhase>>,
}

impl TrackedBody {
    pub(super) fn of(request: &HttpRequest<'_>) -> Self {
        Self {
            rest: request.body.clone(),
            phase: Rc::clone(&request.phase),
        }
    }
}

impl MessageBody for TrackedBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.rest.len() as u64)
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let this = self.get_mut();
        let chunk = this.rest.split_to(this.rest.len().min(CHUNK_SIZE));
        if chunk.is_empty() {
            this.phase.set(AttemptPhase::Waiting);
            return Poll::Ready(None);
        }
        this.phase.set(AttemptPhase::Sending);
        Poll::Ready(Some(Ok(chunk)))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::poll_fn;

    use super::*;

    #[actix_rt::test]
    async fn a_body_records_the_phase_of_its_attempt() {
        let phase = Rc::new(Cell::new(AttemptPhase::Connecting));
        let mut body = TrackedBody {
            rest: Bytes::from(vec![0; CHUNK_SIZE + 1]),
            phase: Rc::clone(&phase),
        };
        for (length, expected) in [
            (Some(CHUNK_SIZE), AttemptPhase::Sending),
            (Some(1), AttemptPhase::Sending),
            (None, AttemptPhase::Waiting),
        ] {
            let chunk = poll_fn(|cx| Pin::new(&mut body).poll_next(cx)).await;
            assert_eq!(chunk.map(|chunk| chunk.unwrap().len()), length);
            assert_eq!(phase.get(), expected);
        }
    }
}
