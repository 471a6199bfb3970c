//! The keys of the table `outbox`.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer};

use super::{named::Named, set::set, value};
use crate::{error::ConfigError, outbox::OutboxOptions};

#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Keys {
    pub(super) path: Option<PathBuf>,
    #[serde(deserialize_with = "value::duration")]
    expires_after: Option<Duration>,
    #[serde(deserialize_with = "value::duration")]
    base_delay: Option<Duration>,
    #[serde(deserialize_with = "value::duration")]
    max_delay: Option<Duration>,
    #[serde(deserialize_with = "value::duration")]
    keep_dead_letters: Option<Duration>,
    max_bytes: Option<u64>,
    queue: Option<String>,
}

pub(super) fn table<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Keys>, D::Error> {
    let keys = deserializer.deserialize_map(Named::new("outbox.", "a table `outbox`"))?;
    Ok(Some(keys))
}

impl Keys {
    pub(super) fn into_options(self) -> Result<OutboxOptions, ConfigError> {
        let path = self.path.ok_or_else(|| ConfigError::new("outbox.path", "is missing"))?;
        let mut builder = OutboxOptions::builder(path);
        set!(builder,
            self.expires_after => expires_after,
            self.base_delay => base_delay,
            self.max_delay => max_delay,
            self.keep_dead_letters => keep_dead_letters,
            self.max_bytes => max_bytes,
            self.queue => queue,
        );
        builder
            .build()
            .map_err(|error| ConfigError::new(error.option, error.reason))
    }
}
