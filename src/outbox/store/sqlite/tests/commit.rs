use std::{
    fs,
    sync::mpsc::{Sender, channel},
};

use futures_util::future::{join_all, join3};
use tokio::sync::oneshot;

use super::{super::handle::Handle, *};

impl SqliteStore {
    /// Keeps the thread busy until the sender is dropped: jobs that are submitted meanwhile wait together.
    fn keep_busy(&self) -> Sender<()> {
        let (sender, receiver) = channel();
        self.arbiter
            .handle
            .read(move |_, _, _| Ok(receiver.recv().ok().or(Some(()))), Box::new(|_| ()));
        sender
    }
}

#[actix_rt::test]
async fn jobs_that_wait_together_share_a_flush() {
    let outbox = Outbox::new();
    let store = outbox.store();
    insert(&store, "first").await.unwrap();
    let size = || fs::metadata(outbox.companion("-wal")).unwrap().len();
    let (before, busy) = (size(), store.keep_busy());
    let lanes: Vec<_> = (0..100).map(|lane| format!("lane {lane}")).collect();
    let all = join_all(lanes.iter().map(|lane| insert(&store, lane)));
    let (all, ()) = futures_util::join!(all, async { drop(busy) });
    assert!(all.iter().all(Result::is_ok));
    // A transaction writes each changed page once; a page has 4 KiB.
    let written = size() - before;
    assert!(written < 40 * 4096, "{written}");
}

#[actix_rt::test]
async fn the_log_does_not_grow_with_what_is_written() {
    let outbox = Outbox::new();
    let store = outbox.store();
    let body = "x".repeat(1 << 20);
    for lane in 0..20 {
        store.insert(message(&format!("lane {lane}"), &body)).await.unwrap();
    }
    let size = fs::metadata(outbox.companion("-wal")).unwrap().len();
    assert!(size < 8 << 20, "{size}");
}

#[actix_rt::test]
async fn a_job_that_fails_or_panics_does_not_affect_the_others() {
    let outbox = Outbox::new();
    let store = outbox.store();
    insert(&store, "first").await.unwrap();
    let busy = store.keep_busy();
    let write = |lane: &'static str| {
        store.arbiter.write::<(), _>(move |connection, _, _| {
            connection
                .execute("INSERT INTO owners (id, file) VALUES (77, ?1)", [lane])
                .unwrap();
            assert_ne!(lane, "panics", "on purpose");
            Err(OutboxError::Stopped)
        })
    };
    let (before, fails, panics) = (insert(&store, "a"), write("fails"), write("panics"));
    let all = futures_util::join!(before, fails, panics, insert(&store, "b"), async { drop(busy) });
    assert!(matches!(all.0, Ok(Inserted::Live { .. })));
    assert_eq!(all.1, Err(OutboxError::Stopped));
    assert!(matches!(all.2, Err(OutboxError::Other(_))));
    assert!(matches!(all.3, Ok(Inserted::Live { .. })));
    assert_eq!((outbox.count("calls"), outbox.count("owners WHERE id = 77")), (3, 0));
}

#[actix_rt::test]
async fn a_job_that_fails_the_whole_transaction_does_not_affect_the_others() {
    let outbox = Outbox::new();
    let store = outbox.store();
    insert(&store, "first").await.unwrap();
    let busy = store.keep_busy();
    let rolls_back = store.arbiter.write::<(), _>(|connection, _, _| {
        connection.execute_batch("ROLLBACK").unwrap();
        Err(OutboxError::Full)
    });
    let all = futures_util::join!(insert(&store, "a"), rolls_back, insert(&store, "b"), async {
        drop(busy);
    });
    assert!(matches!(all.0, Ok(Inserted::Live { .. })));
    assert_eq!(all.1, Err(OutboxError::Full));
    assert!(matches!(all.2, Ok(Inserted::Live { .. })));
    assert_eq!(outbox.count("calls"), 3);
}

#[actix_rt::test]
async fn jobs_wait_together_for_a_held_file_and_for_two_seconds_at_most() {
    let outbox = Outbox::new();
    let store = outbox.store();
    insert(&store, "first").await.unwrap();
    let operator = outbox.connect();
    operator.execute_batch("BEGIN IMMEDIATE").unwrap();
    let since = now();
    let late = async {
        actix_rt::time::sleep(Duration::from_secs(1)).await;
        insert(&store, "c").await
    };
    let all = join3(insert(&store, "a"), insert(&store, "b"), late).await;
    assert_eq!(
        all,
        (
            Err(OutboxError::Locked),
            Err(OutboxError::Locked),
            Err(OutboxError::Locked)
        )
    );
    assert!(since.elapsed() < Duration::from_millis(3_500), "{:?}", since.elapsed());
    operator.execute_batch("COMMIT").unwrap();
    insert(&store, "d").await.unwrap();
}

#[actix_rt::test]
async fn a_job_after_one_that_has_waited_in_vain_waits_less_until_the_file_is_free() {
    let outbox = Outbox::new();
    let store = outbox.store();
    insert(&store, "first").await.unwrap();
    let operator = outbox.connect();
    let hold = || operator.execute_batch("BEGIN IMMEDIATE").unwrap();
    let free = || operator.execute_batch("COMMIT").unwrap();
    hold();
    assert_eq!(insert(&store, "a").await, Err(OutboxError::Locked));
    let since = now();
    for _ in 0..5 {
        assert_eq!(insert(&store, "b").await, Err(OutboxError::Locked));
    }
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    free();
    insert(&store, "d").await.unwrap();
    hold();
    let free_later = async {
        actix_rt::time::sleep(Duration::from_secs(1)).await;
        free();
    };
    let (inserted, ()) = futures_util::join!(insert(&store, "e"), free_later);
    inserted.unwrap();
}

#[actix_rt::test]
async fn a_job_that_comes_while_a_read_waits_for_a_held_file_waits_no_longer_than_the_read() {
    let outbox = Outbox::new();
    let store = outbox.store();
    insert(&store, "first").await.unwrap();
    let operator = outbox.connect();
    operator.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (begins, begun) = oneshot::channel();
    let mut begins = Some(begins);
    let read = store.arbiter.read::<(), _>(move |connection, _, _| {
        begins.take().unwrap().send(()).unwrap();
        let change = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate);
        change.map(|_| Some(())).map_err(super::super::sqlite_error)
    });
    let read_then_commit = async {
        assert_eq!(read.await, Err(OutboxError::Locked));
        // Without waiting for the read, the insert would now find the file free.
        operator.execute_batch("COMMIT").unwrap();
    };
    let insert_meanwhile = async {
        begun.await.unwrap();
        insert(&store, "second").await
    };
    let (inserted, ()) = futures_util::join!(insert_meanwhile, read_then_commit);
    assert_eq!(inserted, Err(OutboxError::Locked));
}

#[actix_rt::test]
async fn reads_do_not_wait_for_a_held_file() {
    let outbox = Outbox::new();
    let store = outbox.store();
    insert(&store, "lane").await.unwrap();
    let operator = outbox.connect();
    operator.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(store.stats().await.unwrap().live, 1);
}

#[actix_rt::test]
async fn handles_of_a_process_share_a_connection() {
    let outbox = Outbox::new();
    let link = outbox.folder.path().join("hard link");
    let (first, second) = (outbox.store(), outbox.store());
    insert(&first, "a").await.unwrap();
    fs::hard_link(&outbox.path, &link).unwrap();
    let third = SqliteStore::open(&link, "queue".into(), u64::MAX);
    for (store, lane) in [(&second, "b"), (&third, "c")] {
        insert(store, lane).await.unwrap();
    }
    assert_eq!(super::super::file::count_open(&outbox.path), 1);
    assert_eq!(outbox.count("owners"), 3);
}

#[actix_rt::test]
async fn the_log_is_merged_by_the_last_close() {
    let outbox = Outbox::new();
    let (first, second) = (outbox.store(), outbox.store());
    insert(&first, "a").await.unwrap();
    insert(&second, "b").await.unwrap();
    first.close().await.unwrap();
    assert!(outbox.companion("-wal").exists());
    second.close().await.unwrap();
    assert!(!outbox.companion("-wal").exists());
    assert_eq!(outbox.count("calls"), 2);
    assert_eq!(insert(&second, "c").await, Err(OutboxError::Stopped));
}

#[actix_rt::test]
async fn a_dropped_handle_closes_the_file() {
    let outbox = Outbox::new();
    let store = outbox.store();
    insert(&store, "lane").await.unwrap();
    drop(store);
    eventually(|| async {
        if outbox.companion("-wal").exists() {
            Err(OutboxError::Locked)
        } else {
            Ok(())
        }
    })
    .await;
}

#[actix_rt::test]
async fn a_closed_store_is_opened_again() {
    let outbox = Outbox::new();
    for lane in ["a", "b"] {
        let store = outbox.store();
        insert(&store, lane).await.unwrap();
        store.close().await.unwrap();
    }
    assert_eq!(outbox.count("calls"), 2);
}

#[actix_rt::test]
async fn a_job_of_a_thread_that_has_ended_is_answered() {
    let outbox = Outbox::new();
    let handle = Handle::start_apart(&outbox.path);
    handle.leave(None);
    let (sender, answer) = oneshot::channel();
    handle.read(|_, _, _| Ok(Some(())), Box::new(|result| drop(sender.send(result))));
    assert!(answer.await.is_err());
}

#[actix_rt::test]
async fn a_full_outbox_is_claimed_and_drained() {
    let outbox = Outbox::new();
    let filler = outbox.store();
    let parked = NewMessage {
        park: Some(ParkReason::QueueFull),
        ..message("lane", &"x".repeat(200_000))
    };
    filler.insert(parked).await.unwrap();
    let store = outbox.store_of(250_000);
    assert_eq!(
        store.insert(message("another lane", &"x".repeat(50_000))).await,
        Err(OutboxError::Full)
    );
    let claimed = claim(&store).await.unwrap().messages.remove(0);
    let id = claimed.calls[0].id;
    assert_eq!(
        deliver(&store, claimed.lane, id).await,
        Ok(Settled::Done { is_released: false })
    );
    store
        .insert(message("another lane", &"x".repeat(50_000)))
        .await
        .unwrap();
}
