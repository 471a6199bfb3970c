//! The result of a session, in the runner's format.

mod agent_result;
mod cost;
mod fields;
mod json;
mod read;
mod setters;
mod status;

pub(crate) use self::fields::Fields;
pub use self::{
    agent_result::AgentResult,
    cost::Cost,
    read::ReadResultError,
    status::{SessionStatus, WorkResult},
};
