//! `outbox list`.

use std::time::SystemTime;

use anstyle::Style;
use result_poster::{
    CallId,
    outbox::{EntryState, OutboxEntry},
};
use serde_json::Value;

use super::{OpenOutbox, PAGE, query};
use crate::{
    arguments::Filter,
    failure::Failure,
    output::{BAD, GOOD, HEAD, Output, UNSURE, counted, printable, relative, short, styled},
};

pub(super) fn run(
    outbox: &OpenOutbox,
    filter: &Filter,
    mut after: Option<CallId>,
    limit: Option<u64>,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut left = limit.unwrap_or(u64::MAX);
    let mut table = Table::new();
    loop {
        let page = u32::try_from(left).unwrap_or(PAGE).min(PAGE);
        let query = query(filter, after).without_bodies().limit(page);
        let entries = outbox.inspector.list(query).map_err(|error| outbox.failed(&error))?;
        let Some(last) = entries.last() else { break };
        after = Some(last.id);
        left = left.saturating_sub(entries.len() as u64);
        if output.is_json {
            for entry in &entries {
                output.json(&without_body(entry)?)?;
            }
        } else {
            table.print(&entries, output)?;
        }
    }
    if output.is_json {
        return Ok(());
    }
    table.print_footer(output)
}

fn without_body(entry: &OutboxEntry) -> Result<Value, Failure> {
    let mut value = serde_json::to_value(entry).map_err(|error| Failure::failed(error.to_string()))?;
    if let Some(object) = value.as_object_mut() {
        object.remove("body");
    }
    Ok(value)
}

/// A table that is printed page by page. A column is as wide as its widest cell so far.
struct Table {
    widths: [usize; 7],
    has_head: bool,
    live: u64,
    parked: u64,
    dead_letters: u64,
}

const COLUMNS: [&str; 8] = [
    "ID",
    "STATE",
    "KIND",
    "TARGET",
    "ATTEMPTS",
    "STORED",
    "NEXT",
    "REASON OR LAST ERROR",
];

impl Table {
    fn new() -> Self {
        Self {
            widths: [0; 7],
            has_head: false,
            live: 0,
            parked: 0,
            dead_letters: 0,
        }
    }

    fn print(&mut self, entries: &[OutboxEntry], output: &mut Output) -> Result<(), Failure> {
        let now = SystemTime::now();
        let rows: Vec<_> = entries.iter().map(|entry| (cells(entry, now), style(entry))).collect();
        let head = (!self.has_head).then(|| (COLUMNS.map(str::to_owned), HEAD));
        self.has_head = true;
        for (cells, _) in head.iter().chain(&rows) {
            for (width, cell) in self.widths.iter_mut().zip(cells) {
                *width = cell.chars().count().max(*width);
            }
        }
        for (cells, style) in head.into_iter().chain(rows) {
            output.line(self.row(&cells, style))?;
        }
        for entry in entries {
            let count = match entry.state {
                EntryState::Live => &mut self.live,
                EntryState::DeadLetter => &mut self.dead_letters,
                EntryState::Parked | _ => &mut self.parked,
            };
            *count = count.saturating_add(1);
        }
        Ok(())
    }

    fn row(&self, cells: &[String; 8], style: Style) -> String {
        let [_, _, _, _, _, _, _, last] = cells;
        let mut row = String::new();
        for (index, (cell, width)) in cells.iter().zip(self.widths).enumerate() {
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            // The state alone has a colour, and the whole head.
            let cell = if index == 1 || style == HEAD {
                styled(style, cell)
            } else {
                cell.clone()
            };
            row += &format!("{cell}{padding}  ");
        }
        if style == HEAD {
            row += &styled(style, last);
        } else {
            row += last;
        }
        row.trim_end().to_owned()
    }

    fn print_footer(&self, output: &mut Output) -> Result<(), Failure> {
        let all = self.live.saturating_add(self.parked).saturating_add(self.dead_letters);
        let parts = [
            (self.live, format!("{} live", self.live)),
            (self.parked, format!("{} parked", self.parked)),
            (self.dead_letters, counted(self.dead_letters, "dead letter")),
        ];
        let parts: Vec<_> = parts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(_, text)| text)
            .collect();
        if parts.is_empty() {
            return output.line("no calls");
        }
        output.line(format!("{}: {}", counted(all, "call"), parts.join(", ")))
    }
}

fn cells(entry: &OutboxEntry, now: SystemTime) -> [String; 8] {
    let next = entry.next_attempt_at.map(|time| match now.duration_since(time) {
        Ok(_) => "due".to_owned(),
        Err(ahead) => format!("in {}", short(ahead.duration())),
    });
    let error = entry.last_error.as_deref().or(entry.reason.as_deref());
    [
        entry.id.to_string(),
        state(entry),
        printable(&entry.kind),
        printable(&entry.target_id),
        entry.attempts.to_string(),
        relative(entry.created_at, now),
        next.unwrap_or_else(|| "-".to_owned()),
        printable(error.unwrap_or_default()),
    ]
}

/// The state of a call. A call whose owner has died is taken over at once if a poster of its queue runs.
pub(super) fn state(entry: &OutboxEntry) -> String {
    match entry.owner {
        Some(owner) if !owner.is_alive => format!("{}, owner dead", entry.state),
        _ => entry.state.to_string(),
    }
}

pub(super) fn style(entry: &OutboxEntry) -> Style {
    match entry.state {
        EntryState::Live => GOOD,
        EntryState::DeadLetter => BAD,
        EntryState::Parked | _ => UNSURE,
    }
}
