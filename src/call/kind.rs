//! The kinds of calls, their targets, and the name of a call in logs and events.

use std::{fmt, rc::Rc};

use crate::{call_id::CallId, label::labels};

/// The kind of a call. As text and in JSON: `completion`, `status`, `updateIssueStatus`, `createComment`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum CallKind {
    /// The first call of a [`PostResult`](crate::PostResult): `POST …/api/sessions/{id}/completion`.
    Completion,
    /// The second call of a [`PostResult`](crate::PostResult): `POST …/api/sessions/{id}/status`.
    Status,
    /// The call of an [`UpdateIssueStatus`](crate::UpdateIssueStatus): `POST …/api/issue-tracker-proxy`.
    UpdateIssueStatus,
    /// The call of a [`CreateComment`](crate::CreateComment): `POST …/api/issue-tracker-proxy`.
    CreateComment,
}

labels!(CallKind, "kind of call", {
    Completion => "completion",
    Status => "status",
    UpdateIssueStatus => "updateIssueStatus",
    CreateComment => "createComment",
});

impl CallKind {
    pub(crate) fn route(self) -> PlatformRoute {
        match self {
            Self::Completion => PlatformRoute::Completion,
            Self::Status => PlatformRoute::Status,
            Self::UpdateIssueStatus | Self::CreateComment => PlatformRoute::Tracker,
        }
    }

    pub(crate) fn endpoint(self) -> Endpoint {
        self.route().endpoint()
    }
}

/// A route of the platform. One may fail while the others work. As text and in JSON: `completion`, `status`, `tracker`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PlatformRoute {
    /// `POST …/api/sessions/{id}/completion`.
    Completion,
    /// `POST …/api/sessions/{id}/status`.
    Status,
    /// `POST …/api/issue-tracker-proxy`.
    Tracker,
}

labels!(PlatformRoute, "route of the platform", {
    Completion => "completion",
    Status => "status",
    Tracker => "tracker",
});

impl PlatformRoute {
    pub(crate) const ALL: [Self; 3] = [Self::Completion, Self::Status, Self::Tracker];

    pub(crate) fn endpoint(self) -> Endpoint {
        match self {
            Self::Completion | Self::Status => Endpoint::Session,
            Self::Tracker => Endpoint::Proxy,
        }
    }
}

/// The two kinds of endpoints, which acknowledge a call in different ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `completion` and `status`: by the HTTP status.
    Session,
    /// `issue-tracker-proxy`: by the envelope in the body.
    Proxy,
}

/// The session or issue that a call is about. The calls of one target are delivered in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    Session(Rc<str>),
    Issue(Rc<str>),
}

impl Target {
    /// The id of the session or issue.
    pub(crate) fn id(&self) -> &Rc<str> {
        match self {
            Self::Session(id) | Self::Issue(id) => id,
        }
    }
}

/// A call as log lines and events name it: `completion of session "sess-1"`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallRef<'a> {
    pub(crate) kind: CallKind,
    pub(crate) target_id: &'a str,
    /// Of a stored call.
    pub(crate) id: Option<CallId>,
    /// Of a call that was built.
    pub(crate) idempotency_key: Option<&'a str>,
}

impl fmt::Display for CallRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = match self.kind.endpoint() {
            Endpoint::Session => "session",
            Endpoint::Proxy => "issue",
        };
        write!(f, "{} of {target} {:?}", self.kind, self.target_id)
    }
}
