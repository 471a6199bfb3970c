//! The subscribers of a poster's events.

use std::cell::RefCell;

use actix::{Recipient, prelude::SendError};

use super::event::DeliveryEvent;

/// The actors that receive each event.
#[derive(Default)]
pub(super) struct Subscribers(RefCell<Vec<Recipient<DeliveryEvent>>>);

impl Subscribers {
    pub(super) fn new(subscribers: Vec<Recipient<DeliveryEvent>>) -> Self {
        Self(RefCell::new(subscribers))
    }

    pub(super) fn add(&self, subscriber: Recipient<DeliveryEvent>) {
        self.0.borrow_mut().push(subscriber);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Sends an event to each, and removes those that have stopped. Returns for how many it was dropped.
    pub(super) fn send(&self, event: &DeliveryEvent) -> usize {
        let mut dropped = 0_usize;
        self.0
            .borrow_mut()
            .retain(|subscriber| match subscriber.try_send(event.clone()) {
                Ok(()) => true,
                Err(SendError::Full(_)) => {
                    dropped = dropped.saturating_add(1);
                    true
                }
                Err(SendError::Closed(_)) => false,
            });
        dropped
    }
}
