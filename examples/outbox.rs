//! Lists, shows, requeues and discards the calls in an outbox. Runners may use the outbox at the same time.
//!
//! `cargo run --example outbox -- outbox.db list`

mod common;

use std::{process::ExitCode, time::SystemTime};

use common::{Failure, chain, say};
use jiff::Timestamp;
use result_poster::{
    CallId, OutboxError,
    outbox::{EntryQuery, EntryState, OutboxEntry, OutboxInspector},
};
use serde_json::{Map, Value};

const HELP: &str = "\
Inspects and repairs an outbox. Runners may use it at the same time.

Usage: outbox [OPTIONS] <FILE> <COMMAND>

Commands:
  list          Lists the parked calls, or the dead letters with --dead
  show <ID>     Shows a call with its body
  requeue <ID>  Makes a call due now, with a fresh expiry of 7 days
  discard <ID>  Deletes a call

Options:
  --dead        Lists the calls that were rejected or have expired
  --after <ID>  Lists only the calls after this one
  --limit <N>   Lists at most N calls [default: 100]
  --json        Prints JSON instead of text, one object per line
  -h, --help    Prints this text

Exit status: 0 done; 1 no such call, or a file error; 2 invalid arguments";

enum Command {
    List(EntryQuery),
    Show(CallId),
    Requeue(CallId),
    Discard(CallId),
}

struct Arguments {
    file: String,
    command: Command,
    json: bool,
}

impl Arguments {
    /// `None` for `--help`.
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>, Failure> {
        let (mut state, mut after, mut limit, mut json) = (EntryState::Parked, None, None, false);
        let mut positional = Vec::new();
        while let Some(word) = words.next() {
            let missing_value = || Failure::usage(format!("missing value for {word}"));
            let mut value = || words.next().ok_or_else(missing_value);
            match word.as_str() {
                "-h" | "--help" => return Ok(None),
                "--dead" => state = EntryState::DeadLetter,
                "--json" => json = true,
                "--after" => after = Some(id(&value()?)?),
                "--limit" => limit = Some(number(&value()?)?),
                option if option.starts_with('-') => return Err(Failure::usage(format!("unknown option {option}"))),
                _ => positional.push(word),
            }
        }
        let mut query = EntryQuery::new(state);
        if let Some(id) = after {
            query = query.after(id);
        }
        if let Some(limit) = limit {
            query = query.limit(limit);
        }

        let mut positional = positional.into_iter();
        let mut next = |name: &str| {
            let word = positional.next();
            word.ok_or_else(|| Failure::usage(format!("missing <{name}>")))
        };
        let file = next("FILE")?;
        let command = match next("COMMAND")?.as_str() {
            "list" => Command::List(query),
            "show" => Command::Show(id(&next("ID")?)?),
            "requeue" => Command::Requeue(id(&next("ID")?)?),
            "discard" => Command::Discard(id(&next("ID")?)?),
            unknown => return Err(Failure::usage(format!("unknown command {unknown}"))),
        };
        match positional.next() {
            Some(word) => Err(Failure::usage(format!("unexpected argument {word}"))),
            None => Ok(Some(Self { file, command, json })),
        }
    }
}

fn id(text: &str) -> Result<CallId, Failure> {
    text.parse().map_err(|_| Failure::usage(format!("invalid id {text:?}")))
}

fn number(text: &str) -> Result<u32, Failure> {
    text.parse()
        .map_err(|_| Failure::usage(format!("invalid number {text:?}")))
}

fn main() -> ExitCode {
    common::exit_code(run())
}

fn run() -> Result<(), Failure> {
    let Some(Arguments { file, command, json }) = Arguments::parse(common::arguments()?)? else {
        say(HELP);
        return Ok(());
    };
    let of_file = |error: OutboxError| Failure::new(1, format!("{file}: {}", chain(&error)));
    let of_call = |id: CallId| move |error: OutboxError| Failure::new(1, format!("call {id}: {}", chain(&error)));
    let outbox = OutboxInspector::open(&file).map_err(of_file)?;
    match command {
        Command::List(query) => {
            let entries = outbox.list(query).map_err(of_file)?;
            if json {
                for entry in &entries {
                    say(Value::Object(object(entry)?));
                }
            } else {
                print_table(&entries);
            }
        }
        Command::Show(id) => {
            let entry = outbox.get(id).and_then(|entry| entry.ok_or(OutboxError::NoSuchCall));
            let object = object(&entry.map_err(of_call(id))?)?;
            if json {
                say(Value::Object(object));
            } else {
                print_fields(&object);
            }
        }
        Command::Requeue(id) => {
            outbox.requeue(id).map_err(of_call(id))?;
            say(format!("requeued {id}"));
        }
        Command::Discard(id) => {
            outbox.discard(id).map_err(of_call(id))?;
            say(format!("discarded {id}"));
        }
    }
    Ok(())
}

/// A time to the second, as in RFC 3339.
fn rfc3339(time: SystemTime) -> String {
    let time = Timestamp::try_from(time).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Replaces control characters, which could break the line or steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn print_table(entries: &[OutboxEntry]) {
    let head = [
        "ID",
        "KIND",
        "TARGET",
        "ATTEMPTS",
        "CREATED",
        "NEXT ATTEMPT",
        "LAST ERROR",
    ]
    .map(str::to_owned);
    let row = |entry: &OutboxEntry| {
        [
            entry.id.to_string(),
            printable(&entry.kind),
            printable(&entry.target_id),
            entry.attempts.to_string(),
            rfc3339(entry.created_at),
            entry.next_attempt_at.map_or("never".to_owned(), rfc3339),
            printable(entry.last_error.as_deref().unwrap_or_default()),
        ]
    };
    let mut rows = vec![head];
    rows.extend(entries.iter().map(row));
    let widths = rows.iter().fold([0; 7], |widths, row| {
        let mut cells = row.iter();
        widths.map(|width| cells.next().map_or(width, |cell| width.max(cell.chars().count())))
    });
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        say(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// A call as a JSON object, with its times as text and its body as JSON.
fn object(entry: &OutboxEntry) -> Result<Map<String, Value>, Failure> {
    let object = serde_json::to_value(entry).and_then(serde_json::from_value::<Map<_, _>>);
    let mut object = object.map_err(|error| Failure::new(1, error))?;
    let mut set = |name: &str, value: Value| object.insert(name.to_owned(), value);
    set("createdAt", rfc3339(entry.created_at).into());
    set("nextAttemptAt", entry.next_attempt_at.map(rfc3339).into());
    set("expiresAt", entry.expires_at.map(rfc3339).into());
    set("body", serde_json::from_str(&entry.body).unwrap_or_default());
    Ok(object)
}

/// Prints each field of the object that has a value.
fn print_fields(object: &Map<String, Value>) {
    for (name, value) in object {
        match value {
            Value::Null => {}
            Value::String(text) => say(format!("{name}: {}", printable(text))),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                say(format!("{name}: {}", printable(&value.to_string())));
            }
        }
    }
}
