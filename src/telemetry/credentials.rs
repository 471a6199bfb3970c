//! The reports about the credentials of a poster: once for an outage.

use std::time::Duration;

use log::{error, info};

use super::{event::DeliveryEventKind, recorder::Telemetry};
use crate::util::ignore_panic;

impl Telemetry {
    /// There are no credentials for an attempt.
    pub(crate) fn no_credentials(&self, reason: impl FnOnce() -> String) {
        let now = self.clock.instant();
        if self.authorization.borrow_mut().unavailable(reason, now) {
            self.credentials_failed();
        }
    }

    /// An attempt has ended with the platform's rejection of its credentials.
    pub(crate) fn credentials_rejected(&self, reason: impl FnOnce() -> String) {
        let now = self.clock.instant();
        if self.authorization.borrow_mut().rejected(reason, now) {
            self.credentials_failed();
        }
    }

    /// There are credentials for an attempt.
    pub(crate) fn credentials_available(&self) {
        if self.authorization.borrow().is_failing() {
            let outage = self.authorization.borrow_mut().available(self.clock.instant());
            self.credentials_recovered(outage);
        }
    }

    /// The platform has accepted the credentials of an attempt.
    pub(crate) fn credentials_accepted(&self) {
        if self.authorization.borrow().is_failing() {
            let outage = self.authorization.borrow_mut().accepted(self.clock.instant());
            self.credentials_recovered(outage);
        }
    }

    /// For how long calls can't be authorized, and why. `None` if they can.
    pub(crate) fn authorization_outage(&self) -> Option<(Duration, String)> {
        let authorization = self.authorization.borrow();
        let (outage, reason) = authorization.failing(self.clock.instant())?;
        Some((outage, reason.to_owned()))
    }

    fn credentials_failed(&self) {
        let failing = self.authorization.borrow();
        let Some((_, reason)) = failing.failing(self.clock.instant()) else {
            return;
        };
        ignore_panic(|| error!("no call can be authorized: {reason}"));
        self.emit(None, || DeliveryEventKind::CredentialsFailed {
            reason: reason.to_owned(),
        });
    }

    fn credentials_recovered(&self, outage: Option<Duration>) {
        let Some(outage) = outage else { return };
        ignore_panic(|| info!("calls can be authorized again, after {outage:?}"));
        self.emit(None, || DeliveryEventKind::CredentialsRecovered { outage });
    }
}
