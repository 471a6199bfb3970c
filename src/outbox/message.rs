//! The messages by which a poster's outbox is inspected and repaired.

use actix::Message;
use serde::{Deserialize, Serialize};

use super::{EntryQuery, OutboxEntry, OutboxStats};
use crate::{call_id::CallId, error::OutboxError};

/// Lists the calls in the outbox of a [`ResultPoster`](crate::ResultPoster): those of its queue, of all processes that
/// share the outbox.
///
/// ```
/// use result_poster::outbox::{EntryQuery, ListEntries};
/// # use result_poster::ResultPoster;
///
/// # async fn list(poster: actix::Addr<ResultPoster>) -> Result<(), Box<dyn std::error::Error>> {
/// for entry in poster.send(ListEntries::new(EntryQuery::dead_letters())).await?? {
///     println!("{}: {} of {}", entry.id, entry.kind, entry.target_id);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`OutboxError::NotConfigured`] without an outbox; any other [`OutboxError`] if the file can't be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListEntries {
    pub(crate) query: EntryQuery,
}

impl ListEntries {
    /// Lists the calls that match the query.
    #[must_use]
    pub fn new(query: EntryQuery) -> Self {
        Self { query }
    }

    /// Which calls are listed.
    pub fn query(&self) -> &EntryQuery {
        &self.query
    }
}

impl Message for ListEntries {
    type Result = Result<Vec<OutboxEntry>, OutboxError>;
}

/// Makes a parked call or a dead letter due now, with a fresh history, as the last call of its lane.
///
/// ```
/// use result_poster::{CallId, outbox::Requeue};
/// # use result_poster::ResultPoster;
///
/// # async fn requeue(poster: actix::Addr<ResultPoster>, id: CallId) -> Result<(), Box<dyn std::error::Error>> {
/// poster.send(Requeue::new(id)).await??;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`OutboxError::NoSuchCall`] if no parked call or dead letter has this id; [`OutboxError::NotConfigured`] without an
/// outbox; any other [`OutboxError`] if the file can't be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requeue {
    pub(crate) id: CallId,
}

impl Requeue {
    /// Requeues this call.
    #[must_use]
    pub fn new(id: CallId) -> Self {
        Self { id }
    }

    /// The id of the call.
    #[must_use]
    pub fn id(&self) -> CallId {
        self.id
    }
}

impl Message for Requeue {
    type Result = Result<(), OutboxError>;
}

/// Deletes a parked call or a dead letter.
///
/// ```
/// use result_poster::{CallId, outbox::Discard};
/// # use result_poster::ResultPoster;
///
/// # async fn discard(poster: actix::Addr<ResultPoster>, id: CallId) -> Result<(), Box<dyn std::error::Error>> {
/// poster.send(Discard::new(id)).await??;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// As [`Requeue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discard {
    pub(crate) id: CallId,
}

impl Discard {
    /// Deletes this call.
    #[must_use]
    pub fn new(id: CallId) -> Self {
        Self { id }
    }

    /// The id of the call.
    #[must_use]
    pub fn id(&self) -> CallId {
        self.id
    }
}

impl Message for Discard {
    type Result = Result<(), OutboxError>;
}

/// Asks a [`ResultPoster`](crate::ResultPoster) for the content of its outbox in numbers.
///
/// ```
/// use result_poster::outbox::GetOutboxStats;
/// # use result_poster::ResultPoster;
///
/// # async fn depth(poster: actix::Addr<ResultPoster>) -> Result<(), Box<dyn std::error::Error>> {
/// let stats = poster.send(GetOutboxStats).await??;
/// println!("{} parked, oldest {:?}", stats.parked, stats.oldest_age);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`OutboxError::NotConfigured`] without an outbox; any other [`OutboxError`] if the file can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetOutboxStats;

impl Message for GetOutboxStats {
    type Result = Result<OutboxStats, OutboxError>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::entry::MAX_LIMIT;

    #[test]
    fn a_query_is_read_from_json_with_its_defaults_and_its_limit() {
        let read = |json: &str| serde_json::from_str::<ListEntries>(json).unwrap().query().clone();
        assert_eq!(read(r#"{"query":{}}"#), EntryQuery::all());
        assert_eq!(read(r#"{"query":{"state":"parked"}}"#), EntryQuery::parked());
        let limited = read(r#"{"query":{"limit":4000000}}"#);
        assert_eq!(limited, EntryQuery::all().limit(MAX_LIMIT));
        let json = serde_json::to_string(&ListEntries::new(limited.clone())).unwrap();
        assert_eq!(read(&json), limited);
    }

    #[test]
    fn an_id_survives_serialization() {
        let id = CallId::from_parts(1, 7);
        let json = serde_json::to_string(&Requeue::new(id)).unwrap();
        assert_eq!(serde_json::from_str::<Discard>(&json).unwrap().id(), id);
        assert_eq!(serde_json::from_str::<Requeue>(&json).unwrap().id(), id);
    }
}
