//! The server hangs, is away, refuses, or is full: messages are sent all the same, and nothing hangs.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    fleet::{Fleet, Host},
    proxy::Network,
    server::shared,
    tools::wait_until,
};

/// A message waits at most this long for the outbox before it is sent without being kept.
const LONGEST_WAIT: Duration = Duration::from_secs(6);

#[test]
fn a_poster_starts_without_its_server() {
    let Some(mut fleet) = Fleet::new("start without a server") else {
        return;
    };
    let _shared = shared();
    let mut host = fleet.start_host_on(Network::Refuses);
    host.process.wait_for("started", 1);
    host.posts_unkept("can't be reached");
    host.proxy.set(Network::Works);
    host.works_again();
    fleet.end(vec![host]);
}

#[test]
fn a_message_is_sent_while_connections_are_refused() {
    let Some(mut fleet) = Fleet::new("refused connections") else {
        return;
    };
    let _shared = shared();
    let mut host = fleet.start_working_host();
    host.proxy.set(Network::Refuses);
    host.posts_unkept("can't be reached");
    host.proxy.set(Network::Works);
    host.works_again();
    fleet.end(vec![host]);
}

#[test]
fn a_message_is_sent_while_the_server_is_silent() {
    let Some(mut fleet) = Fleet::new("silent server") else {
        return;
    };
    let _shared = shared();
    let mut host = fleet.start_working_host();
    host.proxy.set(Network::Silent);
    host.posts_unkept("");
    host.proxy.set(Network::Works);
    host.works_again();
    fleet.end(vec![host]);
}

#[test]
fn a_message_is_sent_while_answers_are_lost() {
    let Some(mut fleet) = Fleet::new("lost answers") else {
        return;
    };
    let _shared = shared();
    let mut host = fleet.start_working_host();
    host.proxy.set(Network::LosesAnswers);
    host.posts_unkept("");
    host.proxy.break_connections();
    host.proxy.set(Network::Works);
    host.works_again();
    // What the server had stored of it does not stay.
    fleet.end(vec![host]);
}

#[test]
fn a_broken_connection_costs_no_message_its_place() {
    let Some(mut fleet) = Fleet::new("broken connections") else {
        return;
    };
    let _shared = shared();
    let mut host = fleet.start_working_host();
    for _ in 0..5 {
        host.proxy.break_connections();
        host.process.does("post 4");
    }
    assert_eq!(host.process.lines("unkept"), Vec::<String>::new());
    fleet.end(vec![host]);
}

#[test]
fn a_message_is_sent_while_the_disk_of_the_server_is_full() {
    let Some(mut fleet) = Fleet::new("full disk") else {
        return;
    };
    let _shared = shared();
    let mut host = fleet.start_working_host();
    fleet.database.query(
        "CREATE FUNCTION @full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
         END $$;
         CREATE TRIGGER full_disk BEFORE INSERT ON @calls FOR EACH ROW EXECUTE FUNCTION @full_disk()",
    );
    host.posts_unkept("no space left");
    fleet.database.query("DROP TRIGGER full_disk ON @calls");
    // The health shows it for a minute: smaller messages may fit all the time.
    host.stores_again();
    fleet.end(vec![host]);
}

#[test]
fn messages_are_sent_while_a_table_is_locked() {
    let Some(mut fleet) = Fleet::new("locked table") else {
        return;
    };
    let _shared = shared();
    let mut host = fleet.start_working_host();
    std::thread::scope(|scope| {
        let locks = scope.spawn(|| {
            fleet
                .database
                .query("BEGIN; LOCK TABLE @calls IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(6); COMMIT")
        });
        wait_until("the table is locked", || {
            let query = "SELECT count(*) FROM pg_locks WHERE relation = '@calls'::regclass AND mode = 'AccessExclusiveLock' AND granted";
            fleet.database.query(query)[0][0] == "1"
        });
        // All together, not one after the other.
        let start = Instant::now();
        host.process.does("post 50");
        let took = start.elapsed();
        assert!(took < LONGEST_WAIT, "{took:?}");
        locks.join().unwrap();
    });
    host.works_again();
    fleet.end(vec![host]);
}

#[test]
fn a_shutdown_keeps_its_limit_while_the_server_is_silent() {
    let Some(mut fleet) = Fleet::new("shutdown, silent server") else {
        return;
    };
    let _shared = shared();
    for network in [Network::Silent, Network::Refuses, Network::LosesAnswers] {
        let mut host = fleet.start_working_host();
        host.proxy.set(network);
        host.process.command("post 8");
        let start = Instant::now();
        host.process.does("shutdown 1000");
        let took = start.elapsed();
        assert!(took < Duration::from_millis(2_500), "{network:?}: {took:?}");
        fleet.kill(host);
    }
    fleet.end(Vec::new());
}

#[test]
fn a_server_that_only_reads_is_not_used() {
    let Some(mut fleet) = Fleet::new("read-only server") else {
        return;
    };
    let _shared = shared();
    let mut host = fleet.start_host_at(|url| format!("{url}?options=-c%20default_transaction_read_only%3Don"));
    host.process.wait_for("started", 1);
    host.posts_unkept("does not allow writes");
    fleet.kill(host);
    let host = fleet.start_working_host();
    fleet.end(vec![host]);
}

#[test]
fn of_several_servers_the_one_that_answers_is_used() {
    let Some(mut fleet) = Fleet::new("several servers") else {
        return;
    };
    let _shared = shared();
    // The kernel accepts its connections, and nobody answers.
    let frozen = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = frozen.local_addr().unwrap();
    let mut host = fleet.start_host_at(|url| url.replacen('@', &format!("@{address},"), 1) + "?connect_timeout=1");
    host.works_again();
    fleet.end(vec![host]);
}

#[test]
fn a_locked_owner_does_not_hold_up_others() {
    let Some(mut fleet) = Fleet::new("locked owner") else {
        return;
    };
    let _shared = shared();
    let locked = fleet.start_working_host();
    let owner = fleet.database.query("SELECT id FROM @owners").remove(0).remove(0);
    let (mut lost, other) = (fleet.start_working_host(), fleet.start_working_host());
    fleet.platform.set_latency(Duration::from_millis(500));
    let before = lost.process.durable().len();
    lost.process.command("post 8");
    lost.process.wait_for("durable", before + 8);
    let posted = lost.process.durable();
    std::thread::scope(|scope| {
        let database = &fleet.database;
        let select = format!("BEGIN; SELECT 1 FROM @owners WHERE id = {owner} FOR UPDATE; SELECT pg_sleep(8); COMMIT");
        let lock = scope.spawn(move || database.query(&select));
        wait_until("the row is locked", || {
            let query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE '%@owners WHERE id%'";
            fleet.database.query(query)[0][0] == "1"
        });
        fleet.platform.note_kill(&locked.process.name);
        fleet.platform.note_kill(&lost.process.name);
        locked.process.signal("KILL");
        lost.process.signal("KILL");
        wait_until("the lanes of the other one are taken over", || {
            fleet.platform.missing(&posted).is_empty()
        });
        assert!(!lock.is_finished());
        lock.join().unwrap();
    });
    for host in [locked, lost] {
        fleet.kill(host);
    }
    fleet.end(vec![other]);
}

impl Host {
    /// Posts a result, which is sent without being kept, for this reason.
    fn posts_unkept(&mut self, reason: &str) {
        let before = self.process.lines("unkept").len();
        let start = Instant::now();
        self.process.does("post 1");
        let took = start.elapsed();
        assert!(took < LONGEST_WAIT, "{took:?}");
        let unkept = self.process.lines("unkept");
        assert_eq!(unkept.len(), before + 1, "{:?}", self.process.durable());
        assert!(unkept[before].contains(reason), "{unkept:?}");
        let error = self.outbox_error().expect("an error in the health");
        assert!(error.contains(reason), "{error}");
    }

    /// Waits until a result is stored again, and the health shows no error.
    fn works_again(&mut self) {
        self.stores_again();
        wait_until("the health shows it", || self.outbox_error().is_none());
    }

    /// Why the outbox fails, by the poster's health.
    fn outbox_error(&mut self) -> Option<String> {
        let before = self.process.lines("health").len();
        let start = Instant::now();
        self.process.does("health");
        let took = start.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
        let health: Value = serde_json::from_str(&self.process.lines("health")[before]).unwrap();
        health["outbox"]["error"].as_str().map(str::to_owned)
    }
}
