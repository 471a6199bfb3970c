//! The command as an operator uses it: arguments in, lines and an exit status out.

// So that clippy takes the helpers for tests as well.
#![cfg(test)]

mod support;

mod check;
mod configuration;
mod outbox;
mod post;
mod usage;
