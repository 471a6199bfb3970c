//! The server is restarted, or away, while hosts post.

use std::{thread::sleep, time::Duration};

use crate::{
    fleet::Fleet,
    print::print,
    server::{Control, alone},
    tools::setting,
};

#[test]
fn restarts_of_the_server_lose_no_confirmed_message() {
    let test = "restarts";
    let (Some(mut fleet), Some(control)) = (Fleet::new(test), Control::new(test)) else {
        return;
    };
    let _alone = alone();
    let restarts = setting("RESTARTS", 2);
    let hosts: Vec<_> = (0..2).map(|_| fleet.start_busy_host()).collect();
    for number in 0..restarts {
        for host in &hosts {
            host.confirms();
        }
        sleep(Duration::from_micros(rand::random_range(0..200_000)));
        if number % 2 == 0 {
            control.run(&["restart", "-m", "immediate"]);
        } else {
            control.run(&["stop", "-m", "fast"]);
            for host in &hosts {
                host.sends_unkept();
            }
            control.run(&["start"]);
        }
    }
    for host in &hosts {
        host.confirms();
    }
    let confirmed = fleet.end(hosts);
    let (repeated, unkept) = (fleet.platform.repeated(), fleet.unkept.len());
    print(
        test,
        format!("{restarts} restarts, {confirmed} confirmed, {unkept} sent without being kept, {repeated} repeated"),
    );
}
