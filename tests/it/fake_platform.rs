//! The scripted platform of the `testing` feature.

use std::time::Duration;

use result_poster::testing::{FakePlatform, Reply};

use crate::support::{platform_and_poster, post, post_outcome};

#[actix_rt::test]
async fn the_longest_matching_route_decides() {
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::status(400)]);
    platform.script("good/completion", [Reply::status(404)]);
    for (session_id, expected) in [("bad", "permanent:400"), ("good", "permanent:404")] {
        assert_eq!(post_outcome(&post(&poster, session_id).await), expected);
    }
}

#[actix_rt::test]
async fn the_last_reply_of_a_script_repeats() {
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::status(400)]);
    platform.script("good/completion", [Reply::status(404), Reply::ok()]);
    for (session_id, expected) in [
        ("bad", "permanent:400"),
        ("good", "permanent:404"),
        ("good", "ok"),
        ("good", "ok"),
        ("bad", "permanent:400"),
    ] {
        assert_eq!(post_outcome(&post(&poster, session_id).await), expected);
    }
}

#[actix_rt::test]
async fn an_empty_script_restores_the_ordinary_reply() {
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::status(400)]);
    assert_eq!(post_outcome(&post(&poster, "s").await), "permanent:400");
    platform.script("completion", []);
    assert_eq!(post_outcome(&post(&poster, "s").await), "ok");
}

#[actix_rt::test]
async fn replies_carry_status_headers_and_body() {
    let platform = FakePlatform::start().unwrap();
    let reply = Reply::status(418)
        .header("X-Tea", "green")
        .header("Content-Type", "text/plain")
        .body("short and stout");
    platform.script("tea", [reply]);
    let mut response = awc::Client::default()
        .get(platform.url() + "/any/tea?sugar=no")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 418);
    assert_eq!(response.headers().get("x-tea").unwrap(), "green");
    assert_eq!(response.headers().get("content-type").unwrap(), "text/plain");
    assert_eq!(response.body().await.unwrap(), "short and stout");
}

#[actix_rt::test]
async fn an_invalid_reply_becomes_a_500() {
    let platform = FakePlatform::start().unwrap();
    platform.script("tea", [Reply::status(42), Reply::status(200).header("bad name", "")]);
    let client = awc::Client::default();
    for _ in 0..2 {
        let mut response = client.get(platform.url() + "/tea").send().await.unwrap();
        assert_eq!(response.status(), 500);
        response.body().await.unwrap();
    }
}

#[actix_rt::test]
async fn a_request_is_recorded_with_its_method_path_and_headers() {
    let platform = FakePlatform::start().unwrap();
    let url = platform.url() + "/any/tea?sugar=no";
    awc::Client::default().get(url).send().await.unwrap();
    let request = &platform.requests()[0];
    assert_eq!(
        (request.method.as_str(), request.path.as_str()),
        ("GET", "/any/tea?sugar=no")
    );
    assert_eq!(request.header("ACCEPT-encoding"), Some("identity"));
    assert_eq!(request.connection, 0);
}

#[actix_rt::test]
async fn a_reply_with_connection_close_ends_its_connection() {
    let platform = FakePlatform::start().unwrap();
    platform.script("tea", [Reply::ok().header("Connection", "close"), Reply::ok()]);
    let client = awc::Client::default();
    let mut headers = Vec::new();
    for _ in 0..3 {
        let mut response = client.get(platform.url() + "/tea").send().await.unwrap();
        response.body().await.unwrap();
        headers.push(response.headers().contains_key("connection"));
    }
    assert_eq!(headers, [true, false, false]);
    let connections: Vec<_> = platform.requests().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 1, 1]);
}

#[actix_rt::test]
async fn a_request_is_recorded_before_its_delayed_reply() {
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::ok().delay(Duration::from_millis(50))]);
    let reply = actix_rt::spawn(async move { post(&poster, "s").await });
    assert_eq!(platform.wait_for_requests(1).await.len(), 1);
    reply.await.unwrap().unwrap();
}

#[actix_rt::test]
async fn a_dropped_platform_is_down() {
    let (platform, poster) = platform_and_poster();
    post(&poster, "s").await.unwrap();
    drop(platform);
    let error = post(&poster, "s").await.unwrap_err();
    assert_eq!(post_outcome(&Err(error)), "transient:3;transient:3");
}

#[actix_rt::test]
async fn a_platform_that_is_down_refuses_connections_until_it_is_up_again() {
    let (platform, poster) = platform_and_poster();
    post(&poster, "s").await.unwrap();
    for _ in 0..2 {
        platform.down();
        let error = post(&poster, "s").await.unwrap_err();
        assert_eq!(post_outcome(&Err(error)), "transient:3;transient:3");
        platform.up().unwrap();
        platform.up().unwrap();
        post(&poster, "s").await.unwrap();
    }
    assert_eq!(platform.requests_for("s/status").len(), 3);
}

#[actix_rt::test]
async fn going_down_ends_a_request_that_waits_for_its_response() {
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::hang(), Reply::ok()]);
    let reply = actix_rt::spawn(async move { post(&poster, "s").await });
    platform.wait_for_requests(1).await;
    platform.down();
    platform.up().unwrap();
    reply.await.unwrap().unwrap();
    let answers: Vec<_> = platform
        .requests_for("completion")
        .iter()
        .map(|r| r.answered_with)
        .collect();
    assert_eq!(answers, [0, 200]);
}

#[actix_rt::test]
async fn a_platform_can_be_started_again_on_its_port() {
    let (platform, poster) = platform_and_poster();
    let port = platform.url().rsplit(':').next().unwrap().parse().unwrap();
    assert!(FakePlatform::start_on(port).is_err(), "the port is taken");
    drop(platform);
    let platform = FakePlatform::start_on(port).unwrap();
    post(&poster, "s").await.unwrap();
    assert_eq!(platform.requests().len(), 2);
}

#[actix_rt::test]
async fn a_reset_is_a_reset() {
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::reset()]);
    let error = post(&poster, "s").await.unwrap_err();
    let last = &error.completion().unwrap().transient().unwrap().last;
    let causes = std::iter::successors(Some(last as &dyn std::error::Error), |error| error.source());
    let kinds: Vec<_> = causes
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .map(std::io::Error::kind)
        .collect();
    assert_eq!(kinds, [std::io::ErrorKind::ConnectionReset], "{last:?}");
    assert_eq!(platform.requests_for("completion").len(), 3);
}

#[actix_rt::test]
async fn a_page_is_transient_in_place_of_an_acknowledgement() {
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::html(200), Reply::html(403), Reply::ok()]);
    post(&poster, "s").await.unwrap();
    let answers: Vec<_> = platform
        .requests_for("completion")
        .iter()
        .map(|r| r.answered_with)
        .collect();
    assert_eq!(answers, [200, 403, 200]);
}
