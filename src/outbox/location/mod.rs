//! Where an outbox is: in a file, or on a server.

mod place;
#[cfg(feature = "outbox-postgres")]
mod postgres;
#[cfg(feature = "outbox-postgres")]
mod postgres_url;
#[cfg(feature = "outbox-postgres")]
mod server;
#[cfg(feature = "outbox-postgres")]
#[cfg(test)]
mod tests;

pub(super) use self::place::Location;
#[cfg(feature = "outbox-postgres")]
pub use self::postgres::PostgresOptions;
#[cfg(feature = "outbox-postgres")]
pub(super) use self::server::PostgresServer;
