//! Reading a result from the runner's JSON.

use serde_json::Value;
use thiserror::Error;

use super::{
    agent_result::AgentResult,
    cost::Cost,
    fields::Fields,
    json::{self, Document, SyntaxError},
    status::WorkResult,
};
use crate::util::{prefix, printable};

/// The longest part of an unknown status, in bytes, that an error quotes.
const MAX_QUOTED: usize = 64;

/// Why a runner's JSON holds no result.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReadResultError {
    /// The text is not JSON.
    #[error("the result is not JSON: {reason}, at byte {at}")]
    #[non_exhaustive]
    Syntax {
        /// The fault.
        reason: &'static str,
        /// The offset in bytes, counted in the text after a byte order mark.
        at: usize,
    },
    /// The JSON is not an object.
    #[error("the result is not a JSON object")]
    NotAnObject,
    /// There is no status.
    #[error("the result has no `status`; the known ones are `completed`, `failed` and `stopped`")]
    NoStatus,
    /// The status is not known.
    #[error("unknown `status` {status}; the known ones are `completed`, `failed` and `stopped`")]
    #[non_exhaustive]
    UnknownStatus {
        /// The start of the status, as JSON, with control characters escaped.
        status: String,
    },
}

impl From<SyntaxError> for ReadResultError {
    fn from(error: SyntaxError) -> Self {
        let SyntaxError { reason, at } = error;
        Self::Syntax { reason, at }
    }
}

impl AgentResult {
    /// Reads the runner's JSON, and loses a field rather than the result.
    ///
    /// - Half a surrogate, and bytes that are not UTF-8, become U+FFFD. A byte order mark is skipped.
    /// - A count may have a zero fraction, such as `1234.0`.
    /// - A value that does not fit its field (its type, its sign, its size, `NaN`, nested deeper than 100 levels) is left
    ///   out alone.
    /// - As an `error`, `{"message": "…"}` is read as its message, and another wrong type as its JSON text.
    /// - `null` reads as absent, unknown members are ignored, and the last of equal names counts.
    ///
    /// [`warnings`](Self::warnings) tells what was lost.
    ///
    /// ```
    /// use result_poster::AgentResult;
    ///
    /// let result = AgentResult::from_json(br#"{"status": "failed", "error": {"message": "boom"}, "toolCalls": NaN}"#)?;
    /// assert_eq!(result.error.as_deref(), Some("boom"));
    /// assert_eq!(result.warnings()[0].to_string(), "`toolCalls` was left out: it is not a number in JSON");
    /// # Ok::<_, result_poster::ReadResultError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ReadResultError`], if the text is no JSON object, or its `status` is missing or unknown.
    pub fn from_json(json: &[u8]) -> Result<Self, ReadResultError> {
        let Document { value, mut warnings } = json::read(json)?;
        let Value::Object(members) = &value else {
            return Err(ReadResultError::NotAnObject);
        };
        let status = match members.get("status") {
            None | Some(Value::Null) => return Err(ReadResultError::NoStatus),
            Some(status) => status,
        };
        let known = status.as_str().and_then(|status| status.parse().ok());
        let status = known.ok_or_else(|| ReadResultError::UnknownStatus {
            status: printable(prefix(&status.to_string(), MAX_QUOTED)),
        })?;
        let mut fields = Fields::of_result(members, &mut warnings);
        let mut result = Self::new(status);
        result.read_texts(&mut fields);
        result.work_result = fields.text("workResult").map(WorkResult::from);
        result.error = fields.message("error");
        result.tool_calls = fields.whole("toolCalls");
        result.resumable = fields.flag("resumable");
        result.cost = fields.object("cost").map(Cost::read);
        result.read_structured(&fields);
        result.warnings = warnings;
        Ok(result)
    }

    fn read_texts(&mut self, fields: &mut Fields<'_, '_>) {
        for (name, field) in [
            ("providerName", &mut self.provider_name),
            ("providerSessionId", &mut self.provider_session_id),
            ("worktreePath", &mut self.worktree_path),
            ("workareaRoot", &mut self.workarea_root),
            ("pullRequestUrl", &mut self.pull_request_url),
            ("commitSha", &mut self.commit_sha),
            ("summary", &mut self.summary),
            ("reviewVerdict", &mut self.review_verdict),
            ("failureMode", &mut self.failure_mode),
        ] {
            *field = fields.text(name).map(str::to_owned);
        }
    }

    /// The members of these are read when the result is sent.
    fn read_structured(&mut self, fields: &Fields<'_, '_>) {
        for (name, field) in [
            ("manifest", &mut self.manifest),
            ("turnContinuations", &mut self.turn_continuations),
            ("budgetBreach", &mut self.budget_breach),
            ("resumeCheckpoint", &mut self.resume_checkpoint),
            ("executionSecurityRefusal", &mut self.execution_security_refusal),
            ("upstream", &mut self.upstream),
            ("executionSecurity", &mut self.execution_security),
            ("seatBudget", &mut self.seat_budget),
            ("backstopReport", &mut self.backstop_report),
            ("qualityReport", &mut self.quality_report),
        ] {
            *field = fields.value(name).cloned();
        }
    }
}

impl Cost {
    fn read(mut fields: Fields<'_, '_>) -> Self {
        Self {
            input_tokens: fields.whole("inputTokens"),
            output_tokens: fields.whole("outputTokens"),
            cached_input_tokens: fields.whole("cachedInputTokens"),
            cache_write_tokens: fields.whole("cacheWriteTokens"),
            reasoning_tokens: fields.whole("reasoningTokens"),
            total_cost_usd: fields.number("totalCostUsd"),
            num_turns: fields.whole("numTurns"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{result::SessionStatus, warning::Warnings};

    fn read(json: &str) -> (AgentResult, Vec<String>) {
        let mut result = AgentResult::from_json(json.as_bytes()).unwrap();
        let warnings = result.warnings.iter().map(ToString::to_string).collect();
        result.warnings = Warnings::default();
        (result, warnings)
    }

    #[test]
    fn a_value_that_does_not_fit_its_field_is_left_out_alone() {
        for (member, warning) in [
            (r#""summary":5"#, "`summary` was left out: it is not a text"),
            (r#""workResult":true"#, "`workResult` was left out: it is not a text"),
            (
                r#""resumable":"yes""#,
                "`resumable` was left out: it is not true or false",
            ),
            (
                r#""toolCalls":-1"#,
                "`toolCalls` was left out: it is not a whole number in range",
            ),
            (
                r#""toolCalls":1e40"#,
                "`toolCalls` was left out: it is not a whole number in range",
            ),
            (
                r#""toolCalls":0.5"#,
                "`toolCalls` was left out: it is not a whole number in range",
            ),
            (
                r#""toolCalls":NaN"#,
                "`toolCalls` was left out: it is not a number in JSON",
            ),
            (r#""cost":"free""#, "`cost` was left out: it is not an object"),
        ] {
            let (result, warnings) = read(&format!(r#"{{"status":"failed",{member},"error":"boom"}}"#));
            assert_eq!(
                result,
                AgentResult::new(SessionStatus::Failed).with_error("boom"),
                "{member}"
            );
            assert_eq!(warnings, [warning]);
        }
    }

    #[test]
    fn the_siblings_of_a_number_that_does_not_fit_stay() {
        let (result, warnings) =
            read(r#"{"status":"completed","cost":{"totalCostUsd":"0.42","inputTokens":1234.0,"outputTokens":-1}}"#);
        assert_eq!(result.cost, Some(Cost::default().with_input_tokens(1234)));
        assert_eq!(
            warnings,
            [
                "`cost.outputTokens` was left out: it is not a whole number in range",
                "`cost.totalCostUsd` was left out: it is not a number",
            ]
        );
    }

    #[test]
    fn an_error_of_another_type_is_read_as_its_message_or_as_its_json() {
        for (error, expected, warned) in [
            (r#""boom""#, Some("boom"), false),
            (r#"{"message":"boom","stack":[]}"#, Some("boom"), false),
            (r#"{"code":7}"#, Some(r#"{"code":7}"#), true),
            (r#"{"message":7}"#, Some(r#"{"message":7}"#), true),
            ("[1]", Some("[1]"), true),
            ("7", Some("7"), true),
            ("null", None, false),
        ] {
            let (result, warnings) = read(&format!(r#"{{"status":"failed","error":{error}}}"#));
            assert_eq!(result.error.as_deref(), expected);
            assert_eq!(!warnings.is_empty(), warned, "{error}");
        }
    }

    #[test]
    fn a_result_that_is_read_strictly_is_read_alike() {
        let json = include_str!("../../tests/data/wire-extended.json");
        let cases: Vec<Value> = serde_json::from_str(json).unwrap();
        let results: Vec<&Value> = cases.iter().filter_map(|case| case.get("result")).collect();
        assert!(results.len() > 15);
        for result in results {
            let strict: AgentResult = serde_json::from_value(result.clone()).unwrap();
            assert_eq!(AgentResult::from_json(result.to_string().as_bytes()), Ok(strict));
        }
    }

    #[test]
    fn only_another_json_or_status_fails() {
        for (json, error) in [
            ("[]", "the result is not a JSON object"),
            (
                r#"{"summary":"s"}"#,
                "the result has no `status`; the known ones are `completed`, `failed` and `stopped`",
            ),
            (
                r#"{"status":"done"}"#,
                "unknown `status` \"done\"; the known ones are `completed`, `failed` and `stopped`",
            ),
            (
                r#"{"status":1}"#,
                "unknown `status` 1; the known ones are `completed`, `failed` and `stopped`",
            ),
            (
                r#"{"status":"failed"#,
                "the result is not JSON: the text ends within a string, at byte 17",
            ),
        ] {
            assert_eq!(AgentResult::from_json(json.as_bytes()).unwrap_err().to_string(), error);
        }
    }

    /// The text of a value, as writers of several languages produce it.
    fn any_value() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            Just("NaN".to_owned()),
            Just("1e999".to_owned()),
            Just(r#""\ud83d""#.to_owned()),
            any::<i128>().prop_map(|number| number.to_string()),
            any::<f64>().prop_map(|number| number.to_string()),
            any::<String>().prop_map(|text| Value::from(text).to_string()),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|elements| format!("[{}]", elements.join(","))),
                prop::collection::vec((any_name(), inner), 0..4).prop_map(|members| object(&members)),
            ]
        })
    }

    fn any_name() -> impl Strategy<Value = String> {
        prop::sample::select(vec![
            "summary",
            "error",
            "message",
            "cost",
            "inputTokens",
            "totalCostUsd",
            "toolCalls",
            "manifest",
            "upstream",
            "workResult",
            "resumable",
            "other",
        ])
        .prop_map(str::to_owned)
    }

    fn object(members: &[(String, String)]) -> String {
        let members: Vec<_> = members
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .collect();
        format!("{{{}}}", members.join(","))
    }

    proptest! {
        #[test]
        fn any_object_with_a_known_status_reads(mut members in prop::collection::vec((any_name(), any_value()), 0..8)) {
            members.push(("status".into(), r#""stopped""#.into()));
            let result = AgentResult::from_json(object(&members).as_bytes());
            prop_assert_eq!(result.unwrap().status, SessionStatus::Stopped);
        }
    }
}
