//! The health of a poster, in one answer.

use std::time::Duration;

use actix::Message;
use serde::Serialize;

#[cfg(feature = "outbox")]
use crate::outbox::OutboxHealth;
use crate::telemetry::{GateState, GateStatus};

/// Asks a [`ResultPoster`](crate::ResultPoster) for its [`Health`]. Cheap enough to be sent every second. A poster that
/// shuts down answers it, too.
///
/// ```
/// use result_poster::health::GetHealth;
/// # use result_poster::ResultPoster;
///
/// # async fn probe(poster: actix::Addr<ResultPoster>) -> Result<(), actix::MailboxError> {
/// let health = poster.send(GetHealth).await?;
/// if !health.may_take_work() {
///     println!("no new work: {}", health.problems().join("; "));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetHealth;

impl Message for GetHealth {
    type Result = Health;
}

/// How long an outbox has to last for a runner to take new work while the platform is down.
#[cfg(feature = "outbox")]
const ENOUGH: Duration = Duration::from_secs(60 * 60);

/// The health of a poster. In JSON, its names are in camel case, and a duration is a number of seconds, such as
/// `oldestAgeSeconds`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Health {
    /// Whether the platform can be reached.
    pub platform: PlatformHealth,
    /// The outage gate of each route. Without an outbox, they are always open.
    pub gates: Vec<GateStatus>,
    /// How long the session calls still wait, since the platform has asked for a pause.
    #[serde(
        rename = "sessionPauseSeconds",
        serialize_with = "crate::seconds::serialize_optional"
    )]
    pub session_pause: Option<Duration>,
    /// How long the calls to the issue tracker still wait, since the platform has asked for a pause.
    #[serde(
        rename = "trackerPauseSeconds",
        serialize_with = "crate::seconds::serialize_optional"
    )]
    pub tracker_pause: Option<Duration>,
    /// Whether calls can be authorized.
    pub credentials: CredentialsHealth,
    /// Messages that were accepted and are neither delivered nor parked yet, with those that the outbox sends again.
    pub in_hand: u64,
    /// How many more messages the queue takes now.
    pub free_places: u64,
    /// The age of the oldest message that is not answered yet, or of the oldest live or parked call in the outbox if that is
    /// older. `None` if there is none.
    #[serde(rename = "oldestAgeSeconds", serialize_with = "crate::seconds::serialize_optional")]
    pub oldest_age: Option<Duration>,
    /// The outbox, if there is one.
    #[cfg(feature = "outbox")]
    pub outbox: Option<OutboxHealth>,
    /// The progress of a shutdown, if there is one.
    pub shutdown: Option<ShutdownProgress>,
}

/// Whether the platform can be reached, as the last attempts have found it. In JSON, `state` is `unknown`, `reachable` or
/// `unreachable`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum PlatformHealth {
    /// There was no attempt yet, or too few of them failed to tell.
    Unknown,
    /// It answers.
    #[non_exhaustive]
    Reachable {
        /// How long ago it answered last.
        #[serde(rename = "answeredAgoSeconds", serialize_with = "crate::seconds::serialize")]
        answered_ago: Duration,
    },
    /// The last five attempts or more got no answer, or one of something in between (502, 503, 504, HTML); or an outage gate
    /// is closed.
    #[non_exhaustive]
    Unreachable {
        /// The time since the first of these attempts.
        #[serde(rename = "outageSeconds", serialize_with = "crate::seconds::serialize")]
        outage: Duration,
        /// The last failure, without the body of a response.
        reason: String,
    },
}

/// Whether calls can be authorized.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CredentialsHealth {
    /// For how long there have been no credentials, or the platform has rejected them. `None` while they are good.
    #[serde(rename = "outageSeconds", serialize_with = "crate::seconds::serialize_optional")]
    pub outage: Option<Duration>,
    /// Why they fail. `None` while they are good.
    pub reason: Option<String>,
    /// Why the provider's last fetch failed, if it did: a warning, while the current token lives. `None` with a shared
    /// [`CredentialActor`](crate::credentials::CredentialActor).
    pub provider_error: Option<String>,
}

/// The progress of a [`Shutdown`](crate::Shutdown).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ShutdownProgress {
    /// How many accepted messages have not ended yet.
    pub left: u64,
    /// How long until the rest is cancelled, or parked if there is an outbox.
    #[serde(rename = "remainingSeconds", serialize_with = "crate::seconds::serialize")]
    pub remaining: Duration,
}

impl Health {
    /// For a readiness probe: whether a message that is sent now will be kept or delivered. Without an outbox, the platform,
    /// the credentials and the queue decide; with one, it is enough that the outbox can store the message.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shutdown.is_none() && (self.can_deliver() || self.can_keep())
    }

    /// Whether a runner should take new work, whose result it has to send later: the poster is [ready](Self::is_ready), its
    /// credentials are good, and the platform can be reached, or the outbox has room for an hour more at the present rate.
    #[must_use]
    pub fn may_take_work(&self) -> bool {
        self.is_ready() && self.credentials.outage.is_none() && (self.can_deliver() || self.can_bridge())
    }

    /// What is wrong, in one sentence each, for a log line or an alert. Empty if nothing is.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(ShutdownProgress { left, remaining }) = self.shutdown {
            problems.push(format!(
                "the poster is shutting down: {left} messages are left, for {remaining:?}"
            ));
        }
        if let PlatformHealth::Unreachable { outage, reason } = &self.platform {
            problems.push(format!("the platform has not been reached for {outage:?}: {reason}"));
        }
        for (group, pause) in [("session", self.session_pause), ("tracker", self.tracker_pause)] {
            if let Some(pause) = pause {
                problems.push(format!(
                    "the platform asks for a pause: all {group} calls wait for {pause:?}"
                ));
            }
        }
        let CredentialsHealth {
            outage,
            reason,
            provider_error,
        } = &self.credentials;
        if let (Some(outage), Some(reason)) = (outage, reason) {
            problems.push(format!("no call has been authorized for {outage:?}: {reason}"));
        } else if let Some(error) = provider_error {
            problems.push(format!("the credential provider fails: {error}"));
        }
        if self.free_places == 0 {
            problems.push("the queue is full".to_owned());
        }
        problems.extend(self.outbox_problem());
        problems
    }

    fn can_deliver(&self) -> bool {
        let is_unreachable = matches!(self.platform, PlatformHealth::Unreachable { .. });
        let is_any_closed = self.gates.iter().any(|gate| gate.state == GateState::Closed);
        self.free_places > 0 && !is_unreachable && !is_any_closed && self.credentials.outage.is_none()
    }

    #[cfg(feature = "outbox")]
    fn can_keep(&self) -> bool {
        self.outbox.as_ref().is_some_and(OutboxHealth::is_writable)
    }

    #[cfg(feature = "outbox")]
    fn can_bridge(&self) -> bool {
        let lasts = |outbox: &OutboxHealth| outbox.is_writable() && outbox.lasts.is_none_or(|lasts| lasts >= ENOUGH);
        self.outbox.as_ref().is_some_and(lasts)
    }

    #[cfg(feature = "outbox")]
    fn outbox_problem(&self) -> Option<String> {
        self.outbox.as_ref()?.problem()
    }

    #[cfg(not(feature = "outbox"))]
    fn can_keep(&self) -> bool {
        false
    }

    #[cfg(not(feature = "outbox"))]
    fn can_bridge(&self) -> bool {
        false
    }

    #[cfg(not(feature = "outbox"))]
    fn outbox_problem(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::PlatformRoute;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A poster without an outbox, at whose end all is well.
    fn healthy() -> Health {
        Health {
            platform: PlatformHealth::Unknown,
            gates: Vec::new(),
            session_pause: None,
            tracker_pause: None,
            credentials: CredentialsHealth::default(),
            in_hand: 0,
            free_places: 9,
            oldest_age: None,
            #[cfg(feature = "outbox")]
            outbox: None,
            shutdown: None,
        }
    }

    fn unreachable() -> PlatformHealth {
        PlatformHealth::Unreachable {
            outage: MINUTE,
            reason: "refused".into(),
        }
    }

    fn rejected() -> CredentialsHealth {
        CredentialsHealth {
            outage: Some(MINUTE),
            reason: Some("401".into()),
            provider_error: None,
        }
    }

    fn shutting_down() -> Option<ShutdownProgress> {
        Some(ShutdownProgress {
            left: 3,
            remaining: MINUTE,
        })
    }

    /// Whether it is ready, and may take work.
    fn verdict(health: &Health) -> (bool, bool) {
        (health.is_ready(), health.may_take_work())
    }

    #[test]
    fn a_poster_without_an_outbox_is_ready_while_it_can_deliver() {
        assert_eq!(verdict(&healthy()), (true, true));
        let closed = GateStatus {
            route: PlatformRoute::Status,
            state: GateState::Closed,
            closed_for: Some(MINUTE),
            last_error: None,
        };
        for (health, problem) in [
            (
                Health {
                    platform: unreachable(),
                    ..healthy()
                },
                Some("the platform has not been reached for 60s: refused"),
            ),
            (
                Health {
                    gates: vec![closed],
                    ..healthy()
                },
                None,
            ),
            (
                Health {
                    credentials: rejected(),
                    ..healthy()
                },
                Some("no call has been authorized for 60s: 401"),
            ),
            (
                Health {
                    free_places: 0,
                    ..healthy()
                },
                Some("the queue is full"),
            ),
            (
                Health {
                    shutdown: shutting_down(),
                    ..healthy()
                },
                Some("the poster is shutting down: 3 messages are left, for 60s"),
            ),
        ] {
            assert_eq!(verdict(&health), (false, false), "{health:?}");
            assert_eq!(health.problems().first().map(String::as_str), problem);
        }
    }

    #[test]
    fn a_warning_does_not_change_the_verdict() {
        let warned = Health {
            session_pause: Some(MINUTE),
            credentials: CredentialsHealth {
                provider_error: Some("sealed".into()),
                ..CredentialsHealth::default()
            },
            ..healthy()
        };
        assert_eq!(verdict(&warned), (true, true));
        assert_eq!(
            warned.problems(),
            [
                "the platform asks for a pause: all session calls wait for 60s",
                "the credential provider fails: sealed",
            ]
        );
        assert!(healthy().problems().is_empty());
    }

    #[cfg(feature = "outbox")]
    mod with_an_outbox {
        use super::*;
        use crate::{error::OutboxError, outbox::OutboxStats};

        fn outbox(bytes: u64, lasts: Option<Duration>) -> Option<OutboxHealth> {
            Some(OutboxHealth {
                error: None,
                stats: Some(OutboxStats {
                    bytes,
                    ..OutboxStats::default()
                }),
                counted_ago: Some(Duration::ZERO),
                max_bytes: 100,
                bytes_per_second: 1,
                lasts,
            })
        }

        #[test]
        fn a_poster_with_an_outbox_is_ready_while_it_can_store_and_takes_work_if_that_lasts() {
            for (lasts, may_take_work) in [(None, true), (Some(60 * MINUTE), true), (Some(59 * MINUTE), false)] {
                let health = Health {
                    platform: unreachable(),
                    outbox: outbox(99, lasts),
                    ..healthy()
                };
                assert_eq!(verdict(&health), (true, may_take_work), "{lasts:?}");
            }
        }

        #[test]
        fn a_full_or_failing_outbox_leaves_the_verdict_to_the_platform() {
            let full = outbox(100, None);
            let failing = outbox(0, None).map(|outbox| OutboxHealth {
                error: Some(OutboxError::Locked),
                ..outbox
            });
            for (outbox, problem) in [
                (full, "the outbox is full: 100 of 100 bytes"),
                (
                    failing,
                    "the outbox fails: the database was locked by another process for more than 2 s",
                ),
            ] {
                let works = Health { outbox, ..healthy() };
                assert_eq!(verdict(&works), (true, true));
                assert_eq!(works.problems(), [problem]);
                let fails = Health {
                    platform: unreachable(),
                    ..works
                };
                assert_eq!(verdict(&fails), (false, false));
            }
        }

        #[test]
        fn no_work_is_taken_with_rejected_credentials() {
            let health = Health {
                credentials: rejected(),
                outbox: outbox(0, None),
                ..healthy()
            };
            assert_eq!(verdict(&health), (true, false));
        }
    }
}
