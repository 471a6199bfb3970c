//! Hosts that share a queue on the server.

use std::{collections::BTreeSet, path::Path, sync::Arc, thread::sleep, time::Duration};

use crate::{
    child::{Plan, Process},
    platform::{Platform, calls_of},
    proxy::{Network, Proxy},
    server::{Database, LEASE, Route, TIMEOUT, Way},
    tools::wait_until,
};

/// A process with a poster, and its network.
pub(crate) struct Host {
    pub(crate) process: Process,
    pub(crate) proxy: Proxy,
}

/// Hosts, the platform, and what the hosts confirmed.
pub(crate) struct Fleet {
    pub(crate) database: Database,
    /// The hosts take turns: directly, and through PgBouncer.
    routes: Vec<Route>,
    pub(crate) platform: Arc<Platform>,
    started: usize,
    confirmed: BTreeSet<String>,
    /// What was sent without being kept.
    pub(crate) unkept: Vec<String>,
    /// What the hosts say they have not sent.
    unsent: Vec<String>,
}

impl Fleet {
    /// `None`: there is no server.
    pub(crate) fn new(test: &str) -> Option<Self> {
        Some(Self {
            database: Database::new(Way::Direct, test)?,
            routes: [Way::Direct, Way::PgBouncer]
                .into_iter()
                .filter_map(|way| Route::new(way, test))
                .collect(),
            platform: Platform::start(),
            started: 0,
            confirmed: BTreeSet::new(),
            unkept: Vec::new(),
            unsent: Vec::new(),
        })
    }

    pub(crate) fn start_host(&mut self) -> Host {
        self.start_host_on(Network::Works)
    }

    pub(crate) fn start_host_on(&mut self, network: Network) -> Host {
        let name = format!("host-{}", self.started + 1);
        self.start_host_named(&name, network, |url| url)
    }

    /// A host that uses another URL.
    pub(crate) fn start_host_at(&mut self, url: impl FnOnce(String) -> String) -> Host {
        let name = format!("host-{}", self.started + 1);
        self.start_host_named(&name, Network::Works, url)
    }

    /// Starts a host that posts the same results as all others that are started so.
    pub(crate) fn start_twin(&mut self) -> Host {
        let host = self.start_host_named("twin", Network::Works, |url| url);
        host.process.wait_for("started", 1);
        host
    }

    fn start_host_named(&mut self, name: &str, network: Network, url: impl FnOnce(String) -> String) -> Host {
        let route = &self.routes[self.started % self.routes.len()];
        let proxy = Proxy::start(&route.address);
        proxy.set(network);
        self.started += 1;
        let plan = Plan {
            server: Some(self.database.plan(url(route.url_by(proxy.port)))),
            timeout_ms: Some(TIMEOUT.as_millis() as u64),
            ..Plan::new(name, &self.platform, Path::new(""))
        };
        let process = Process::start(&plan);
        Host { process, proxy }
    }

    /// How many requests of a host were answered.
    pub(crate) fn sent_by(&self, host: &Host) -> usize {
        let arrivals = self.platform.arrivals();
        let sent = arrivals.iter().filter(|arrival| arrival.process() == host.process.name);
        sent.count()
    }

    /// A host that has stored results.
    pub(crate) fn start_working_host(&mut self) -> Host {
        let mut host = self.start_host();
        host.stores_again();
        host
    }

    /// Starts a host that posts without end, eight messages at a time.
    pub(crate) fn start_busy_host(&mut self) -> Host {
        let mut host = self.start_host();
        host.process.command("flood 8");
        host
    }

    /// Kills a host, and notes what it confirmed.
    pub(crate) fn kill(&mut self, mut host: Host) {
        self.platform.note_kill(&host.process.name);
        host.process.kill();
        self.note(&host);
    }

    fn note(&mut self, host: &Host) {
        let process = &host.process;
        for line in process.lines("failed") {
            // A message that could not be kept is its sender's again, if a shutdown cut it short, or if earlier messages of
            // its target are parked.
            if line.ends_with("it was not sent") {
                self.unsent.push(line.split(' ').next().unwrap().to_owned());
            } else {
                // The platform is down for twins.
                let is_expected = line.contains("cancelled by a shutdown")
                    || line.ends_with("it may have been stored, and be delivered nevertheless")
                    || process.name == "twin";
                assert!(is_expected, "{}: {line}", process.name);
            }
        }
        assert_eq!(process.lines("stderr"), Vec::<String>::new(), "{}", process.name);
        self.confirmed.extend(process.durable());
        self.unkept.extend(process.lines("unkept"));
    }

    /// Ends all hosts; another one delivers all that is left; and then nothing may be lost, doubled or out of order.
    /// Returns how many messages were confirmed.
    pub(crate) fn end(&mut self, hosts: Vec<Host>) -> usize {
        let confirmed = self.end_twins(hosts);
        let acknowledged = self.platform.acknowledged();
        let mut unsent = self.unsent.iter().flat_map(|message| calls_of(message));
        assert_eq!(
            unsent.find(|call| acknowledged.contains(call)),
            None,
            "was said not to be sent"
        );
        self.platform.assert_no_live_double();
        self.platform.assert_status_after_completion();
        self.platform
            .assert_comments_in_order(|comment| self.confirmed.contains(comment));
        confirmed
    }

    /// As [`end`](Self::end), of hosts that post the same results: what one has not kept, it sends while others do.
    pub(crate) fn end_twins(&mut self, hosts: Vec<Host>) -> usize {
        for host in hosts {
            self.kill(host);
        }
        let mut last = self.start_host();
        last.process.wait_for("started", 1);
        self.database.is_emptied();
        last.process.does("shutdown 10000");
        assert!(last.process.ends().success());

        assert!(!self.confirmed.is_empty());
        assert_eq!(self.platform.missing(&self.confirmed), BTreeSet::new());
        let unkept = self
            .unkept
            .iter()
            .map(|line| line.split(' ').next().unwrap().to_owned());
        assert_eq!(self.platform.missing(&unkept.collect::<Vec<_>>()), BTreeSet::new());
        self.platform.assert_keys();
        for table in ["lanes", "calls"] {
            assert_eq!(self.database.count(table), 0, "{table}");
        }
        self.confirmed.len()
    }
}

impl Host {
    /// Waits until a result is stored.
    pub(crate) fn stores_again(&mut self) {
        let before = self.process.durable().len();
        wait_until("a result is stored", || {
            self.process.does("post 1");
            self.process.durable().len() > before
        });
    }

    /// Waits until the host confirms messages again.
    pub(crate) fn confirms(&self) {
        let before = self.process.durable().len();
        self.process.wait_for("durable", before + 8);
    }

    /// Cuts the host off, until its lease is over and others have taken its lanes.
    pub(crate) fn cut_off_beyond_its_lease(&self, network: Network) {
        self.proxy.set(network);
        sleep(LEASE + Duration::from_millis(rand::random_range(0..1_500)));
        self.proxy.set(Network::Works);
    }

    /// Waits until the host has sent a message without keeping it.
    pub(crate) fn sends_unkept(&self) {
        let before = self.process.lines("unkept").len();
        wait_until("a message is sent without being kept", || {
            self.process.lines("unkept").len() > before
        });
    }
}
