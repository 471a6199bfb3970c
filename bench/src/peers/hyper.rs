//! A loop over the client of hyper-util.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request as HttpRequest, header};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

use super::{Request, check, requests};

#[derive(Clone)]
pub(crate) struct Sender {
    client: Client<HttpConnector, Full<Bytes>>,
    base: String,
    authorization: String,
}

impl Sender {
    pub(crate) fn new(base: String, token: String) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            base,
            authorization: format!("Bearer {token}"),
        }
    }

    pub(crate) async fn send(self, number: u64) -> Result<(), String> {
        for request in requests(&self.base, number) {
            self.post(request).await?;
        }
        Ok(())
    }

    async fn post(&self, request: Request) -> Result<(), String> {
        let post = HttpRequest::post(request.url)
            .header(header::AUTHORIZATION, self.authorization.as_str())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, "bench")
            .header("idempotency-key", request.key)
            .body(Full::from(request.body))
            .map_err(|error| error.to_string())?;
        let response = self.client.request(post).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        response
            .into_body()
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        check(status)
    }
}
