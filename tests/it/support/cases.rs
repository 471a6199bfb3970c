//! Faults from the field, which `tests/data/field_transport.json` describes.

use serde_json::Value;

const CASES: &str = include_str!("../../data/field_transport.json");

/// The kind and the name of each case.
pub(crate) fn names() -> Vec<(String, String)> {
    let text = |case: &Value, key| case[key].as_str().unwrap().to_owned();
    cases()
        .iter()
        .map(|case| (text(case, "kind"), text(case, "name")))
        .collect()
}

/// The input of a case.
pub(crate) fn input(kind: &str, name: &str) -> String {
    let case = cases()
        .into_iter()
        .find(|case| case["kind"] == kind && case["name"] == name);
    let case = case.unwrap_or_else(|| panic!("there is no case {kind} {name:?}"));
    case["input"].as_str().unwrap().to_owned()
}

fn cases() -> Vec<Value> {
    serde_json::from_str(CASES).unwrap()
}
