//! The warnings in a receipt.

use std::{borrow::Cow, fmt};

use serde::Serialize;

use crate::util::printable;

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
        /// The path of the field, such as `cost.totalCostUsd`.
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
    /// The body was too long, even without its manifest and added fields: every text in it was cut to 4 KiB.
    BodyReduced,
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
        Self::FieldLeftOut {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FieldLeftOut { field, reason } => write!(f, "`{field}` was left out: {reason}"),
            Self::SentAsJsonText { field } => write!(f, "`{field}` is not a text: its JSON is sent"),
            Self::TextCut { field, cut, total } => write!(f, "`{field}` was cut by {cut} of {total} bytes"),
            Self::BodyReduced => f.write_str("the body was longer than 512 KiB, and every text in it was cut to 4 KiB"),
            Self::PartlyPosted { posted, total } => {
                write!(f, "the platform posted {posted} of {total} parts of the comment")
            }
            Self::PlatformErrors { errors } => write!(f, "the platform reported errors: {}", printable(errors)),
        }
    }
}
