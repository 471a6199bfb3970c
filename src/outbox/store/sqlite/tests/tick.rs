use super::*;

#[actix_rt::test]
async fn a_tick_says_whether_a_look_would_find_something() {
    let outbox = Outbox::new();
    let (store, other) = (outbox.store(), outbox.store_apart());
    store.watch_after(0).await;
    let tick = store.tick().unwrap();
    while !tick.ticked().await {}
    insert(&other, "lane").await.unwrap();
    assert!(!tick.ticked().await, "another owner has a lane");
    other.release_all(0).await.unwrap();
    assert!(!tick.ticked().await, "the lane was released");
    assert!(store.watch_after(0).await.has_changed);
    while !tick.ticked().await {}
}

#[actix_rt::test]
async fn a_tick_never_calls_a_look_at_an_unreadable_file_in_vain() {
    let outbox = Outbox::new();
    let store = outbox.store();
    store.watch_after(0).await;
    let tick = store.tick().unwrap();
    while !tick.ticked().await {}
    std::fs::rename(&outbox.path, outbox.folder.path().join("away")).unwrap();
    std::fs::create_dir(&outbox.path).unwrap();
    assert!(!tick.ticked().await);
}
