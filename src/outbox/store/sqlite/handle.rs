//! Handles on the threads of this process: one thread for each file, whatever its path.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
};

use rusqlite::Connection;
use tokio::sync::Notify;

use super::super::Tick;
use super::{
    file::FileId,
    file_state::FileState,
    inbox::{Leave, Message},
    jobs::{Home, JobReply, ReadJob, WriteJob},
    owners::{Member, Owner, Owners},
    session::Session,
    thread::StoreThread,
};
use crate::error::OutboxError;

/// The threads of this process.
static THREADS: Mutex<Vec<Thread>> = Mutex::new(Vec::new());

/// The number of the last handle.
static LAST_MEMBER: AtomicU64 = AtomicU64::new(0);

/// A thread, and how many handles it has.
struct Thread {
    path: PathBuf,
    file: Arc<FileState>,
    messages: Sender<Message>,
    members: Vec<(Member, Arc<Notify>)>,
}

impl Thread {
    fn has(&self, member: Member) -> bool {
        self.members.iter().any(|(other, _)| *other == member)
    }
}

/// Submits jobs to a thread. Dropping it gives it up.
#[derive(Debug)]
pub(super) struct Handle {
    messages: Sender<Message>,
    file: Arc<FileState>,
    member: Member,
    /// Wakes the holder when others of this process have changed the store.
    wake: Arc<Notify>,
    has_left: AtomicBool,
}

impl Handle {
    /// Joins the thread that has the file at this path open, or starts it. Does not wait for the file.
    pub(super) fn join(path: &Path) -> Self {
        let file = FileId::of(path).ok();
        let mut threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
        let has_open = |thread: &Thread| file.is_some() && thread.file.id() == file;
        match threads
            .iter_mut()
            .find(|thread| thread.path == path || has_open(thread))
        {
            Some(thread) => {
                let handle = Self::new(thread.messages.clone(), Arc::clone(&thread.file));
                thread.members.push((handle.member, Arc::clone(&handle.wake)));
                handle
            }
            None => {
                let handle = Self::start(path);
                threads.push(Thread {
                    path: path.to_owned(),
                    file: Arc::clone(&handle.file),
                    messages: handle.messages.clone(),
                    members: vec![(handle.member, Arc::clone(&handle.wake))],
                });
                handle
            }
        }
    }

    fn new(messages: Sender<Message>, file: Arc<FileState>) -> Self {
        Self {
            messages,
            file,
            member: LAST_MEMBER.fetch_add(1, Ordering::Relaxed),
            wake: Arc::default(),
            has_left: AtomicBool::new(false),
        }
    }

    /// Starts a thread. If that fails, all jobs are answered that the outbox has stopped.
    fn start(path: &Path) -> Self {
        let (messages, queue) = channel();
        let file = Arc::<FileState>::default();
        let (path, state) = (path.to_owned(), Arc::clone(&file));
        let run = move || StoreThread::new(path, state).run(&queue);
        let _ = thread::Builder::new().name("outbox".into()).spawn(run);
        Self::new(messages, file)
    }

    /// A handle with a thread of its own, as if it were in another process.
    #[cfg(test)]
    pub(super) fn start_apart(path: &Path) -> Self {
        Self::start(path)
    }

    /// Has the thread wake the holder for its looks.
    pub(super) fn tick(&self, tick: Arc<Tick>) {
        self.send(Message::Tick(self.member, tick));
    }

    /// Wakes the holder when others of this process have made calls due.
    pub(super) fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }

    /// How often the file was found to have been removed or replaced.
    pub(super) fn replacements(&self) -> u64 {
        self.file.replacements()
    }

    /// Wakes the other holders: calls may be due that they can claim.
    pub(super) fn wake_others(&self) {
        let threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
        for (member, wake) in threads
            .iter()
            .filter(|thread| thread.has(self.member))
            .flat_map(|thread| &thread.members)
        {
            if *member != self.member {
                wake.notify_one();
            }
        }
    }

    /// Submits a change. The answer means that it is on the disk. Without a home it comes from the thread. A change that is
    /// not awaited waits a little for others, to share their flush.
    pub(super) fn write<T, W>(&self, is_awaited: bool, home: Option<&Home>, work: W, reply: JobReply<T>)
    where
        T: Send + 'static,
        W: FnMut(&Session<'_>, &mut Owner) -> Result<T, OutboxError> + Send + 'static,
    {
        if !self.has_left.load(Ordering::Relaxed) {
            let job = WriteJob::new(self.member, is_awaited, home.cloned(), work, reply);
            self.send(Message::Write(Box::new(job)));
        }
    }

    /// Submits work between two transactions, which is repeated until it returns a value.
    pub(super) fn read<T, R>(&self, work: R, reply: JobReply<T>)
    where
        T: Send + 'static,
        R: FnMut(&mut Connection, &mut Owners, Member) -> Result<Option<T>, OutboxError> + Send + 'static,
    {
        if !self.has_left.load(Ordering::Relaxed) {
            self.send(Message::Read(Box::new(ReadJob::new(self.member, work, reply))));
        }
    }

    /// Gives the handle up. The last one of a file ends the thread; the answer comes when the file is closed.
    pub(super) fn leave(&self, reply: Option<JobReply<()>>) {
        if self.has_left.swap(true, Ordering::Relaxed) {
            if let Some(reply) = reply {
                reply(Ok(()));
            }
            return;
        }
        let mut threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
        let index = threads.iter().position(|thread| thread.has(self.member));
        if let Some(thread) = index.and_then(|index| threads.get_mut(index)) {
            thread.members.retain(|(member, _)| *member != self.member);
        }
        let before = threads.len();
        threads.retain(|thread| !thread.members.is_empty());
        let leave = Leave {
            member: self.member,
            is_last: index.is_none() || threads.len() < before,
            reply,
        };
        // With the lock held: no job of a new handle comes after the last handle was given up.
        self.send(Message::Leave(leave));
    }

    fn send(&self, message: Message) {
        // If the thread has ended, the reply is dropped with the job.
        let _ = self.messages.send(message);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.leave(None);
    }
}
