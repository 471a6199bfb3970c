//! The validated options, and the parts of a poster that are made of them.

use std::{cell::Cell, rc::Rc, time::Duration};

use actix::Recipient;
use tokio_util::sync::CancellationToken;

use super::{
    builder::OptionsBuilder,
    credential_choice::CredentialChoice,
    outbox::{self, OpenOutbox, OptionalOutbox},
};
use crate::{
    backoff::{DEFAULT_BASE_DELAY, DEFAULT_MAX_ATTEMPTS, RetryPolicy},
    call::Platform,
    clock::Clock,
    credentials::{CredentialConfig, CredentialSource, Credentials, RefreshEndpoint},
    delivery::{Dispatcher, Gates},
    queue::{LaneQueue, Limits},
    route::Route,
    telemetry::{DeliveryEvent, Telemetry},
    transport::{DEFAULT_TIMEOUT, HttpTransport, Transport, TransportConfig},
};

/// The validated options of a [`ResultPoster`](crate::ResultPoster). [`OptionsBuilder`] lists the defaults.
///
/// ```
/// use result_poster::Options;
///
/// let options = Options::builder("https://app.example.com")
///     .worker_id("wkr_1")
///     .auth_token("token")
///     .build()?;
///
/// let refused = Options::builder("http://app.example.com").auth_token("token").build().unwrap_err();
/// assert_eq!(refused.option, "platform_url");
/// # Ok::<_, result_poster::OptionsError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    pub(super) platform: Platform,
    pub(super) credentials: CredentialConfig,
    pub(super) source: CredentialChoice,
    pub(super) token_required: bool,
    pub(super) transport: TransportConfig,
    pub(super) retry_policy: RetryPolicy,
    pub(super) limits: Limits,
    pub(super) clock: Clock,
    pub(super) subscribers: Vec<Recipient<DeliveryEvent>>,
    pub(super) outbox: OpenOutbox,
}

/// The parts of a poster.
pub(crate) struct Parts {
    pub(crate) dispatcher: Rc<Dispatcher>,
    pub(crate) queue: Rc<LaneQueue>,
    pub(crate) route: Rc<dyn Route>,
    pub(crate) outbox: OptionalOutbox,
    /// Whether a result without a worker id may get one, or needs none.
    pub(crate) can_name_worker: bool,
}

impl Options {
    /// The default of [`OptionsBuilder::max_attempts`]: 3.
    pub const DEFAULT_MAX_ATTEMPTS: u32 = DEFAULT_MAX_ATTEMPTS;
    /// The default of [`OptionsBuilder::base_delay`]: 1 s.
    pub const DEFAULT_BASE_DELAY: Duration = DEFAULT_BASE_DELAY;
    /// The default of [`OptionsBuilder::timeout`]: 30 s.
    pub const DEFAULT_TIMEOUT: Duration = DEFAULT_TIMEOUT;

    /// Starts with the platform's URL, such as `https://app.example.com`. A path in it is kept.
    pub fn builder(platform_url: impl Into<String>) -> OptionsBuilder {
        OptionsBuilder::new(platform_url.into())
    }

    pub(crate) fn into_parts(self) -> Parts {
        let transport = Rc::new(HttpTransport::new(self.transport.clone()));
        self.into_parts_over(transport)
    }

    /// The parts of a poster that sends its requests over this transport.
    pub(crate) fn into_parts_over(self, transport: Rc<dyn Transport>) -> Parts {
        let can_name_worker = !self.token_required
            || !self.credentials.fixed.worker_id.is_empty()
            || !matches!(self.source, CredentialChoice::Fixed);
        let store = outbox::store(self.outbox, &self.platform, &self.credentials, &self.clock);
        let own = |source| Credentials::own(self.credentials.clone(), source);
        let credentials = match self.source {
            CredentialChoice::Fixed => own(None),
            CredentialChoice::Provider(provider) => own(Some(CredentialSource::Provider(provider))),
            CredentialChoice::Endpoint(registration_token) => {
                own(Some(CredentialSource::Endpoint(Rc::new(RefreshEndpoint {
                    url: self.platform.refresh_url(&self.credentials.fixed.worker_id),
                    registration_token,
                    transport: Rc::clone(&transport),
                }))))
            }
            CredentialChoice::Actor(actor) => Credentials::shared(actor),
        };
        let dispatcher = Dispatcher {
            platform: self.platform,
            credentials,
            token_required: self.token_required,
            transport,
            retry_policy: self.retry_policy,
            telemetry: Rc::new(Telemetry::new(self.clock.clone(), self.subscribers)),
            clock: self.clock,
            chance: rand::random,
            gates: Rc::new(Gates::new(self.limits.max_in_flight)),
            shutdown: CancellationToken::new(),
            platform_time: Cell::new(None),
        };
        Parts {
            dispatcher: Rc::new(dispatcher),
            queue: LaneQueue::new(self.limits),
            route: outbox::route(&store),
            outbox: store,
            can_name_worker,
        }
    }
}
