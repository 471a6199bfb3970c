//! The messages of the handles, as the thread takes them.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use super::super::Tick;
use super::{
    jobs::{JobReply, Read, Write, answer_all},
    owners::Member,
    tick::Ticks,
};
use crate::{clock::Clock, error::OutboxError};

/// How many jobs may share a transaction.
const MAX_BATCH: usize = 1024;

/// How long an unawaited change waits for another one, to share its flush.
pub(super) const LINGERS_FOR: Duration = Duration::from_micros(500);

pub(super) enum Message {
    Write(Box<dyn Write>),
    Read(Box<dyn Read>),
    Tick(Member, Arc<Tick>),
    Leave(Leave),
}

/// A handle is given up.
pub(super) struct Leave {
    pub(super) member: Member,
    /// Whether no handle is left: the thread ends.
    pub(super) is_last: bool,
    pub(super) reply: Option<JobReply<()>>,
}

/// The messages of the handles.
pub(super) struct Inbox<'a> {
    messages: &'a Receiver<Message>,
    pub(super) reads: VecDeque<Box<dyn Read>>,
    pub(super) ticks: Ticks,
    pub(super) leaves: Vec<Leave>,
    /// Whether a caller waits for one of the messages that were taken last.
    is_awaited: bool,
    lingers_for: Duration,
    /// Until when the writes that were taken last wait for others.
    lingers_until: Option<Instant>,
}

impl<'a> Inbox<'a> {
    pub(super) fn new(messages: &'a Receiver<Message>, lingers_for: Duration) -> Self {
        Self {
            messages,
            reads: VecDeque::new(),
            ticks: Ticks::default(),
            leaves: Vec::new(),
            is_awaited: false,
            lingers_for,
            lingers_until: None,
        }
    }

    /// The next writes. Waits for a message or a tick if there is no read to go on with. `None` if there are no handles.
    pub(super) fn next_writes(&mut self, clock: &Clock) -> Option<Vec<Box<dyn Write>>> {
        self.is_awaited = !self.reads.is_empty();
        let now = clock.instant();
        let first = match self.ticks.next(now) {
            _ if !self.reads.is_empty() => None,
            None => Some(self.messages.recv().ok()?),
            Some(at) => match self.messages.recv_timeout(at.saturating_duration_since(now)) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return None,
            },
        };
        let writes = self.sort(first.into_iter().chain(self.messages.try_iter().take(MAX_BATCH)));
        self.lingers_until = clock.instant().checked_add(self.lingers_for);
        Some(writes)
    }

    /// Adds the writes that come soon, unless a taken one is awaited. Returns whether it has added any.
    pub(super) fn add_writes(&mut self, taken: &mut Vec<Box<dyn Write>>, clock: &Clock) -> bool {
        let before = taken.len();
        if self.is_awaited || before >= MAX_BATCH {
            return false;
        }
        let now = clock.instant();
        let wait = self.lingers_until.map(|until| until.saturating_duration_since(now));
        if let Ok(message) = self.messages.recv_timeout(wait.unwrap_or_default()) {
            taken.extend(self.sort([message].into_iter().chain(self.messages.try_iter().take(MAX_BATCH))));
        }
        taken.len() > before
    }

    /// Ends the wait for other writes: each is committed at once.
    pub(super) fn stop_lingering(&mut self) {
        self.is_awaited = true;
    }

    /// Answers the writes that came while a job waited for the file: they have waited for it, too.
    pub(super) fn end_writes(&mut self, error: &OutboxError) {
        let jobs = self.sort(self.messages.try_iter());
        answer_all(jobs.into_iter().map(|job| (job, Err(error.clone()))));
    }

    fn sort(&mut self, messages: impl Iterator<Item = Message>) -> Vec<Box<dyn Write>> {
        let mut writes = Vec::new();
        for message in messages {
            self.is_awaited |= match &message {
                Message::Write(job) => job.is_awaited(),
                Message::Read(_) | Message::Tick(..) | Message::Leave(_) => true,
            };
            match message {
                Message::Write(job) => writes.push(job),
                Message::Read(job) => self.reads.push_back(job),
                Message::Tick(member, tick) => self.ticks.add(member, tick),
                Message::Leave(leave) => self.leaves.push(leave),
            }
        }
        writes
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc::sync_channel, thread};

    use super::super::{jobs::WriteJob, owners::Owner, session::Session};
    use super::*;

    fn write(is_awaited: bool) -> Message {
        let work = |_: &Session<'_>, _: &mut Owner| Ok(());
        Message::Write(Box::new(WriteJob::new(0, is_awaited, None, work, Box::new(|_| ()))))
    }

    /// How many writes are taken together if each message is sent once the one before was taken.
    fn taken(lingers_for: Duration, messages: Vec<Message>) -> usize {
        let (sender, receiver) = sync_channel(0);
        let taken = thread::spawn(move || {
            let (mut inbox, clock) = (Inbox::new(&receiver, lingers_for), Clock::system());
            let mut writes = inbox.next_writes(&clock).unwrap();
            while inbox.add_writes(&mut writes, &clock) {}
            writes.len()
        });
        for message in messages {
            // Nobody takes what comes too late.
            let _ = sender.send(message);
        }
        taken.join().unwrap()
    }

    #[test]
    fn a_change_without_a_waiting_caller_shares_the_flush_of_the_next_change() {
        const LONG: Duration = Duration::from_secs(60);
        let messages = vec![write(false), write(false), write(true)];
        assert_eq!(taken(LONG, messages), 3);
        // Alone, it waits no longer than it may.
        assert_eq!(taken(Duration::ZERO, vec![write(false)]), 1);
        // A change with a waiting caller is taken at once.
        assert_eq!(taken(LONG, vec![write(true)]), 1);
    }
}
