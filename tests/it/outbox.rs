//! The durable outbox: a message is delivered even if the platform is down or the poster ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use actix::Addr;
use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use result_poster::{
    CallError, Cost, NextStep, OutboxError, ParkReason, PostResult, ResultPoster,
    events::GetStats,
    outbox::{
        Discard, EntryQuery, EntryState, GetOutboxStats, ListEntries, OutboxEntry, OutboxInspector, OutboxOptions,
        Requeue,
    },
    testing::Reply,
};

use crate::support::{
    actor_without_token, builder, completed, errors,
    outbox::{OutboxFixture, SHORT_DELAY, entries, kinds_and_targets, replay_late, shut_down, stats},
    outcome, platform_and_poster, post,
    requests::{key, route, sent},
    send_update, start, status_update,
    wait::wait_until,
};

#[actix_rt::test]
async fn a_delivered_call_is_removed() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    let receipt = post(&poster, "s").await.unwrap();
    assert_eq!(
        (receipt.completion.call_id(), receipt.completion.outbox_error()),
        (None, None)
    );
    send_update(&poster, "i").await.unwrap();
    assert_eq!(shut_down(&poster).await, 0);
    assert_eq!(fixture.count(), 0);
    assert_eq!(
        sent(&fixture.platform, route),
        ["completion", "status", "issue-tracker-proxy"]
    );
}

#[actix_rt::test]
async fn a_failed_call_is_parked_and_delivered_later() {
    let fixture = OutboxFixture::new();
    fixture.script("completion", [503, 503]);
    fixture.script("status", [503]);
    let poster = start(fixture.options());
    let error = post(&poster, "s").await.unwrap_err();
    assert_eq!(error.next_step(), NextStep::Nothing);
    for error in [error.completion().unwrap(), error.status().unwrap()] {
        let parked = error.parked().unwrap();
        assert_eq!((parked.reason, parked.attempts), (ParkReason::AttemptsFailed, 1));
        assert_eq!(
            errors::texts(error),
            [
                format!("parked in the outbox as {}: all attempts failed", parked.id),
                "the platform answered 503".to_owned()
            ]
        );
        assert_eq!(error.next_step(), NextStep::Nothing);
        // The platform may have done its work before it answered 503.
        assert!(error.may_have_been_delivered());
    }
    fixture.emptied().await;
    let requests = fixture.platform.requests();
    let of = |route: &str| {
        let of_route = requests.iter().filter(|request| request.path.ends_with(route));
        of_route
            .map(|request| (key(request), &request.body))
            .collect::<Vec<_>>()
    };
    // The same request, with the same key, each time.
    let (completion, status) = (of("completion"), of("status"));
    assert_eq!(completion, vec![completion[0].clone(); 3]);
    assert_eq!(status, vec![status[0].clone(); 2]);
}

#[actix_rt::test]
async fn a_rejected_call_becomes_a_dead_letter() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    let dead = two_dead_letters(&fixture, &poster).await;
    assert_eq!(
        kinds_and_targets(&dead),
        [("updateIssueStatus", "a"), ("updateIssueStatus", "b")]
    );
    assert_eq!(
        (dead[0].state, dead[0].status_code, dead[0].attempts),
        (EntryState::DeadLetter, Some(404), 1)
    );
    assert_eq!(
        (dead[0].next_attempt_at, &dead[0].reason, dead[0].owner),
        (None, &None, None)
    );
    let last_error = dead[0].last_error.as_deref().unwrap();
    assert!(
        last_error.starts_with("the platform rejected the call with status 404 ("),
        "{last_error}"
    );
    assert_eq!(fixture.platform.requests().len(), 2);
}

#[actix_rt::test]
async fn dead_letters_are_listed_in_pages() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    let dead = two_dead_letters(&fixture, &poster).await;
    let first_page = EntryQuery::dead_letters().limit(1);
    for (query, target_id) in [(first_page.clone(), "a"), (first_page.clone().after(dead[0].id), "b")] {
        let page = poster.send(ListEntries::new(query)).await.unwrap().unwrap();
        assert_eq!(kinds_and_targets(&page), [("updateIssueStatus", target_id)]);
    }
    let after_the_last = first_page.after(dead[1].id);
    assert_eq!(
        poster.send(ListEntries::new(after_the_last)).await.unwrap().unwrap(),
        []
    );
}

#[actix_rt::test]
async fn a_dead_letter_is_discarded_once() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    let dead = two_dead_letters(&fixture, &poster).await;
    let discard = || poster.send(Discard::new(dead[1].id));
    discard().await.unwrap().unwrap();
    assert_eq!(discard().await.unwrap(), Err(OutboxError::NoSuchCall));
    assert_eq!(kinds_and_targets(&fixture.dead_letters()), [("updateIssueStatus", "a")]);
}

#[actix_rt::test]
async fn a_requeued_dead_letter_is_sent_again_with_its_key() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    let dead = two_dead_letters(&fixture, &poster).await;
    poster.send(Discard::new(dead[1].id)).await.unwrap().unwrap();
    let requeue = || poster.send(Requeue::new(dead[0].id));
    requeue().await.unwrap().unwrap();
    fixture.emptied().await;
    assert_eq!(requeue().await.unwrap(), Err(OutboxError::NoSuchCall));
    let keys = sent(&fixture.platform, key);
    assert_eq!(keys.len(), 3);
    assert_eq!(keys[0], keys[2]);
}

#[actix_rt::test]
async fn a_message_beyond_the_queue_limit_is_parked() {
    let fixture = OutboxFixture::new();
    fixture
        .platform
        .script("issue-tracker-proxy", [Reply::ok().delay(5 * SHORT_DELAY), Reply::ok()]);
    let poster = start(fixture.options().max_in_flight(1).max_queued(0));
    let replies = (0..10).map(|issue| poster.send(status_update(issue.to_string())));
    let mut replies = join_all(replies).await.into_iter().map(Result::unwrap);
    replies.next().unwrap().unwrap();
    for reply in replies {
        let error = reply.unwrap_err();
        let parked = error.parked().unwrap();
        assert_eq!((parked.reason, parked.attempts), (ParkReason::QueueFull, 0));
    }
    fixture.emptied().await;
    // Each of the ten messages is accepted once, and each of the nine parked calls once more when it is replayed.
    let stats = poster.send(GetStats).await.unwrap();
    assert_eq!((stats.accepted, stats.parked, stats.delivered), (19, 9, 10));
    assert_eq!(fixture.platform.requests().len(), 10);
}

#[actix_rt::test]
async fn reply_when_durable_replies_before_the_delivery() {
    let fixture = OutboxFixture::new();
    fixture
        .platform
        .script("completion", [Reply::ok().delay(10 * SHORT_DELAY)]);
    let poster = start(fixture.options());
    let message = PostResult::new("s", completed()).reply_when_durable();
    let receipt = poster.send(message).await.unwrap().unwrap();
    assert!(receipt.completion.call_id() < receipt.status.call_id() && receipt.completion.call_id().is_some());
    assert_eq!(
        (receipt.completion.attempts(), fixture.platform.requests().len()),
        (None, 0)
    );
    assert_eq!(fixture.count(), 2);
    let receipt = poster.send(status_update("i").reply_when_durable()).await.unwrap();
    assert!(receipt.unwrap().call_id().is_some());
    assert_eq!(shut_down(&poster).await, 0);
    assert_eq!(fixture.platform.requests().len(), 3);
    assert_eq!(fixture.count(), 0);
}

#[actix_rt::test]
async fn reply_when_durable_without_an_outbox_is_invalid() {
    let (platform, poster) = platform_and_poster();
    let message = PostResult::new("s", completed()).reply_when_durable();
    let error = poster.send(message).await.unwrap().unwrap_err();
    assert_eq!(
        errors::texts(&error),
        [
            "the result is invalid; nothing was sent",
            "`reply_when_durable` requires an outbox"
        ]
    );
    assert_eq!(
        outcome(&poster.send(status_update("i").reply_when_durable()).await.unwrap()),
        "invalid:reply_when_durable"
    );
    assert!(platform.requests().is_empty());
}

#[actix_rt::test]
async fn outbox_messages_are_refused_without_an_outbox() {
    let (_platform, poster) = platform_and_poster();
    let query = EntryQuery::parked().limit(1);
    let listed = poster.send(ListEntries::new(query)).await.unwrap();
    assert_eq!(listed, Err(OutboxError::NotConfigured));
    let id = "01234567-89ab-7cde-8f01-23456789abcd".parse().unwrap();
    let requeued = poster.send(Requeue::new(id)).await.unwrap();
    assert_eq!(requeued, Err(OutboxError::NotConfigured));
    let discarded = poster.send(Discard::new(id)).await.unwrap();
    assert_eq!(discarded, Err(OutboxError::NotConfigured));
    let counted = poster.send(GetOutboxStats).await.unwrap();
    assert_eq!(counted, Err(OutboxError::NotConfigured));
}

#[actix_rt::test]
async fn an_inspector_lists_requeues_and_discards_from_outside_of_the_poster() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options_without_replay());
    let dead = two_dead_letters(&fixture, &poster).await;
    let inspector = OutboxInspector::open(fixture.path()).unwrap();
    assert_eq!(inspector.list(EntryQuery::new(EntryState::DeadLetter)).unwrap(), dead);
    assert_eq!(inspector.get(dead[0].id).unwrap().as_ref(), Some(&dead[0]));
    inspector.discard(dead[0].id).unwrap();
    assert_eq!(inspector.get(dead[0].id).unwrap(), None);
    assert_eq!(inspector.discard(dead[0].id), Err(OutboxError::NoSuchCall));
    assert_eq!(inspector.requeue(dead[0].id), Err(OutboxError::NoSuchCall));
    inspector.requeue(dead[1].id).unwrap();
    fixture.emptied().await;
    assert_eq!(inspector.requeue(dead[1].id), Err(OutboxError::NoSuchCall));
    assert_eq!(fixture.platform.requests().len(), 3);
}

#[actix_rt::test]
async fn a_live_call_is_listed_with_its_owner_and_not_changed() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options_without_replay());
    fixture
        .platform
        .script("issue-tracker-proxy", [Reply::ok().delay(10 * SHORT_DELAY)]);
    let message = status_update("i").reply_when_durable();
    let id = poster.send(message).await.unwrap().unwrap().call_id().unwrap();
    fixture.platform.wait_for_requests(1).await;
    let live = entries(&poster).await.pop().unwrap();
    assert_eq!(fixture.live(), std::slice::from_ref(&live));
    assert_eq!(
        (live.id, live.state, live.next_attempt_at, &live.reason, live.attempts),
        (id, EntryState::Live, None, &None, 0)
    );
    assert!(live.owner.unwrap().is_alive);
    assert_eq!((fixture.parked(), fixture.dead_letters()), (vec![], vec![]));
    assert_eq!(
        poster.send(Requeue::new(id)).await.unwrap(),
        Err(OutboxError::NoSuchCall)
    );
    assert_eq!(
        poster.send(Discard::new(id)).await.unwrap(),
        Err(OutboxError::NoSuchCall)
    );
    fixture.emptied().await;
    assert_eq!(fixture.platform.requests().len(), 1);
}

#[actix_rt::test]
async fn a_replayed_call_has_the_same_body_to_the_last_digit() {
    let fixture = OutboxFixture::new();
    fixture.script("status", [503; 30]);
    let poster = start(fixture.options());
    for number in 0..30 {
        let cost = Cost::default().with_total_cost_usd(0.1 + f64::from(number) / 7.0);
        let message = PostResult::new(format!("s{number}"), completed().with_cost(cost));
        let _ = poster.send(message).await.unwrap();
    }
    fixture.emptied().await;
    let mut bodies: BTreeMap<String, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for request in fixture.platform.requests() {
        bodies.entry(request.path).or_default().insert(request.body);
    }
    assert!(bodies.values().all(|bodies| bodies.len() == 1));
}

#[test]
fn delays_below_10_ms_are_refused() {
    let short = Duration::from_millis(9);
    let outbox = || OutboxOptions::builder("outbox.db");
    for (outbox, option) in [
        (outbox().base_delay(short), "outbox.base_delay"),
        (outbox().max_delay(short), "outbox.max_delay"),
    ] {
        let error = outbox.build().unwrap_err();
        assert_eq!(error.to_string(), format!("option `{option}` is below 10 ms"));
    }
}

#[actix_rt::test]
async fn the_attempt_of_a_replay_is_added_to_the_count() {
    let fixture = OutboxFixture::new();
    fixture.script("issue-tracker-proxy", [503, 503, 503, 503, 503, 404]);
    let poster = start(fixture.options().max_attempts(3));
    assert_eq!(outcome(&send_update(&poster, "i").await), "parked:3");
    wait_until(|| !fixture.dead_letters().is_empty()).await;
    assert_eq!(fixture.dead_letters()[0].attempts, 6);
    assert_eq!(fixture.platform.requests().len(), 6);
}

#[actix_rt::test]
async fn a_requeue_resets_the_attempts_of_a_call() {
    let fixture = OutboxFixture::new();
    fixture.script("issue-tracker-proxy", [503, 503, 503, 404, 404]);
    let poster = start(fixture.options_without_replay().max_attempts(3));
    assert_eq!(outcome(&send_update(&poster, "i").await), "parked:3");
    // A parked call, and then a dead letter.
    let id = fixture.parked()[0].id;
    for requests in [4, 5] {
        poster.send(Requeue::new(id)).await.unwrap().unwrap();
        fixture.platform.wait_for_requests(requests).await;
        wait_until(|| fixture.dead_letters().len() == 1).await;
        assert_eq!(
            (fixture.dead_letters()[0].id, fixture.dead_letters()[0].attempts),
            (id, 1)
        );
    }
}

#[actix_rt::test]
async fn the_stats_count_calls_by_state_and_measure_the_file() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options_without_replay());
    let empty = stats(&poster).await;
    assert_eq!(
        (empty.live, empty.parked, empty.dead_letters, empty.in_other_queues),
        (0, 0, 0, 0)
    );
    assert_eq!(empty.oldest_age, None);
    two_dead_letters(&fixture, &poster).await;
    fixture.script("completion", [503]);
    fixture.script("status", [503]);
    post(&poster, "s").await.unwrap_err();
    let slow = Reply::ok().delay(Duration::from_secs(60));
    fixture.platform.script("issue-tracker-proxy", [slow]);
    let message = status_update("i").reply_when_durable();
    poster.send(message).await.unwrap().unwrap();
    let stats = stats(&poster).await;
    assert_eq!(
        (stats.live, stats.parked, stats.dead_letters, stats.in_other_queues),
        (1, 2, 2, 0)
    );
    assert!(stats.bytes > 0);
    assert!(stats.oldest_age.unwrap() < Duration::from_secs(3600));
    // An inspector counts the calls of all queues.
    let inspected = fixture.open().stats().unwrap();
    assert_eq!(
        (inspected.live, inspected.parked, inspected.dead_letters),
        (stats.live, stats.parked, stats.dead_letters)
    );
}

#[actix_rt::test]
async fn the_text_of_a_call_id_is_the_same_in_receipts_errors_lists_json_and_the_view() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(fixture.options_without_replay());
    let message = PostResult::new("s", completed()).reply_when_durable();
    let id = poster
        .send(message)
        .await
        .unwrap()
        .unwrap()
        .completion
        .call_id()
        .unwrap();
    let text = id.to_string();
    let groups: Vec<_> = text.split('-').map(str::len).collect();
    assert_eq!(groups, [8, 4, 4, 4, 12]);
    assert!(text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f' | '-')), "{text}");
    assert_eq!(text.as_bytes()[14], b'7');
    assert_eq!(text.parse(), Ok(id));
    assert_eq!(serde_json::to_value(id).unwrap(), text);
    wait_until(|| fixture.parked().len() == 2).await;
    assert_eq!(fixture.parked()[0].id.to_string(), text);
    let of_view = "SELECT id FROM outbox WHERE kind = 'completion'";
    let in_view: String = fixture.database().query_row(of_view, (), |row| row.get(0)).unwrap();
    assert_eq!(in_view, text);
    let error = poster
        .send(PostResult::new("s", completed()))
        .await
        .unwrap()
        .unwrap_err();
    assert!(error.completion().unwrap().to_string().contains(&text));
}

#[actix_rt::test]
async fn the_view_of_an_operator_shows_the_state_of_each_call() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options_without_replay());
    two_dead_letters(&fixture, &poster).await;
    fixture.script("completion", [503]);
    post(&poster, "s").await.unwrap_err();
    let slow = Reply::ok().delay(Duration::from_secs(60));
    fixture.platform.script("issue-tracker-proxy", [slow]);
    poster
        .send(status_update("i").reply_when_durable())
        .await
        .unwrap()
        .unwrap();
    let database = fixture.database();
    let mut view = database
        .prepare("SELECT id, state, target_id, status_code, reason, owner, next_attempt_at FROM outbox ORDER BY id")
        .unwrap();
    let rows = view.query_map((), |row| {
        let text = |column| row.get::<_, String>(column);
        let parked = (
            row.get::<_, Option<String>>(4)?,
            row.get::<_, Option<String>>(6)?.is_some(),
        );
        let (status, owner) = (row.get::<_, Option<i64>>(3)?, row.get::<_, Option<i64>>(5)?);
        Ok((text(0)?, text(1)?, text(2)?, status, parked, owner))
    });
    let rows: Vec<_> = rows.unwrap().collect::<Result<_, _>>().unwrap();
    let listed = entries(&poster).await;
    assert_eq!(rows.len(), 4);
    for ((id, state, target_id, status, parked, owner), entry) in rows.into_iter().zip(listed) {
        assert_eq!((id, target_id), (entry.id.to_string(), entry.target_id));
        assert_eq!(state, entry.state.to_string());
        assert_eq!(status, entry.status_code.map(i64::from));
        assert_eq!(owner, entry.owner.map(|owner| owner.id));
        let is_parked = entry.state == EntryState::Parked;
        assert_eq!(parked.1, is_parked);
        if is_parked {
            assert_eq!(parked.0, entry.reason);
        }
    }
}

#[test]
fn an_empty_queue_name_is_refused() {
    let error = OutboxOptions::builder("outbox.db").queue("").build().unwrap_err();
    assert_eq!(error.to_string(), "option `outbox.queue` is empty");
}

#[actix_rt::test]
async fn a_dead_letter_counts_its_attempts_without_having_been_parked() {
    let fixture = OutboxFixture::new();
    fixture.script("issue-tracker-proxy", [503, 404]);
    let poster = start(fixture.options_without_replay().max_attempts(3));
    let error = send_update(&poster, "j").await.unwrap_err();
    assert_eq!(error.permanent().unwrap().attempts, 2);
    assert_eq!(fixture.dead_letters()[0].attempts, 2);
}

#[actix_rt::test]
async fn a_call_without_a_token_is_parked() {
    let fixture = OutboxFixture::new();
    // A platform on another host requires a token.
    let without_token = builder("https://platform.invalid").credential_actor(actor_without_token().await);
    let poster = start(without_token.outbox(replay_late(fixture.path()).build().unwrap()));
    let error = send_update(&poster, "i").await.unwrap_err();
    let parked = error.parked().unwrap();
    assert_eq!(
        (parked.reason, parked.attempts, &parked.last),
        (ParkReason::NoCredentials, 0, &None)
    );
    assert_eq!(
        error.to_string(),
        format!(
            "parked in the outbox as {}: there is no token for the platform",
            parked.id
        )
    );
    assert!(!error.may_have_been_delivered());
    shut_down(&poster).await;
    assert_eq!(kinds_and_targets(&fixture.parked()), [("updateIssueStatus", "i")]);
}

#[actix_rt::test]
async fn a_panicking_call_becomes_a_dead_letter() {
    let fixture = OutboxFixture::new();
    let panicking = fixture.options().customize_client(|_| panic!("a client that panics"));
    let error = send_update(&start(panicking), "j").await.unwrap_err();
    assert!(matches!(error, CallError::Internal { .. }));
    assert_eq!(kinds_and_targets(&fixture.dead_letters()), [("updateIssueStatus", "j")]);
}

#[actix_rt::test]
async fn the_outbox_stores_only_the_fields_of_the_requests() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(fixture.options_without_replay().max_text_bytes(100));
    let mut result = completed().with_summary("x".repeat(10_000));
    result.quality_report = Some("y".repeat(10_000).into());
    poster.send(PostResult::new("s", result)).await.unwrap().unwrap_err();
    let sizes: Vec<_> = fixture.parked().iter().map(|entry| entry.body.len()).collect();
    assert!(sizes.len() == 2 && sizes.iter().all(|&size| size < 200), "{sizes:?}");
}

#[actix_rt::test]
async fn pending_inserts_beyond_the_queue_limit_are_bounded() {
    let fixture = OutboxFixture::new();
    fixture
        .platform
        .script("issue-tracker-proxy", [Reply::ok().delay(Duration::from_secs(60))]);
    let poster = start(fixture.options().max_in_flight(1).max_queued(0));
    let first = actix_rt::spawn(poster.send(status_update("i")));
    fixture.platform.wait_for_requests(1).await;
    let lock = fixture.lock();
    let mut replies: FuturesUnordered<_> = (0..10_001)
        .map(|issue| poster.send(status_update(issue.to_string())))
        .collect();
    // The last is one too many; the inserts of the others wait for the file.
    let reply = replies.next().await.unwrap();
    assert_eq!(outcome(&reply.unwrap()), "overloaded");
    drop((lock, replies));
    first.abort();
}

/// Has the calls of issues `a` (404) and `b` (403) rejected, and lists their dead letters.
async fn two_dead_letters(fixture: &OutboxFixture, poster: &Addr<ResultPoster>) -> Vec<OutboxEntry> {
    fixture.script("issue-tracker-proxy", [404, 403]);
    for issue_id in ["a", "b"] {
        let error = send_update(poster, issue_id).await.unwrap_err();
        assert!(error.permanent().is_some());
    }
    poster
        .send(ListEntries::new(EntryQuery::dead_letters().limit(10)))
        .await
        .unwrap()
        .unwrap()
}
