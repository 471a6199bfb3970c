//! The log lines of this process.

use std::sync::Mutex;

/// Begins to record the log, at every level. To be called before the lines are expected.
pub(crate) fn keep_log() {
    let _ = log::set_logger(&LOG);
    log::set_max_level(log::LevelFilter::Trace);
}

/// The lines so far, of all tests in this process, as `<level> <target> <line> <key>=<value> …`.
pub(crate) fn logged() -> Vec<String> {
    LOG.0.lock().unwrap().clone()
}

/// The logger panics at a line that contains this text.
pub(crate) const LOG_PANICS: &str = "log-panics";

static LOG: KeptLog = KeptLog(Mutex::new(Vec::new()));

struct KeptLog(Mutex<Vec<String>>);

impl log::Log for KeptLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        struct Pairs(String);
        impl<'a> log::kv::VisitSource<'a> for Pairs {
            fn visit_pair(&mut self, key: log::kv::Key<'a>, value: log::kv::Value<'a>) -> Result<(), log::kv::Error> {
                self.0.push_str(&format!(" {key}={value}"));
                Ok(())
            }
        }
        let mut pairs = Pairs(String::new());
        record.key_values().visit(&mut pairs).unwrap();
        let line = format!("{} {} {}{}", record.level(), record.target(), record.args(), pairs.0);
        assert!(!line.contains(LOG_PANICS), "the log is full");
        self.0.lock().unwrap().push(line);
    }

    fn flush(&self) {}
}
