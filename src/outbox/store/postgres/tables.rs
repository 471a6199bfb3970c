//! Whether the tables are still those of the last connection. Pure.

use std::{cell::Cell, rc::Rc};

/// The tables of the last connection.
#[derive(Default)]
pub(super) struct Tables {
    created_at: Option<i64>,
    /// How often they were found to have been dropped and created again.
    pub(super) replacements: Rc<Cell<u64>>,
}

impl Tables {
    /// Notes when the tables of a new connection were created.
    pub(super) fn note(&mut self, created_at: i64) {
        let before = self.created_at.replace(created_at);
        if before.is_some_and(|before| before != created_at) {
            self.replacements.set(self.replacements.get().saturating_add(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_that_were_created_again_are_a_replacement() {
        let mut tables = Tables::default();
        let counted = [5, 5, 7, 7, 9].map(|created_at| {
            tables.note(created_at);
            tables.replacements.get()
        });
        assert_eq!(counted, [0, 0, 1, 1, 2]);
    }
}
