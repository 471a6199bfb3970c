//! `result-poster outbox`.

mod change;
mod list;
mod show;
mod transfer;

use std::path::{Path, PathBuf};

use result_poster::{
    CallId, OutboxError,
    outbox::{EntryQuery, OutboxInspector},
};

use self::change::Change;
use crate::{
    arguments::{Filter, Outbox, OutboxCommand},
    configuration,
    failure::{Failure, chain},
    output::Output,
};

/// How many calls are read at once.
const PAGE: u32 = 500;

/// An open outbox, with its path for errors.
struct OpenOutbox {
    path: PathBuf,
    inspector: OutboxInspector,
}

impl OpenOutbox {
    fn open(path: PathBuf) -> Result<Self, Failure> {
        match OutboxInspector::open(&path) {
            Ok(inspector) => Ok(Self { path, inspector }),
            Err(error) => Err(of_file(&path, &error)),
        }
    }

    fn failed(&self, error: &OutboxError) -> Failure {
        of_file(&self.path, error)
    }

    /// Calls `work` with each page of the ids that match the filter.
    fn pages(&self, filter: &Filter, mut work: impl FnMut(&[CallId]) -> Result<(), Failure>) -> Result<(), Failure> {
        let mut after = None;
        loop {
            let query = query(filter, after).without_bodies().limit(PAGE);
            let entries = self.inspector.list(query).map_err(|error| self.failed(&error))?;
            let ids: Vec<_> = entries.iter().map(|entry| entry.id).collect();
            after = ids.last().copied();
            if after.is_none() {
                return Ok(());
            }
            work(&ids)?;
        }
    }
}

fn of_file(path: &Path, error: &OutboxError) -> Failure {
    Failure::failed(format!("{}: {}", path.display(), chain(error)))
}

fn query(filter: &Filter, after: Option<CallId>) -> EntryQuery {
    let mut query = filter
        .state
        .map_or_else(EntryQuery::all, |state| EntryQuery::new(state.into()));
    if let Some(target_id) = &filter.target {
        query = query.target(target_id);
    }
    if let Some(age) = filter.older_than {
        query = query.older_than(age);
    }
    if let Some(id) = after {
        query = query.after(id);
    }
    query
}

pub(crate) fn run(config: Option<&Path>, outbox: Outbox, output: &mut Output) -> Result<(), Failure> {
    let path = match outbox.outbox {
        Some(path) => path,
        None => configuration::load(config)?
            .outbox_path()
            .map(Path::to_owned)
            .ok_or_else(|| {
                Failure::usage("there is no outbox: give --outbox, or `outbox.path` in the configuration")
            })?,
    };
    let outbox_command = outbox.command;
    let outbox = OpenOutbox::open(path)?;
    match outbox_command {
        OutboxCommand::List { filter, after, limit } => list::run(&outbox, &filter, after, limit, output),
        OutboxCommand::Show { ids } => show::run(&outbox, &ids, output),
        OutboxCommand::Requeue(selection) => change::run(&outbox, Change::Requeue, &selection, output),
        OutboxCommand::Discard(selection) => change::run(&outbox, Change::Discard, &selection, output),
        OutboxCommand::Export { filter } => transfer::export(&outbox, &filter, output),
        OutboxCommand::Import { file } => transfer::import(&outbox, &file, output),
        OutboxCommand::Stats => show::stats(&outbox, output),
    }
}
