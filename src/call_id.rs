//! The id of a call in the outbox.

use std::{fmt, num::ParseIntError, str::FromStr};

use serde::{Deserialize, Serialize};

/// The id of a call in the outbox, never used twice. A decimal number, as text and in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CallId(pub(crate) i64);

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for CallId {
    type Err = ParseCallIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(ParseCallIdError)
    }
}

/// The error of parsing a text that is not a [`CallId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid call id")]
pub struct ParseCallIdError(#[source] ParseIntError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_parsed_as_it_is_displayed() {
        let id = CallId(17);
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "x", "1.5", "99999999999999999999"] {
            assert!(text.parse::<CallId>().is_err(), "{text}");
        }
    }
}
