//! The members of a JSON object, each read for itself.

use serde_json::{Map, Value};

use crate::warning::{Warning, Warnings};

/// The members of an object. A member whose value does not fit is left out with a warning, and its siblings stay. A
/// `null` is an absent member.
pub(crate) struct Fields<'a, 'w> {
    /// The path of the object; empty for the result itself.
    path: String,
    members: &'a Map<String, Value>,
    warnings: &'w mut Warnings,
}

impl<'a, 'w> Fields<'a, 'w> {
    /// The members of the result itself.
    pub(super) fn of_result(members: &'a Map<String, Value>, warnings: &'w mut Warnings) -> Self {
        Self {
            path: String::new(),
            members,
            warnings,
        }
    }

    /// The members of the object at this path. `None` if the value is no object.
    pub(crate) fn of(path: &str, value: &'a Value, warnings: &'w mut Warnings) -> Option<Self> {
        match value {
            Value::Object(members) => Some(Self {
                path: path.to_owned(),
                members,
                warnings,
            }),
            Value::Null => None,
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                warnings.push(Warning::left_out(path, "it is not an object"));
                None
            }
        }
    }

    /// The members of a member.
    pub(crate) fn object(&mut self, name: &str) -> Option<Fields<'a, '_>> {
        let value = self.value(name)?;
        Fields::of(&self.path_of(name), value, self.warnings)
    }

    /// The elements of a member, each with its path.
    pub(crate) fn elements(&mut self, name: &str) -> Option<Vec<(String, &'a Value)>> {
        let elements = self.read(name, "it is not an array", Value::as_array)?;
        let path = self.path_of(name);
        let indexed = elements.iter().enumerate();
        Some(
            indexed
                .map(|(index, element)| (format!("{path}.{index}"), element))
                .collect(),
        )
    }

    pub(crate) fn text(&mut self, name: &str) -> Option<&'a str> {
        self.read(name, "it is not a text", Value::as_str)
    }

    /// A text, or another value as its JSON. An object with a text as its `message` is read as that text.
    pub(crate) fn message(&mut self, name: &str) -> Option<String> {
        let value = self.value(name)?;
        let text = value.as_str().or_else(|| value.get("message")?.as_str());
        if text.is_none() {
            let field = self.path_of(name);
            self.warnings.push(Warning::SentAsJsonText { field });
        }
        Some(text.map_or_else(|| value.to_string(), str::to_owned))
    }

    /// A whole number, which may have a zero fraction.
    pub(crate) fn whole<N: TryFrom<i128>>(&mut self, name: &str) -> Option<N> {
        self.read(name, "it is not a whole number in range", |value| {
            N::try_from(whole(value)?).ok()
        })
    }

    pub(crate) fn number(&mut self, name: &str) -> Option<f64> {
        self.read(name, "it is not a number", Value::as_f64)
    }

    pub(crate) fn flag(&mut self, name: &str) -> Option<bool> {
        self.read(name, "it is not true or false", Value::as_bool)
    }

    /// The value of a member, whatever it is.
    pub(crate) fn value(&self, name: &str) -> Option<&'a Value> {
        self.members.get(name).filter(|value| !value.is_null())
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    fn read<T>(&mut self, name: &str, reason: &'static str, convert: impl FnOnce(&'a Value) -> Option<T>) -> Option<T> {
        let converted = convert(self.value(name)?);
        if converted.is_none() {
            let warning = Warning::left_out(self.path_of(name), reason);
            self.warnings.push(warning);
        }
        converted
    }
}

/// A number without a fraction.
fn whole(value: &Value) -> Option<i128> {
    let number = value.as_number()?;
    let whole = number
        .as_u64()
        .map(i128::from)
        .or_else(|| number.as_i64().map(i128::from));
    whole.or_else(|| {
        let number = number.as_f64().filter(|number| number.fract() == 0.0)?;
        format!("{number:.0}").parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_number_is_whole_if_its_fraction_is_zero() {
        for (value, expected) in [
            (json!(7), Some(7)),
            (json!(-7), Some(-7)),
            (json!(1234.0), Some(1234)),
            (json!(-0.0), Some(0)),
            (json!(1e15), Some(1_000_000_000_000_000)),
            (json!(u64::MAX), Some(u64::MAX.into())),
            (json!(0.5), None),
            (json!(1e300), None),
            (json!("7"), None),
        ] {
            assert_eq!(whole(&value), expected, "{value}");
        }
    }
}
