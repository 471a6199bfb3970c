//! The structured fields of the status body, as the reference implementation writes them. A member with a wrong type is
//! left out alone, and unknown members are not sent.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;

use super::text::without_nul;
use crate::{
    result::Fields,
    util::{prefix_chars, trimmed},
    warning::{Warning, Warnings},
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest<'a> {
    schema_version: i64,
    verdict: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    summary: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    blocked_reason: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pull_request_url: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    commit_sha: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    review_verdict: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repositories: Option<Vec<Repository<'a>>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Repository<'a> {
    name: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    verdict: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    summary: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pull_request_url: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    commit_sha: Cow<'a, str>,
}

#[derive(Serialize)]
pub(super) struct ExecutionSecurityRefusal<'a> {
    code: Cow<'a, str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dimensions: Vec<Cow<'a, str>>,
}

#[derive(Serialize)]
pub(super) struct TurnContinuations {
    continued: i64,
    unproductive: i64,
    retried: i64,
    limit: i64,
    ceiling: i64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    exhausted: bool,
}

#[derive(Serialize)]
pub(super) struct BudgetBreach<'a> {
    cap: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: Cow<'a, str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ResumeCheckpoint<'a> {
    branch: Cow<'a, str>,
    commit_sha: Cow<'a, str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UpstreamError<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    http_status: Option<u16>,
    #[serde(skip_serializing_if = "str::is_empty")]
    provider_code: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    provider_message: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    reset_at: Cow<'a, str>,
}

impl<'a> Manifest<'a> {
    pub(super) fn read(manifest: &'a Value, warnings: &mut Warnings) -> Option<Self> {
        let mut fields = Fields::of("manifest", manifest, warnings)?;
        let schema_version = fields.whole("schemaVersion").unwrap_or_default();
        let elements = fields.elements("repositories");
        let mut text = |name| text(&mut fields, name);
        let mut manifest = Self {
            schema_version,
            verdict: text("verdict"),
            summary: text("summary"),
            blocked_reason: text("blockedReason"),
            pull_request_url: text("pullRequestUrl"),
            commit_sha: text("commitSha"),
            review_verdict: text("reviewVerdict"),
            repositories: None,
        };
        manifest.repositories = elements.map(|elements| {
            let read = |(path, element): (String, &'a Value)| Repository::read(&path, element, warnings);
            elements.into_iter().filter_map(read).collect()
        });
        Some(manifest)
    }
}

impl<'a> Repository<'a> {
    fn read(path: &str, repository: &'a Value, warnings: &mut Warnings) -> Option<Self> {
        let mut fields = Fields::of(path, repository, warnings)?;
        let mut text = |name| text(&mut fields, name);
        Some(Self {
            name: text("name"),
            verdict: text("verdict"),
            summary: text("summary"),
            pull_request_url: text("pullRequestUrl"),
            commit_sha: text("commitSha"),
        })
    }
}

impl<'a> ExecutionSecurityRefusal<'a> {
    pub(super) fn read(refusal: &'a Value, warnings: &mut Warnings) -> Option<Self> {
        let mut fields = Fields::of("executionSecurityRefusal", refusal, warnings)?;
        let code = text(&mut fields, "code");
        let elements = fields.elements("dimensions").unwrap_or_default();
        let read = |(path, element): (String, &'a Value)| match element.as_str() {
            Some(dimension) => Some(without_nul(dimension)),
            None => {
                warnings.push(Warning::left_out(path, "it is not a text"));
                None
            }
        };
        Some(Self {
            code,
            dimensions: elements.into_iter().filter_map(read).collect(),
        })
    }
}

impl TurnContinuations {
    pub(super) fn read(continuations: &Value, warnings: &mut Warnings) -> Option<Self> {
        let mut fields = Fields::of("turnContinuations", continuations, warnings)?;
        let exhausted = fields.flag("exhausted").unwrap_or_default();
        let mut count = |name| fields.whole(name).unwrap_or_default();
        Some(Self {
            continued: count("continued"),
            unproductive: count("unproductive"),
            retried: count("retried"),
            limit: count("limit"),
            ceiling: count("ceiling"),
            exhausted,
        })
    }
}

impl<'a> BudgetBreach<'a> {
    pub(super) fn read(breach: &'a Value, warnings: &mut Warnings) -> Option<Self> {
        let mut fields = Fields::of("budgetBreach", breach, warnings)?;
        Some(Self {
            cap: text(&mut fields, "cap"),
            detail: text(&mut fields, "detail"),
        })
    }
}

impl<'a> ResumeCheckpoint<'a> {
    pub(super) fn read(checkpoint: &'a Value, warnings: &mut Warnings) -> Option<Self> {
        let mut fields = Fields::of("resumeCheckpoint", checkpoint, warnings)?;
        Some(Self {
            branch: text(&mut fields, "branch"),
            commit_sha: text(&mut fields, "commitSha"),
        })
    }
}

impl<'a> UpstreamError<'a> {
    /// `None` without a status, a code and a time: a message alone is not enough.
    pub(super) fn read(upstream: &'a Value, warnings: &mut Warnings) -> Option<Self> {
        let mut fields = Fields::of("upstream", upstream, warnings)?;
        let http_status = fields.whole::<i64>("httpStatus");
        let http_status = http_status.and_then(|status| u16::try_from(status).ok());
        let mut short = |name, max| {
            let text = trimmed(fields.text(name).unwrap_or_default());
            // As the reference does: measured in bytes, cut in characters.
            let is_long = text.len() > max;
            without_nul(if is_long { prefix_chars(text, max) } else { text })
        };
        let error = Self {
            http_status: http_status.filter(|status| (100..=599).contains(status)),
            provider_code: short("providerCode", 128),
            provider_message: short("providerMessage", 512),
            reset_at: short("resetAt", 64),
        };
        let is_enough = error.http_status.is_some() || !error.provider_code.is_empty() || !error.reset_at.is_empty();
        is_enough.then_some(error)
    }
}

fn text<'a>(fields: &mut Fields<'a, '_>, name: &str) -> Cow<'a, str> {
    without_nul(fields.text(name).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn json(value: impl Serialize) -> Value {
        serde_json::to_value(value).unwrap()
    }

    fn warned(read: impl FnOnce(&mut Warnings) -> Value) -> (Value, Vec<String>) {
        let mut warnings = Warnings::default();
        let value = read(&mut warnings);
        (value, warnings.iter().map(Warning::to_string).collect())
    }

    #[test]
    fn a_manifest_has_its_known_members_and_two_of_them_always() {
        for (given, sent) in [
            (json!({}), json!({"schemaVersion": 0, "verdict": ""})),
            (
                json!({"schemaVersion": 1.0, "verdict": "passed", "summary": "", "later": 1, "repositories": []}),
                json!({"schemaVersion": 1, "verdict": "passed", "repositories": []}),
            ),
            (
                json!({"repositories": [{"name": "a", "verdict": ""}, {}]}),
                json!({"schemaVersion": 0, "verdict": "", "repositories": [{"name": "a"}, {"name": ""}]}),
            ),
            (json!(null), json!(null)),
        ] {
            assert_eq!(
                warned(|warnings| json(Manifest::read(&given, warnings))),
                (sent, vec![])
            );
        }
    }

    #[test]
    fn a_member_with_a_wrong_type_is_left_out_alone() {
        let given =
            json!({"schemaVersion": "1", "verdict": "passed", "repositories": [7, {"name": 7, "verdict": "x"}]});
        assert_eq!(
            warned(|warnings| json(Manifest::read(&given, warnings))),
            (
                json!({"schemaVersion": 0, "verdict": "passed", "repositories": [{"name": "", "verdict": "x"}]}),
                vec![
                    "`manifest.schemaVersion` was left out: it is not a whole number in range".to_owned(),
                    "`manifest.repositories.0` was left out: it is not an object".to_owned(),
                    "`manifest.repositories.1.name` was left out: it is not a text".to_owned(),
                ]
            )
        );
        let given = json!({"code": "c", "dimensions": ["network", 7]});
        assert_eq!(
            warned(|warnings| json(ExecutionSecurityRefusal::read(&given, warnings))),
            (
                json!({"code": "c", "dimensions": ["network"]}),
                vec!["`executionSecurityRefusal.dimensions.1` was left out: it is not a text".to_owned()]
            )
        );
    }

    #[test]
    fn a_structure_that_is_no_object_is_left_out() {
        assert_eq!(
            warned(|warnings| json(BudgetBreach::read(&json!("max-tokens"), warnings))),
            (
                Value::Null,
                vec!["`budgetBreach` was left out: it is not an object".to_owned()]
            )
        );
    }

    #[test]
    fn counts_are_sent_even_if_they_are_zero_and_flags_only_if_true() {
        let read = |given: Value| json(TurnContinuations::read(&given, &mut Warnings::default()));
        let zeros = json!({"continued": 0, "unproductive": 0, "retried": 0, "limit": 0, "ceiling": 0});
        assert_eq!(read(json!({"exhausted": false})), zeros);
        assert_eq!(read(json!({"exhausted": true}))["exhausted"], true);
    }

    #[test]
    fn an_upstream_error_needs_a_status_a_code_or_a_time() {
        let read = |given: Value| json(UpstreamError::read(&given, &mut Warnings::default()));
        assert_eq!(read(json!({"httpStatus": 429})), json!({"httpStatus": 429}));
        assert_eq!(read(json!({"providerCode": " c "})), json!({"providerCode": "c"}));
        assert_eq!(
            read(json!({"resetAt": "5", "httpStatus": 600})),
            json!({"resetAt": "5"})
        );
        for not_enough in [
            json!({"providerMessage": "m"}),
            json!({"httpStatus": 99}),
            json!({"providerCode": " "}),
        ] {
            assert_eq!(read(not_enough), Value::Null);
        }
    }

    #[test]
    fn a_text_of_an_upstream_error_is_measured_in_bytes_and_cut_in_characters() {
        let code = |text: String| {
            let upstream = json!({"providerCode": text});
            json(UpstreamError::read(&upstream, &mut Warnings::default()))["providerCode"].clone()
        };
        assert_eq!(code("x".repeat(200)), "x".repeat(128));
        assert_eq!(code("é".repeat(100)), "é".repeat(100));
        assert_eq!(code("é".repeat(200)), "é".repeat(128));
    }
}
