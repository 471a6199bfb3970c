//! Submits the jobs of an owner from its arbiter, where they are answered.

use std::{rc::Rc, sync::Arc};

use actix_rt::spawn;
use rusqlite::Connection;
use tokio::sync::{mpsc::unbounded_channel, oneshot};

use super::super::{StoreFuture, Tick};
use super::{
    handle::Handle,
    jobs::{Ended, Home},
    owners::{Member, Owner, Owners},
    session::Session,
};
use crate::error::OutboxError;

/// An owner's handle, and what reaches its arbiter from the thread.
pub(super) struct Arbiter {
    pub(super) handle: Handle,
    home: Home,
    pub(super) tick: Arc<Tick>,
    pub(super) queue: Arc<str>,
}

impl Arbiter {
    pub(super) fn new(handle: Handle, queue: Arc<str>) -> Rc<Self> {
        let (home, mut answers) = unbounded_channel::<Vec<Ended>>();
        spawn(async move {
            while let Some(ended) = answers.recv().await {
                ended.into_iter().for_each(Ended::answer);
            }
        });
        let tick = Arc::<Tick>::default();
        handle.tick(Arc::clone(&tick));
        Rc::new(Self {
            handle,
            home,
            tick,
            queue,
        })
    }

    /// A change after which others may find calls that are due.
    pub(super) fn write_for_others<T, W>(self: &Rc<Self>, work: W) -> StoreFuture<T>
    where
        T: Send + 'static,
        W: FnMut(&Session<'_>, &mut Owner, &str) -> Result<T, OutboxError> + Send + 'static,
    {
        let (this, write) = (Rc::clone(self), self.write(work));
        Box::pin(async move {
            let answer = write.await;
            this.handle.wake_others();
            answer
        })
    }

    /// A change: it is submitted when the future is polled, and made even if the future is dropped after that.
    pub(super) fn write<T, W>(self: &Rc<Self>, work: W) -> StoreFuture<T>
    where
        T: Send + 'static,
        W: FnMut(&Session<'_>, &mut Owner, &str) -> Result<T, OutboxError> + Send + 'static,
    {
        self.submit(true, work)
    }

    /// A change that nobody waits for, or not long: it may wait a little for others, to share their flush.
    pub(super) fn write_later<T, W>(self: &Rc<Self>, work: W) -> StoreFuture<T>
    where
        T: Send + 'static,
        W: FnMut(&Session<'_>, &mut Owner, &str) -> Result<T, OutboxError> + Send + 'static,
    {
        self.submit(false, work)
    }

    fn submit<T, W>(self: &Rc<Self>, is_awaited: bool, work: W) -> StoreFuture<T>
    where
        T: Send + 'static,
        W: FnMut(&Session<'_>, &mut Owner, &str) -> Result<T, OutboxError> + Send + 'static,
    {
        let (this, queue, mut work) = (Rc::clone(self), Arc::clone(&self.queue), work);
        Box::pin(async move {
            let (sender, answer) = oneshot::channel();
            let reply = Box::new(|result| drop(sender.send(result)));
            let work = move |session: &Session<'_>, owner: &mut Owner| work(session, owner, &queue);
            this.handle.write(is_awaited, Some(&this.home), work, reply);
            answer.await.unwrap_or(Err(OutboxError::Stopped))
        })
    }

    pub(super) fn read<T, R>(self: &Rc<Self>, work: R) -> StoreFuture<T>
    where
        T: Send + 'static,
        R: FnMut(&mut Connection, &mut Owners, Member) -> Result<Option<T>, OutboxError> + Send + 'static,
    {
        let this = Rc::clone(self);
        Box::pin(async move {
            let (sender, answer) = oneshot::channel();
            this.handle.read(work, Box::new(|result| drop(sender.send(result))));
            answer.await.unwrap_or(Err(OutboxError::Stopped))
        })
    }
}
