//! The outbox under attack: killed processes, power cuts, failing disks, wrong clocks, and more, against real files and
//! with outside tools.
//!
//! The harness trusts nothing of the crate: [`platform`] counts requests by key, [`child`] runs posters in processes of
//! their own, [`shim`] stands between them and the disk, and the distribution's `sqlite3` reads what they leave. The crate
//! is used only to post.
//!
//! Without a variable, each attack is short. These make it longer:
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `ATTACK_KILLS` | processes killed in each attack of `kills` | 8 |
//! | `ATTACK_CUTS` | power cuts of each kind | 3 |
//! | `ATTACK_STOP_SECONDS` | how long a process is stopped | 3 |
//! | `ATTACK_CROWD` | processes that create a file together, in rounds of 16 | 16 |
//! | `ATTACK_CLOCK_SECONDS` | how long two processes with different clocks share a file | 3 |
//! | `ATTACK_FAIRNESS_SECONDS` | how long a busy process and a quiet one share a file | 4 |
//! | `ATTACK_IDLE_SECONDS` | how long an idle process is traced | 30 |
//! | `ATTACK_OUTAGE_RESULTS` | results that are posted in each outage | 40 |
//! | `ATTACK_OUTAGE_SECONDS`, `ATTACK_OUTAGE_TIMEOUT_MS` | how long each outage lasts, and the time limit of an attempt | 5, 2000 |
//! | `ATTACK_FLAPS`, `ATTACK_FLAP_SECONDS` | how often a platform comes and goes, and for how long | 2, 5 |
//! | `ATTACK_SIZE` | the rows of large outboxes, in percent of those that are documented | 1 |
//!
//! `cargo test --release --all-features --test attack -- --nocapture --test-threads=1` prints the figures.
//!
//! The tools are `sqlite3`, `faketime`, `strace` and a C compiler:
//! `apt-get install sqlite3 faketime strace gcc libc6-dev`. An attack whose tool is missing is skipped, and says so; if
//! `CI` is `true`, it fails.

// So that clippy takes the helpers for tests as well.
#![cfg(test)]
// The shim, `strace` and `/proc`.
#![cfg(target_os = "linux")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    clippy::string_slice,
    clippy::wildcard_enum_match_arm,
    reason = "a panic fails the test, as it should; an attack takes real time"
)]

mod child;
mod clocks;
mod crowd;
mod disk;
mod drain;
mod exits;
mod fairness;
mod figures;
mod files;
mod idle;
mod kills;
mod outages;
mod platform;
mod power;
mod shim;
mod size;
mod stops;
mod tools;
