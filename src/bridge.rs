//! Access to internals for `fuzz/`, `benches/` and the tests that replay the fuzzers' findings. Not part of the
//! interface: it may change at any time.

use std::{rc::Rc, time::SystemTime};

use futures_util::{FutureExt as _, future::LocalBoxFuture};

pub use crate::{
    backoff::{Hint, RetryPolicy, parse_reset, parse_retry_after},
    call::{Call, Endpoint, Platform, StoredForm, Target, WireFormat},
    queue::{Bound, LaneQueue, Limits, Permit, Ticket},
    redact::Redactor,
    transport::http1,
    util::printable,
    verdict::{Alternatives, Answer, Resend, Verdict, classify},
};
use crate::{
    credentials::{RuntimeCredentials, jwt, token_file},
    error::AttemptError,
    options::Options,
    poster::ResultPoster,
    supervisor::Supervisor,
    transport::{HttpRequest, Transport},
};

/// Whether a token is a valid header value.
pub fn is_valid_token(credentials: &RuntimeCredentials) -> bool {
    credentials.validate_token().is_ok()
}

/// The `exp` claim of a token.
pub fn jwt_expiry(token: &str) -> Option<SystemTime> {
    jwt::validity(token).map(|validity| validity.expires_at)
}

/// The credentials in the content of a token file.
pub fn parse_token_file(bytes: &[u8]) -> Option<RuntimeCredentials> {
    token_file::parse(bytes).ok()
}

/// An attempt's error as log lines show it.
pub fn without_body(error: &AttemptError) -> String {
    error.without_body()
}

/// Starts a poster without a network: each call is answered with 200 at once.
pub fn start_without_network(options: Options) -> actix::Addr<ResultPoster> {
    let parts = options.into_parts_over(Rc::new(AnswersAtOnce));
    Supervisor::start(|_, stop| ResultPoster::from_parts(parts, stop))
}

struct AnswersAtOnce;

impl Transport for AnswersAtOnce {
    fn post<'a>(&'a self, request: &'a HttpRequest<'a>) -> LocalBoxFuture<'a, Result<Answer<'a>, AttemptError>> {
        let body = if request.status_decides {
            ""
        } else {
            r#"{"success":true}"#
        };
        let answer = Answer {
            status: 200,
            body: body.into(),
            ..Answer::default()
        };
        async { Ok(answer) }.boxed_local()
    }
}
