//! The id of a call in the outbox.

use std::{
    fmt,
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::clock::Clock;

/// The id of a call in the outbox: a UUID of version 7 (RFC 9562). As text and in JSON it has the usual form with hyphens.
///
/// The ids of one process ascend in the order in which its calls were stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(u128);

/// The last id of this process.
static LAST: Mutex<CallId> = Mutex::new(CallId(0));

impl CallId {
    /// A new id, greater than all earlier ones of this process even if the clock goes back.
    pub(crate) fn new(clock: &Clock) -> Self {
        let since_epoch = clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let milliseconds = u64::try_from(since_epoch.as_millis()).unwrap_or_default();
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Self::from_parts(milliseconds, rand::random());
        *last = if fresh > *last { fresh } else { last.successor() };
        *last
    }

    /// From the time since 1970 and 74 random bits. Pure.
    pub(crate) fn from_parts(milliseconds: u64, random: u128) -> Self {
        const TIME: u128 = (1 << 48) - 1;
        const VERSION: u128 = 7 << 76;
        const VARIANT: u128 = 0b10 << 62;
        let (high, low) = (random & 0xfff, (random >> 12) & ((1 << 62) - 1));
        Self(((u128::from(milliseconds) & TIME) << 80) | VERSION | (high << 64) | VARIANT | low)
    }

    /// The next id with the same version and variant.
    fn successor(self) -> Self {
        let milliseconds = self.0 >> 80;
        let random = ((self.0 >> 64) & 0xfff) | ((self.0 & ((1 << 62) - 1)) << 12);
        // Ordered as in the id: the 12 high bits come first.
        let ordered = ((random & 0xfff) << 62) | (random >> 12);
        let next = ordered.wrapping_add(1);
        let random = (next >> 62) & 0xfff | ((next & ((1 << 62) - 1)) << 12);
        Self::from_parts(u64::try_from(milliseconds).unwrap_or_default(), random)
    }

    /// When the id was made, by the clock of its host.
    pub(crate) fn created_at(self) -> SystemTime {
        let milliseconds = u64::try_from(self.0 >> 80).unwrap_or_default();
        let since_epoch = Duration::from_millis(milliseconds);
        UNIX_EPOCH.checked_add(since_epoch).unwrap_or(UNIX_EPOCH)
    }

    /// The id as bytes, which sort as the id does.
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The greatest id before this one.
    pub(crate) fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:032x}", self.0);
        let mut rest = digits.as_str();
        for (index, length) in [8, 4, 4, 4, 12].into_iter().enumerate() {
            let (group, tail) = rest.split_at_checked(length).unwrap_or((rest, ""));
            f.write_str(if index == 0 { "" } else { "-" })?;
            f.write_str(group)?;
            rest = tail;
        }
        Ok(())
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallId({self})")
    }
}

impl FromStr for CallId {
    type Err = ParseCallIdError;

    /// Parses a UUID with hyphens, in lower or upper case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_hyphen = |index| matches!(index, 8 | 13 | 18 | 23);
        let mut value = 0_u128;
        if text.len() != 36 {
            return Err(ParseCallIdError);
        }
        for (index, byte) in text.bytes().enumerate() {
            if is_hyphen(index) != (byte == b'-') {
                return Err(ParseCallIdError);
            }
            if byte != b'-' {
                let digit = char::from(byte).to_digit(16).ok_or(ParseCallIdError)?;
                value = (value << 4) | u128::from(digit);
            }
        }
        Ok(Self(value))
    }
}

impl Serialize for CallId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CallId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The error of parsing a text that is not a [`CallId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid call id")]
pub struct ParseCallIdError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_uuid_of_version_7() {
        let id = CallId::from_parts(0x0123_4567_89ab, u128::MAX);
        assert_eq!(id.to_string(), "01234567-89ab-7fff-bfff-ffffffffffff");
        assert_eq!(
            CallId::from_parts(0, 0).to_string(),
            "00000000-0000-7000-8000-000000000000"
        );
    }

    #[test]
    fn ids_ascend_even_within_a_millisecond() {
        let clock = Clock::system();
        let ids: Vec<_> = (0..10_000).map(|_| CallId::new(&clock)).collect();
        assert!(ids.is_sorted_by(|first, second| first < second));
        assert!(ids.iter().all(|id| id.to_string().as_bytes()[14] == b'7'));
        let last = CallId::from_parts(5, (1 << 74) - 1 - 0xfff);
        assert!(last.successor() > last);
    }

    #[test]
    fn an_id_says_when_it_was_made() {
        let id = CallId::from_parts(1_500, u128::MAX);
        assert_eq!(id.created_at(), UNIX_EPOCH + Duration::from_millis(1_500));
        assert!(CallId(u128::MAX).created_at() > UNIX_EPOCH);
    }

    #[test]
    fn an_id_is_parsed_as_it_is_displayed() {
        let id = CallId::new(&Clock::system());
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
        assert_eq!(CallId::from_bytes(id.to_bytes()), id);
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<CallId>(&json).unwrap(), id);
        for text in [
            "",
            "17",
            "01234567-89ab-7fff-bfff-fffffffffff",
            "01234567_89ab-7fff-bfff-ffffffffffff",
            "é",
        ] {
            assert!(text.parse::<CallId>().is_err(), "{text}");
        }
    }
}
