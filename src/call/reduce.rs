//! The reduced form of a body, for a platform that refuses the whole one as too large.

use serde_json::Value;

use super::text::cut;
use crate::message::is_known_field;

/// The longest string of a reduced body, in bytes.
const MAX_STRING_BYTES: usize = 4096;

/// The longest list of a reduced body. With strings of the greatest length, it leaves room for all other fields.
const MAX_ELEMENTS: usize = 64;

/// The body with every string cut to 4 KiB and every list to 64 elements, and without its manifest and added fields.
pub(super) fn reduced(body: &str) -> String {
    let mut body: Value = serde_json::from_str(body).unwrap_or_default();
    if let Value::Object(members) = &mut body {
        members.retain(|name, _| is_known_field(name) && name != "manifest");
    }
    cut_values(&mut body);
    body.to_string()
}

/// Recursive: the fields that this crate sends are nested a few levels deep.
fn cut_values(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(cut) = cut(text, MAX_STRING_BYTES) {
                *text = cut.text;
            }
        }
        Value::Array(elements) => {
            elements.truncate(MAX_ELEMENTS);
            elements.iter_mut().for_each(cut_values);
        }
        Value::Object(members) => members.values_mut().for_each(cut_values),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reduced_body_has_short_strings_and_lists_and_neither_a_manifest_nor_added_fields() {
        let long = "x".repeat(5000);
        let dimensions = [&long, "short"].into_iter().chain(["more"; 90]).collect::<Vec<_>>();
        let body = json!({
            "status": "failed", "error": {"message": long}, "manifest": {}, "laterField": 1, "toolCalls": 3,
            "executionSecurityRefusal": {"code": "c", "dimensions": dimensions},
        });
        let reduced: Value = serde_json::from_str(&reduced(&body.to_string())).unwrap();
        let message = reduced["error"]["message"].as_str().unwrap();
        assert!(message.len() <= 4096 && message.ends_with(" of 5000 bytes cut]"));
        assert!(
            reduced["executionSecurityRefusal"]["dimensions"][0]
                .as_str()
                .unwrap()
                .len()
                <= 4096
        );
        assert_eq!(reduced["executionSecurityRefusal"]["dimensions"][1], "short");
        assert_eq!(
            reduced["executionSecurityRefusal"]["dimensions"]
                .as_array()
                .unwrap()
                .len(),
            64
        );
        assert_eq!(
            (&reduced["status"], &reduced["toolCalls"]),
            (&json!("failed"), &json!(3))
        );
        assert_eq!(reduced.as_object().unwrap().len(), 4);
    }
}
