//! Placeholder.

mod classify;
mod clock;
mod credentials;
mod delivery;
mod error;
mod lanes;
mod message;
mod options;
mod poster;
mod result;
mod retry;
mod supervise;
#[cfg(feature = "testing")]
pub mod testing;
mod text;
mod transport;
mod wire;

pub use clock::Clock;
pub use error::{AttemptError, CallError, InvalidMessage, OptionsError, PermanentError, PostError, TransientError};
pub use message::{CallReceipt, CreateComment, PostReceipt, PostResult, UpdateIssueStatus};
pub use options::{Options, OptionsBuilder};
pub use poster::ResultPoster;
pub use result::{AgentResult, Cost, SessionStatus, WorkResult};
pub use retry::{DEFAULT_BASE_DELAY, DEFAULT_MAX_ATTEMPTS};
pub use supervise::Supervisor;
pub use transport::{DEFAULT_TIMEOUT, Dialer};
