//! Which fields the bodies have.

use crate::label::labels;

/// Which fields the bodies of a result have. As text `extended` or `baseline`. Default: [`Extended`](Self::Extended).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum WireFormat {
    /// All fields that today's platform knows. Its newer receivers refuse a result without them.
    #[default]
    Extended,
    /// The fields of the platform's first version: `workerId` and `summary` in the completion; `workerId`, `status`,
    /// `providerSessionId`, `worktreePath`, `error`, `totalCostUsd`, `inputTokens` and `outputTokens` in the status.
    Baseline,
}

labels!(WireFormat, "wire format", {
    Extended => "extended",
    Baseline => "baseline",
});
