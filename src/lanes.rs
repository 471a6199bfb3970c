//! Admission and order: messages with one key run one after another in the order they arrived, at
//! most `max_in_flight` attempts run at once, and at most `max_queued` messages wait.
//!
//! A message that is admitted gets a [`Turn`], which is its place in its lane and, while it sends, a slot.
//! Dropping the turn, wherever the message is, gives back both.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque, hash_map::Entry},
    rc::Rc,
    sync::Arc,
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

/// Lanes that there is room for even when there are none.
const KEPT_CAPACITY: usize = 1024;

/// Whose messages run one after another. Shared, since a message is spoken of in many places.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Session(Rc<str>),
    Issue(Rc<str>),
}

impl Key {
    /// The id of the session or issue.
    pub(crate) fn id(&self) -> &Rc<str> {
        match self {
            Self::Session(id) | Self::Issue(id) => id,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Attempts that run at once.
    pub(crate) max_in_flight: usize,
    /// Admitted messages that do not send: they wait for their turn, a slot, or their next attempt.
    pub(crate) max_queued: usize,
}

#[derive(Debug)]
pub(crate) struct Lanes {
    limits: Limits,
    /// A lane for each key with an admitted message; in it, who waits behind the one that runs.
    lanes: RefCell<HashMap<Key, VecDeque<Waiter>>>,
    slots: Arc<Semaphore>,
    admitted: Cell<usize>,
    next_number: Cell<u64>,
    closed: Cell<bool>,
    /// Told when the last admitted message is done.
    empty: Notify,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    go: oneshot::Sender<()>,
}

/// Why a message was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// `max_queued` messages wait already.
    Full,
    /// Nothing is admitted any more.
    Closed,
}

/// What there is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gauges {
    /// Admitted messages with a slot.
    pub(crate) running: usize,
    /// Admitted messages without one.
    pub(crate) waiting: usize,
    pub(crate) lanes: usize,
}

impl Lanes {
    pub(crate) fn new(limits: Limits) -> Rc<Self> {
        Rc::new(Self {
            slots: Arc::new(Semaphore::new(limits.max_in_flight)),
            limits,
            lanes: RefCell::default(),
            admitted: Cell::new(0),
            next_number: Cell::new(0),
            closed: Cell::new(false),
            empty: Notify::new(),
        })
    }

    /// Takes a place at the end of the key's lane, now: the order in which this is called is the order of the lane.
    pub(crate) fn admit(self: &Rc<Self>, key: Key) -> Result<Turn, Refusal> {
        self.admit_if(key, |no_room| !no_room)
    }

    /// As [`admit`](Self::admit), for what is bounded elsewhere.
    #[cfg(feature = "outbox")]
    pub(crate) fn admit_anyway(self: &Rc<Self>, key: Key) -> Result<Turn, Refusal> {
        self.admit_if(key, |_| true)
    }

    fn admit_if(self: &Rc<Self>, key: Key, is_welcome: impl FnOnce(bool) -> bool) -> Result<Turn, Refusal> {
        if self.closed.get() {
            return Err(Refusal::Closed);
        }
        let mut lanes = self.lanes.borrow_mut();
        let lane = lanes.entry(key.clone());
        // A message that can send at once does not wait; but it will, if its first attempt fails.
        let slot = match lane {
            Entry::Vacant(_) => self.try_slot(),
            Entry::Occupied(_) => None,
        };
        let capacity = self.limits.max_in_flight.saturating_add(self.limits.max_queued);
        let no_room = slot.is_none() && self.waiting() >= self.limits.max_queued;
        if !is_welcome(no_room || self.admitted.get() >= capacity) {
            return Err(Refusal::Full);
        }
        let place = match lane {
            Entry::Vacant(entry) => {
                entry.insert(VecDeque::new());
                Place::First
            }
            Entry::Occupied(mut entry) => {
                let number = self.next_number.get();
                self.next_number.set(number.wrapping_add(1));
                let (go, turn) = oneshot::channel();
                entry.get_mut().push_back(Waiter { number, go });
                Place::Behind { number, turn }
            }
        };
        self.admitted.set(self.admitted.get().saturating_add(1));
        Ok(Turn {
            lanes: Rc::clone(self),
            key,
            place,
            slot,
        })
    }

    fn try_slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.slots).try_acquire_owned().ok()
    }

    fn running(&self) -> usize {
        self.limits.max_in_flight.saturating_sub(self.slots.available_permits())
    }

    /// Admitted messages that do not send.
    fn waiting(&self) -> usize {
        self.admitted.get().saturating_sub(self.running())
    }

    pub(crate) fn gauges(&self) -> Gauges {
        Gauges {
            running: self.running(),
            waiting: self.waiting(),
            lanes: self.lanes.borrow().len(),
        }
    }

    /// Admits nothing from now on. What is admitted goes on.
    pub(crate) fn close(&self) {
        self.closed.set(true);
    }

    #[cfg(feature = "outbox")]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    #[cfg(feature = "outbox")]
    pub(crate) fn max_in_flight(&self) -> usize {
        self.limits.max_in_flight
    }

    /// Waits until all that is admitted is done.
    pub(crate) async fn drained(&self) {
        loop {
            let emptied = self.empty.notified();
            if self.admitted.get() == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// Lets the next in the lane go, or closes the lane.
    fn pass_on(&self, key: &Key) {
        let mut lanes = self.lanes.borrow_mut();
        if let Entry::Occupied(mut lane) = lanes.entry(key.clone()) {
            while let Some(next) = lane.get_mut().pop_front() {
                if next.go.send(()).is_ok() {
                    return;
                }
            }
            lane.remove();
        }
        // A rush leaves its room behind otherwise.
        if lanes.is_empty() && lanes.capacity() > KEPT_CAPACITY {
            lanes.shrink_to_fit();
        }
    }

    fn step_out(&self, key: &Key, number: u64) {
        if let Some(lane) = self.lanes.borrow_mut().get_mut(key) {
            // Numbers ascend along a lane.
            if let Ok(index) = lane.binary_search_by_key(&number, |waiter| waiter.number) {
                lane.remove(index);
            }
        }
    }
}

/// An admitted message's place in its lane, and its slot while it sends.
#[derive(Debug)]
pub(crate) struct Turn {
    lanes: Rc<Lanes>,
    key: Key,
    place: Place,
    slot: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum Place {
    First,
    Behind { number: u64, turn: oneshot::Receiver<()> },
}

impl Turn {
    /// Whether others of its lane come before.
    pub(crate) fn is_behind(&self) -> bool {
        matches!(self.place, Place::Behind { .. })
    }

    /// Waits until all that arrived before with the same key are done.
    pub(crate) async fn come(&mut self) {
        if let Place::Behind { turn, .. } = &mut self.place {
            // The sender is dropped only with the lane, which outlives its turns.
            let _ = turn.await;
            self.place = Place::First;
        }
    }

    /// Waits until the message may be sent, and has a slot for it.
    pub(crate) async fn ready(&mut self) {
        self.come().await;
        self.take_slot().await;
    }

    /// Takes a slot, unless the message has one.
    pub(crate) async fn take_slot(&mut self) {
        if self.slot.is_none() {
            // It is never closed.
            self.slot = Arc::clone(&self.lanes.slots).acquire_owned().await.ok();
        }
    }

    pub(crate) fn give_slot_back(&mut self) {
        self.slot = None;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.give_slot_back();
        let lanes = &self.lanes;
        lanes.admitted.set(lanes.admitted.get().saturating_sub(1));
        if lanes.admitted.get() == 0 {
            lanes.empty.notify_waiters();
        }
        let is_first = match &mut self.place {
            Place::First => true,
            // It may have been told to go, and not have heard it yet.
            Place::Behind { turn, .. } => turn.try_recv().is_ok(),
        };
        match self.place {
            Place::Behind { number, .. } if !is_first => lanes.step_out(&self.key, number),
            Place::First | Place::Behind { .. } => lanes.pass_on(&self.key),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn lanes(max_in_flight: usize, max_queued: usize) -> Rc<Lanes> {
        Lanes::new(Limits {
            max_in_flight,
            max_queued,
        })
    }

    fn key(name: &str) -> Key {
        Key::Session(name.into())
    }

    fn has_come(turn: &mut Turn) -> bool {
        turn.come().now_or_never().is_some()
    }

    fn has_slot(turn: &mut Turn) -> bool {
        turn.take_slot().now_or_never().is_some()
    }

    #[test]
    fn one_key_goes_in_order_of_arrival() {
        let lanes = lanes(9, 9);
        let mut first = lanes.admit(key("a")).unwrap();
        let mut second = lanes.admit(key("a")).unwrap();
        let mut third = lanes.admit(key("a")).unwrap();
        assert!(has_come(&mut first));
        assert!(!has_come(&mut third) && !has_come(&mut second));
        drop(first);
        assert!(!has_come(&mut third) && has_come(&mut second));
        drop(second);
        assert!(has_come(&mut third));
    }

    #[test]
    fn keys_do_not_wait_for_each_other_and_a_session_is_no_issue() {
        let lanes = lanes(9, 9);
        let mut all = [key("a"), key("b"), Key::Issue("a".into())].map(|key| lanes.admit(key).unwrap());
        assert!(all.iter_mut().all(has_come));
    }

    #[test]
    fn who_leaves_the_lane_early_holds_up_nobody() {
        let lanes = lanes(9, 9);
        let first = lanes.admit(key("a")).unwrap();
        let second = lanes.admit(key("a")).unwrap();
        let third = lanes.admit(key("a")).unwrap();
        let mut fourth = lanes.admit(key("a")).unwrap();
        drop(second);
        drop(first);
        // The third was told to go, and leaves without having heard it.
        drop(third);
        assert!(has_come(&mut fourth));
    }

    #[test]
    fn an_empty_lane_leaves_nothing_behind() {
        let lanes = lanes(2, 1000);
        let turns: Vec<_> = (0..1000)
            .map(|number| lanes.admit(key(&format!("{}", number % 7))).unwrap())
            .collect();
        assert_eq!(lanes.lanes.borrow().len(), 7);
        drop(turns);
        assert!(lanes.lanes.borrow().is_empty() && lanes.lanes.borrow().capacity() <= KEPT_CAPACITY);
        assert_eq!((lanes.waiting(), lanes.slots.available_permits()), (0, 2));
    }

    #[test]
    fn messages_beyond_the_limits_are_refused() {
        let lanes = lanes(2, 3);
        let mut sending: Vec<_> = ["a", "b"].map(|name| lanes.admit(key(name)).unwrap()).into();
        let mut waiting = Vec::from(["a", "a", "c"].map(|name| lanes.admit(key(name)).unwrap()));
        assert_eq!(lanes.admit(key("d")).err(), Some(Refusal::Full));
        waiting.pop();
        // A sender that waits for its next attempt counts as waiting.
        sending[0].give_slot_back();
        assert_eq!(lanes.admit(key("a")).err(), Some(Refusal::Full));
        // But who can send at once does not wait.
        let direct = lanes.admit(key("d")).unwrap();
        assert!(direct.slot.is_some());
        assert_eq!(lanes.admit(key("e")).err(), Some(Refusal::Full));
        drop((waiting, direct));
        assert!(lanes.admit(key("a")).is_ok());
    }

    #[test]
    fn a_platform_that_is_down_fills_the_queue_and_no_more() {
        let lanes = lanes(1, 2);
        let mut waiting = Vec::new();
        for number in 0..3 {
            let mut turn = lanes.admit(key(&format!("{number}"))).unwrap();
            // Its first attempt fails at once: it waits for the next, and the slot is free.
            turn.give_slot_back();
            waiting.push(turn);
        }
        assert_eq!(lanes.admit(key("more")).err(), Some(Refusal::Full));
        waiting.pop();
        assert!(lanes.admit(key("more")).is_ok());
    }

    #[test]
    fn who_leaves_the_lane_leaves_nothing_in_it() {
        let lanes = lanes(1, 9);
        let _first = lanes.admit(key("a")).unwrap();
        for _ in 0..100 {
            drop(lanes.admit(key("a")).unwrap());
        }
        assert!(lanes.lanes.borrow()[&key("a")].is_empty());
    }

    #[test]
    fn nothing_waits_where_nothing_may() {
        let lanes = lanes(1, 0);
        let only = lanes.admit(key("a")).unwrap();
        assert_eq!(lanes.admit(key("b")).err(), Some(Refusal::Full));
        drop(only);
        assert!(lanes.admit(key("b")).is_ok());
    }

    #[test]
    fn once_closed_nothing_is_admitted_and_the_rest_drains() {
        let lanes = lanes(1, 9);
        let turns = ["a", "a", "b"].map(|name| lanes.admit(key(name)).unwrap());
        assert_eq!(
            lanes.gauges(),
            Gauges {
                running: 1,
                waiting: 2,
                lanes: 2
            }
        );
        lanes.close();
        assert_eq!(lanes.admit(key("c")).err(), Some(Refusal::Closed));
        let mut drained = Box::pin(lanes.drained());
        assert!((&mut drained).now_or_never().is_none());
        drop(turns);
        assert!(drained.now_or_never().is_some());
        assert!(lanes.drained().now_or_never().is_some());
    }

    #[test]
    fn a_slot_given_back_goes_to_who_waits_for_it() {
        let lanes = lanes(1, 9);
        let mut first = lanes.admit(key("a")).unwrap();
        let mut second = lanes.admit(key("b")).unwrap();
        assert!(has_slot(&mut first) && !has_slot(&mut second));
        first.give_slot_back();
        assert!(has_slot(&mut second) && !has_slot(&mut first));
    }
}
