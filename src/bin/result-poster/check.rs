//! `result-poster check`.

use std::path::Path;

use result_poster::{
    OptionsConfig, OutboxError,
    check::{CheckOutcome, CheckedStep},
    outbox::{OutboxInspector, OutboxOptions},
};
use serde_json::json;

use crate::{
    configuration::{self, of_options},
    failure::{Failure, chain},
    output::{BAD, GOOD, Output, UNSURE, counted, printable, styled},
};

pub(crate) fn run(config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    let config = configuration::load(config)?;
    let outbox = config.outbox();
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
    let outcome = match outbox {
        Ok(None) => CheckOutcome::Skipped("none is configured".to_owned()),
        Ok(Some(options)) => of_outbox(&options),
        Err(error) => CheckOutcome::Failed(chain(&error)),
    };
    report("outbox", &outcome)?;
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

fn of_outbox(options: &OutboxOptions) -> CheckOutcome {
    let location = options.location_text();
    match (OutboxInspector::check(options), options.path()) {
        (Ok(()), Some(_)) => CheckOutcome::Passed(format!("{location} is not damaged")),
        (Ok(()), None) => CheckOutcome::Passed(format!("{location} can be used")),
        (Err(OutboxError::NotFound), path) if path.is_none_or(has_folder) => {
            CheckOutcome::Passed(format!("{location} does not exist yet; a poster creates it"))
        }
        (Err(error), _) => CheckOutcome::Failed(format!("{location}: {}", chain(&error))),
    }
}

fn has_folder(path: &Path) -> bool {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new(".")).is_dir()
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
