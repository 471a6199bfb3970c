//! The changes of settled calls, each kind in one statement.

use tokio_postgres::Row;

use super::super::{Change, Failure};
use super::{
    params::{Param, flags, id, ids, number, numbers, optional_smalls, optional_texts, smalls, texts},
    rows::milliseconds,
    session::{Answer, Transaction},
};
use crate::call_id::CallId;

// The sum keeps the server from looking for a call among all calls of its lane, instead of by its id.

pub(super) const DELETE: &str = "
    DELETE FROM @calls AS calls USING unnest($1, $2) AS settled (id, lane)
    WHERE calls.id = settled.id AND calls.lane + 0 = settled.lane";
pub(super) const WITHDRAW: &str = "
    DELETE FROM @calls AS calls USING unnest($1, $2) AS settled (id, lane)
    WHERE calls.id = settled.id AND calls.lane + 0 = settled.lane AND NOT known";
/// A call that was withdrawn and is there nevertheless, since another message was answered with its id. The lane stays the
/// owner's, which sends the earlier calls. Behind its taken calls, this one is parked.
const MOVE_TO_END: &str = "
    WITH lane AS (
        UPDATE @lanes SET next_seq = next_seq + 1
        WHERE id = $2 AND EXISTS (SELECT 1 FROM @calls AS calls WHERE calls.id = $1 AND calls.lane = $2)
        RETURNING next_seq - 1 AS seq
    ) UPDATE @calls AS calls SET seq = lane.seq FROM lane WHERE calls.id = $1";
pub(super) const RECORD: &str = "
    UPDATE @calls AS calls SET attempts = new.attempts, parks = new.parks, faults = new.faults,
        takeovers = new.takeovers, rejections = new.rejections, reduced = new.reduced, age = new.age,
        status_code = new.status_code, last_error = new.last_error, worker_id = coalesce(new.worker_id, calls.worker_id)
    FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) AS new (id, lane, attempts, parks, faults, takeovers,
        rejections, reduced, age, status_code, last_error, worker_id)
    WHERE calls.id = new.id AND calls.lane + 0 = new.lane";
pub(super) const BURY: &str = "
    UPDATE @calls AS calls SET lane = NULL, seq = NULL, dead_at = NULL FROM unnest($1, $2) AS settled (id, lane)
    WHERE calls.id = settled.id AND calls.lane + 0 = settled.lane";

/// A call, and the lane in which it must be.
type Place = (CallId, i64);

/// The changes of calls.
#[derive(Default)]
pub(super) struct Changes {
    delivered: Vec<Place>,
    withdrawn: Vec<Place>,
    /// The withdrawn calls whose lane is not parked.
    moved_if_known: Vec<Place>,
    failed: Vec<(Place, Failure)>,
    dead: Vec<Place>,
}

impl Changes {
    /// `stays`: the lane stays the owner's.
    pub(super) fn add(&mut self, lane: i64, call: CallId, change: &Change, stays: bool) {
        let place = (call, lane);
        match change {
            Change::Delete => self.delivered.push(place),
            Change::Withdraw => {
                self.withdrawn.push(place);
                self.moved_if_known.extend(Some(place).filter(|_| stays));
            }
            Change::Keep(failure) => self.failed.push((place, failure.clone())),
            Change::DeadLetter(failure) => {
                self.failed.push((place, failure.clone()));
                self.dead.push(place);
            }
        }
    }

    /// Sends the statements.
    pub(super) fn ask<'a>(&self, transaction: &'a Transaction<'_>) -> Vec<Answer<'a, Vec<Row>>> {
        let mut answers = Vec::new();
        for (sql, places) in [(DELETE, &self.delivered), (WITHDRAW, &self.withdrawn)] {
            if !places.is_empty() {
                answers.push(transaction.ask(sql, columns(places)));
            }
        }
        for (call, lane) in &self.moved_if_known {
            answers.push(transaction.ask(MOVE_TO_END, [id(*call), number(*lane)]));
        }
        if !self.failed.is_empty() {
            answers.push(transaction.ask(RECORD, self.failures()));
        }
        if !self.dead.is_empty() {
            answers.push(transaction.ask(BURY, columns(&self.dead)));
        }
        answers
    }

    fn failures(&self) -> [Param; 12] {
        let failures = || self.failed.iter().map(|(_, failure)| failure);
        let count = |count: fn(&Failure) -> u32| {
            smalls(failures().map(|failure| i32::try_from(count(failure)).unwrap_or(i32::MAX)))
        };
        [
            ids(self.failed.iter().map(|((call, _), _)| call)),
            numbers(self.failed.iter().map(|((_, lane), _)| *lane)),
            count(|failure| failure.history.attempts),
            count(|failure| failure.history.parks),
            count(|failure| failure.history.faults),
            count(|failure| failure.history.takeovers),
            count(|failure| failure.history.rejections),
            flags(failures().map(|failure| failure.history.is_reduced)),
            numbers(failures().map(|failure| milliseconds(failure.history.age))),
            optional_smalls(failures().map(|failure| failure.status_code.map(i32::from))),
            texts(failures().map(|failure| failure.error.as_str())),
            optional_texts(failures().map(|failure| failure.worker_id.as_deref())),
        ]
    }
}

fn columns(places: &[Place]) -> [Param; 2] {
    [
        ids(places.iter().map(|(call, _)| call)),
        numbers(places.iter().map(|(_, lane)| *lane)),
    ]
}
