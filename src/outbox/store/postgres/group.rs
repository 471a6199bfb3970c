//! Groups of jobs that share a transaction.

use std::collections::VecDeque;

use super::{
    connection::{self, Failed},
    error::PgResult,
    insert,
    jobs::{Answer, Job, Work},
    owner::Owner,
    session::{Session, Transaction},
    settle,
};
use crate::outbox::location::PostgresServer;

/// How many bytes of bodies are inserted at once, if there is more than one message.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// Jobs of one kind.
pub(super) type Group = Vec<Job>;

/// The jobs by what shares a transaction: inserts, settlements, and then each of the others.
pub(super) fn groups(jobs: VecDeque<Job>) -> VecDeque<Group> {
    let (mut inserts, mut settlements, mut others) = (Vec::new(), Vec::new(), VecDeque::new());
    for job in jobs {
        match job.work {
            Work::Insert(..) => inserts.push(job),
            Work::Settle(..) => settlements.push(job),
            Work::Other(_) | Work::Close(_) => others.push_back(vec![job]),
        }
    }
    if !settlements.is_empty() {
        others.push_front(settlements);
    }
    for group in by_bytes(inserts).into_iter().rev() {
        others.push_front(group);
    }
    others
}

/// Splits inserts, so that a slow network does not fail all of them together.
fn by_bytes(inserts: Vec<Job>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut bytes = MAX_BYTES;
    for job in inserts {
        let calls = job.work.message().into_iter().flat_map(|message| &message.calls);
        let size = calls.map(|call| call.body.len()).fold(0, usize::saturating_add);
        bytes = bytes.saturating_add(size);
        match groups.last_mut() {
            Some(group) if bytes <= MAX_BYTES => group.push(job),
            Some(_) | None => {
                bytes = size;
                groups.push(vec![job]);
            }
        }
    }
    groups
}

/// Does the jobs of a group in one transaction. A job without an answer waits for the next one.
pub(super) async fn transact(
    session: &Session,
    server: &PostgresServer,
    owner: &mut Owner,
    group: &mut [Job],
    max_bytes: u64,
) -> Result<Vec<Option<Answer>>, Failed> {
    connection::transact(session, server, owner, async |owner, transaction| {
        match group.first_mut().map(|job| &mut job.work) {
            None => Ok(Vec::new()),
            Some(Work::Other(other)) => {
                other.run(transaction, owner).await?;
                Ok(vec![Some(Answer::Done)])
            }
            Some(Work::Close(_)) => {
                owner.leave(transaction).await?;
                Ok(vec![Some(Answer::Done)])
            }
            Some(Work::Insert(..)) => insert_all(transaction, owner, group, max_bytes).await,
            Some(Work::Settle(..)) => settle_all(transaction, owner, group).await,
        }
    })
    .await
}

async fn insert_all(
    transaction: &Transaction<'_>,
    owner: &mut Owner,
    group: &[Job],
    max_bytes: u64,
) -> PgResult<Vec<Option<Answer>>> {
    let messages: Vec<_> = group.iter().filter_map(|job| job.work.message()).collect();
    let answers = insert::insert(transaction, owner, &messages, max_bytes).await?;
    Ok(answers.into_iter().map(|answer| answer.map(Answer::Inserted)).collect())
}

async fn settle_all(transaction: &Transaction<'_>, owner: &mut Owner, group: &[Job]) -> PgResult<Vec<Option<Answer>>> {
    let settlements: Vec<_> = group.iter().filter_map(|job| job.work.settlements()).collect();
    let all: Vec<_> = settlements.iter().flat_map(|settlements| settlements.iter()).collect();
    let mut settled = settle::settle(transaction, owner, &all).await?.into_iter();
    let of = |settlements: &&[_]| Some(Answer::Settled(settled.by_ref().take(settlements.len()).collect()));
    Ok(settlements.iter().map(of).collect())
}
