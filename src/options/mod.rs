//! The options of a poster, validated once.

mod builder;
mod check;
mod config;
mod credential_choice;
mod network;
mod outbox;
mod platform_url;
mod validate;
mod validated;

pub(crate) use self::validated::Parts;
pub use self::{
    builder::OptionsBuilder,
    check::{CheckOutcome, CheckStep, CheckedStep},
    config::OptionsConfig,
    validated::Options,
};
