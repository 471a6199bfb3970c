//! `outbox export` and `outbox import`.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, stdin},
    path::Path,
};

use result_poster::outbox::{CallRecord, Imported};

use super::OpenOutbox;
use crate::{
    arguments::Filter,
    failure::Failure,
    output::{Output, counted, progress},
};

/// How many calls, and how many bytes, a transaction stores: other processes wait for it.
const MAX_BATCH: usize = 100;
const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;

/// How many calls are in memory at once.
const MAX_EXPORTED: usize = 50;

/// The longest line. A body has at most 512 KiB, and each of its bytes at most 6 in JSON.
const MAX_LINE: u64 = 8 * 1024 * 1024;

pub(super) fn export(outbox: &OpenOutbox, filter: &Filter, output: &mut Output) -> Result<(), Failure> {
    let bar = progress("exported");
    outbox.pages(filter, |ids| {
        // Calls that have been delivered meanwhile are left out.
        for ids in ids.chunks(MAX_EXPORTED) {
            for record in outbox.inspector.export(ids).map_err(|error| outbox.failed(&error))? {
                output.json(&record)?;
                bar.inc(1);
            }
        }
        Ok(())
    })?;
    bar.finish_and_clear();
    Ok(())
}

pub(super) fn import(outbox: &OpenOutbox, path: &Path, output: &mut Output) -> Result<(), Failure> {
    let unread = |error| Failure::usage(format!("can't read {}: {error}", path.display()));
    let mut lines: Box<dyn BufRead> = match path.to_str() {
        Some("-") => Box::new(stdin().lock()),
        _ => Box::new(BufReader::new(File::open(path).map_err(unread)?)),
    };
    let bar = progress("imported");
    let mut total = Imported::default();
    let (mut batch, mut bytes) = (Vec::new(), 0_usize);
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let read = lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        let is_last = read.map_err(unread)? == 0;
        let text = line.trim_ascii();
        if !text.is_empty() {
            let record: CallRecord = serde_json::from_slice(text).map_err(|error| {
                let stored = counted(total.stored as u64, "call");
                let reason = error.to_string();
                Failure::failed(format!(
                    "{}: line {number}: {reason}; {stored} imported before",
                    path.display()
                ))
            })?;
            bytes = bytes.saturating_add(text.len());
            batch.push(record);
        }
        if batch.len() >= MAX_BATCH || bytes >= MAX_BATCH_BYTES || is_last {
            let imported = outbox
                .inspector
                .import(std::mem::take(&mut batch))
                .map_err(|error| outbox.failed(&error))?;
            bytes = 0;
            total.stored = total.stored.saturating_add(imported.stored);
            total.skipped = total.skipped.saturating_add(imported.skipped);
            bar.set_position(total.stored as u64);
        }
        if is_last {
            break;
        }
    }
    bar.finish_and_clear();
    if output.is_json {
        return output.json(&total);
    }
    let stored = counted(total.stored as u64, "call");
    output.line(format!(
        "imported {stored}, skipped {} that the outbox has",
        total.skipped
    ))
}
