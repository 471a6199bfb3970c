//! The cost of a session.

use serde::{Deserialize, Serialize};

use super::setters::setters;

/// The cost of a session. A number that is absent or zero is not sent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Cost {
    /// Tokens read by the model. Sent with the status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// Tokens written by the model. Sent with the status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// Tokens read from the provider's cache. Sent with the status as `cacheReadTokens`; not in
    /// [`Baseline`](crate::WireFormat::Baseline).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_input_tokens: Option<u64>,
    /// Tokens written to the provider's cache. Sent with the status; not in [`Baseline`](crate::WireFormat::Baseline).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_write_tokens: Option<u64>,
    /// Tokens that the model used for reasoning. Sent with the status; not in
    /// [`Baseline`](crate::WireFormat::Baseline).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u64>,
    /// The total price in US dollars. Sent with the status. A number that is not finite is left
    /// out, with a warning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_cost_usd: Option<f64>,
    /// How many turns the agent took. Not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_turns: Option<u64>,
}

impl Cost {
    setters! {
        with_input_tokens => input_tokens: u64,
        with_output_tokens => output_tokens: u64,
        with_cached_input_tokens => cached_input_tokens: u64,
        with_cache_write_tokens => cache_write_tokens: u64,
        with_reasoning_tokens => reasoning_tokens: u64,
        with_total_cost_usd => total_cost_usd: f64,
        with_num_turns => num_turns: u64,
    }
}
