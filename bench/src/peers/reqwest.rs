//! `reqwest` with retries and a deadline, as a user would choose it today.

use std::{io, time::Duration};

use reqwest::header;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};

use super::{Request, check, requests};

#[derive(Clone)]
pub(crate) struct Sender {
    client: ClientWithMiddleware,
    base: String,
    token: String,
}

impl Sender {
    pub(crate) fn new(base: String, token: String) -> io::Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(30))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent("bench")
            .build()
            .map_err(io::Error::other)?;
        let policy = ExponentialBackoff::builder()
            .retry_bounds(Duration::from_millis(10), Duration::from_secs(60))
            .build_with_max_retries(2);
        let retry = RetryTransientMiddleware::new_with_policy(policy);
        Ok(Self {
            client: ClientBuilder::new(client).with(retry).build(),
            base,
            token,
        })
    }

    pub(crate) async fn send(self, number: u64) -> Result<(), String> {
        for request in requests(&self.base, number) {
            self.post(request).await?;
        }
        Ok(())
    }

    async fn post(&self, request: Request) -> Result<(), String> {
        let post = self
            .client
            .post(request.url)
            .bearer_auth(&self.token)
            .header(header::CONTENT_TYPE, "application/json")
            .header("idempotency-key", request.key)
            .body(request.body);
        let response = post.send().await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        response.bytes().await.map_err(|error| error.to_string())?;
        check(status)
    }
}
