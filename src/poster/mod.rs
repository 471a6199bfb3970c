//! The `ResultPoster` actor.

mod actor;
#[cfg(feature = "metrics")]
mod gauges;
mod handle;
mod handlers;
mod health;
#[cfg(feature = "outbox")]
mod outbox;
mod report;
mod shutdown;
mod submit;

pub use self::{
    actor::ResultPoster,
    handle::PosterHandle,
    health::{CredentialsHealth, GetHealth, Health, PlatformHealth, ShutdownProgress},
};
