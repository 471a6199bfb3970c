//! One call from message to reply: the only retry loop.

use std::{cell::Cell, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt as _;
use log::{debug, error, warn};
use tokio_util::sync::CancellationToken;

use crate::{
    classify::{Verdict, classify},
    clock::Clock,
    credentials::Credentials,
    error::{CallError, PostError, TransientError},
    lanes::Turn,
    message::{CallReceipt, IssueCall, PostReceipt, PostResult},
    retry::RetryPolicy,
    transport::{Request, Transport},
    wire::{Call, Platform},
};

/// All that a call needs on its way. It outlives a restart of the actor, and so do the calls.
pub(crate) struct Courier {
    pub(crate) platform: Platform,
    pub(crate) credentials: Credentials,
    /// A platform on loopback may do without a token.
    pub(crate) token_required: bool,
    pub(crate) transport: Transport,
    pub(crate) retry: RetryPolicy,
    pub(crate) clock: Clock,
}

impl Courier {
    /// Delivers a result: the completion, then the status, whatever became of the completion.
    pub(crate) async fn post_result(&self, mut turn: Turn, message: PostResult) -> Result<PostReceipt, PostError> {
        message.check()?;
        let PostResult {
            session_id,
            result,
            cancellation,
        } = message;
        let (completion, status) = self.platform.session_calls(&session_id, result);
        let completion = self.call(&completion, &mut turn, &cancellation).await;
        let status = match completion {
            Err(CallError::Cancelled { .. }) => Err(CallError::Cancelled {
                may_have_been_delivered: false,
            }),
            Ok(_) | Err(_) => self.call(&status, &mut turn, &cancellation).await,
        };
        match (completion, status) {
            (Ok(completion), Ok(status)) => Ok(PostReceipt { completion, status }),
            (Err(error), Ok(_)) => Err(PostError::Completion(error)),
            (Ok(_), Err(error)) => Err(PostError::Status(error)),
            (Err(completion), Err(status)) => Err(PostError::Both { completion, status }),
        }
    }

    /// Delivers a call to the issue-tracker proxy.
    pub(crate) async fn issue_call(&self, mut turn: Turn, message: IssueCall) -> Result<CallReceipt, CallError> {
        message.check()?;
        let call = self
            .platform
            .proxy_call(message.method, message.issue_id, message.text, message.idempotency_key);
        self.call(&call, &mut turn, &message.cancellation).await
    }

    /// Makes sure of a reply: a cancellation ends the call wherever it is, and a panic in it is caught.
    async fn call(
        &self,
        call: &Call,
        turn: &mut Turn,
        cancellation: &CancellationToken,
    ) -> Result<CallReceipt, CallError> {
        let may_have_been_delivered = Cell::new(false);
        let cancelled = || CallError::Cancelled {
            may_have_been_delivered: may_have_been_delivered.get(),
        };
        let outcome = if cancellation.is_cancelled() {
            Err(cancelled())
        } else {
            let work = AssertUnwindSafe(self.deliver(call, turn, &may_have_been_delivered)).catch_unwind();
            match cancellation.run_until_cancelled(work).await {
                None => Err(cancelled()),
                Some(Ok(outcome)) => outcome,
                Some(Err(panic)) => Err(CallError::Internal {
                    message: panic_message(panic.as_ref()),
                }),
            }
        };
        match &outcome {
            Ok(receipt) => debug!(call = call.name, subject:? = call.subject, attempts = receipt.attempts;
                "delivered"),
            Err(CallError::Cancelled { .. }) => debug!(call = call.name, subject:? = call.subject; "cancelled"),
            Err(error) => error!(call = call.name, subject:? = call.subject; "not delivered: {}", error.without_body()),
        }
        outcome
    }

    /// Tries until the platform has taken the call, has refused it, or the attempts are spent.
    async fn deliver(
        &self,
        call: &Call,
        turn: &mut Turn,
        may_have_been_delivered: &Cell<bool>,
    ) -> Result<CallReceipt, CallError> {
        turn.come().await;
        let started = self.clock.instant();
        let mut attempts: u32 = 0;
        loop {
            turn.take_slot().await;
            attempts = attempts.saturating_add(1);
            // Known once the attempt has ended; until then it may be cancelled at any point.
            let by_earlier = may_have_been_delivered.replace(true);
            let (last, retry_after) = match self.attempt(call).await? {
                Verdict::Delivered => {
                    let elapsed = self.clock.instant().saturating_duration_since(started);
                    return Ok(CallReceipt { attempts, elapsed });
                }
                // Without a provider of credentials there is no better token to be had.
                Verdict::Permanent(mut refusal) | Verdict::Unauthorized(mut refusal) => {
                    refusal.may_have_been_delivered = by_earlier;
                    return Err(refusal.into());
                }
                Verdict::Transient { error, retry_after } => (error, retry_after),
            };
            may_have_been_delivered.set(by_earlier || last.may_have_been_delivered());

            let wait = self.retry.wait_after(attempts, retry_after, rand::random());
            warn!(call = call.name, subject:? = call.subject, attempt = attempts, wait:? = wait;
                "attempt failed: {}", last.without_body());
            match wait {
                None => {
                    return Err(CallError::Transient(TransientError {
                        attempts,
                        last,
                        retry_after,
                        may_have_been_delivered: may_have_been_delivered.get(),
                    }));
                }
                Some(Duration::ZERO) => {}
                Some(wait) => {
                    turn.give_slot_back();
                    self.clock.sleep(wait).await;
                }
            }
        }
    }

    /// One attempt, with the credentials of this moment. An error here ends the call unsent.
    async fn attempt(&self, call: &Call) -> Result<Verdict, CallError> {
        let credentials = &self.credentials;
        if self.token_required && credentials.token().is_none() {
            return Err(CallError::NoCredentials);
        }
        let request = Request {
            url: &call.url,
            token: credentials.token(),
            idempotency_key: &call.idempotency_key,
            body: call
                .encode(&credentials.worker_id)
                .map_err(|error| CallError::Internal {
                    message: error.to_string(),
                })?,
        };
        Ok(match self.transport.post(request).await {
            Ok(answer) => classify(call.endpoint, &answer, credentials.token(), self.clock.now()),
            // No answer, no verdict of the platform's: whatever it was, it may pass.
            Err(error) => Verdict::Transient {
                error,
                retry_after: None,
            },
        })
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}
