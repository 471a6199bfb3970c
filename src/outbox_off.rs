//! In the place of the outbox, without the feature: there never is one.

use std::{
    future::{Ready, ready},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{
    error::CallError,
    lanes::{Key, Turn},
    message::CallReceipt,
    wire::Call,
};

#[derive(Clone, Default)]
pub(crate) struct Outbox;

impl Outbox {
    pub(crate) fn is_open(&self) -> bool {
        false
    }

    pub(crate) fn needs_worker(&self) -> bool {
        false
    }

    pub(crate) fn meet(&self, _worker_id: &str) {}

    pub(crate) async fn written(&self) {}

    pub(crate) fn leave(&self) -> Ready<()> {
        ready(())
    }

    pub(crate) fn begin_entering(&self, _turn: Option<&Turn>) -> Option<()> {
        None
    }

    pub(crate) async fn enter(
        &self,
        (): (),
        _key: &Key,
        _calls: &[Call],
        _turn: Option<&Turn>,
        _stop: impl Future<Output = ()>,
    ) -> Entry {
        Entry {}
    }
}

#[derive(Clone, Default)]
pub(crate) struct Entry {}

impl Entry {
    pub(crate) fn is_kept(&self) -> bool {
        false
    }

    pub(crate) fn is_parked(&self) -> bool {
        false
    }

    pub(crate) async fn withdraw(&self, _stop: &CancellationToken) {}

    pub(crate) async fn is_behind(&self, _key: &Key) -> bool {
        false
    }

    pub(crate) fn queued(&self, _index: usize) -> CallReceipt {
        CallReceipt {
            attempts: 0,
            elapsed: Duration::ZERO,
            outbox: Note::None,
        }
    }

    pub(crate) fn parked(&self, _index: usize, _reason: &'static str) -> CallError {
        CallError::Overloaded
    }

    pub(crate) async fn settle(
        &self,
        _index: usize,
        outcome: Result<CallReceipt, CallError>,
        _is_over: bool,
        _stop: &CancellationToken,
    ) -> Result<CallReceipt, CallError> {
        outcome
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Note {
    #[default]
    None,
}

impl Note {
    pub(crate) fn is_kept(&self) -> bool {
        false
    }
}
