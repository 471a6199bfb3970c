//! `result-poster outbox`.

mod change;
mod list;
mod show;
mod transfer;

use std::{ffi::OsStr, path::Path};

use result_poster::{
    CallId, OptionsConfig, OutboxError,
    outbox::{EntryQuery, OutboxInspector, OutboxOptions},
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

/// An open outbox, with its location for errors.
struct OpenOutbox {
    location: String,
    inspector: OutboxInspector,
}

impl OpenOutbox {
    fn open(options: &OutboxOptions) -> Result<Self, Failure> {
        let location = options.location_text();
        match OutboxInspector::of(options) {
            Ok(inspector) => Ok(Self { location, inspector }),
            Err(error) => Err(at(&location, &error)),
        }
    }

    fn failed(&self, error: &OutboxError) -> Failure {
        at(&self.location, error)
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

fn at(location: &str, error: &OutboxError) -> Failure {
    Failure::failed(format!("{location}: {}", chain(error)))
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

fn is_url(location: &OsStr) -> bool {
    location.to_str().is_some_and(|text| text.contains("://"))
}

pub(crate) fn run(config: Option<&Path>, outbox: Outbox, output: &mut Output) -> Result<(), Failure> {
    let config = match outbox.outbox {
        // A file needs no configuration.
        Some(location) if !is_url(&location) => OptionsConfig::default().with_outbox(location),
        Some(location) => configuration::load(config)?.with_outbox(location),
        None => configuration::load(config)?,
    };
    let options = config.outbox().map_err(|error| Failure::usage(chain(&error)))?;
    let options = options.ok_or_else(|| {
        Failure::usage("there is no outbox: give --outbox, or `outbox.path` or `outbox.url` in the configuration")
    })?;
    let outbox_command = outbox.command;
    let outbox = OpenOutbox::open(&options)?;
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
