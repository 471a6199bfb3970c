//! Each fault of `tests/data/field_transport.json` has a test.

use std::{fs, path::Path};

use crate::support::cases::names;

#[test]
fn every_case_from_the_field_has_a_test() {
    let tests = [
        (
            "token-file",
            "Go's zero time",
            "tests/it/credentials_in_the_field.rs",
            "a_token_file_is_used_whatever_its_expiry_is",
        ),
        (
            "token-file",
            "an expiry as a number",
            "tests/it/credentials_in_the_field.rs",
            "a_token_file_is_used_whatever_its_expiry_is",
        ),
        (
            "refresh-answer",
            "expired by this host's clock",
            "tests/it/credentials_in_the_field.rs",
            "a_token_that_has_expired_by_this_hosts_clock_is_cached_for_its_own_life",
        ),
        (
            "refresh-answer",
            "tokens of 45 s, margin 60 s, 20 calls",
            "tests/it/credentials_in_the_field.rs",
            "tokens_that_live_shorter_than_the_margin_are_not_refreshed_for_each_call",
        ),
        (
            "refresh-answer",
            "404 with an HTML page",
            "tests/it/credentials_in_the_field.rs",
            "a_page_instead_of_a_refresh_is_an_ordinary_failed_fetch",
        ),
        (
            "proxy-url",
            "a domain user",
            "tests/it/proxies.rs",
            "a_domain_user_in_a_proxy_url_is_refused_by_its_backslash",
        ),
        (
            "no-proxy",
            "a wild card",
            "tests/it/proxies.rs",
            "a_platform_under_a_wild_card_is_reached_without_the_proxy",
        ),
        (
            "addresses",
            "first of two swallows SYNs",
            "src/transport/addresses.rs",
            "an_address_behind_one_that_swallows_packets_is_tried_after_a_quarter_of_a_second",
        ),
        (
            "framing",
            "transfer-encoding gzip, chunked",
            "tests/it/transport.rs",
            "a_session_call_with_an_opaque_answer_is_delivered_on_a_kept_connection",
        ),
        (
            "host",
            "start_supervised under #[tokio::main]",
            "tests/it/host.rs",
            "an_actor_outside_of_an_actix_system_panics_with_what_to_do",
        ),
        (
            "host",
            "token path is a FIFO",
            "tests/it/host.rs",
            "a_fifo_as_the_token_file_is_an_error_and_keeps_no_process_alive",
        ),
        (
            "refresh-answer",
            "404 with JSON",
            "tests/it/credentials_in_the_field.rs",
            "a_worker_that_the_platform_no_longer_knows_is_told_apart",
        ),
    ];
    for (kind, name) in names() {
        let test = tests
            .iter()
            .find(|(of_kind, case, ..)| (*of_kind, *case) == (&*kind, &*name));
        let (.., file, test) = test.unwrap_or_else(|| panic!("{kind} {name:?} has no test"));
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        assert!(text.contains(&format!("fn {test}()")), "{file} has no {test}");
    }
}
