//! Admission and order: the messages of one target run one after another in the order in which they arrived, at most
//! `max_in_flight` attempts run at once, and at most `max_queued` messages wait.
//!
//! An admitted message has a [`Ticket`], its place in its lane, and a [`Permit`], which it acquires for each attempt.

mod permit;

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque, hash_map::Entry},
    rc::Rc,
    sync::Arc,
};

use tokio::sync::{Semaphore, oneshot};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

pub use self::permit::Permit;
use crate::call::Target;

/// The capacity that the map of lanes keeps when it is empty.
const MIN_CAPACITY: usize = 1024;

#[derive(Debug, Clone)]
pub struct Limits {
    /// Attempts that run at once.
    pub max_in_flight: usize,
    /// Admitted messages without a permit: they wait for their turn, a permit, or their next attempt.
    pub max_queued: usize,
}

/// The queue of a poster: a lane per target, and the permits.
#[derive(Debug)]
pub struct LaneQueue {
    limits: Limits,
    /// A lane for each target with an admitted message.
    lanes: RefCell<HashMap<Target, Lane>>,
    permits: Arc<Semaphore>,
    /// The admitted messages.
    admitted: TaskTracker,
    next_number: Cell<u64>,
    /// How often a batch of replayed messages was admitted.
    round: Cell<i64>,
}

#[derive(Debug, Default)]
struct Lane {
    /// The messages that wait behind the running one.
    waiting: VecDeque<Waiter>,
    mark: Option<i64>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    wake: oneshot::Sender<()>,
}

/// Whether `max_queued` applies to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    Queue,
    /// The message is bounded elsewhere: the outbox replays it.
    None,
}

/// Why a message was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmitError {
    /// `max_queued` messages are waiting already.
    Full,
    /// The queue is closed.
    Closed,
}

/// The present state of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueGauges {
    /// Admitted messages with a permit.
    pub in_flight: usize,
    /// Admitted messages without a permit.
    pub queued: usize,
    pub active_lanes: usize,
}

impl LaneQueue {
    pub fn new(limits: Limits) -> Rc<Self> {
        Rc::new(Self {
            permits: Arc::new(Semaphore::new(limits.max_in_flight)),
            limits,
            lanes: RefCell::default(),
            admitted: TaskTracker::new(),
            next_number: Cell::new(0),
            round: Cell::new(0),
        })
    }

    /// Admits a message at the end of the target's lane. The order of admission is the order of the lane.
    pub fn admit(self: &Rc<Self>, target: Target, bound: Bound) -> Result<(Ticket, Permit), AdmitError> {
        if self.is_closed() {
            return Err(AdmitError::Closed);
        }
        let mut lanes = self.lanes.borrow_mut();
        let lane = lanes.entry(target.clone());
        let mut permit = Permit::new(&self.permits, self.limits.max_in_flight);
        // A message that can be sent at once acquires its permit here, and is not queued. It counts as queued once it
        // waits for a retry.
        if let Entry::Vacant(_) = lane {
            permit.try_acquire();
        }
        if bound == Bound::Queue && self.is_full(&permit) {
            return Err(AdmitError::Full);
        }
        let position = match lane {
            Entry::Vacant(entry) => {
                entry.insert(Lane::default());
                Position::Head
            }
            Entry::Occupied(mut entry) => {
                let number = self.next_number.get();
                self.next_number.set(number.wrapping_add(1));
                let (wake, turn) = oneshot::channel();
                entry.get_mut().waiting.push_back(Waiter { number, wake });
                Position::Waiting { number, turn }
            }
        };
        let ticket = Ticket {
            queue: Rc::clone(self),
            target,
            position,
            round: self.round.get(),
            _admitted: self.admitted.token(),
        };
        Ok((ticket, permit))
    }

    /// Whether there is no room for one more message, which may hold a permit already.
    fn is_full(&self, permit: &Permit) -> bool {
        let capacity = self.limits.max_in_flight.saturating_add(self.limits.max_queued);
        let would_wait = !permit.is_held() && self.queued() >= self.limits.max_queued;
        would_wait || self.admitted.len() >= capacity
    }

    fn in_flight(&self) -> usize {
        self.limits
            .max_in_flight
            .saturating_sub(self.permits.available_permits())
    }

    fn queued(&self) -> usize {
        self.admitted.len().saturating_sub(self.in_flight())
    }

    pub fn gauges(&self) -> QueueGauges {
        QueueGauges {
            in_flight: self.in_flight(),
            queued: self.queued(),
            active_lanes: self.lanes.borrow().len(),
        }
    }

    /// How many more messages are admitted now.
    pub fn free_places(&self) -> usize {
        let capacity = self.limits.max_in_flight.saturating_add(self.limits.max_queued);
        let waiting = self.limits.max_queued.saturating_sub(self.queued());
        let sent = self.permits.available_permits();
        waiting
            .saturating_add(sent)
            .min(capacity.saturating_sub(self.admitted.len()))
    }

    /// Closes the queue for new messages. Admitted messages are still delivered.
    pub fn close(&self) {
        self.admitted.close();
    }

    pub fn is_closed(&self) -> bool {
        self.admitted.is_closed()
    }

    /// The number of the last batch of replayed messages that was admitted.
    pub(crate) fn round(&self) -> i64 {
        self.round.get()
    }

    /// Notes that a batch of replayed messages was admitted as a whole.
    pub(crate) fn end_round(&self, round: i64) {
        self.round.set(round);
    }

    pub(crate) fn max_in_flight(&self) -> usize {
        self.limits.max_in_flight
    }

    /// Waits until a closed queue has no admitted message.
    pub async fn drained(&self) {
        self.admitted.wait().await;
    }

    /// Wakes the next message of the lane, or removes the lane.
    fn wake_next(&self, target: &Target) {
        let mut lanes = self.lanes.borrow_mut();
        if let Entry::Occupied(mut lane) = lanes.entry(target.clone()) {
            while let Some(next) = lane.get_mut().waiting.pop_front() {
                if next.wake.send(()).is_ok() {
                    return;
                }
            }
            lane.remove();
        }
        // Otherwise a burst of targets would keep its memory.
        if lanes.is_empty() && lanes.capacity() > MIN_CAPACITY {
            lanes.shrink_to_fit();
        }
    }

    fn remove_waiter(&self, target: &Target, number: u64) {
        if let Some(lane) = self.lanes.borrow_mut().get_mut(target) {
            // Numbers ascend along a lane.
            let waiting = &mut lane.waiting;
            if let Ok(index) = waiting.binary_search_by_key(&number, |waiter| waiter.number) {
                waiting.remove(index);
            }
        }
    }
}

/// The place of an admitted message in its lane. Dropping it wakes the next message of the lane.
#[derive(Debug)]
pub struct Ticket {
    queue: Rc<LaneQueue>,
    target: Target,
    position: Position,
    round: i64,
    _admitted: TaskTrackerToken,
}

#[derive(Debug)]
enum Position {
    Head,
    Waiting { number: u64, turn: oneshot::Receiver<()> },
}

impl Ticket {
    /// Whether an earlier message of the lane may still be running.
    pub fn is_waiting(&self) -> bool {
        matches!(self.position, Position::Waiting { .. })
    }

    /// The last batch of replayed messages before this one: their tickets are older.
    pub(crate) fn round(&self) -> i64 {
        self.round
    }

    /// A number that the messages of the lane leave to those behind them. There is none at first, and once the
    /// lane was empty.
    pub(crate) fn mark(&self) -> Option<i64> {
        let lanes = self.queue.lanes.borrow();
        lanes.get(&self.target)?.mark
    }

    pub(crate) fn set_mark(&self, mark: i64) {
        if let Some(lane) = self.queue.lanes.borrow_mut().get_mut(&self.target) {
            lane.mark = Some(mark);
        }
    }

    /// Waits until all earlier messages of the lane are done.
    pub async fn wait_turn(&mut self) {
        if let Position::Waiting { turn, .. } = &mut self.position {
            // The sender is dropped only with the lane, which outlives its tickets.
            let _ = turn.await;
            self.position = Position::Head;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        match &mut self.position {
            Position::Head => self.queue.wake_next(&self.target),
            // The ticket may have been woken, and not polled since.
            Position::Waiting { number, turn } => match turn.try_recv() {
                Ok(()) => self.queue.wake_next(&self.target),
                Err(_) => self.queue.remove_waiter(&self.target, *number),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn queue(max_in_flight: usize, max_queued: usize) -> Rc<LaneQueue> {
        LaneQueue::new(Limits {
            max_in_flight,
            max_queued,
        })
    }

    fn session(name: &str) -> Target {
        Target::Session(name.into())
    }

    impl LaneQueue {
        fn try_admit(self: &Rc<Self>, name: &str) -> Result<(Ticket, Permit), AdmitError> {
            self.admit(session(name), Bound::Queue)
        }

        fn ticket(self: &Rc<Self>, name: &str) -> Ticket {
            self.try_admit(name).unwrap().0
        }
    }

    fn has_turn(ticket: &mut Ticket) -> bool {
        ticket.wait_turn().now_or_never().is_some()
    }

    fn has_permit(permit: &mut Permit) -> bool {
        permit.acquire().now_or_never().is_some()
    }

    #[test]
    fn a_mark_is_left_to_the_messages_behind_until_the_lane_is_empty() {
        let queue = queue(9, 9);
        let [first, second] = ["a"; 2].map(|name| queue.ticket(name));
        let other = queue.ticket("b");
        first.set_mark(7);
        drop(first);
        assert_eq!((second.mark(), other.mark()), (Some(7), None));
        drop(second);
        assert_eq!(queue.ticket("a").mark(), None);
    }

    #[test]
    fn the_messages_of_a_lane_run_in_order_of_arrival() {
        let queue = queue(9, 9);
        let [mut first, mut second, mut third] = ["a"; 3].map(|name| queue.ticket(name));
        assert!(has_turn(&mut first));
        assert!(!has_turn(&mut third) && !has_turn(&mut second));
        drop(first);
        assert!(!has_turn(&mut third) && has_turn(&mut second));
        drop(second);
        assert!(has_turn(&mut third));
    }

    #[test]
    fn lanes_do_not_wait_for_each_other() {
        let queue = queue(9, 9);
        let targets = [session("a"), session("b"), Target::Issue("a".into())];
        let mut tickets = targets.map(|target| queue.admit(target, Bound::Queue).unwrap().0);
        assert!(tickets.iter_mut().all(has_turn));
    }

    #[test]
    fn dropping_a_waiting_ticket_does_not_block_the_lane() {
        let queue = queue(9, 9);
        let [first, second, third, mut fourth] = ["a"; 4].map(|name| queue.ticket(name));
        drop(second);
        drop(first);
        // The third was woken, and is dropped without having been polled.
        drop(third);
        assert!(has_turn(&mut fourth));
    }

    #[test]
    fn an_empty_lane_is_removed() {
        let queue = queue(2, 1000);
        let admitted: Vec<_> = (0..1000)
            .map(|number| queue.try_admit(&format!("{}", number % 7)).unwrap())
            .collect();
        assert_eq!(queue.lanes.borrow().len(), 7);
        drop(admitted);
        assert!(queue.lanes.borrow().is_empty() && queue.lanes.borrow().capacity() <= MIN_CAPACITY);
        assert_eq!((queue.queued(), queue.permits.available_permits()), (0, 2));
    }

    #[test]
    fn a_dropped_ticket_leaves_no_waiter_in_its_lane() {
        let queue = queue(1, 9);
        let _first = queue.ticket("a");
        for _ in 0..100 {
            drop(queue.ticket("a"));
        }
        assert!(queue.lanes.borrow()[&session("a")].waiting.is_empty());
    }

    #[test]
    fn messages_beyond_the_limits_are_refused() {
        let queue = queue(2, 3);
        let mut sending = ["a", "b"].map(|name| queue.try_admit(name).unwrap());
        let mut waiting = Vec::from(["a", "a", "c"].map(|name| queue.try_admit(name).unwrap()));
        assert_eq!(queue.try_admit("d").err(), Some(AdmitError::Full));
        waiting.pop();
        // A sender that waits for its next attempt counts as queued.
        sending[0].1.release();
        assert_eq!(queue.try_admit("a").err(), Some(AdmitError::Full));
        // A message that can be sent at once does not.
        let direct = queue.try_admit("d").unwrap();
        assert!(direct.1.is_held());
        assert_eq!(queue.try_admit("e").err(), Some(AdmitError::Full));
        drop((waiting, direct));
        assert!(queue.try_admit("a").is_ok());
    }

    #[test]
    fn retrying_messages_fill_the_queue_up_to_its_limit() {
        let queue = queue(1, 2);
        let mut waiting = Vec::new();
        for number in 0..3 {
            let (ticket, mut permit) = queue.try_admit(&format!("{number}")).unwrap();
            // The first attempt fails at once; the message waits for the next one without a permit.
            permit.release();
            waiting.push((ticket, permit));
        }
        assert_eq!(queue.try_admit("more").err(), Some(AdmitError::Full));
        waiting.pop();
        assert!(queue.try_admit("more").is_ok());
    }

    #[test]
    fn max_queued_zero_admits_only_messages_with_a_permit() {
        let queue = queue(1, 0);
        let only = queue.try_admit("a").unwrap();
        assert_eq!(queue.try_admit("b").err(), Some(AdmitError::Full));
        drop(only);
        assert!(queue.try_admit("b").is_ok());
    }

    #[test]
    fn a_closed_queue_admits_nothing_and_drains() {
        let queue = queue(1, 9);
        let admitted = ["a", "a", "b"].map(|name| queue.try_admit(name).unwrap());
        let gauges = QueueGauges {
            in_flight: 1,
            queued: 2,
            active_lanes: 2,
        };
        assert_eq!(queue.gauges(), gauges);
        queue.close();
        assert_eq!(queue.try_admit("c").err(), Some(AdmitError::Closed));
        let mut drained = Box::pin(queue.drained());
        assert!((&mut drained).now_or_never().is_none());
        drop(admitted);
        assert!(drained.now_or_never().is_some());
        assert!(queue.drained().now_or_never().is_some());
    }

    #[test]
    fn a_released_permit_goes_to_the_next_message() {
        let queue = queue(1, 9);
        let (_first, mut first) = queue.try_admit("a").unwrap();
        let (_second, mut second) = queue.try_admit("b").unwrap();
        assert!(has_permit(&mut first) && !has_permit(&mut second));
        first.release();
        assert!(has_permit(&mut second) && !has_permit(&mut first));
    }
}
