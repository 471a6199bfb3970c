//! The warnings in a receipt.

use std::{borrow::Cow, fmt, ops::Deref};

use serde::Serialize;

use crate::util::{prefix, printable};

/// How many warnings of a reader or a call are kept: a hostile result could make a million.
const MAX_WARNINGS: usize = 32;

/// The longest path of a field, in bytes: the names in it come from outside.
const MAX_PATH: usize = 128;

/// Something that a message lost on its way to the platform, or that the platform said with its acknowledgement.
///
/// A warning never fails a message. It is logged, and it is in [`PostReceipt::warnings`](crate::PostReceipt::warnings)
/// and [`CallReceipt::warnings`](crate::CallReceipt::warnings).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "warning", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum Warning {
    /// A field was left out, since its value can't be sent.
    #[non_exhaustive]
    FieldLeftOut {
        /// The path of the field, such as `cost.totalCostUsd`; its first 128 bytes, and then `…`.
        field: String,
        /// Why the value can't be sent.
        reason: Cow<'static, str>,
    },
    /// A field is a text, but its value was not one: the value's JSON is sent as the text.
    #[non_exhaustive]
    SentAsJsonText {
        /// The path of the field.
        field: String,
    },
    /// A text was too long. Its last line says how much was cut.
    #[non_exhaustive]
    TextCut {
        /// The path of the field.
        field: String,
        /// How many bytes were cut.
        cut: usize,
        /// The length of the whole text in bytes.
        total: usize,
    },
    /// The body was too long, even without its manifest and added fields: every text in it was cut to 4 KiB, and
    /// every list to 64 elements.
    BodyReduced,
    /// There were more warnings, which are not listed.
    #[non_exhaustive]
    More {
        /// The number of warnings that are not listed.
        count: usize,
    },
    /// The platform posted only some parts of the comment (`partsPosted` and `totalParts` of its response).
    #[non_exhaustive]
    PartlyPosted {
        /// The number of parts that were posted.
        posted: u64,
        /// The number of all parts.
        total: u64,
    },
    /// The platform reported errors (`errors` of its response).
    #[non_exhaustive]
    PlatformErrors {
        /// The errors, separated by semicolons; the first 4 KiB at most, with the token scrubbed.
        errors: String,
    },
}

impl Warning {
    pub(crate) fn left_out(field: impl Into<String>, reason: impl Into<Cow<'static, str>>) -> Self {
        let mut field = field.into();
        let kept = prefix(&field, MAX_PATH).len();
        if kept < field.len() {
            field.truncate(kept);
            field.push('…');
        }
        Self::FieldLeftOut {
            field,
            reason: reason.into(),
        }
    }
}

/// The first warnings, and how many more there were.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Warnings(Vec<Warning>);

impl Warnings {
    pub(crate) fn push(&mut self, warning: Warning) {
        self.push_with(|| warning);
    }

    /// Adds a warning, which is not made if it is not kept.
    pub(crate) fn push_with(&mut self, warning: impl FnOnce() -> Warning) {
        if let Some(Warning::More { count }) = self.0.last_mut() {
            *count = count.saturating_add(1);
        } else if self.0.len() >= MAX_WARNINGS {
            self.0.push(Warning::More { count: 1 });
        } else {
            self.0.push(warning());
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Warning> {
        self.0
    }
}

impl Extend<Warning> for Warnings {
    fn extend<W: IntoIterator<Item = Warning>>(&mut self, warnings: W) {
        warnings.into_iter().for_each(|warning| self.push(warning));
    }
}

impl Deref for Warnings {
    type Target = [Warning];

    fn deref(&self) -> &[Warning] {
        &self.0
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FieldLeftOut { field, reason } => write!(f, "`{}` was left out: {reason}", printable(field)),
            Self::SentAsJsonText { field } => write!(f, "`{field}` is not a text: its JSON is sent"),
            Self::TextCut { field, cut, total } => write!(f, "`{field}` was cut by {cut} of {total} bytes"),
            Self::BodyReduced => f.write_str(
                "the body was longer than 512 KiB: every text in it was cut to 4 KiB, and every list to 64 elements",
            ),
            Self::More { count } => write!(f, "{count} more warnings"),
            Self::PartlyPosted { posted, total } => {
                write!(f, "the platform posted {posted} of {total} parts of the comment")
            }
            Self::PlatformErrors { errors } => write!(f, "the platform reported errors: {}", printable(errors)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_warnings_are_kept_and_the_others_counted() {
        let mut warnings = Warnings::default();
        warnings.extend((0..100).map(|index| Warning::left_out(index.to_string(), "it is hostile")));
        warnings.push_with(|| panic!("a warning that is not kept was made"));
        assert_eq!(warnings.len(), 33);
        assert_eq!(warnings[31].to_string(), "`31` was left out: it is hostile");
        assert_eq!(warnings[32].to_string(), "69 more warnings");
    }

    #[test]
    fn a_name_from_outside_forges_no_line_and_is_short() {
        let forged = Warning::left_out("a\n2026-01-01 ERROR \u{1b}[2J\u{202e}b\u{2028}", "it is hostile");
        assert_eq!(
            forged.to_string(),
            r"`a\n2026-01-01 ERROR \u{1b}[2J\u{202e}b\u{2028}` was left out: it is hostile"
        );
        let long = Warning::left_out("日".repeat(1000), "it is hostile").to_string();
        assert!(
            long.starts_with("`日") && long.contains("日…` was left out") && long.len() < 200,
            "{long}"
        );
    }
}
