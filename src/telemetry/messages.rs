//! The messages that a poster has not answered yet, by their age.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    time::Instant,
};

/// When each message that is not answered yet arrived, in the order of arrival.
#[derive(Debug, Default)]
pub(super) struct Messages {
    arrived: RefCell<BTreeMap<u64, Instant>>,
    last_number: Cell<u64>,
}

impl Messages {
    pub(super) fn begin(self: &Rc<Self>, now: Instant) -> Unanswered {
        let number = self.last_number.get().saturating_add(1);
        self.last_number.set(number);
        self.arrived.borrow_mut().insert(number, now);
        Unanswered {
            messages: Rc::clone(self),
            number,
        }
    }

    /// When the oldest one arrived.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.arrived.borrow().first_key_value().map(|(_, arrived)| *arrived)
    }
}

/// A message that is not answered yet. Dropping it means that it is.
#[derive(Debug)]
pub(crate) struct Unanswered {
    messages: Rc<Messages>,
    number: u64,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.messages.arrived.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;

    #[test]
    fn the_oldest_message_is_the_first_that_is_not_answered() {
        let now = Clock::system().instant();
        let messages = Rc::new(Messages::default());
        let [first, second] = [0, 1].map(|second| messages.begin(now + Duration::from_secs(second)));
        assert_eq!(messages.oldest(), Some(now));
        drop(first);
        assert_eq!(messages.oldest(), Some(now + Duration::from_secs(1)));
        drop(second);
        assert_eq!(messages.oldest(), None);
    }
}
