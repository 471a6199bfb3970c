//! Enums whose values have names: as text, in JSON, and as the labels of metrics.

use crate::util::prefix;

/// The longest part of a text, in bytes, that an error quotes.
const MAX_QUOTED: usize = 64;

/// The error of parsing a text that is not the name of a variant, such as `done` as a
/// [`SessionStatus`](crate::SessionStatus).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {of} {text:?}")]
pub struct UnknownNameError {
    /// The kind of name that was expected.
    of: &'static str,
    /// The start of the text.
    text: String,
}

impl UnknownNameError {
    pub(crate) fn new(of: &'static str, text: &str) -> Self {
        let text = prefix(text, MAX_QUOTED).to_owned();
        Self { of, text }
    }
}

/// Gives an enum without data a name per variant: `as_str`, `Display`, `FromStr`, `Serialize` and `Deserialize`.
macro_rules! labels {
    ($type:ident, $of:literal, { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// The name, as `Display` and `Serialize` write it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::label::UnknownNameError;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                match name {
                    $($name => Ok(Self::$variant),)+
                    _ => Err($crate::label::UnknownNameError::new($of, name)),
                }
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                name.parse()
                    .map_err(|_| serde::de::Error::unknown_variant(&name, &[$($name),+]))
            }
        }
    };
}

pub(crate) use labels;
