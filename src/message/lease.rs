//! The lease of the work area that a session leaves behind.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The lease of the work area of a session that has ended. The platform then releases the work area by the lease, so the
/// status is sent without the `worktreePath`.
///
/// Serialized in camel case, as the platform's daemon writes it. A lease that is not valid is not sent: the status then
/// has the `worktreePath`, and the receipt a [`Warning`](crate::Warning).
///
/// ```
/// use result_poster::TerminalWorkareaLease;
///
/// let lease = TerminalWorkareaLease::new(
///     "twl_11111111111111111111111111111111",
///     "wa_22222222222222222222222222222222",
///     "tr_33333333333333333333333333333333",
///     "2026-10-01T12:30:00.000Z",
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct TerminalWorkareaLease {
    /// `twl_` and 32 hexadecimal digits in lower case.
    pub lease_id: String,
    /// `wa_` and 32 hexadecimal digits in lower case.
    pub workarea_id: String,
    /// `tr_` and 32 hexadecimal digits in lower case.
    pub terminal_result_id: String,
    /// When the lease ends, as in RFC 3339, in whole milliseconds.
    pub expires_at: String,
}

impl TerminalWorkareaLease {
    /// A lease with these ids. It is checked when it is sent.
    pub fn new(
        lease_id: impl Into<String>,
        workarea_id: impl Into<String>,
        terminal_result_id: impl Into<String>,
        expires_at: impl Into<String>,
    ) -> Self {
        Self {
            lease_id: lease_id.into(),
            workarea_id: workarea_id.into(),
            terminal_result_id: terminal_result_id.into(),
            expires_at: expires_at.into(),
        }
    }

    /// The lease as it is sent, with its end in UTC. The error says what is not valid.
    pub(crate) fn normalized(&self) -> Result<Self, &'static str> {
        if !is_id(&self.lease_id, "twl_") {
            return Err("`leaseId` is not valid");
        }
        if !is_id(&self.workarea_id, "wa_") {
            return Err("`workareaId` is not valid");
        }
        if !is_id(&self.terminal_result_id, "tr_") {
            return Err("`terminalResultId` is not valid");
        }
        let expires_at: Timestamp = (self.expires_at.parse()).map_err(|_| "`expiresAt` is not a time")?;
        if expires_at.subsec_nanosecond() % 1_000_000 != 0 {
            return Err("`expiresAt` is not in whole milliseconds");
        }
        Ok(Self {
            expires_at: format!("{expires_at:.3}"),
            ..self.clone()
        })
    }
}

fn is_id(text: &str, prefix: &str) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.strip_prefix(prefix)
        .is_some_and(|digits| digits.len() == 32 && digits.bytes().all(is_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> TerminalWorkareaLease {
        let id = |prefix: &str| prefix.to_owned() + &"1a".repeat(16);
        TerminalWorkareaLease::new(id("twl_"), id("wa_"), id("tr_"), "2026-10-01T12:30:00Z")
    }

    #[test]
    fn the_end_of_a_lease_is_sent_in_utc_and_milliseconds() {
        for (given, sent) in [
            ("2026-10-01T12:30:00Z", "2026-10-01T12:30:00.000Z"),
            ("2026-10-01T14:30:00.250+02:00", "2026-10-01T12:30:00.250Z"),
        ] {
            let lease = TerminalWorkareaLease {
                expires_at: given.into(),
                ..lease()
            };
            assert_eq!(lease.normalized().unwrap().expires_at, sent);
        }
    }

    #[test]
    fn a_lease_with_a_wrong_id_or_time_is_not_valid() {
        let reason = |change: fn(&mut TerminalWorkareaLease)| {
            let mut lease = lease();
            change(&mut lease);
            lease.normalized().unwrap_err()
        };
        assert_eq!(
            reason(|lease| lease.lease_id = "twl_1".into()),
            "`leaseId` is not valid"
        );
        assert_eq!(
            reason(|lease| lease.lease_id.make_ascii_uppercase()),
            "`leaseId` is not valid"
        );
        assert_eq!(reason(|lease| lease.workarea_id.push('0')), "`workareaId` is not valid");
        assert_eq!(
            reason(|lease| lease.terminal_result_id.clear()),
            "`terminalResultId` is not valid"
        );
        assert_eq!(
            reason(|lease| lease.expires_at = "soon".into()),
            "`expiresAt` is not a time"
        );
        assert_eq!(
            reason(|lease| lease.expires_at = "2026-10-01T12:30:00.0001Z".into()),
            "`expiresAt` is not in whole milliseconds"
        );
    }
}
