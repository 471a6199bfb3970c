//! The connection during one transaction, with the statements that were used in it.

use std::{cell::RefCell, ops::Deref};

use rusqlite::{CachedStatement, Connection, OptionalExtension as _, Params, Row, Statement};

/// Many jobs share a transaction, and use the same few statements. These are taken from the connection's cache once for all
/// jobs: the cache hashes and copies the text of a statement each time.
pub(super) struct Session<'a> {
    connection: &'a Connection,
    statements: RefCell<Vec<(&'static str, CachedStatement<'a>)>>,
}

/// For statements that are used rarely.
impl Deref for Session<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl<'a> Session<'a> {
    pub(super) fn new(connection: &'a Connection) -> Self {
        Self {
            connection,
            statements: RefCell::default(),
        }
    }

    /// Runs a statement, and returns how many rows it has changed.
    pub(super) fn execute(&self, sql: &'static str, params: impl Params) -> rusqlite::Result<usize> {
        self.with(sql, |statement| statement.execute(params))
    }

    /// Whether a query has a row.
    pub(super) fn exists(&self, sql: &'static str, params: impl Params) -> rusqlite::Result<bool> {
        self.with(sql, |statement| statement.exists(params))
    }

    /// The first row of a query, if it has one.
    pub(super) fn first<T>(
        &self,
        sql: &'static str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> T,
    ) -> rusqlite::Result<Option<T>> {
        self.with(sql, |statement| {
            statement.query_row(params, |row| Ok(read(row))).optional()
        })
    }

    /// Uses a statement. It may itself use others.
    pub(super) fn with<T>(
        &self,
        sql: &'static str,
        work: impl FnOnce(&mut Statement<'a>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let mut statement = self.take(sql)?;
        let outcome = work(&mut statement);
        self.statements.borrow_mut().push((sql, statement));
        outcome
    }

    fn take(&self, sql: &'static str) -> rusqlite::Result<CachedStatement<'a>> {
        let mut statements = self.statements.borrow_mut();
        match statements.iter().position(|(other, _)| *other == sql) {
            Some(index) => Ok(statements.swap_remove(index).1),
            None => self.connection.prepare_cached(sql),
        }
    }
}
