//! A loop over awc.

use std::sync::Arc;

use awc::{Client, Connector, http::header};

use super::{Request, check, requests};

#[derive(Clone)]
pub(crate) struct Sender {
    client: Client,
    base: String,
    authorization: String,
}

impl Sender {
    pub(crate) fn new(concurrency: usize, base: String, token: String, tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        let mut connector = Connector::new().limit(concurrency);
        if let Some(tls) = tls {
            connector = connector.rustls_0_23(tls);
        }
        let builder = Client::builder().connector(connector);
        Self {
            client: builder.disable_redirects().disable_timeout().finish(),
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
        let post = self
            .client
            .post(request.url)
            .insert_header((header::AUTHORIZATION, self.authorization.as_str()))
            .insert_header((header::CONTENT_TYPE, "application/json"))
            .insert_header((header::USER_AGENT, "bench"))
            .insert_header(("idempotency-key", request.key));
        let mut response = post.send_body(request.body).await.map_err(|error| error.to_string())?;
        response.body().await.map_err(|error| error.to_string())?;
        check(response.status().as_u16())
    }
}
