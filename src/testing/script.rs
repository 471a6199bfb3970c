//! The replies of a scripted platform, and the requests that it has received.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::watch;

use super::{PlatformRules, RecordedRequest, Reply, rules::RuledPlatform};

/// The state that the thread of a platform shares with the handle.
#[derive(Debug, Default)]
pub(super) struct Shared {
    scripts: Mutex<HashMap<String, Script>>,
    /// Answers the requests that no script is for.
    rules: Mutex<Option<RuledPlatform>>,
    requests: watch::Sender<Vec<RecordedRequest>>,
    connections: AtomicUsize,
}

#[derive(Debug)]
struct Script {
    replies: Vec<Reply>,
    next: usize,
}

impl Shared {
    pub(super) fn set_script(&self, path_end: String, replies: Vec<Reply>) {
        let mut scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        scripts.insert(path_end, Script { replies, next: 0 });
    }

    pub(super) fn set_rules(&self, rules: PlatformRules) {
        let mut present = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        *present = Some(RuledPlatform::new(rules));
    }

    pub(super) fn next_reply(&self, path: &str, request: &RecordedRequest) -> Reply {
        let mut scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        let script = scripts
            .iter_mut()
            .filter(|(path_end, _)| is_end_of(path_end, path))
            .max_by_key(|(path_end, _)| path_end.len());
        let Some((_, script)) = script else {
            let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
            return rules.as_mut().map_or_else(Reply::ok, |rules| rules.reply(request));
        };
        let reply = script.replies.get(script.next).or(script.replies.last());
        script.next = script.next.saturating_add(1);
        reply.cloned().unwrap_or_else(Reply::ok)
    }

    pub(super) fn record(&self, request: RecordedRequest) {
        self.requests.send_modify(|requests| requests.push(request));
    }

    pub(super) fn requests(&self) -> watch::Receiver<Vec<RecordedRequest>> {
        self.requests.subscribe()
    }

    /// The number of a new connection, from 0.
    pub(super) fn count_connection(&self) -> usize {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Whether `path_end` is the end of `path`, from the beginning of a segment. A query is not part of the path.
pub(super) fn is_end_of(path_end: &str, path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    path.strip_suffix(path_end.trim_start_matches('/'))
        .is_some_and(|before| before.is_empty() || before.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::is_end_of;

    #[test]
    fn a_path_end_begins_at_a_segment() {
        let path = "/api/sessions/sess-1/status";
        for path_end in ["status", "sess-1/status", "/sess-1/status", path, ""] {
            assert_eq!(is_end_of(path_end, path), !path_end.is_empty(), "{path_end}");
        }
        assert!(is_end_of("status", "/api/sessions/sess-1/status?x=/y"));
        assert!(!is_end_of("tatus", path));
        assert!(!is_end_of("sess-2/status", path));
    }
}
