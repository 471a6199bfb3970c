//! The outcome of each call: counted, logged and sent to subscribers, in one place.

mod authorization;
mod credentials;
mod event;
mod gate;
mod histogram;
mod messages;
pub(crate) mod metrics;
mod outages;
mod reachability;
mod recorder;
mod stats;
mod subscribers;

pub use self::{
    event::{DeliveryEvent, DeliveryEventKind, EventCall, Subscribe},
    gate::{GateState, GateStatus},
    histogram::Histogram,
    stats::{GetStats, Metric, MetricKind, PosterStats},
};
pub(crate) use self::{
    reachability::Reached,
    recorder::{Begin, FailedAttempt, Telemetry},
};
