//! The source that the cache fetches credentials from.

use std::{rc::Rc, sync::Arc};

use super::{provider::CredentialProvider, refresh_endpoint::RefreshEndpoint, runtime_credentials::RuntimeCredentials};
use crate::error::CredentialError;

/// A provider, or the platform's own endpoint.
///
/// The endpoint can't be a [`CredentialProvider`], which has to be `Send`: the endpoint shares the poster's HTTP
/// client, which is tied to one thread.
#[derive(Clone)]
pub(crate) enum CredentialSource {
    Provider(Arc<dyn CredentialProvider>),
    Endpoint(Rc<RefreshEndpoint>),
}

impl CredentialSource {
    pub(super) fn may_be_cached(&self) -> bool {
        match self {
            Self::Provider(provider) => provider.may_be_cached(),
            Self::Endpoint(_) => true,
        }
    }

    pub(super) async fn credentials(&self) -> Result<RuntimeCredentials, CredentialError> {
        let credentials = match self {
            Self::Provider(provider) => provider.credentials().await,
            Self::Endpoint(endpoint) => endpoint.credentials().await,
        };
        credentials.map_err(|error| match error.downcast_ref() {
            Some(gone @ CredentialError::WorkerGone { .. }) => gone.clone(),
            Some(_) | None => CredentialError::Provider(error.into()),
        })
    }
}
