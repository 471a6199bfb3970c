//! Guides: architecture, the command, network faults, migration, operations, the outbox and security.

#[doc = include_str!("docs/architecture.md")]
pub mod architecture {}

#[doc = include_str!("docs/command.md")]
pub mod command {}

#[doc = include_str!("docs/faults.md")]
pub mod faults {}

#[doc = include_str!("docs/migration.md")]
pub mod migration {}

#[doc = include_str!("docs/operations.md")]
pub mod operations {}

#[doc = include_str!("docs/outbox.md")]
pub mod outbox {}

#[doc = include_str!("docs/security.md")]
pub mod security {}
