//! Fields of the status body that this version of the crate does not know.

use serde_json::{Map, Value};

use crate::{
    error::InvalidMessageError,
    util::{prefix, printable},
};

/// Fields that a message adds to its status.
pub(crate) type StatusFields = Map<String, Value>;

/// How deep the value of an added field may be nested.
const MAX_DEPTH: usize = 100;

/// The longest part of a name, in bytes, that an error quotes.
const MAX_QUOTED: usize = 64;

/// The members of all bodies that this crate sends.
const KNOWN: [&str; 30] = [
    "workerId",
    "summary",
    "result",
    "status",
    "providerSessionId",
    "worktreePath",
    "error",
    "totalCostUsd",
    "inputTokens",
    "outputTokens",
    "cacheReadTokens",
    "cacheWriteTokens",
    "reasoningTokens",
    "failureMode",
    "resultMarker",
    "commitSha",
    "pullRequestUrl",
    "manifest",
    "reviewVerdict",
    "terminalWorkareaLease",
    "executionSecurityRefusal",
    "turnContinuations",
    "budgetBreach",
    "resumable",
    "resumeCheckpoint",
    "upstreamError",
    "toolCalls",
    "method",
    "args",
    "organizationId",
];

/// Whether this crate itself sends a member with this name.
pub(crate) fn is_known_field(name: &str) -> bool {
    KNOWN.contains(&name)
}

pub(crate) fn check_status_fields(fields: &StatusFields) -> Result<(), InvalidMessageError> {
    for (name, value) in fields {
        let reason = if name.is_empty() {
            Some("has an empty name".to_owned())
        } else if is_known_field(name) {
            Some(format!("names `{name}`, which the crate sends itself"))
        } else if is_deeper_than(value, MAX_DEPTH) {
            Some(format!(
                "has a value for `{}` that is nested deeper than {MAX_DEPTH} levels",
                printable(prefix(name, MAX_QUOTED))
            ))
        } else {
            None
        };
        if let Some(reason) = reason {
            return Err(InvalidMessageError::new("status_field", reason));
        }
    }
    Ok(())
}

fn is_deeper_than(value: &Value, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else {
        return true;
    };
    match value {
        Value::Array(elements) => elements.iter().any(|element| is_deeper_than(element, depth)),
        Value::Object(members) => members.values().any(|member| is_deeper_than(member, depth)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(name: &str, value: Value) -> Result<(), String> {
        let fields = StatusFields::from_iter([(name.to_owned(), value)]);
        check_status_fields(&fields).map_err(|error| error.to_string())
    }

    #[test]
    fn a_field_that_the_crate_does_not_know_is_accepted() {
        assert_eq!(check("laterField", json!({"a": [1, null]})), Ok(()));
    }

    #[test]
    fn a_field_that_the_crate_sends_itself_is_refused() {
        for name in ["workerId", "manifest", "toolCalls", "organizationId"] {
            let error = format!("`status_field` names `{name}`, which the crate sends itself");
            assert_eq!(check(name, Value::Null), Err(error));
        }
        assert!(check("", Value::Null).is_err());
    }

    #[test]
    fn a_field_that_is_nested_too_deep_is_refused() {
        let nested = |depth| (1..depth).fold(json!([]), |inner, _| json!([inner]));
        assert!(check("a", nested(99)).is_ok());
        assert!(check("a", nested(101)).is_err());
    }
}
