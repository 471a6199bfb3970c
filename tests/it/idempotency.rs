//! Idempotency keys: the same for every attempt and repetition of a call, and another for another call.

use result_poster::{CreateComment, testing::Reply};

use crate::support::{
    options, platform_and_poster, post,
    requests::{key, sent},
    start,
};

#[actix_rt::test]
async fn attempts_share_the_key_of_their_call() {
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::status(503), Reply::ok()]);
    platform.script("status", [Reply::status(503), Reply::ok()]);
    post(&poster, "s").await.unwrap();
    let keys = sent(&platform, key);
    assert_eq!(keys.len(), 4);
    assert_eq!(keys[0], keys[1]);
    assert_eq!(keys[2], keys[3]);
    assert_ne!(keys[0], keys[2]);
}

#[actix_rt::test]
async fn a_result_sent_again_by_another_worker_carries_the_same_keys() {
    let (platform, poster) = platform_and_poster();
    post(&poster, "s").await.unwrap();
    let other = start(options(platform.url()).worker_id("wkr_2").auth_token("other"));
    post(&other, "s").await.unwrap();
    post(&other, "t").await.unwrap();
    let keys = sent(&platform, key);
    assert_eq!(keys[..2], keys[2..4]);
    assert_ne!(keys[0], keys[4]);
}

#[actix_rt::test]
async fn a_cloned_comment_keeps_its_key() {
    let (platform, poster) = platform_and_poster();
    let comment = CreateComment::new("i", "hi");
    poster.send(comment.clone()).await.unwrap().unwrap();
    poster.send(comment).await.unwrap().unwrap();
    let keys = sent(&platform, key);
    assert_eq!(keys[0], keys[1]);
}

#[actix_rt::test]
async fn an_equal_new_comment_has_a_new_key() {
    let (platform, poster) = platform_and_poster();
    for _ in 0..2 {
        poster.send(CreateComment::new("i", "hi")).await.unwrap().unwrap();
    }
    let keys = sent(&platform, key);
    assert_ne!(keys[0], keys[1]);
}
