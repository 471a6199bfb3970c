//! The same key on every attempt and every repetition of a call, and another for another call.

use result_poster::{
    CreateComment, PostResult,
    testing::{FakePlatform, Reply},
};

use crate::support::{completed, options, platform_and_poster, start};

fn keys(platform: &FakePlatform) -> Vec<String> {
    platform
        .requests()
        .iter()
        .map(|request| request.header("idempotency-key").unwrap().to_owned())
        .collect()
}

#[actix_rt::test]
async fn every_attempt_carries_the_same_key_and_every_step_its_own() {
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::status(503), Reply::ok()]);
    platform.script("status", [Reply::status(503), Reply::ok()]);
    poster.send(PostResult::new("s", completed())).await.unwrap().unwrap();
    let keys = keys(&platform);
    assert_eq!(keys.len(), 4);
    assert_eq!(keys[0], keys[1]);
    assert_eq!(keys[2], keys[3]);
    assert_ne!(keys[0], keys[2]);
}

#[actix_rt::test]
async fn a_result_sent_again_by_another_worker_carries_the_same_keys() {
    let (platform, poster) = platform_and_poster();
    poster.send(PostResult::new("s", completed())).await.unwrap().unwrap();
    let other = start(options(platform.url()).worker_id("wkr_2").auth_token("other"));
    other.send(PostResult::new("s", completed())).await.unwrap().unwrap();
    other.send(PostResult::new("t", completed())).await.unwrap().unwrap();
    let keys = keys(&platform);
    assert_eq!(keys[..2], keys[2..4]);
    assert_ne!(keys[0], keys[4]);
}

#[actix_rt::test]
async fn a_clone_repeats_a_comment_and_a_new_message_is_another() {
    let (platform, poster) = platform_and_poster();
    let comment = CreateComment::new("i", "hi");
    poster.send(comment.clone()).await.unwrap().unwrap();
    poster.send(comment).await.unwrap().unwrap();
    poster.send(CreateComment::new("i", "hi")).await.unwrap().unwrap();
    let keys = keys(&platform);
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[0], keys[2]);
}
