//! The parameters of statements, in the form in which they are sent.

use std::{borrow::Borrow, error::Error};

use bytes::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::call_id::CallId;

/// A value of a statement, and its type: a statement without a name does not tell it.
pub(super) struct Param {
    pub(super) kind: Type,
    pub(super) value: Encoded,
}

impl Param {
    fn new(kind: Type, value: &impl ToSql) -> Self {
        let mut bytes = BytesMut::new();
        let value = match value.to_sql(&kind, &mut bytes) {
            Ok(IsNull::No) => Encoded::Value(bytes),
            Ok(IsNull::Yes) => Encoded::Null,
            Err(error) => Encoded::Failed(error.to_string()),
        };
        Self { kind, value }
    }
}

/// An encoded value.
#[derive(Debug)]
pub(super) enum Encoded {
    Value(BytesMut),
    Null,
    /// It is too large.
    Failed(String),
}

impl ToSql for Encoded {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Value(bytes) => {
                out.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
            Self::Null => Ok(IsNull::Yes),
            Self::Failed(error) => Err(error.as_str().into()),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

pub(super) fn number(value: i64) -> Param {
    Param::new(Type::INT8, &value)
}

pub(super) fn optional_number(value: Option<i64>) -> Param {
    Param::new(Type::INT8, &value)
}

pub(super) fn numbers(values: impl IntoIterator<Item = i64>) -> Param {
    Param::new(Type::INT8_ARRAY, &values.into_iter().collect::<Vec<_>>())
}

pub(super) fn optional_numbers(values: impl IntoIterator<Item = Option<i64>>) -> Param {
    Param::new(Type::INT8_ARRAY, &values.into_iter().collect::<Vec<_>>())
}

/// A number of 32 bits.
pub(super) fn small(value: i32) -> Param {
    Param::new(Type::INT4, &value)
}

pub(super) fn smalls(values: impl IntoIterator<Item = i32>) -> Param {
    Param::new(Type::INT4_ARRAY, &values.into_iter().collect::<Vec<_>>())
}

pub(super) fn optional_smalls(values: impl IntoIterator<Item = Option<i32>>) -> Param {
    Param::new(Type::INT4_ARRAY, &values.into_iter().collect::<Vec<_>>())
}

pub(super) fn flag(value: bool) -> Param {
    Param::new(Type::BOOL, &value)
}

pub(super) fn flags(values: impl IntoIterator<Item = bool>) -> Param {
    Param::new(Type::BOOL_ARRAY, &values.into_iter().collect::<Vec<_>>())
}

pub(super) fn text(value: &str) -> Param {
    Param::new(Type::TEXT, &storable(value))
}

pub(super) fn optional_text(value: Option<&str>) -> Param {
    Param::new(Type::TEXT, &value.map(storable))
}

pub(super) fn texts<'a>(values: impl IntoIterator<Item = &'a str>) -> Param {
    let values: Vec<_> = values.into_iter().map(storable).collect();
    Param::new(Type::TEXT_ARRAY, &values)
}

pub(super) fn optional_texts<'a>(values: impl IntoIterator<Item = Option<&'a str>>) -> Param {
    let values: Vec<_> = values.into_iter().map(|value| value.map(storable)).collect();
    Param::new(Type::TEXT_ARRAY, &values)
}

pub(super) fn id(value: CallId) -> Param {
    Param::new(Type::UUID, &Id(value))
}

pub(super) fn ids<I: Borrow<CallId>>(values: impl IntoIterator<Item = I>) -> Param {
    let values: Vec<_> = values.into_iter().map(|id| Id(*id.borrow())).collect();
    Param::new(Type::UUID_ARRAY, &values)
}

/// The server stores no NUL in a text.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// The id of a call as a UUID.
#[derive(Debug)]
struct Id(CallId);

impl ToSql for Id {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.0.to_bytes());
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::UUID
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nul_is_replaced() {
        assert_eq!(storable("a\0b"), "a\u{fffd}b");
    }
}
