//! Hosts are lost, or cut off while they live on.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    fleet::{Fleet, Host},
    print::print,
    proxy::Network,
    server::{LEASE, TIMEOUT, shared},
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
    let test = "host losses";
    let Some(mut fleet) = Fleet::new(test) else { return };
    let _shared = shared();
    let losses = setting("HOST_LOSSES", LOSSES.len() as u64) as usize;
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
fn a_host_that_is_cut_off_sends_nothing_after_its_lease() {
    let test = "end of a lease";
    let Some(mut fleet) = Fleet::new(test) else { return };
    let _shared = shared();
    let mut cut_off = fleet.start_working_host();
    let others = [fleet.start_working_host(), fleet.start_working_host()];
    // Attempts take nearly their whole time limit, so that the results outlast the lease.
    fleet.platform.set_latency(TIMEOUT.mul_f64(0.8));
    let before = cut_off.process.durable().len();
    cut_off.process.command("post 32");
    cut_off.process.wait_for("durable", before + 32);
    cut_off.proxy.set(Network::Silent);
    let start = Instant::now();
    sleep(LEASE);
    // An attempt that is answered now was under way; the platform notes it when it answers.
    let sent = fleet.sent_by(&cut_off);
    wait_until("others have delivered the results", || {
        fleet.platform.missing(&cut_off.process.durable()).is_empty()
    });
    assert_eq!(fleet.sent_by(&cut_off), sent);
    let (delivered, took) = (fleet.platform.count(), start.elapsed());
    print(
        test,
        format!(
            "{sent} of {delivered} requests were sent by the host that was cut off; all were delivered after {took:?}"
        ),
    );
    cut_off.proxy.set(Network::Works);
    cut_off.stores_again();
    let mut hosts = Vec::from(others);
    hosts.push(cut_off);
    fleet.end(hosts);
}

/// By its own clock, it is not sure of its lanes any more. Its first word to the server gives it a lease again, but not its
/// lanes: of these, it sends what it claims itself.
#[test]
fn a_host_that_is_back_does_not_send_what_it_had_in_hand() {
    const IN_FLIGHT: usize = 8;
    let Some(mut fleet) = Fleet::new("messages in hand") else {
        return;
    };
    let _shared = shared();
    let mut frozen = fleet.start_working_host();
    let other = fleet.start_working_host();
    // The first messages are being sent; the others wait for their permits.
    fleet.platform.set_latency(TIMEOUT.mul_f64(0.8));
    let before = frozen.process.durable().len();
    frozen.process.command("post 64");
    frozen.process.wait_for("durable", before + 64);
    let posted = frozen.process.durable();
    let most_lanes = "SELECT owner FROM @lanes WHERE owner IS NOT NULL GROUP BY owner ORDER BY count(*) DESC LIMIT 1";
    let owner = fleet.database.query(most_lanes).remove(0).remove(0);
    frozen.process.signal("STOP");
    let start = Instant::now();
    // The server's lease ends with the host's own one, not as much as a second later: a longer stop would be noticed as such.
    sleep(LEASE.mul_f64(0.6));
    let end = format!("UPDATE @owners SET lease_until = clock_timestamp() - interval '1 s' WHERE id = {owner}");
    fleet.database.query(&end);
    wait_until("the other one has freed its lanes", || {
        let left = format!("SELECT count(*) FROM @lanes WHERE owner = {owner}");
        fleet.database.query(&left)[0][0] == "0"
    });
    sleep(LEASE.mul_f64(1.1).saturating_sub(start.elapsed()));
    frozen.process.signal("CONT");
    wait_until("the results are delivered", || {
        fleet.platform.missing(&posted).is_empty()
    });
    // What was being sent when the host stopped, and what had been delivered and not been deleted yet.
    let repeated = fleet.platform.repeated();
    assert!(repeated <= 2 * IN_FLIGHT, "{repeated}");
    frozen.stores_again();
    fleet.end(vec![frozen, other]);
}

/// Whoever has taken the lane over sends the message.
#[test]
fn a_message_in_doubt_is_not_sent_after_the_lease() {
    let Some(mut fleet) = Fleet::new("message in doubt") else {
        return;
    };
    let _shared = shared();
    let mut cut_off = fleet.start_working_host();
    let other = fleet.start_working_host();
    let last_result = cut_off.process.durable().len();
    let sent = fleet.sent_by(&cut_off);
    cut_off.proxy.silence_behind_insert();
    cut_off.process.does("post 1");
    assert!(cut_off.proxy.is_silent());
    let failed = cut_off.process.lines("failed");
    assert_eq!(failed.len(), 1, "{:?}", cut_off.process.lines("unkept"));
    assert!(
        failed[0].ends_with("it may have been stored, and be delivered nevertheless"),
        "{failed:?}"
    );
    let posted = [format!("{}-{}", cut_off.process.name, last_result + 1)];
    wait_until("the other one has delivered it", || {
        fleet.platform.missing(&posted).is_empty()
    });
    assert_eq!(fleet.sent_by(&cut_off), sent);
    cut_off.proxy.set(Network::Works);
    cut_off.stores_again();
    fleet.end(vec![cut_off, other]);
}

#[test]
fn commits_without_an_answer_lose_no_confirmed_message() {
    let test = "unanswered commits";
    let Some(mut fleet) = Fleet::new(test) else { return };
    let _shared = shared();
    let cuts = setting("UNANSWERED_COMMITS", 6) as usize;
    let hosts: Vec<Host> = (0..3).map(|_| fleet.start_busy_host()).collect();
    for host in &hosts {
        host.confirms();
        host.proxy.leave_commits_unanswered(5);
    }
    for host in &hosts {
        wait_until("commits are not answered", || host.proxy.cuts() >= cuts);
        host.proxy.leave_commits_unanswered(0);
    }
    for host in &hosts {
        host.confirms();
    }
    let cuts: usize = hosts.iter().map(|host| host.proxy.cuts()).sum();
    let confirmed = fleet.end(hosts);
    let (unkept, repeated) = (fleet.unkept.len(), fleet.platform.repeated());
    print(
        test,
        format!(
            "{cuts} commits without an answer, {confirmed} confirmed, {unkept} sent without being kept, {repeated} repeated"
        ),
    );
}

/// What one host does not know to be stored, another one may have been told to be.
#[test]
fn commits_without_an_answer_lose_no_message_that_two_hosts_post() {
    let test = "unanswered commits of twins";
    let Some(mut fleet) = Fleet::new(test) else { return };
    let _shared = shared();
    let rounds = setting("UNANSWERED_COMMITS", 6) as usize;
    let mut twins = [fleet.start_twin(), fleet.start_twin()];
    // What a host sends without keeping it is lost: only the store has what the other one was told to be stored.
    fleet.platform.set_down(true);
    for host in &twins {
        host.proxy.leave_commits_unanswered(4);
    }
    for round in 1..=rounds {
        for host in &mut twins {
            host.process.command("post 8");
        }
        for host in &twins {
            host.process.wait_for("done post 8", round);
        }
    }
    let cuts: usize = twins.iter().map(|host| host.proxy.cuts()).sum();
    fleet.platform.set_down(false);
    let confirmed = fleet.end_twins(twins.into());
    print(test, format!("{cuts} commits without an answer, {confirmed} confirmed"));
}
