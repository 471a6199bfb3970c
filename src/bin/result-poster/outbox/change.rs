//! `outbox requeue` and `outbox discard`.

use result_poster::{CallId, OutboxError};
use serde_json::json;

use super::OpenOutbox;
use crate::{
    arguments::{Selection, State},
    failure::Failure,
    output::{Output, counted, progress},
};

#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    Requeue,
    Discard,
}

impl Change {
    fn done(self) -> &'static str {
        match self {
            Self::Requeue => "requeued",
            Self::Discard => "discarded",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Requeue => "requeue",
            Self::Discard => "discard",
        }
    }

    /// Returns how many of the calls were parked calls or dead letters.
    fn make(self, outbox: &OpenOutbox, ids: &[CallId]) -> Result<usize, Failure> {
        let changed = match self {
            Self::Requeue => outbox.inspector.requeue_each(ids),
            Self::Discard => outbox.inspector.discard_each(ids),
        };
        changed.map_err(|error| outbox.failed(&error))
    }
}

pub(super) fn run(
    outbox: &OpenOutbox,
    change: Change,
    selection: &Selection,
    output: &mut Output,
) -> Result<(), Failure> {
    if !selection.ids.is_empty() {
        return change_each(outbox, change, &selection.ids, output);
    }
    if selection.filter.is_empty() && !selection.all {
        return Err(Failure::usage(
            "no calls are named: give their ids, a filter or --all; see --help",
        ));
    }
    if matches!(selection.filter.state, Some(State::Live)) {
        return Err(Failure::usage(format!("can't {} live calls", change.name())));
    }
    let mut selected: usize = 0;
    let mut changed: usize = 0;
    let bar = progress(change.done());
    outbox.pages(&selection.filter, |ids| {
        selected = selected.saturating_add(ids.len());
        if selection.yes {
            changed = changed.saturating_add(change.make(outbox, ids)?);
            bar.set_position(changed as u64);
        }
        Ok(())
    })?;
    bar.finish_and_clear();
    if !selection.yes {
        let calls = counted(selected as u64, "call");
        return Err(Failure::usage(format!(
            "{calls} selected; to {} those that are not live, add --yes",
            change.name()
        )));
    }
    if output.is_json {
        return output.json(&json!({ change.done(): changed }));
    }
    output.line(format!("{} {}", change.done(), counted(changed as u64, "call")))
}

/// Changes the named calls one by one. The first that is neither parked nor dead ends it.
fn change_each(outbox: &OpenOutbox, change: Change, ids: &[CallId], output: &mut Output) -> Result<(), Failure> {
    for id in ids {
        if change.make(outbox, &[*id])? == 0 {
            let error = OutboxError::NoSuchCall;
            return Err(Failure::failed(format!("call {id}: {error}")));
        }
        if output.is_json {
            output.json(&json!({ change.done(): id }))?;
        } else {
            output.line(format!("{} {id}", change.done()))?;
        }
    }
    Ok(())
}
