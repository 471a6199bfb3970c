//! Lists, counts, shows, requeues and discards the calls in an outbox. Runners may use the outbox at the same time.
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
use serde::Serialize;
use serde_json::{Map, Value};

const HELP: &str = "\
Inspects and repairs an outbox. Runners may use it at the same time.

Usage: outbox [OPTIONS] <FILE> <COMMAND>

Commands:
  list          Lists the calls, or those in one state with --state
  stats         Counts the calls, with the age of the oldest and the size
  check         Checks the whole file for damage
  show <ID>     Shows a call with its body
  requeue <ID>  Makes a parked call or a dead letter due now, with a fresh
                history
  discard <ID>  Deletes a parked call or a dead letter

Options:
  --state <STATE>  Lists only live, parked or dead_letter calls
  --after <ID>     Lists only the calls after this one
  --limit <N>      Lists at most N calls, 500 at most [default: 100]
  --json           Prints JSON instead of text, one object per line
  -h, --help       Prints this text

Exit status: 0 done; 1 no such call, or a file error; 2 invalid arguments";

enum Command {
    List(EntryQuery),
    Stats,
    Check,
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
        let (mut state, mut after, mut limit, mut json) = (None, None, None, false);
        let mut positional = Vec::new();
        while let Some(word) = words.next() {
            let missing_value = || Failure::usage(format!("missing value for {word}"));
            let mut value = || words.next().ok_or_else(missing_value);
            match word.as_str() {
                "-h" | "--help" => return Ok(None),
                "--state" => state = Some(entry_state(&value()?)?),
                "--json" => json = true,
                "--after" => after = Some(id(&value()?)?),
                "--limit" => limit = Some(number(&value()?)?),
                option if option.starts_with('-') => return Err(Failure::usage(format!("unknown option {option}"))),
                _ => positional.push(word),
            }
        }
        let mut query = state.map_or_else(EntryQuery::all, EntryQuery::new);
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
            "stats" => Command::Stats,
            "check" => Command::Check,
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

fn entry_state(text: &str) -> Result<EntryState, Failure> {
    text.parse()
        .map_err(|_| Failure::usage(format!("unknown state {text:?}")))
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
                    let mut object = object(entry)?;
                    object.insert("body".to_owned(), body(entry));
                    say(Value::Object(object));
                }
            } else {
                print_table(&entries);
            }
        }
        Command::Stats => print(object(&outbox.stats().map_err(of_file)?)?, json),
        Command::Check => {
            outbox.check().map_err(of_file)?;
            say("the file is not damaged");
        }
        Command::Show(id) => {
            let entry = outbox.get(id).and_then(|entry| entry.ok_or(OutboxError::NoSuchCall));
            let entry = entry.map_err(of_call(id))?;
            let mut object = object(&entry)?;
            object.insert("body".to_owned(), body(&entry));
            print(object, json);
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

/// The state of a call. A call whose owner has died is taken over at once if a process uses the outbox.
fn state(entry: &OutboxEntry) -> String {
    match entry.owner {
        Some(owner) if !owner.is_alive => format!("{} (owner is dead)", entry.state),
        _ => entry.state.to_string(),
    }
}

fn print_table(entries: &[OutboxEntry]) {
    let head = [
        "ID",
        "STATE",
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
            state(entry),
            printable(&entry.kind),
            printable(&entry.target_id),
            entry.attempts.to_string(),
            rfc3339(entry.created_at),
            entry.next_attempt_at.map_or("-".to_owned(), rfc3339),
            printable(entry.last_error.as_deref().unwrap_or_default()),
        ]
    };
    let mut rows = vec![head];
    rows.extend(entries.iter().map(row));
    let widths = rows.iter().fold([0; 8], |widths, row| {
        let mut cells = row.iter();
        widths.map(|width| cells.next().map_or(width, |cell| width.max(cell.chars().count())))
    });
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        say(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// The body of a call as JSON, or as text if it is damaged.
fn body(entry: &OutboxEntry) -> Value {
    serde_json::from_str(&entry.body).unwrap_or_else(|_| entry.body.clone().into())
}

fn object(value: &impl Serialize) -> Result<Map<String, Value>, Failure> {
    let object = serde_json::to_value(value).and_then(serde_json::from_value);
    object.map_err(|error| Failure::new(1, error))
}

/// Prints the object as JSON, or each of its fields that has a value.
fn print(object: Map<String, Value>, json: bool) {
    if json {
        return say(Value::Object(object));
    }
    for (name, value) in object {
        match value {
            Value::Null => {}
            Value::String(text) => say(format!("{name}: {}", printable(&text))),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                say(format!("{name}: {}", printable(&value.to_string())));
            }
        }
    }
}
