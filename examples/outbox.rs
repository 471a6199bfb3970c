//! Looks into an outbox: lists, shows, re-queues and discards what is in it, while others are using it.
//!
//! `cargo run --example outbox -- outbox.db list`

use std::{
    env,
    fmt::Display,
    io::{self, Write as _},
    process::ExitCode,
    time::SystemTime,
};

use jiff::Timestamp;
use result_poster::{DeliveryId, OutboxEntry, OutboxFile, Page};
use serde_json::{Value, json};

const HELP: &str = "\
Looks into an outbox, while its runners are using it.

Usage: outbox [OPTIONS] <FILE> <COMMAND>

Commands:
  list          The calls that are parked, or with --dead the dead letters
  show <ID>     All about one of them
  requeue <ID>  Lets it be tried again, at once and for seven days
  discard <ID>  Deletes it for good

Options:
  --dead        The dead letters: refused by the platform, or expired
  --after <ID>  The list from after this one
  --limit <N>   At most so many of them [default: 100]
  --json        JSON in place of a table: one object on a line
  -h, --help    Shows this text

Exit status: 0 done, 1 there is no such call or the file can't be used,
2 the arguments are wrong";

/// What ends the program early: one line, and the exit status.
struct Failure(String, u8);

fn wrong(message: impl Display) -> Failure {
    Failure(format!("{message}; see --help"), 2)
}

fn failed(message: impl Display) -> Failure {
    Failure(message.to_string(), 1)
}

enum Command {
    List { dead: bool, page: Page },
    Show(DeliveryId),
    Requeue(DeliveryId),
    Discard(DeliveryId),
}

struct Arguments {
    file: String,
    command: Command,
    json: bool,
}

impl Arguments {
    /// `None`: the help was asked for.
    fn parse(words: impl Iterator<Item = String>) -> Result<Option<Self>, Failure> {
        let (mut dead, mut json, mut after, mut limit) = (false, false, None, 100);
        let mut plain = Vec::new();
        let mut words = words;
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| wrong(format!("{word} needs a value")));
            match word.as_str() {
                "-h" | "--help" => return Ok(None),
                "--dead" => dead = true,
                "--json" => json = true,
                "--after" => after = Some(id(&value()?)?),
                "--limit" => limit = value()?.parse().map_err(|_| wrong("--limit takes a number"))?,
                option if option.starts_with('-') => return Err(wrong(format!("there is no option {option}"))),
                _ => plain.push(word),
            }
        }
        let plain: Vec<_> = plain.iter().map(String::as_str).collect();
        let (file, command) = match plain.as_slice() {
            [file, "list"] => {
                let page = Page::first(limit);
                let page = after.map_or(page, |id| page.after(id));
                (file, Command::List { dead, page })
            }
            [file, "show", number] => (file, Command::Show(id(number)?)),
            [file, "requeue", number] => (file, Command::Requeue(id(number)?)),
            [file, "discard", number] => (file, Command::Discard(id(number)?)),
            [] => return Err(wrong("there is no file")),
            [_] => return Err(wrong("there is no command")),
            [_, command @ ("show" | "requeue" | "discard"), ..] => {
                return Err(wrong(format!("{command} takes one id")));
            }
            [_, command, ..] => return Err(wrong(format!("{command} is no command, or takes no id"))),
        };
        let file = (*file).to_owned();
        Ok(Some(Self { file, command, json }))
    }
}

fn id(text: &str) -> Result<DeliveryId, Failure> {
    text.parse().map_err(|_| wrong(format!("{text:?} is no id")))
}

fn main() -> ExitCode {
    let output = match Arguments::parse(env::args().skip(1)) {
        Ok(None) => Ok(format!("{HELP}\n")),
        Ok(Some(arguments)) => run(&arguments),
        Err(failure) => Err(failure),
    };
    match output {
        Ok(text) => {
            // Who reads it may have seen enough.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(Failure(message, status)) => {
            eprintln!("{message}");
            ExitCode::from(status)
        }
    }
}

fn run(arguments: &Arguments) -> Result<String, Failure> {
    let file = OutboxFile::open(&arguments.file).map_err(|error| failed(format!("{}: {error}", arguments.file)))?;
    let none = |id| failed(format!("no call that is parked or dead has the id {id}"));
    match arguments.command {
        Command::List { dead, page } => {
            let entries = if dead {
                file.dead_letters(page)
            } else {
                file.parked(page)
            };
            let entries = entries.map_err(failed)?;
            Ok(if arguments.json {
                lines(&entries)
            } else {
                table(&entries)
            })
        }
        Command::Show(id) => {
            let entry = file.get(id).map_err(failed)?.ok_or_else(|| none(id))?;
            Ok(if arguments.json { lines(&[entry]) } else { page(&entry) })
        }
        Command::Requeue(id) => match file.requeue(id).map_err(failed)? {
            true => Ok(format!("{id} is due\n")),
            false => Err(none(id)),
        },
        Command::Discard(id) => match file.discard(id).map_err(failed)? {
            true => Ok(format!("{id} is gone\n")),
            false => Err(none(id)),
        },
    }
}

/// To the second, as in RFC 3339.
fn time(time: SystemTime) -> String {
    let time = Timestamp::try_from(time).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Without what would break a line or steer a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn table(entries: &[OutboxEntry]) -> String {
    let head = ["ID", "CALL", "SUBJECT", "ATTEMPTS", "SINCE", "NEXT", "WHY"].map(str::to_owned);
    let rows = entries.iter().map(|entry| {
        let next = if entry.is_dead {
            "never".into()
        } else {
            time(entry.due_at)
        };
        let (call, subject, error) = (plain(&entry.call), plain(&entry.subject), plain(&entry.error));
        let attempts = entry.attempts.to_string();
        [
            entry.id.to_string(),
            call,
            subject,
            attempts,
            time(entry.created_at),
            next,
            error,
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: [usize; 7] = std::array::from_fn(width);
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn object(entry: &OutboxEntry) -> Value {
    json!({
        "id": entry.id,
        "state": if entry.is_dead { "dead" } else { "parked" },
        "call": entry.call,
        "subject": entry.subject,
        "platformUrl": entry.platform_url,
        "workerId": entry.worker_id,
        "idempotencyKey": entry.idempotency_key,
        "attempts": entry.attempts,
        "createdAt": time(entry.created_at),
        "dueAt": (!entry.is_dead).then(|| time(entry.due_at)),
        "expiresAt": (!entry.is_dead).then(|| time(entry.expires_at)),
        "statusCode": entry.status_code,
        "error": entry.error,
        "body": serde_json::from_str(&entry.body).unwrap_or(Value::Null),
    })
}

fn lines(entries: &[OutboxEntry]) -> String {
    entries.iter().map(|entry| format!("{}\n", object(entry))).collect()
}

fn page(entry: &OutboxEntry) -> String {
    let object = object(entry);
    let fields = object.as_object().into_iter().flatten();
    let line = |(name, value): (&String, &Value)| match value {
        Value::String(text) => format!("{name}: {}\n", plain(text)),
        Value::Null => String::new(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            format!("{name}: {}\n", plain(&value.to_string()))
        }
    };
    fields.map(line).collect()
}
