//! Hosts are lost, or cut off while they live on.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    fleet::{Fleet, Host},
    print::print,
    proxy::Network,
    server::{Database, LEASE, Way, shared},
    tools::{setting, wait_until},
};

/// How a host is lost.
#[derive(Debug, Clone, Copy)]
enum Loss {
    Killed,
    /// It does not run for longer than its lease, and then goes on.
    Frozen,
    CutOff(Network),
}

const LOSSES: [Loss; 6] = [
    Loss::Killed,
    Loss::CutOff(Network::Silent),
    Loss::Killed,
    Loss::CutOff(Network::Refuses),
    Loss::Frozen,
    Loss::CutOff(Network::LosesAnswers),
];

#[test]
fn lost_hosts_lose_no_confirmed_message() {
    lose_hosts(Way::Direct, "host losses");
}

#[test]
fn lost_hosts_lose_no_confirmed_message_through_pgbouncer() {
    lose_hosts(Way::PgBouncer, "host losses through PgBouncer");
}

fn lose_hosts(way: Way, test: &str) {
    let Some(database) = Database::new(way, test) else {
        return;
    };
    let _shared = shared();
    let losses = setting("HOST_LOSSES", LOSSES.len() as u64) as usize;
    let mut fleet = Fleet::new(database);
    // Some attempts are still under way when a lease ends.
    fleet.platform.set_latency(Duration::from_millis(20));
    let mut hosts: Vec<Host> = (0..3).map(|_| fleet.start_busy_host()).collect();
    for host in &hosts {
        host.confirms();
    }
    for loss in LOSSES.into_iter().cycle().take(losses) {
        let victim = hosts.remove(0);
        victim.confirms();
        sleep(Duration::from_micros(rand::random_range(0..150_000)));
        match loss {
            Loss::Killed => {
                fleet.kill(victim);
                hosts.push(fleet.start_busy_host());
                continue;
            }
            Loss::Frozen => {
                victim.process.signal("STOP");
                sleep(LEASE + Duration::from_millis(rand::random_range(0..1_500)));
                // The platform has answered what the host had sent, but the host has not seen it.
                victim.process.signal("CONT");
            }
            Loss::CutOff(network) => victim.cut_off_beyond_its_lease(network),
        }
        victim.confirms();
        hosts.push(victim);
    }
    let confirmed = fleet.end(hosts);
    let (requests, repeated, unkept) = (fleet.platform.count(), fleet.platform.repeated(), fleet.unkept.len());
    print(
        test,
        format!(
            "{losses} losses, {confirmed} confirmed, {unkept} sent without being kept, {requests} requests, {repeated} repeated"
        ),
    );
}

#[test]
fn the_lanes_of_a_lost_host_are_taken_over_when_its_lease_is_over() {
    let test = "takeover";
    let Some(database) = Database::new(Way::Direct, test) else {
        return;
    };
    let _shared = shared();
    let mut fleet = Fleet::new(database);
    fleet.platform.set_latency(Duration::from_millis(500));
    let (mut lost, other) = (fleet.start_working_host(), fleet.start_working_host());
    let before = lost.process.durable().len();
    lost.process.command("post 8");
    lost.process.wait_for("durable", before + 8);
    let posted = lost.process.durable();
    let start = Instant::now();
    fleet.kill(lost);
    wait_until("the lanes are taken over", || {
        fleet.platform.missing(&posted).is_empty()
    });
    let took = start.elapsed();
    // The lease began before the kill; others look every 2 s, and an attempt takes half a second each time.
    assert!(took < LEASE + Duration::from_secs(5), "{took:?}");
    fleet.end(vec![other]);
    print(test, format!("{took:?} after the kill, with a lease of {LEASE:?}"));
}
