//! The source of the credentials, as the options name it.

use std::{fmt, sync::Arc};

use actix::Addr;
use secrecy::SecretString;

use crate::credentials::{CredentialActor, CredentialProvider};

/// The source of the credentials.
#[derive(Clone)]
pub(super) enum CredentialChoice {
    /// The fixed pair.
    Fixed,
    Provider(Arc<dyn CredentialProvider>),
    /// The platform's own endpoint, with this registration token.
    Endpoint(SecretString),
    Actor(Addr<CredentialActor>),
}

impl fmt::Debug for CredentialChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fixed => "Fixed",
            Self::Provider(_) => "Provider",
            Self::Endpoint(_) => "Endpoint",
            Self::Actor(_) => "Actor",
        })
    }
}
