//! The identity under which calls are made: a worker id with its token, and the sources of both.
//!
//! A poster, or a [`CredentialActor`] that several posters share, gets [`IssuedCredentials`] from a cache. The cache
//! asks a [`CredentialProvider`] when it has no valid credentials.

// poster ─▶ access ─┐
//                   ├─▶ cache ─▶ source ─▶ provider, token_file, refresh_endpoint
// others ─▶ actor ──┘     └────▶ decision, state, lifetime, validate (pure)
mod access;
mod actor;
mod cache;
mod decision;
mod issued_credentials;
pub(crate) mod jwt;
mod lifetime;
mod messages;
mod parse;
mod provider;
mod refresh_endpoint;
mod runtime_credentials;
pub(crate) mod secret_file;
mod seen_tokens;
mod source;
mod state;
pub(crate) mod token_file;
mod validate;

// The type of tokens, and the trait to read one.
pub use secrecy::{ExposeSecret, SecretString};

pub(crate) use self::{
    access::Credentials,
    cache::{CredentialConfig, DEFAULT_FETCH_TIMEOUT, DEFAULT_REFRESH_MARGIN},
    refresh_endpoint::RefreshEndpoint,
    source::CredentialSource,
};
pub use self::{
    actor::{CredentialActor, CredentialActorBuilder, GetCredentialActor},
    issued_credentials::IssuedCredentials,
    messages::{GetCredentials, InvalidateCredentials, RefreshCredentials},
    provider::{BoxError, CredentialProvider, provider_fn},
    runtime_credentials::RuntimeCredentials,
    token_file::RuntimeTokenFile,
};
pub use crate::error::CredentialError;
