//! The outbox among the options. Without the feature there is none.

pub(crate) use self::feature::{ChosenOutbox, OpenOutbox, OptionalOutbox};
pub(super) use self::feature::{longest_timeout, open, route, store};

#[cfg(feature = "outbox")]
mod feature {
    use std::{rc::Rc, time::Duration};

    use crate::{
        call::Platform,
        clock::Clock,
        credentials::CredentialConfig,
        error::OptionsError,
        outbox::{Config, Durable, Outbox, OutboxOptions},
        route::{Direct, Route},
    };

    /// The outbox in a builder.
    pub(crate) type ChosenOutbox = Option<OutboxOptions>;
    /// The outbox in built options: its file is open.
    pub(crate) type OpenOutbox = Option<Config>;
    /// The outbox of a poster.
    pub(crate) type OptionalOutbox = Option<Outbox>;

    /// The longest time limit of a request that the outbox allows.
    pub(crate) fn longest_timeout(outbox: &ChosenOutbox) -> Option<Duration> {
        outbox.as_ref()?.longest_timeout()
    }

    pub(crate) fn open(outbox: ChosenOutbox) -> Result<OpenOutbox, OptionsError> {
        outbox.map(Config::open).transpose()
    }

    pub(crate) fn store(
        outbox: OpenOutbox,
        platform: &Platform,
        credentials: &CredentialConfig,
        clock: &Clock,
    ) -> OptionalOutbox {
        let (base, organization) = (&platform.base, platform.organization_id.as_deref());
        let worker_id = &credentials.fixed.worker_id;
        outbox.map(|config| Outbox::new(config, base, organization, worker_id, clock.clone()))
    }

    pub(crate) fn route(store: &OptionalOutbox) -> Rc<dyn Route> {
        match store {
            Some(outbox) => Rc::new(Durable::new(outbox.clone())),
            None => Rc::new(Direct),
        }
    }
}

#[cfg(not(feature = "outbox"))]
mod feature {
    use std::{rc::Rc, time::Duration};

    use crate::{
        call::Platform,
        clock::Clock,
        credentials::CredentialConfig,
        error::OptionsError,
        route::{Direct, Route},
    };

    #[derive(Debug, Clone, Default)]
    pub(crate) struct NoOutbox;

    pub(crate) type ChosenOutbox = NoOutbox;
    pub(crate) type OpenOutbox = NoOutbox;
    pub(crate) type OptionalOutbox = NoOutbox;

    pub(crate) fn longest_timeout(_: &ChosenOutbox) -> Option<Duration> {
        None
    }

    pub(crate) fn open(outbox: ChosenOutbox) -> Result<OpenOutbox, OptionsError> {
        Ok(outbox)
    }

    pub(crate) fn store(outbox: OpenOutbox, _: &Platform, _: &CredentialConfig, _: &Clock) -> OptionalOutbox {
        outbox
    }

    pub(crate) fn route(_: &OptionalOutbox) -> Rc<dyn Route> {
        Rc::new(Direct)
    }
}
