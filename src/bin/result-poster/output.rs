//! The output: text with colours on a terminal, or JSON.

use std::{
    fmt::Display,
    io::{BufWriter, StdoutLock, Write as _},
    time::{Duration, SystemTime},
};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::failure::Failure;

pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
pub(crate) const UNSURE: Style = AnsiColor::Yellow.on_default();
pub(crate) const HEAD: Style = Style::new().bold();

pub(crate) struct Output {
    to: BufWriter<AutoStream<StdoutLock<'static>>>,
    pub(crate) is_json: bool,
}

impl Output {
    pub(crate) fn new(is_json: bool) -> Self {
        Self {
            to: BufWriter::new(anstream::stdout().lock()),
            is_json,
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.to.write_all(bytes).map_err(Failure::of_output)
    }

    pub(crate) fn line(&mut self, line: impl Display) -> Result<(), Failure> {
        writeln!(self.to, "{line}").map_err(Failure::of_output)
    }

    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let line = serde_json::to_string(value).map_err(|error| Failure::failed(error.to_string()))?;
        self.line(line)
    }

    /// Shows what was written so far.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.to.flush().map_err(Failure::of_output)
    }

    pub(crate) fn end(mut self) -> Result<(), Failure> {
        self.flush()
    }
}

pub(crate) fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Text without control characters, which could break the line or steer the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A count with its noun.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// A duration in its largest unit: `12s`, `3m`, `2h`, `5d`.
pub(crate) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    for (unit, length) in [("d", 86_400), ("h", 3_600), ("m", 60)] {
        if let Some(count @ 1..) = seconds.checked_div(length) {
            return format!("{count}{unit}");
        }
    }
    format!("{seconds}s")
}

/// How long ago a time was, or how long it is until then.
pub(crate) fn relative(time: SystemTime, now: SystemTime) -> String {
    match (now.duration_since(time), time.duration_since(now)) {
        (Ok(ago), _) => format!("{} ago", short(ago)),
        (Err(_), Ok(ahead)) => format!("in {}", short(ahead)),
        (Err(_), Err(_)) => "now".to_owned(),
    }
}

/// Counts calls on stderr, if it is a terminal.
pub(crate) fn progress(verb: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} {human_pos} calls, {per_sec}");
    let bar = ProgressBar::new_spinner().with_message(verb);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
