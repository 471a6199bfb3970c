//! A platform that answers over plain sockets, and records each request.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, sleep},
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) key: String,
    /// The poster that sent it: its user agent.
    pub(crate) sender: String,
    /// `s-1/completion` for a session, `issue-1/text` for a comment.
    pub(crate) call: String,
    pub(crate) status: u16,
}

impl Arrival {
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.status == 200
    }

    /// The process of the sender: `child-7` of `child-7.a`.
    pub(crate) fn process(&self) -> &str {
        process_of(&self.sender)
    }
}

pub(crate) fn process_of(sender: &str) -> &str {
    sender.split('.').next().unwrap()
}

/// A request that is being answered.
#[derive(Debug, Clone, PartialEq)]
struct InFlight {
    sender: String,
    /// When it was read.
    at: Instant,
}

impl InFlight {
    fn process(&self) -> &str {
        process_of(&self.sender)
    }
}

/// A key that two senders sent at once.
struct Double {
    key: String,
    call: String,
    first: InFlight,
    second: InFlight,
}

#[derive(Default)]
pub(crate) struct Platform {
    pub(crate) port: u16,
    arrivals: Mutex<Vec<Arrival>>,
    /// The last request of each key in flight.
    in_flight: Mutex<BTreeMap<String, InFlight>>,
    doubles: Mutex<Vec<Double>>,
    /// When processes were about to be killed.
    killed: Mutex<BTreeMap<String, Instant>>,
    /// Whether everything is answered with 503, as in an outage.
    is_down: AtomicBool,
    /// Calls that begin so are answered with 500.
    failing: Mutex<Vec<String>>,
    /// Whether the credentials are rejected.
    is_rejecting: AtomicBool,
    /// Whether requests are read and never answered.
    is_silent: AtomicBool,
    /// How many requests are taken in each second.
    limit: AtomicU64,
    /// The second, and how many requests it has had.
    in_second: Mutex<(u64, u64)>,
    latency_us: AtomicU64,
}

impl Platform {
    pub(crate) fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let platform = Arc::new(Self {
            port: listener.local_addr().unwrap().port(),
            latency_us: AtomicU64::new(1_000),
            limit: AtomicU64::new(u64::MAX),
            ..Self::default()
        });
        let shared = Arc::clone(&platform);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let platform = Arc::clone(&shared);
                thread::spawn(move || platform.serve(stream.unwrap()));
            }
        });
        platform
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::Relaxed);
    }

    pub(crate) fn set_rejecting(&self, is_rejecting: bool) {
        self.is_rejecting.store(is_rejecting, Ordering::Relaxed);
    }

    pub(crate) fn set_silent(&self, is_silent: bool) {
        self.is_silent.store(is_silent, Ordering::Relaxed);
    }

    /// Further requests in a second are answered with 429.
    pub(crate) fn set_limit(&self, a_second: u64) {
        self.limit.store(a_second, Ordering::Relaxed);
    }

    fn is_over_limit(&self) -> bool {
        let second = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let mut in_second = self.in_second.lock().unwrap();
        if in_second.0 != second {
            *in_second = (second, 0);
        }
        in_second.1 += 1;
        in_second.1 > self.limit.load(Ordering::Relaxed)
    }

    pub(crate) fn set_latency(&self, latency: Duration) {
        self.latency_us.store(latency.as_micros() as u64, Ordering::Relaxed);
    }

    /// Calls whose session or issue begins so are answered with 500, which is no outage.
    pub(crate) fn fail(&self, prefix: &str) {
        self.failing.lock().unwrap().push(prefix.to_owned());
    }

    pub(crate) fn fail_nothing(&self) {
        self.failing.lock().unwrap().clear();
    }

    /// To be called before a process is killed: from then on, another may send the keys that it has in flight.
    pub(crate) fn note_kill(&self, process: &str) {
        self.killed.lock().unwrap().insert(process.to_owned(), Instant::now());
    }

    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.arrivals.lock().unwrap().len()
    }

    /// The calls that were acknowledged.
    pub(crate) fn acknowledged(&self) -> BTreeSet<String> {
        let arrivals = self.arrivals.lock().unwrap();
        let acknowledged = arrivals.iter().filter(|arrival| arrival.is_acknowledged());
        acknowledged.map(|arrival| arrival.call.clone()).collect()
    }

    /// Both calls of these sessions, and these comments, if they were not acknowledged.
    pub(crate) fn missing<'a>(&self, messages: impl IntoIterator<Item = &'a String>) -> BTreeSet<String> {
        let acknowledged = self.acknowledged();
        let calls = messages.into_iter().flat_map(|message| calls_of(message));
        calls.filter(|call| !acknowledged.contains(call)).collect()
    }

    /// No key was in flight from two living processes, or twice from one.
    pub(crate) fn assert_no_live_double(&self) {
        let killed = self.killed.lock().unwrap();
        // On a busy host, a request may be read after its sender was killed, and after that of the successor.
        let is_killed_before = |one: &InFlight, other: &InFlight| {
            one.process() != other.process() && killed.get(one.process()).is_some_and(|at| *at <= other.at)
        };
        let is_live = |double: &&Double| {
            let Double { first, second, .. } = double;
            !is_killed_before(first, second) && !is_killed_before(second, first)
        };
        let doubles = self.doubles.lock().unwrap();
        if let Some(double) = doubles.iter().find(is_live) {
            let (first, second) = (&double.first.sender, &double.second.sender);
            let Double { call, key, .. } = double;
            panic!("{second} sent {call} ({key}) while {first} was sending it");
        }
    }

    /// Each key has one call, and each call one key.
    pub(crate) fn assert_keys(&self) {
        let mut by_key: BTreeMap<String, String> = BTreeMap::new();
        let mut by_call: BTreeMap<String, String> = BTreeMap::new();
        for arrival in self.arrivals() {
            let call = by_key
                .entry(arrival.key.clone())
                .or_insert_with(|| arrival.call.clone());
            assert_eq!(*call, arrival.call, "{}", arrival.key);
            let key = by_call
                .entry(arrival.call.clone())
                .or_insert_with(|| arrival.key.clone());
            assert_eq!(*key, arrival.key, "{}", arrival.call);
        }
    }

    /// A status came after an attempt of its completion, unless the platform was so often unavailable before that its
    /// sender may have parked the completion without an attempt.
    pub(crate) fn assert_status_after_completion(&self) {
        const CLOSES_THE_GATE: usize = 5;
        let mut completions = BTreeSet::new();
        let mut unavailable: BTreeMap<String, usize> = BTreeMap::new();
        for arrival in self.arrivals() {
            if let Some(session) = arrival.call.strip_suffix("/completion") {
                completions.insert(session.to_owned());
                *unavailable.entry(arrival.process().to_owned()).or_default() += usize::from(arrival.status == 503);
            } else if let Some(session) = arrival.call.strip_suffix("/status") {
                let may_be_parked = unavailable.values().sum::<usize>() >= CLOSES_THE_GATE;
                assert!(completions.contains(session) || may_be_parked, "{arrival:?}");
            }
        }
    }

    /// The comments of each poster on an issue were acknowledged in the order in which it was asked to post them: each for
    /// the first time after all earlier ones. Only comments for which this holds count.
    pub(crate) fn assert_comments_in_order(&self, counts: impl Fn(&str) -> bool) {
        let mut acknowledged: BTreeMap<(String, String), BTreeSet<u64>> = BTreeMap::new();
        let arrivals = self.arrivals();
        let counted = arrivals
            .iter()
            .filter(|arrival| arrival.is_acknowledged() && counts(&arrival.call));
        for arrival in counted {
            let Some((issue, text)) = arrival.call.split_once('/') else {
                continue;
            };
            let Some((poster, number)) = text.split_once(':') else {
                continue;
            };
            let number: u64 = number.parse().unwrap();
            let before = acknowledged.entry((issue.to_owned(), poster.to_owned())).or_default();
            let is_next = before.last().is_none_or(|last| number > *last);
            assert!(
                is_next || before.contains(&number),
                "{arrival:?} after {:?}",
                before.last()
            );
            before.insert(number);
        }
    }

    /// How many acknowledged requests repeat another one.
    pub(crate) fn repeated(&self) -> usize {
        let arrivals = self.arrivals();
        let acknowledged = arrivals.iter().filter(|arrival| arrival.is_acknowledged()).count();
        acknowledged - self.acknowledged().len()
    }

    fn serve(&self, stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let mut reader = BufReader::new(stream);
        while let Some((head, body)) = read_request(&mut reader) {
            if self.is_silent.load(Ordering::Relaxed) {
                while self.is_silent.load(Ordering::Relaxed) {
                    sleep(Duration::from_millis(5));
                }
                return;
            }
            let answer = self.answer(&head, &body);
            if writer.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, head: &str, body: &[u8]) -> String {
        let at = Instant::now();
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(':'));
            let found = lines.find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let (key, sender) = (header("idempotency-key"), header("user-agent"));
        let call = call_of(head, body);
        let is_failing = self
            .failing
            .lock()
            .unwrap()
            .iter()
            .any(|prefix| call.starts_with(prefix));
        let status = if self.is_down.load(Ordering::Relaxed) {
            503
        } else if self.is_rejecting.load(Ordering::Relaxed) {
            401
        } else if self.is_over_limit() {
            429
        } else if is_failing {
            500
        } else {
            200
        };
        let in_flight = InFlight {
            sender: sender.clone(),
            at,
        };
        let before = self.in_flight.lock().unwrap().insert(key.clone(), in_flight.clone());
        if let Some(first) = before {
            let double = Double {
                key: key.clone(),
                call: call.clone(),
                first,
                second: in_flight.clone(),
            };
            self.doubles.lock().unwrap().push(double);
        }
        sleep(Duration::from_micros(self.latency_us.load(Ordering::Relaxed)));
        let mut all = self.in_flight.lock().unwrap();
        // Unless the key was sent again meanwhile.
        if all.get(&key) == Some(&in_flight) {
            all.remove(&key);
        }
        drop(all);
        self.arrivals.lock().unwrap().push(Arrival {
            key,
            sender,
            call,
            status,
        });
        let body = if status == 200 { r#"{"success":true}"# } else { "" };
        let hint = if status == 429 { "retry-after: 1\r\n" } else { "" };
        format!(
            "HTTP/1.1 {status} -\r\n{hint}content-length: {}\r\n\r\n{body}",
            body.len()
        )
    }
}

/// The calls of a message: both of a session, or the one of a comment, which has a slash in its name.
pub(crate) fn calls_of(message: &str) -> Vec<String> {
    if message.contains('/') {
        vec![message.to_owned()]
    } else {
        ["completion", "status"]
            .map(|kind| format!("{message}/{kind}"))
            .to_vec()
    }
}

fn call_of(head: &str, body: &[u8]) -> String {
    let path = head.split(' ').nth(1).unwrap();
    match path.strip_prefix("/api/sessions/") {
        Some(call) => call.to_owned(),
        None => {
            let body: Value = serde_json::from_slice(body).unwrap();
            let [issue, text] = [0, 1].map(|index| body["args"][index].as_str().unwrap().to_owned());
            format!("{issue}/{text}")
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    loop {
        let start = head.len();
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
        if head[start..].trim_end().is_empty() {
            break;
        }
    }
    let length = head.lines().filter_map(|line| line.split_once(':'));
    let length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length
        .map(|(_, value)| value.trim().parse().unwrap())
        .next()
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}

/// A platform that has read a key from `first` and then from `second`, with a kill before the one or the other.
fn with_double(killed: &str, kill_is_first: bool) -> Platform {
    let platform = Platform::default();
    let request = |sender: &str| InFlight {
        sender: sender.to_owned(),
        at: Instant::now(),
    };
    if kill_is_first {
        platform.note_kill(killed);
    }
    let first = request("first.1");
    if !kill_is_first {
        platform.note_kill(killed);
    }
    let double = Double {
        key: "key".into(),
        call: "s-1/status".into(),
        first,
        second: request("second.1"),
    };
    platform.doubles.lock().unwrap().push(double);
    platform
}

#[test]
fn a_request_of_a_killed_process_may_be_read_after_that_of_its_successor() {
    with_double("first", false).assert_no_live_double();
    with_double("second", true).assert_no_live_double();
}

#[test]
#[should_panic(expected = "second.1 sent s-1/status (key) while first.1 was sending it")]
fn a_key_in_flight_from_two_living_processes_is_found() {
    with_double("another", true).assert_no_live_double();
}

#[test]
#[should_panic(expected = "second.1 sent s-1/status (key) while first.1 was sending it")]
fn a_key_in_flight_from_a_process_that_was_killed_only_later_is_found() {
    with_double("second", false).assert_no_live_double();
}
