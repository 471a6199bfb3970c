//! The targets, and whether they are met.

use crate::{
    compare::{Comparison, Figure, cell},
    peers::Peer,
    table::Table,
};

/// What is asked of a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("at least {bound}"),
            Self::AtMost(bound) => format!("at most {bound}"),
        }
    }
}

/// The measured values beside their targets.
pub(crate) struct Targets {
    table: Table,
}

impl Targets {
    pub(crate) fn new() -> Self {
        Self {
            table: Table::new(["target", "measured", "asked", "met"]),
        }
    }

    pub(crate) fn add(&mut self, what: &str, value: Option<f64>, bound: Bound) {
        let met = match value {
            None => "not measured",
            Some(value) if bound.is_met(value) => "yes",
            Some(_) => "no",
        };
        self.table
            .push(vec![what.to_owned(), cell(value), bound.text(), met.to_owned()]);
    }

    /// The ratio of the poster's figure to that of a peer.
    pub(crate) fn ratio(&mut self, scenario: &str, comparison: &Comparison, figure: Figure, to: Peer, bound: Bound) {
        let what = format!("{scenario}: {}, ratio to {}", figure.title(), to.title());
        self.add(&what, comparison.ratio(to, figure), bound);
    }

    pub(crate) fn into_table(self) -> Table {
        self.table
    }
}
