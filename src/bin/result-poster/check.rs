//! `result-poster check`.

use std::path::Path;

use result_poster::{
    OptionsConfig, OutboxError,
    check::{CheckOutcome, CheckedStep},
    outbox::OutboxInspector,
};
use serde_json::json;

use crate::{
    configuration::{self, of_options},
    failure::{Failure, chain},
    output::{BAD, GOOD, Output, UNSURE, counted, printable, styled},
};

pub(crate) fn run(config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    let config = configuration::load(config)?;
    let outbox = config.outbox_path().map(Path::to_owned);
    let mut failed: u64 = 0;
    let mut report = |step: &str, outcome: &CheckOutcome| {
        failed = failed.saturating_add(u64::from(outcome.is_failed()));
        print(step, outcome, output)
    };
    match of_platform(config) {
        Ok(steps) => {
            report("configuration", &CheckOutcome::Passed("complete".to_owned()))?;
            for CheckedStep { step, outcome, .. } in &steps {
                report(step.as_str(), outcome)?;
            }
        }
        Err(Failure::Usage(reason)) => report("configuration", &CheckOutcome::Failed(reason))?,
        Err(failure) => return Err(failure),
    }
    report("outbox", &of_outbox(outbox.as_deref()))?;
    output.flush()?;
    match failed {
        0 => Ok(()),
        failed => Err(Failure::failed(format!("check: {} failed", counted(failed, "step")))),
    }
}

/// Without the outbox, which the options would create.
fn of_platform(config: OptionsConfig) -> Result<Vec<CheckedStep>, Failure> {
    let builder = config.without_outbox().into_builder();
    let builder = builder.map_err(|error| Failure::usage(chain(&error)))?;
    let options = builder.build().map_err(|error| of_options(&error))?;
    Ok(actix_rt::System::new().block_on(options.check()))
}

fn of_outbox(path: Option<&Path>) -> CheckOutcome {
    let Some(path) = path else {
        return CheckOutcome::Skipped("none is configured".to_owned());
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let has_folder = folder.unwrap_or(Path::new(".")).is_dir();
    match OutboxInspector::check(path) {
        Ok(()) => CheckOutcome::Passed(format!("{} is not damaged", path.display())),
        Err(OutboxError::NotFound) if has_folder => {
            CheckOutcome::Passed(format!("{} does not exist yet; a poster creates it", path.display()))
        }
        Err(error) => CheckOutcome::Failed(format!("{}: {}", path.display(), chain(&error))),
    }
}

fn print(step: &str, outcome: &CheckOutcome, output: &mut Output) -> Result<(), Failure> {
    let (style, name) = match outcome {
        CheckOutcome::Passed(_) => (GOOD, "ok"),
        CheckOutcome::Failed(_) => (BAD, "failed"),
        CheckOutcome::Skipped(_) => (UNSURE, "skipped"),
    };
    let text = printable(outcome.text());
    if output.is_json {
        return output.json(&json!({ "step": step, "outcome": name, "text": text }));
    }
    // Padded before it is styled, since the style has a length, too.
    output.line(format!("{} {step:13} {text}", styled(style, format!("{name:7}"))))
}
