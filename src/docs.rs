//! Guides: for those who build a platform or a runner, for operators, reviewers and contributors.

// A guide ends with the definitions of its links to other guides, as files of the repository. Before each guide,
// `links.md` defines the same links as pages of the documentation: the first definition of a link counts.

#[doc = include_str!("docs/links.md")]
#[doc = include_str!("docs/architecture.md")]
pub mod architecture {}

#[doc = include_str!("docs/links.md")]
#[doc = include_str!("docs/command.md")]
pub mod command {}

#[doc = include_str!("docs/links.md")]
#[doc = include_str!("docs/credentials.md")]
pub mod credentials {}

#[doc = include_str!("docs/links.md")]
#[doc = include_str!("docs/errors.md")]
pub mod errors {}

#[doc = include_str!("docs/links.md")]
#[doc = include_str!("docs/faults.md")]
pub mod faults {}

#[doc = include_str!("docs/links.md")]
#[doc = include_str!("docs/migration.md")]
pub mod migration {}

#[doc = include_str!("docs/links.md")]
#[doc = include_str!("docs/operations.md")]
pub mod operations {}

#[doc = include_str!("docs/links.md")]
#[doc = include_str!("docs/outbox.md")]
pub mod outbox {}

#[doc = include_str!("docs/links.md")]
#[doc = include_str!("docs/performance.md")]
pub mod performance {}

#[doc = include_str!("docs/links.md")]
#[doc = include_str!("docs/postgres.md")]
pub mod postgres {}

#[doc = include_str!("docs/links.md")]
#[doc = include_str!("docs/responses.md")]
pub mod responses {}

#[doc = include_str!("docs/links.md")]
#[doc = include_str!("docs/security.md")]
pub mod security {}

#[doc = include_str!("docs/links.md")]
#[doc = include_str!("docs/wire.md")]
pub mod wire {}
