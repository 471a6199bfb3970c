//! How a session ended, and the result of its work.

use std::{convert::Infallible, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::label::labels;

/// How a session ended. In JSON and as text `completed`, `failed` or `stopped`, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionStatus {
    /// The agent finished its work.
    Completed,
    /// The session ended with an error.
    Failed,
    /// The session was stopped on purpose.
    Stopped,
}

labels!(SessionStatus, "session status", {
    Completed => "completed",
    Failed => "failed",
    Stopped => "stopped",
});

/// The result of the runner's checks. In JSON and as text `passed`, `failed`, `blocked` or `unknown`; every other text
/// is kept as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum WorkResult {
    /// The work passed.
    Passed,
    /// The work failed.
    Failed,
    /// The work could not go on.
    Blocked,
    /// The verdict is not known.
    Unknown,
    /// Another word, which is sent as it is. An empty one is not sent.
    Other(String),
}

impl WorkResult {
    /// The name, as `Display` and `Serialize` write it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Blocked => "blocked",
            Self::Unknown => "unknown",
            Self::Other(name) => name,
        }
    }
}

impl From<&str> for WorkResult {
    fn from(name: &str) -> Self {
        match name {
            "passed" => Self::Passed,
            "failed" => Self::Failed,
            "blocked" => Self::Blocked,
            "unknown" => Self::Unknown,
            _ => Self::Other(name.to_owned()),
        }
    }
}

impl FromStr for WorkResult {
    type Err = Infallible;

    fn from_str(name: &str) -> Result<Self, Infallible> {
        Ok(name.into())
    }
}

impl fmt::Display for WorkResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for WorkResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for WorkResult {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Ok((&*name).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_as_they_are_displayed() {
        for status in [SessionStatus::Completed, SessionStatus::Failed, SessionStatus::Stopped] {
            assert_eq!(status.to_string().parse(), Ok(status));
        }
        for name in ["passed", "failed", "blocked", "unknown", "PASSED", ""] {
            assert_eq!(WorkResult::from(name).to_string(), name);
        }
        let error = "Completed".parse::<SessionStatus>().unwrap_err();
        assert_eq!(error.to_string(), r#"unknown session status "Completed""#);
    }

    #[test]
    fn another_work_result_is_kept_as_it_is() {
        assert_eq!(WorkResult::from("flaky"), WorkResult::Other("flaky".into()));
        assert_eq!(WorkResult::from("blocked"), WorkResult::Blocked);
    }
}
