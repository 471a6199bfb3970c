//! Admission and order: messages with one key run one after another in the order they arrived, at
//! most `max_in_flight` attempts run at once, and at most `max_queued` calls wait.
//!
//! A call that is admitted gets a [`Turn`], which is its place in its lane and, while it sends, a slot.
//! Dropping the turn, wherever the call is, gives back both.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque, hash_map::Entry},
    rc::Rc,
    sync::Arc,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Whose calls run one after another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Session(String),
    Issue(String),
}

#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Attempts that run at once.
    pub(crate) max_in_flight: usize,
    /// Admitted calls that do not send: they wait for their turn, a slot, or their next attempt.
    pub(crate) max_queued: usize,
}

#[derive(Debug)]
pub(crate) struct Lanes {
    limits: Limits,
    /// A lane for each key with an admitted call; in it, who waits behind the one that runs.
    lanes: RefCell<HashMap<Key, VecDeque<Waiter>>>,
    slots: Arc<Semaphore>,
    admitted: Cell<usize>,
    next_number: Cell<u64>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    go: oneshot::Sender<()>,
}

/// `max_queued` calls wait already.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Lanes {
    pub(crate) fn new(limits: Limits) -> Rc<Self> {
        Rc::new(Self {
            slots: Arc::new(Semaphore::new(limits.max_in_flight)),
            limits,
            lanes: RefCell::default(),
            admitted: Cell::new(0),
            next_number: Cell::new(0),
        })
    }

    /// Takes a place at the end of the key's lane, now: the order of these calls is the order of the lane.
    pub(crate) fn admit(self: &Rc<Self>, key: Key) -> Result<Turn, Full> {
        let mut lanes = self.lanes.borrow_mut();
        // A call that can send at once does not wait, however many others do.
        let slot = if lanes.contains_key(&key) {
            None
        } else {
            self.try_slot()
        };
        if slot.is_none() && self.waiting() >= self.limits.max_queued {
            return Err(Full);
        }
        let place = match lanes.entry(key.clone()) {
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

    /// Admitted calls that do not send.
    fn waiting(&self) -> usize {
        let sending = self.limits.max_in_flight.saturating_sub(self.slots.available_permits());
        self.admitted.get().saturating_sub(sending)
    }

    /// Lets the next in the lane go, or closes the lane.
    fn pass_on(&self, key: &Key) {
        let mut lanes = self.lanes.borrow_mut();
        if let Some(lane) = lanes.get_mut(key) {
            while let Some(next) = lane.pop_front() {
                if next.go.send(()).is_ok() {
                    return;
                }
            }
            lanes.remove(key);
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

/// An admitted call's place in its lane, and its slot while it sends.
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
    /// Waits until all that arrived before with the same key are done.
    pub(crate) async fn come(&mut self) {
        if let Place::Behind { turn, .. } = &mut self.place {
            // The sender is dropped only with the lane, which outlives its turns.
            let _ = turn.await;
            self.place = Place::First;
        }
    }

    /// Takes a slot, unless the call has one.
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
        assert!(lanes.lanes.borrow().is_empty());
        assert_eq!((lanes.waiting(), lanes.slots.available_permits()), (0, 2));
    }

    #[test]
    fn calls_beyond_the_limits_are_refused() {
        let lanes = lanes(2, 3);
        let mut sending: Vec<_> = ["a", "b"].map(|name| lanes.admit(key(name)).unwrap()).into();
        let waiting = ["a", "a", "c"].map(|name| lanes.admit(key(name)).unwrap());
        assert_eq!(lanes.admit(key("d")).err(), Some(Full));
        // One sender that waits for its next attempt counts as waiting.
        sending[0].give_slot_back();
        assert_eq!(lanes.admit(key("a")).err(), Some(Full));
        // But who can send at once does not wait.
        let direct = lanes.admit(key("d")).unwrap();
        assert!(direct.slot.is_some());
        drop((waiting, direct));
        assert!(lanes.admit(key("a")).is_ok());
    }

    #[test]
    fn nothing_waits_where_nothing_may() {
        let lanes = lanes(1, 0);
        let only = lanes.admit(key("a")).unwrap();
        assert_eq!(lanes.admit(key("b")).err(), Some(Full));
        drop(only);
        assert!(lanes.admit(key("b")).is_ok());
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
