//! The steps of a check and their outcomes.

use std::fmt;

use serde::Serialize;

use crate::label::labels;

/// One step of [`Options::check`](crate::Options::check). As text `name`, `connection`, `proxy`, `tls`, `credentials`, `response` or `clock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum CheckStep {
    /// The platform's name has an address. Not with a proxy, which resolves the name.
    Name,
    /// The platform accepts connections. Not with a proxy.
    Connection,
    /// The forward proxy opens a tunnel to an https platform, or accepts connections for an http platform.
    Proxy,
    /// The platform's certificate is trusted. Only with https.
    Tls,
    /// There is a token, and the platform accepts it.
    Credentials,
    /// The platform answers as a platform does, and accepts the worker.
    Response,
    /// The clock of the host is less than 5 min off the platform's.
    Clock,
}

labels!(CheckStep, "step of a check", {
    Name => "name",
    Connection => "connection",
    Proxy => "proxy",
    Tls => "tls",
    Credentials => "credentials",
    Response => "response",
    Clock => "clock",
});

/// The outcome of one step, with a text for an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome", content = "text")]
pub enum CheckOutcome {
    /// The step succeeded, with this detail.
    Passed(String),
    /// The step failed, for this reason.
    Failed(String),
    /// The step was not checked, for this reason.
    Skipped(String),
}

impl CheckOutcome {
    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Passed(text) | Self::Failed(text) | Self::Skipped(text) => text,
        }
    }

    /// Whether something is wrong.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

/// A step with its outcome. As text `tls: failed: …`; in JSON `{"step": "tls", "outcome": "failed", "text": "…"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CheckedStep {
    /// The step.
    pub step: CheckStep,
    /// Its outcome.
    #[serde(flatten)]
    pub outcome: CheckOutcome,
}

impl fmt::Display for CheckedStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            CheckOutcome::Passed(_) => "ok",
            CheckOutcome::Failed(_) => "failed",
            CheckOutcome::Skipped(_) => "skipped",
        };
        write!(f, "{}: {outcome}: {}", self.step, self.outcome.text())
    }
}
