//! The `ResultPoster` actor.

mod actor;
mod handle;
mod handlers;
#[cfg(feature = "outbox")]
mod outbox;
mod shutdown;
mod submit;

pub use self::{actor::ResultPoster, handle::PosterHandle};
