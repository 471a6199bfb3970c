//! The environment as a source of keys.

use std::ffi::OsString;

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeSeed, Error as _, IntoDeserializer as _, MapAccess, Visitor,
        value::{Error, MapAccessDeserializer, StrDeserializer},
    },
    forward_to_deserialize_any,
};

use crate::error::ConfigError;

/// The name of a variable.
pub(super) fn variable(prefix: &str, key: &str) -> String {
    format!("{prefix}{}", key.replace('.', "_").to_uppercase())
}

/// Variables whose names begin with a prefix.
pub(super) struct Variables {
    prefix: String,
    /// The keys, each with its value.
    values: Vec<(String, String)>,
}

impl Variables {
    pub(super) fn with_prefix(
        prefix: &str,
        all: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut values = Vec::new();
        for (name, value) in all {
            let name = name.to_string_lossy();
            let Some(key) = name.strip_prefix(prefix) else { continue };
            // Only in upper case, so that a key has one name.
            if key.is_empty() || key.chars().any(|c| c.is_lowercase()) {
                return Err(ConfigError::new(name, "is unknown"));
            }
            let Ok(value) = value.into_string() else {
                return Err(ConfigError::new(name, "is not Unicode"));
            };
            values.push((key.to_lowercase(), value));
        }
        // The order of the environment must not decide which error is reported.
        values.sort();
        Ok(Self {
            prefix: prefix.to_owned(),
            values,
        })
    }

    /// Takes the variables whose keys begin with `table` out. `None` if there are none.
    pub(super) fn split_off(&mut self, table: &str) -> Option<Self> {
        let (of_table, others) = std::mem::take(&mut self.values)
            .into_iter()
            .partition(|(key, _)| key.starts_with(table));
        self.values = others;
        let of_table: Vec<(String, String)> = of_table;
        let values = of_table
            .into_iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(table)?.to_owned(), value)));
        let values: Vec<_> = values.collect();
        (!values.is_empty()).then(|| Self {
            prefix: variable(&self.prefix, table),
            values,
        })
    }

    pub(super) fn read<T: for<'de> Deserialize<'de>>(self) -> Result<T, ConfigError> {
        let mut map = VariableMap {
            rest: self.values.iter(),
            value: "",
        };
        T::deserialize(MapAccessDeserializer::new(&mut map)).map_err(|error| {
            // The last one that was read is the one that is refused.
            let read = self.values.len().saturating_sub(map.rest.len()).saturating_sub(1);
            let key = self.values.get(read).map(|(key, _)| key.as_str()).unwrap_or_default();
            ConfigError::new(variable(&self.prefix, key), error.to_string())
        })
    }
}

struct VariableMap<'a> {
    rest: std::slice::Iter<'a, (String, String)>,
    value: &'a str,
}

impl<'de> MapAccess<'de> for &mut VariableMap<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.rest.next() else {
            return Ok(None);
        };
        self.value = value;
        let key: StrDeserializer<'_, Error> = key.as_str().into_deserializer();
        // The list of all keys would hide the one that is wrong.
        seed.deserialize(key).map(Some).map_err(|_| Error::custom("is unknown"))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(Text(self.value))
    }
}

/// A value, whose type its key decides.
struct Text<'a>(&'a str);

impl Text<'_> {
    fn parse<T: std::str::FromStr>(&self, expected: &str) -> Result<T, Error> {
        self.0
            .parse()
            .map_err(|_| Error::custom(format_args!("is not {expected}")))
    }
}

impl<'de> Deserializer<'de> for Text<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(self.0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(self.parse("`true` or `false`")?)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u32(self.parse("a whole number")?)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u64(self.parse("a whole number")?)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_f64(self.parse("a number")?)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u128 f32 char str string bytes byte_buf unit unit_struct newtype_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}
