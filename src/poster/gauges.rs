//! The gauges of the feature `metrics`, which are set every 15 seconds.

use std::time::Duration;

use actix::{AsyncContext as _, Context};
use actix_rt::spawn;

use super::{
    actor::ResultPoster,
    health::{Health, PlatformHealth},
};
use crate::telemetry::{
    GateState, MetricKind,
    metrics::{Label, count_more, counter_name, gauge, gauge_name},
};

/// How often the gauges are set, in real time. Exporters are asked less often, and each time an idle process wakes up.
const INTERVAL: Duration = Duration::from_secs(15);

impl ResultPoster {
    /// Sets the gauges every 15 seconds, as long as the context lives.
    pub(super) fn report_gauges(&self, context: &mut Context<Self>) {
        self.set_gauges();
        context.run_interval(INTERVAL, |poster, _| poster.set_gauges());
    }

    fn set_gauges(&self) {
        self.set_own_gauges();
        let health = self.health();
        spawn(async move { set_health(&health.await) });
    }

    /// Sets the gauges of the queue, and counts the credential fetches since the last time.
    pub(super) fn set_own_gauges(&self) {
        let stats = self.stats();
        for metric in stats.metrics().filter(|metric| metric.kind == MetricKind::Gauge) {
            gauge(format!("result_poster_{}", metric.name), Label::None, metric.value);
        }
        let fetches = stats.credential_fetches.unwrap_or_default();
        let reported = self.reported_fetches.replace(fetches);
        let more = fetches.saturating_sub(reported);
        count_more(counter_name!(credential_fetches), Label::None, more);
    }
}

fn set_health(health: &Health) {
    let is_unreachable = matches!(health.platform, PlatformHealth::Unreachable { .. });
    let own = [
        (gauge_name!(platform_reachable), u64::from(!is_unreachable)),
        (
            gauge_name!(credentials_good),
            u64::from(health.credentials.outage.is_none()),
        ),
        (gauge_name!(ready), u64::from(health.is_ready())),
        (gauge_name!(may_take_work), u64::from(health.may_take_work())),
        (
            gauge_name!(oldest_age_seconds),
            health.oldest_age.unwrap_or_default().as_secs(),
        ),
    ];
    for (name, value) in own {
        gauge(name, Label::None, value);
    }
    for gate in &health.gates {
        let is_open = gate.state != GateState::Closed;
        gauge(gauge_name!(gate_open), Label::Route(gate.route), u64::from(is_open));
    }
    #[cfg(feature = "outbox")]
    set_outbox(health);
}

#[cfg(feature = "outbox")]
fn set_outbox(health: &Health) {
    let Some(outbox) = &health.outbox else { return };
    gauge(
        gauge_name!(outbox_writable),
        Label::None,
        u64::from(outbox.is_writable()),
    );
    gauge(gauge_name!(outbox_max_bytes), Label::None, outbox.max_bytes);
    gauge(
        gauge_name!(outbox_bytes_per_second),
        Label::None,
        outbox.bytes_per_second,
    );
    let Some(stats) = &outbox.stats else { return };
    for (name, value) in [
        (gauge_name!(outbox_live), stats.live),
        (gauge_name!(outbox_parked), stats.parked),
        (gauge_name!(outbox_dead_letters), stats.dead_letters),
        (gauge_name!(outbox_bytes), stats.bytes),
        (gauge_name!(outbox_in_other_queues), stats.in_other_queues),
    ] {
        gauge(name, Label::None, value);
    }
}
