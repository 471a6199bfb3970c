//! The contract suite: behaviours that every store must have. A store joins with a [`Fixture`] and a line of
//! [`contract_suite!`].

#![expect(clippy::arithmetic_side_effects, reason = "the numbers of a test are small")]

mod claim;
mod content;
mod current;
mod death;
mod drain;
mod due;
mod failure;
mod insert;
mod inspect;
#[cfg(feature = "outbox-postgres")]
pub(super) mod postgres;
mod random;
mod repair;
mod scripts;
mod settle;
mod shorthand;
mod sqlite;
mod stale;
mod step;
mod world;

use std::{cell::RefCell, rc::Rc};

use super::{MemoryStore, Store, memory::Tables};

/// A fresh store under test.
pub(super) trait Fixture: Sized {
    type Owner: Store + 'static;

    /// How many random sequences of steps are tried.
    const RANDOM_CASES: u32;

    /// An empty store. `None` if there is no server for it: that was said on stderr.
    async fn new() -> Option<Self>;

    /// A new owner. Every owner counts as another process.
    async fn owner(&self) -> Rc<Self::Owner>;

    /// A new owner of another queue in the same store.
    async fn owner_of_another_queue(&self) -> Rc<Self::Owner>;

    /// Ends an owner as `kill -9` ends its process: nothing is released or closed.
    async fn kill(&self, owner: Rc<Self::Owner>);

    /// Makes every change of the store fail until it is repaired.
    async fn break_store(&self);

    async fn repair_store(&self);
}

struct MemoryFixture {
    tables: Rc<RefCell<Tables>>,
    /// The tables of the other queue: queues share nothing.
    other: Rc<RefCell<Tables>>,
}

impl Fixture for MemoryFixture {
    type Owner = MemoryStore;

    const RANDOM_CASES: u32 = 500;

    async fn new() -> Option<Self> {
        Some(Self {
            tables: Rc::default(),
            other: Rc::default(),
        })
    }

    async fn owner(&self) -> Rc<MemoryStore> {
        MemoryStore::open(&self.tables)
    }

    async fn owner_of_another_queue(&self) -> Rc<MemoryStore> {
        MemoryStore::open(&self.other)
    }

    async fn kill(&self, owner: Rc<MemoryStore>) {
        owner.kill();
    }

    async fn break_store(&self) {
        self.tables.borrow_mut().is_broken = true;
    }

    async fn repair_store(&self) {
        self.tables.borrow_mut().is_broken = false;
    }
}

/// Makes a test of each behaviour. A behaviour that is missing here is unused code, which the compiler reports.
macro_rules! contract_suite {
    ($store:ident, $fixture:ty) => {
        mod $store {
            use super::{Fixture as _, *};

            behaviours! {
                $fixture;
                insert {
                    a_message_in_a_new_lane_is_live,
                    a_message_behind_taken_calls_of_mine_is_live_under_their_claim,
                    a_message_from_before_the_last_round_is_live_in_a_lane_that_was_not_claimed,
                    a_message_from_before_the_last_round_is_live_in_a_lane_that_was_created_anew,
                    a_message_from_before_the_round_of_claimed_calls_is_parked,
                    a_withdrawn_message_is_not_stored,
                    a_message_in_a_lane_of_another_owner_is_parked,
                    a_message_behind_a_parked_call_is_parked,
                    a_message_behind_an_untaken_call_is_parked,
                    a_message_with_a_reason_to_park_is_parked_and_due_at_once,
                    a_message_parked_at_once_is_due_for_its_own_poster,
                    a_message_parked_at_once_waits_for_the_live_calls_before_it,
                    a_message_parked_at_once_does_not_shorten_the_wait_of_its_lane,
                    a_waiting_key_is_not_stored_again,
                    ids_of_known_calls_are_in_the_order_of_the_message,
                    a_delivered_call_of_a_known_message_has_the_id_of_its_sibling,
                    a_dead_letter_of_a_known_message_waits_again,
                    a_withdrawn_call_that_another_message_was_told_of_stays,
                    a_withdrawn_call_that_stays_leaves_its_lane_to_the_calls_before_it,
                    a_withdrawn_call_that_stays_is_parked_with_its_sibling,
                    a_withdrawn_call_that_stays_is_due_once_its_sibling_is_isolated,
                    a_withdrawn_call_is_deleted,
                    a_parked_duplicate_of_a_waiting_key_is_not_stored,
                    a_key_is_free_again_after_its_delivery,
                    a_dead_letter_is_replaced_by_a_message_with_its_key,
                    keys_of_another_queue_do_not_count,
                    lanes_of_another_queue_are_not_claimed,
                    an_unpolled_insert_stores_nothing,
                }
                claim {
                    a_claim_takes_the_first_calls_of_a_lane,
                    the_only_lane_that_is_due_fills_half_of_the_room,
                    lanes_that_are_due_share_half_of_the_room,
                    the_rest_of_a_long_lane_is_claimed_after_its_first_calls,
                    a_message_is_claimed_as_a_whole,
                    a_message_beyond_the_limit_of_a_lane_is_not_split,
                    a_message_that_fits_the_limit_of_a_lane_is_claimed,
                    a_claim_takes_the_lanes_of_one_endpoint,
                    a_claim_stops_at_max_calls,
                    a_claim_stops_at_max_bytes_within_a_lane,
                    a_claim_stops_at_max_bytes_between_lanes,
                    a_message_above_max_bytes_is_claimed_alone,
                    a_lane_has_one_owner,
                    a_claimed_call_is_as_it_was_stored,
                    a_claimed_call_has_its_history_and_worker,
                    a_worker_is_set_on_calls_that_have_the_former_one,
                    a_probe_takes_the_first_message_of_the_lane_that_was_parked_first,
                    a_probe_takes_no_lane_that_was_parked_for_another_reason,
                }
                due {
                    a_lane_of_another_owner_is_due_after_its_wait,
                    the_wait_of_a_lane_begins_with_its_park,
                    a_lane_that_was_parked_ahead_of_my_clock_is_due_at_once,
                    the_longest_due_lane_is_claimed_first,
                    a_lane_that_i_parked_is_claimed_only_if_it_is_named_as_due,
                    a_lane_that_i_parked_is_not_claimed_while_it_is_not_due,
                    a_lane_that_is_not_due_waits_even_if_another_owner_has_parked_it_since,
                    a_lane_that_is_not_due_is_claimed_after_its_release_by_another_owner,
                    a_lane_that_another_owner_has_parked_since_is_not_due_by_my_clock,
                    a_lane_that_is_named_as_due_but_owned_is_not_claimed,
                    the_next_due_time_is_that_of_another_owners_lane,
                    a_lane_of_an_outage_is_not_due_during_it,
                    a_lane_of_an_outage_is_due_after_it_whatever_its_wait,
                }
                current {
                    a_message_is_not_current_for_another_owner,
                    a_message_is_not_current_after_a_park,
                    a_message_is_not_current_after_a_takeover,
                    a_message_is_not_current_under_an_older_claim,
                    a_message_is_not_current_after_its_delivery,
                    a_message_is_not_current_after_the_discard_of_a_call,
                    an_isolated_message_is_not_current_in_its_former_lane,
                    a_dead_letter_is_not_current,
                    a_recreated_lane_has_another_claim,
                }
                settle {
                    a_lane_is_removed_with_its_last_call,
                    a_lane_stays_mine_while_it_has_taken_calls,
                    a_lane_with_an_undelivered_sibling_stays_mine,
                    a_lane_goes_with_the_last_of_the_settlements_of_a_message,
                    a_lane_with_untaken_calls_is_released_and_due_at_once,
                    a_released_lane_is_due_for_its_former_owner,
                    a_parked_message_parks_the_live_messages_behind_it,
                    a_park_releases_a_lane_with_calls,
                    a_park_without_calls_left_removes_the_lane,
                    the_delivered_call_of_a_parked_message_is_deleted,
                    the_time_of_the_next_attempt_is_listed,
                    an_isolated_message_moves_to_a_lane_of_its_own,
                    an_isolated_lane_goes_by_the_clock_of_its_owner,
                    a_lane_goes_on_without_its_isolated_message,
                    a_lane_is_removed_with_its_last_isolated_message,
                    an_isolation_releases_a_lane_with_untaken_calls,
                    an_isolation_does_not_take_an_owned_lane,
                    settlements_of_a_batch_are_written_in_their_order,
                    a_dead_letter_does_not_block_its_lane,
                    a_dead_letter_keeps_no_lane,
                    a_dead_letter_releases_a_lane_with_untaken_calls,
                }
                stale {
                    a_settlement_of_a_former_owner_changes_nothing,
                    a_settlement_under_an_older_claim_changes_nothing,
                    a_settlement_of_a_released_lane_changes_nothing,
                    a_settlement_of_a_removed_lane_changes_nothing,
                    a_settlement_under_the_claim_of_a_removed_lane_changes_nothing_in_its_successor,
                }
                failure {
                    a_failure_is_recorded_on_a_parked_call,
                    a_failure_is_recorded_on_a_dead_letter,
                    the_history_of_an_isolated_call_is_recorded,
                    a_failure_names_the_worker_that_its_call_was_sent_as,
                    a_failing_store_changes_nothing,
                }
                death {
                    lanes_of_a_dead_owner_are_due_at_once,
                    parked_calls_behind_calls_of_a_dead_owner_are_freed_with_them,
                    lanes_of_a_live_owner_are_never_freed,
                    a_lane_is_freed_once,
                    a_lane_that_a_dead_owner_parked_keeps_its_wait,
                    a_death_counts_for_the_calls_of_the_first_message,
                    a_death_counts_for_the_first_remaining_message,
                    a_death_does_not_count_for_a_sibling_in_another_lane,
                    a_death_does_not_count_for_an_untaken_sibling,
                    a_second_death_counts_only_for_calls_that_were_being_sent,
                    a_note_of_sending_holds_for_its_claim,
                    a_note_of_a_former_owner_does_not_count,
                    a_lane_waits_after_three_deaths,
                    a_settlement_keeps_the_count_of_deaths,
                    a_release_makes_all_lanes_of_the_owner_due_at_once,
                    a_release_does_not_count_as_a_death,
                    a_release_does_not_shorten_the_wait_of_a_parked_lane,
                    calls_of_a_closed_owner_are_claimed_by_others,
                    a_watch_notices_a_due_lane_of_another_owner,
                }
                repair {
                    calls_of_two_owners_are_claimed_in_commit_order,
                    the_order_of_a_lane_does_not_depend_on_clocks_or_ids,
                    a_requeued_call_is_the_last_of_its_lane,
                    a_requeued_dead_letter_returns_to_the_end_of_its_lane,
                    a_requeued_dead_letter_of_an_owned_lane_waits_for_its_live_calls,
                    a_requeue_makes_the_lane_due_now,
                    a_requeued_lane_is_due_for_the_owner_that_parked_it,
                    a_requeued_isolated_call_returns_to_its_targets_lane,
                    a_requeue_of_the_last_isolated_call_removes_its_lane,
                    a_requeued_call_starts_with_a_fresh_history,
                    a_live_call_is_not_requeued,
                    a_live_call_is_not_discarded,
                    an_unknown_call_is_neither_requeued_nor_discarded,
                    a_discard_of_the_last_call_removes_the_lane,
                    a_discard_keeps_the_other_calls_of_a_lane,
                    a_discard_behind_live_calls_keeps_them_live,
                    a_dead_letter_is_discarded,
                }
                inspect {
                    a_dead_letter_is_kept_by_the_platforms_clock,
                    a_purge_keeps_live_and_parked_calls,
                    the_calls_of_a_target_are_found_in_each_state,
                    an_isolated_message_is_found_by_its_target,
                    a_purge_keeps_dead_letters_of_another_queue,
                    a_purge_does_not_date_dead_letters_of_another_queue,
                    a_dead_letter_after_a_requeue_is_kept_for_the_full_time,
                    calls_are_listed_by_state_in_pages,
                    calls_are_listed_by_target_and_age,
                    a_list_without_bodies_has_all_else,
                    a_call_is_listed_as_it_was_stored,
                    a_live_call_is_listed_with_its_owner,
                    calls_are_counted_by_state,
                }
                scripts {
                    deaths_lose_nothing_while_messages_are_delivered,
                    deaths_lose_nothing_while_messages_are_parked,
                    deaths_lose_nothing_while_messages_are_isolated,
                    deaths_lose_nothing_while_calls_are_repaired,
                    deaths_lose_nothing_during_takeovers,
                    deaths_lose_nothing_of_suspects,
                    deaths_lose_nothing_of_repeated_messages,
                    deaths_lose_nothing_of_parked_calls_that_are_withdrawn,
                    deaths_lose_nothing_after_stale_settlements,
                    deaths_lose_nothing_while_messages_are_withdrawn,
                    deaths_lose_nothing_of_a_long_lane,
                }
            }

            #[test]
            fn random_steps_are_answered_as_by_the_store_in_memory() {
                random::random_steps_are_answered_as_by_the_store_in_memory::<$fixture>();
            }
        }
    };
}

macro_rules! behaviours {
    ($fixture:ty; $($module:ident { $($behaviour:ident,)+ })+) => {
        $($(
            #[actix_rt::test]
            async fn $behaviour() {
                if let Some(fixture) = <$fixture>::new().await {
                    $module::$behaviour(&fixture).await;
                }
            }
        )+)+
    };
}

contract_suite!(memory, MemoryFixture);
contract_suite!(sqlite_of_many_processes, sqlite::SqliteFixture<false>);
contract_suite!(sqlite_of_one_process, sqlite::SqliteFixture<true>);
#[cfg(feature = "outbox-postgres")]
contract_suite!(postgres_server, postgres::PostgresFixture<false>);
#[cfg(feature = "outbox-postgres")]
contract_suite!(postgres_behind_pgbouncer, postgres::PostgresFixture<true>);
