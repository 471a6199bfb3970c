//! Errors that name the key.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize,
    de::{
        DeserializeSeed, Error as _, IntoDeserializer as _, MapAccess, Visitor,
        value::{MapAccessDeserializer, StringDeserializer},
    },
};

/// Deserializes a table of keys. The error of a value begins with the key, which the errors of most formats do not name.
pub(super) struct Named<T> {
    /// The table that the keys are in, such as `outbox.`.
    table: &'static str,
    expected: &'static str,
    keys: PhantomData<T>,
}

impl<T> Named<T> {
    pub(super) fn new(table: &'static str, expected: &'static str) -> Self {
        Self {
            table,
            expected,
            keys: PhantomData,
        }
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Named<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(NamedMap {
            map,
            table: self.table,
            key: String::new(),
        }))
    }
}

struct NamedMap<A> {
    map: A,
    table: &'static str,
    key: String,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for NamedMap<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let Some(key) = self.map.next_key::<String>()? else {
            return Ok(None);
        };
        self.key.clone_from(&key);
        let key: StringDeserializer<A::Error> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        let Self { map, table, key } = self;
        map.next_value_seed(seed).map_err(|error| {
            let text = error.to_string();
            // The keys of a table within this one are named already.
            if text.starts_with(&format!("`{table}{key}.")) {
                return error;
            }
            A::Error::custom(format_args!("`{table}{key}`: {text}"))
        })
    }
}
