//! The outcome of each call: counted, logged and sent to subscribers, in one place.

mod authorization;
mod credentials;
mod event;
mod gate;
mod histogram;
mod outages;
mod recorder;
mod stats;
mod subscribers;

pub(crate) use self::recorder::{Begin, FailedAttempt, Telemetry};
pub use self::{
    event::{DeliveryEvent, DeliveryEventKind, EventCall, Subscribe},
    gate::{GateState, GateStatus},
    histogram::Histogram,
    stats::{GetStats, Metric, MetricKind, PosterStats},
};
