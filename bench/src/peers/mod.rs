//! The ways to send a result: the poster, and what a user would write without it. Each sends the same two requests, with
//! the same headers and bodies, and reads both responses to their ends.

pub(crate) mod awc;
pub(crate) mod hyper;
pub(crate) mod poster;
pub(crate) mod reqwest;

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

/// The worker that claims the sessions.
const WORKER_ID: &str = "wkr_1";

const SUMMARY: &str = "Added the widget cache and opened a pull request.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// The poster of this crate
    Poster,
    /// A loop over awc: no retries, no deadlines
    Awc,
    /// `reqwest` with `reqwest-middleware` and `reqwest-retry`: retries and a deadline
    ReqwestRetry,
    /// A loop over hyper-util's client: no retries, no deadlines
    Hyper,
}

impl Peer {
    pub(crate) const ALL: [Self; 4] = [Self::Poster, Self::Awc, Self::ReqwestRetry, Self::Hyper];

    /// The name in tables.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Poster => "result-poster",
            Self::Awc => "bare awc",
            Self::ReqwestRetry => "reqwest-retry",
            Self::Hyper => "hyper",
        }
    }
}

/// The value of the argument `--peer`.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Poster => "poster",
            Self::Awc => "awc",
            Self::ReqwestRetry => "reqwest-retry",
            Self::Hyper => "hyper",
        })
    }
}

/// A request as the peers of the poster send it.
struct Request {
    url: String,
    key: String,
    body: Vec<u8>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Completion<'a> {
    worker_id: &'a str,
    summary: &'a str,
    result: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    worker_id: &'a str,
    status: &'a str,
    provider_session_id: &'a str,
    total_cost_usd: f64,
    input_tokens: u64,
    output_tokens: u64,
    summary: &'a str,
    tool_calls: u64,
}

/// The two requests of a result, as the poster sends them by default.
fn requests(base: &str, number: u64) -> [Request; 2] {
    let completion = Completion {
        worker_id: WORKER_ID,
        summary: SUMMARY,
        result: "success",
    };
    let status = Status {
        worker_id: WORKER_ID,
        status: "completed",
        provider_session_id: "prov-1",
        total_cost_usd: 0.25,
        input_tokens: 12_000,
        output_tokens: 3_400,
        summary: SUMMARY,
        tool_calls: 0,
    };
    let request = |step: &str, body: serde_json::Result<Vec<u8>>| Request {
        url: format!("{base}/api/sessions/sess-{number}/{step}"),
        key: format!("sess-{number}-{step}"),
        body: body.unwrap_or_default(),
    };
    [
        request("completion", serde_json::to_vec(&completion)),
        request("status", serde_json::to_vec(&status)),
    ]
}

/// The end of a request with this status.
fn check(status: u16) -> Result<(), String> {
    match status {
        200..=299 => Ok(()),
        _ => Err(format!("the platform answered {status}")),
    }
}
