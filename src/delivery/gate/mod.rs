//! The gates between the retry loop and the permits: they hold calls back while the platform asks for a pause, or can't be
//! reached.
//!
//! `pause`, `outage` and their `opening` decide, and are pure: the time is passed in, and nothing waits. `pass` waits.

mod ended;
mod gates;
mod hanging;
mod opening;
mod outage;
mod outage_gate;
mod pace;
mod pass;
mod passage;
mod pause;
mod pause_gate;
mod waiting;

pub(super) use self::{ended::Ended, passage::Admission};
pub(crate) use self::{gates::Gates, hanging::max_hanging, outage::Change, passage::Passage};
