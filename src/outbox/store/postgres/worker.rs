//! The worker of an owner: it does all jobs on one connection, and what waits meanwhile in one transaction (group commit).

use std::{
    collections::VecDeque,
    pin::pin,
    time::{Duration, Instant},
};

use futures_util::future::{Either, select};
use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{sleep, timeout},
};

use super::super::Inserted;
use super::{
    connection::{Failed, connect, limit, resolve_doubts},
    group::{self, groups},
    jobs::{Answer, Job, Work},
    owner::Owner,
    session::Session,
    tables::Tables,
};
use crate::{error::OutboxError, outbox::location::PostgresServer};

/// How many jobs may share a transaction.
const MAX_BATCH: usize = 1024;

/// How long a job waits for a connection, and how long after its loss.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a transaction is tried that conflicts with those of others.
const MAX_TRIES: usize = 4;

/// The longest wait between two tries.
const MAX_CONFLICT_WAIT: Duration = Duration::from_millis(20);

/// The delays between two attempts to connect.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// After a connection that was lost sooner, the next one is not made at once.
const SHORTEST_SESSION: Duration = Duration::from_secs(1);

pub(super) struct Worker {
    server: PostgresServer,
    owner: Owner,
    max_bytes: u64,
    jobs: UnboundedReceiver<Job>,
    waiting: VecDeque<Job>,
    is_closed: bool,
    connected_at: Option<Instant>,
    tables: Tables,
    /// Since when there has been no connection, and why.
    lost: Option<(Instant, OutboxError)>,
}

impl Worker {
    pub(super) fn new(
        server: PostgresServer,
        owner: Owner,
        max_bytes: u64,
        jobs: UnboundedReceiver<Job>,
        tables: Tables,
    ) -> Self {
        Self {
            tables,
            server,
            owner,
            max_bytes,
            jobs,
            waiting: VecDeque::new(),
            is_closed: false,
            connected_at: None,
            lost: None,
        }
    }

    /// Does jobs until the store is closed or dropped.
    pub(super) async fn run(mut self) {
        let mut session: Option<Session> = None;
        while !self.is_closed {
            // At the start, it connects without waiting for a job.
            if self.waiting.is_empty() && session.is_some() {
                let Some(job) = self.jobs.recv().await else { return };
                self.waiting.push_back(job);
            }
            while self.waiting.len() < MAX_BATCH
                && let Ok(job) = self.jobs.try_recv()
            {
                self.waiting.push_back(job);
            }
            let connected = match session.take().filter(|session| !session.is_closed()) {
                Some(session) => session,
                None => match self.reconnect().await {
                    Some(session) => session,
                    None => return,
                },
            };
            match self.work(&connected).await {
                Ok(()) => session = Some(connected),
                Err(error) => self.lost = Some((self.owner.now(), error)),
            }
        }
    }

    /// Connects, however long that takes. `None` if there is nobody left to work for.
    async fn reconnect(&mut self) -> Option<Session> {
        let mut delay = FIRST_DELAY;
        let now = self.owner.now();
        if self
            .connected_at
            .is_some_and(|at| now.saturating_duration_since(at) < SHORTEST_SESSION)
        {
            self.while_waiting(sleep(delay)).await?;
        }
        let (since, _) = self
            .lost
            .get_or_insert((now, OutboxError::Unreachable("not connected yet".into())));
        let since = *since;
        loop {
            let server = self.server.clone();
            let connected = self.while_waiting(async move { connect(&server).await }).await?;
            let error = match connected {
                Ok((session, created_at)) => match resolve_doubts(&session, &self.server, &mut self.owner).await {
                    Ok(()) => {
                        self.tables.note(created_at);
                        self.lost = None;
                        self.connected_at = Some(self.owner.now());
                        return Some(session);
                    }
                    Err(error) => error,
                },
                Err(error) => error,
            };
            self.lost = Some((since, error));
            let jittered = delay.mul_f64(rand::random_range(0.5..1.0));
            self.while_waiting(sleep(jittered)).await?;
            delay = delay.saturating_mul(2).min(LONGEST_DELAY);
        }
    }

    /// The output of work, while jobs come, and fail that have waited for too long. `None` if there is nobody left to work
    /// for.
    async fn while_waiting<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        loop {
            let next = self.expire();
            if self.is_closed {
                return None;
            }
            let received = timeout(next.unwrap_or(PATIENCE), self.jobs.recv());
            match select(work.as_mut(), pin!(received)).await {
                Either::Left((output, _)) => return Some(output),
                Either::Right((Ok(Some(job)), _)) => self.waiting.push_back(job),
                Either::Right((Ok(None), _)) => return None,
                Either::Right((Err(_), _)) => {}
            }
        }
    }

    /// Fails the jobs that have waited for too long. Returns when the next one will have.
    fn expire(&mut self) -> Option<Duration> {
        let (since, error) = self.lost.clone()?;
        let now = self.owner.now();
        let left = |job: &Job| PATIENCE.saturating_sub(now.saturating_duration_since(job.since.min(since)));
        let mut kept = VecDeque::new();
        for job in std::mem::take(&mut self.waiting) {
            if left(&job).is_zero() {
                self.fail(job, error.clone());
            } else {
                kept.push_back(job);
            }
        }
        self.waiting = kept;
        self.waiting.iter().map(left).min()
    }

    fn fail(&mut self, job: Job, error: OutboxError) {
        self.is_closed |= matches!(job.work, Work::Close(_));
        if let (true, Work::Insert(message, _)) = (job.is_in_doubt, &job.work) {
            self.owner.doubts.calls.extend(message.calls.iter().map(|call| call.id));
            return job.end(Ok(Answer::Inserted(Ok(Inserted::InDoubt(error)))));
        }
        job.end(Err(error));
    }

    /// Does the jobs that wait. An error is that of the connection; the jobs that it has hit wait again.
    async fn work(&mut self, session: &Session) -> Result<(), OutboxError> {
        let mut groups = groups(std::mem::take(&mut self.waiting));
        while let Some(group) = groups.pop_front() {
            let group = self.fail_old(group);
            if group.is_empty() {
                continue;
            }
            // A group may leave doubts to the next one.
            let done = match resolve_doubts(session, &self.server, &mut self.owner).await {
                Ok(()) => self.do_group(session, group, &mut groups).await,
                Err(error) => Err((error, group)),
            };
            if let Err((error, group)) = done {
                self.waiting.extend(group);
                self.waiting.extend(groups.into_iter().flatten());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Fails the jobs that have waited for longer than a transaction may take, as when each waits for a lock that an operator
    /// holds. Returns the others.
    fn fail_old(&mut self, group: Vec<Job>) -> Vec<Job> {
        let (limit, now) = (limit(&self.server), self.owner.now());
        let is_old = |job: &Job| now.saturating_duration_since(job.since) > limit;
        let (old, others): (Vec<_>, Vec<_>) = group.into_iter().partition(is_old);
        for job in old {
            self.fail(job, OutboxError::TimedOut);
        }
        others
    }

    /// Does jobs of one kind in one transaction. If one of them fails, each is tried alone.
    async fn do_group(
        &mut self,
        session: &Session,
        mut group: Vec<Job>,
        others: &mut VecDeque<Vec<Job>>,
    ) -> Result<(), (OutboxError, Vec<Job>)> {
        let mut tries: usize = 1;
        let failed = loop {
            match group::transact(session, &self.server, &mut self.owner, &mut group, self.max_bytes).await {
                Ok(answers) => {
                    self.end(group, answers);
                    return Ok(());
                }
                Err(Failed::Conflict(_)) if tries < MAX_TRIES => {
                    tries = tries.saturating_add(1);
                    sleep(MAX_CONFLICT_WAIT.mul_f64(rand::random())).await;
                }
                Err(failed) => break failed,
            }
        };
        match failed {
            Failed::Refused(error) | Failed::Conflict(error) => {
                if group.len() == 1 {
                    group.into_iter().for_each(|job| self.fail(job, error.clone()));
                } else {
                    for job in group.into_iter().rev() {
                        others.push_front(vec![job]);
                    }
                }
                Ok(())
            }
            Failed::Lost { error, is_in_doubt } => {
                let group = if is_in_doubt { self.doubt(group, &error) } else { group };
                Err((error, group))
            }
        }
    }

    /// Notes that jobs may have been done. Returns those that are repeated.
    fn doubt(&mut self, group: Vec<Job>, error: &OutboxError) -> Vec<Job> {
        self.owner.lost();
        let mut repeated = Vec::with_capacity(group.len());
        for mut job in group {
            job.is_in_doubt = true;
            match &job.work {
                Work::Insert(..) | Work::Close(_) => repeated.push(job),
                Work::Settle(settlements, _) => {
                    for settlement in settlements.iter() {
                        self.owner.doubts.add_settlement(settlement);
                    }
                    repeated.push(job);
                }
                Work::Other(_) => self.fail(job, error.clone()),
            }
        }
        repeated
    }

    /// Answers jobs. Those without an answer wait for the next transaction.
    fn end(&mut self, group: Vec<Job>, answers: Vec<Option<Answer>>) {
        for (job, answer) in group.into_iter().zip(answers) {
            self.is_closed |= matches!(job.work, Work::Close(_));
            for settlement in job.work.settlements().into_iter().flatten() {
                self.owner.doubts.remove_settlement(settlement);
            }
            match answer {
                Some(answer) => job.end(Ok(answer)),
                None => self.waiting.push_back(job),
            }
        }
    }
}
