//! The outbox on a PostgreSQL server under attack: lost and cut-off hosts, a server that restarts, hangs, or is full.
//!
//! Each host is a process of its own, which reaches the server only through a proxy of the test. The platform and the
//! processes are those of `tests/attack`.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `RESULT_POSTER_POSTGRES` | the URL of the server | the tests do nothing |
//! | `RESULT_POSTER_PGBOUNCER` | the URL of the same database through PgBouncer in transaction mode | the tests through it do nothing |
//! | `RESULT_POSTER_POSTGRES_CTL` | the command that runs `pg_ctl` on the server | the tests that restart it do nothing |
//! | `HOST_LOSSES` | how many hosts are lost | 6 |
//! | `UNANSWERED_COMMITS` | how many commits of each host, or in how many rounds, are not answered | 6 |
//! | `RESTARTS` | how often the server is restarted | 2 |
//! | `POSTGRES_FIGURES` | `1` measures: see `figures` and `large` | 0 |
//!
//! `eval "$(.ci/postgres start DIR)"` in the repository starts such a server and sets the first three; if `CI` is `true`,
//! a test that lacks one of them fails.

// So that clippy takes the helpers for tests as well.
#![cfg(test)]
#![cfg(target_os = "linux")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::await_holding_lock,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    clippy::string_slice,
    clippy::wildcard_enum_match_arm,
    reason = "a panic fails the test, as it should; a lease takes real time; each test has a runtime of its own"
)]

#[path = "../attack/child.rs"]
#[expect(dead_code, reason = "some helpers are only for attacks on a file")]
mod child;
#[path = "../attack/platform.rs"]
#[expect(dead_code, reason = "some helpers are only for attacks on a file")]
mod platform;
#[path = "../attack/figures.rs"]
#[expect(dead_code, reason = "some helpers are only for attacks on a file")]
mod print;
#[path = "../attack/tools.rs"]
#[expect(dead_code, reason = "some helpers are only for attacks on a file")]
mod tools;

mod figures;
mod fleet;
mod inspector;
mod large;
mod losses;
mod outages;
mod proxy;
mod restarts;
mod server;
mod tls;
