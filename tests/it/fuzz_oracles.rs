//! Properties that hold for any bytes from outside: one function per target of `fuzz/`, which takes the fuzzer's input.

use std::time::{Duration, UNIX_EPOCH};

use awc::http::header::HeaderValue;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use result_poster::{
    AgentResult, AttemptError, PostResult,
    bridge::{
        Alternatives, Answer, Endpoint, Hint, Platform, Redactor, Resend, RetryPolicy, StoredForm, Verdict, WireFormat,
        classify as classify_answer,
        http1::{Framing, Head, parse_head, skip_empty_lines},
        is_valid_token, jwt_expiry, parse_reset, parse_retry_after, parse_token_file, printable, without_body,
    },
    credentials::{ExposeSecret as _, RuntimeCredentials},
};
use serde_json::{Map, Value};

/// The body of a 200, and of a 400.
pub fn envelope(body: &[u8]) {
    let verdict = |endpoint, status, body: &[u8]| {
        let answer = Answer {
            status,
            content_type: Some("application/json".into()),
            body: body.to_vec(),
            ..Answer::default()
        };
        classify_answer(endpoint, &answer, Alternatives::default(), UNIX_EPOCH)
    };
    let judged = verdict(Endpoint::Proxy, 200, body);
    check_error(&judged, 200);
    let rejected = verdict(Endpoint::Session, 400, body);
    check_error(&rejected, 400);
    assert!(matches!(
        verdict(Endpoint::Session, 200, body),
        Verdict::Delivered { .. }
    ));

    // A body that is JSON as a whole means what its members say.
    if let Ok(value) = serde_json::from_slice::<Value>(body) {
        let is_retryable = value.get("error").and_then(|error| error.get("retryable")) == Some(&Value::Bool(true));
        match value.get("success").and_then(Value::as_bool) {
            Some(true) => assert_eq!(kind(&judged), "delivered"),
            Some(false) if is_retryable => assert_eq!(kind(&judged), "transient"),
            Some(false) => assert_eq!(kind(&judged), "permanent"),
            None => assert!(is_unexpected(&judged)),
        }
        assert_eq!(kind(&rejected) == "transient", is_retryable);
    }

    // What follows a broken-off body changes nothing that was known before, except for equal members.
    let more = [body, b",\"x\":1}"].concat();
    if !String::from_utf8_lossy(body).contains("success") {
        assert!(is_unexpected(&judged) || body.contains(&b'\\'));
        assert_eq!(
            is_unexpected(&judged),
            is_unexpected(&verdict(Endpoint::Proxy, 200, &more))
        );
    }
}

fn is_unexpected(verdict: &Verdict) -> bool {
    matches!(
        verdict,
        Verdict::Transient {
            error: AttemptError::UnexpectedResponse { .. },
            ..
        }
    )
}

/// Lines with the status, the content type, the `Retry-After`, the token, the reset of the rate limit, the `Date` and the
/// `Location`, each of which may be empty, then the body.
pub fn classify(data: &[u8]) {
    let mut fields = data.splitn(8, |&byte| byte == b'\n');
    let mut line = || {
        let line = String::from_utf8_lossy(fields.next().unwrap_or_default());
        Some(line.into_owned()).filter(|line| !line.is_empty())
    };
    let status = line().and_then(|status| status.parse().ok()).unwrap_or_default();
    let (content_type, retry_after, token) = (line(), line(), line());
    let (resets, date, location) = (line(), line(), line());
    // One line holds both, so that the inputs that were kept mean the same.
    let mut resets = resets.as_deref().unwrap_or_default().split('\t').map(str::to_owned);
    let rate_limit_resets = [resets.next(), resets.next()];
    // No other token is ever sent.
    let token = token.filter(|token| is_valid_token(&RuntimeCredentials::new("", token.as_str())));
    let redactor = Redactor::new(token.as_deref(), None);
    let mut answer = Answer {
        status,
        content_type,
        retry_after,
        rate_limit_resets,
        location,
        date,
        body: fields.next().unwrap_or_default().to_vec(),
        ..Answer::default()
    };

    for endpoint in [Endpoint::Session, Endpoint::Proxy] {
        answer.redactor = redactor;
        let verdict = classify_answer(endpoint, &answer, Alternatives::default(), UNIX_EPOCH);
        match &verdict {
            Verdict::Delivered { .. } => assert!((200..=299).contains(&status)),
            Verdict::Unauthorized(_) => assert!(matches!(status, 302 | 303 | 307 | 401)),
            Verdict::Permanent(_) if endpoint == Endpoint::Session => {
                assert!(matches!(status, 301 | 308 | 400..=499) && status != 401);
            }
            Verdict::Permanent(_) => assert!(matches!(status, 200..=299 | 301 | 308 | 400..=499)),
            Verdict::Transient { hint, .. } => {
                assert!(!matches!(status, 301 | 302 | 303 | 307 | 308 | 401));
                check_hint(&answer, *hint);
            }
            Verdict::Resend(_) => panic!("no other form is left"),
        }
        check_error(&verdict, status);
        if let Some(token) = &token {
            check_scrubbed(&verdict, token);
            answer.redactor = Redactor::default();
            let without_token = classify_answer(endpoint, &answer, Alternatives::default(), UNIX_EPOCH);
            assert_eq!(kind(&verdict), kind(&without_token));
            check_cut_short(&verdict, token, &answer.body);
        }
        // With other forms left, only a 403 and a 413 of a session call are another verdict.
        let left = Alternatives {
            other_worker: true,
            reduced: true,
        };
        answer.redactor = redactor;
        match classify_answer(endpoint, &answer, left, UNIX_EPOCH) {
            Verdict::Resend(Resend::OtherWorker { otherwise }) => {
                assert_eq!((endpoint, status), (Endpoint::Session, 403));
                assert_eq!(kind(&otherwise), kind(&verdict));
            }
            Verdict::Resend(Resend::Reduced) => assert_eq!((endpoint, status), (Endpoint::Session, 413)),
            same => assert_eq!(kind(&same), kind(&verdict)),
        }
    }
    let Some(token) = &token else { return };
    // A body that contains the token, and ends within it.
    for form in forms(token) {
        let (start, _) = form.as_bytes().split_at(answer.body.len() % form.len());
        let echo = Answer {
            body: [&answer.body, form.as_bytes(), &answer.body, start].concat(),
            status: 400,
            redactor,
            ..Answer::default()
        };
        let verdict = classify_answer(Endpoint::Session, &echo, Alternatives::default(), UNIX_EPOCH);
        check_scrubbed(&verdict, token);
        check_cut_short(&verdict, token, &echo.body);
    }
}

/// The hint is that of the headers, counted from the `Date`.
fn check_hint(answer: &Answer<'_>, hint: Option<Hint>) {
    let date = answer.date.as_deref();
    let now = date.and_then(|date| httpdate::parse_http_date(date).ok());
    let now = now.unwrap_or(UNIX_EPOCH);
    let retry_after = answer.retry_after.as_deref();
    let retry_after = retry_after.and_then(|value| parse_retry_after(value, now));
    let reset = |value: &Option<String>| parse_reset(value.as_deref()?, now);
    let [first, second] = answer.rate_limit_resets.each_ref().map(reset);
    let expected = match answer.status {
        429 => retry_after.or(first).or(second).map(Hint::RateLimit),
        _ => retry_after.map(Hint::Busy),
    };
    assert_eq!(hint, expected);
}

/// A call in the outbox: lines with its kind, target id, key and headers, then its body. It is either restored or known to be damaged.
pub fn row(data: &[u8]) {
    let mut fields = data.splitn(5, |&byte| byte == b'\n');
    let [kind, target_id, key, headers, body] = [(); 5].map(|()| fields.next().unwrap_or_default());
    let platform = Platform {
        base: "https://app.example.com".into(),
        organization_id: None,
        wire_format: WireFormat::Extended,
        max_text_bytes: 64,
    };
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let [kind, target_id, key, headers] = [kind, target_id, key, headers].map(text);
    let Ok(call) = platform.restore(StoredForm {
        kind: &kind,
        target_id: &target_id,
        idempotency_key: &key,
        headers: Some(&*headers).filter(|headers| !headers.is_empty()),
        body,
    }) else {
        return;
    };
    // A parser that nests less deep may refuse it.
    let sent = serde_json::from_slice::<Value>(&call.encode("w"));
    if serde_json::from_str::<Value>(call.stored_body()).is_ok() {
        assert!(sent.is_ok_and(|sent| sent.is_object()));
    }
}

/// A result in the runner's JSON. What a strict reader reads is read alike, and whatever is read can be sent.
pub fn result_json(data: &[u8]) {
    let read = AgentResult::from_json(data);
    if let Ok(strict) = serde_json::from_slice::<AgentResult>(data) {
        let read = read.as_ref();
        assert!(read.is_ok_and(|read| !read.warnings().is_empty() || *read == strict));
    }
    let Ok(result) = read else { return };

    let json = serde_json::to_vec(&result).unwrap_or_default();
    let again = AgentResult::from_json(&json);
    assert!(again.is_ok_and(|again| again.warnings().is_empty() && (again == result || !result.warnings().is_empty())));

    for wire_format in [WireFormat::Extended, WireFormat::Baseline] {
        let platform = Platform {
            base: "https://app.example.com".into(),
            organization_id: None,
            wire_format,
            max_text_bytes: 64,
        };
        let calls = platform.session_calls(&"s".into(), &PostResult::new("s", result.clone()));
        assert_eq!(calls.len(), 2);
        for call in calls {
            let body = call.encode("w");
            assert!(body.len() <= 512 * 1024);
            let body: Map<String, Value> = serde_json::from_slice(&body).unwrap_or_default();
            assert_eq!(body.get("workerId"), Some(&"w".into()));
            assert!(!has_nul(&body.into()));
        }
    }
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(elements) => elements.iter().any(has_nul),
        Value::Object(members) => members.values().any(has_nul),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The start of a response. It is parsed in two pieces as in one, and a patch only declares HTTP/1.0, renames headers that
/// awc must not see, and blanks parts of values.
pub fn head(data: &[u8]) {
    let mut data = data.to_vec();
    skip_empty_lines(&mut data);
    let parsed = parse_head(&data, 0);
    match &parsed {
        Head::Partial | Head::Unrecognized => {}
        Head::Interim(length) => assert!((1..=data.len()).contains(length)),
        Head::Final(head) => {
            let mut patched = data.clone();
            head.patch(&mut patched);
            assert_eq!(patched.len(), data.len());
            for (offset, change) in data.iter().zip(&patched).enumerate() {
                let expected = match change {
                    (before, after) if before == after => true,
                    (b'1', b'0') => offset == 7 && head.framing == Framing::Unknown && !head.reusable,
                    (b'u' | b'U' | b't' | b'T' | b'c' | b'C', b'x') | (_, b' ') => true,
                    _ => false,
                };
                assert!(expected, "{change:?} at {offset}");
            }
        }
    }

    // In two pieces: no result before its time, and then the same.
    let split = data.len() / 2;
    let first = parse_head(data.get(..split).unwrap_or_default(), 0);
    match first {
        Head::Partial => assert_eq!(parse_head(&data, split), parsed),
        Head::Interim(_) => assert_eq!(first, parsed),
        Head::Final(_) | Head::Unrecognized => {}
    }
}

/// A token, and the claims of one.
pub fn jwt(data: &[u8]) {
    if let Ok(token) = str::from_utf8(data)
        && jwt_expiry(token).is_some()
    {
        assert_eq!(token.matches('.').count(), 2);
    }

    let claims = BASE64_URL_SAFE_NO_PAD.encode(data);
    let expiry = jwt_expiry(&format!("e30.{claims}.c2ln"));
    assert_eq!(expiry, jwt_expiry(&format!(".{claims}==.")));
    let Some(expiry) = expiry else { return };
    assert!(expiry >= UNIX_EPOCH);
    let object = data.strip_prefix("\u{feff}".as_bytes()).unwrap_or(data);
    assert!(object.trim_ascii_start().starts_with(b"{"));
    // The other claims are ignored by the parser; here they are parsed as well, and may be too large for that.
    if let Ok(claims) = serde_json::from_slice::<Map<String, Value>>(data) {
        let seconds = expiry.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        // In seconds or milliseconds; a time as text is not compared.
        if let Some(claimed) = claims.get("exp").and_then(Value::as_f64) {
            let is_claimed = |claimed: f64| (claimed - seconds).abs() <= 1e-9 * claimed.max(1.0);
            assert!(
                is_claimed(claimed) || is_claimed(claimed / 1000.0),
                "{claimed} is not {seconds}"
            );
        }
    }
}

/// The content of a daemon's token file.
pub fn token_file(data: &[u8]) {
    let Some(credentials) = parse_token_file(data) else {
        return;
    };
    let object = data.strip_prefix("\u{feff}".as_bytes()).unwrap_or(data);
    assert!(object.trim_ascii_start().starts_with(b"{"));
    // A half-written file is not taken for the whole one.
    if let Some((_, cut)) = data.trim_ascii_end().split_last() {
        assert!(parse_token_file(cut).is_none());
    }

    let token = credentials.auth_token.expose_secret();
    assert!(!token.is_empty());
    if is_valid_token(&credentials) {
        assert!(HeaderValue::try_from(format!("Bearer {token}")).is_ok());
    }
    let mut other = credentials.clone();
    other.auth_token = "other".into();
    assert_eq!(format!("{credentials:?}"), format!("{other:?}"), "the token shows");

    // The other fields are ignored by the parser; here they are parsed as well, and may be too large for that.
    if let Ok(content) = serde_json::from_slice::<Map<String, Value>>(data) {
        let text = |name| content.get(name).and_then(Value::as_str).unwrap_or_default().trim();
        let [first, second] = ["runtimeToken", "runtimeJwt"].map(text);
        assert_eq!(token, if first.is_empty() { second } else { first });
        match content.get("workerId") {
            Some(Value::Number(number)) => assert!(number.as_f64().is_some_and(|number| number >= 0.0)),
            _ => assert_eq!(credentials.worker_id, text("workerId")),
        }
        let expiry = content.get("runtimeTokenExpiresAt");
        assert!(credentials.expires_at.is_none() || expiry.is_some_and(|value| value.is_string() || value.is_number()));
    }
}

/// A line with the value of `Retry-After`, then numbers of eight bytes each: the time of day and the fields of a
/// policy.
pub fn retry_after(data: &[u8]) {
    let mut parts = data.splitn(2, |&byte| byte == b'\n');
    let value = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let mut numbers = parts.next().unwrap_or_default().chunks(8);
    let mut number = || {
        let bytes = numbers.next().unwrap_or_default();
        bytes.iter().fold(0, |number, &byte| (number << 8) | u64::from(byte))
    };
    let mut share = || number() as f64 / u64::MAX as f64;
    let (jitter, random) = (share(), share());
    let mut duration = || Duration::new(number(), u32::try_from(number() % 1_000_000_000).unwrap_or_default());
    let (since_epoch, base_delay, max_delay, max_retry_after) = (duration(), duration(), duration(), duration());
    let mut count = || u32::try_from(number()).unwrap_or(u32::MAX);
    let (attempt, max_attempts) = (count(), count());

    for now in [UNIX_EPOCH.checked_add(since_epoch), UNIX_EPOCH.checked_sub(since_epoch)] {
        let Some(now) = now else { continue };
        let pause = parse_retry_after(&value, now);
        assert_eq!(pause, parse_retry_after(&format!(" {value}\t"), now));
        let reset = parse_reset(&value, now);
        assert_eq!(reset.is_some(), pause.is_some());
        assert!(reset <= pause);
        let is_number = !value.trim().is_empty() && value.trim().bytes().all(|byte| byte.is_ascii_digit());
        let is_date = httpdate::parse_http_date(value.trim()).is_ok();
        match pause {
            None => assert!(!is_number && !is_date),
            // The pause ends at a date that can be formatted again, unless the date is past.
            Some(pause) if is_date && !pause.is_zero() => {
                let date = now + pause;
                assert_eq!(
                    httpdate::parse_http_date(&httpdate::fmt_http_date(date)).ok(),
                    Some(date)
                );
            }
            Some(_) if is_date => {}
            // A number of seconds does not depend on the time.
            Some(pause) => assert!(pause.subsec_nanos() == 0 && Some(pause) == parse_retry_after(&value, UNIX_EPOCH)),
        }

        let policy = RetryPolicy {
            max_attempts,
            base_delay,
            max_delay,
            jitter,
            max_retry_after,
        };
        for hint in [pause.map(Hint::RateLimit), pause.map(Hint::Busy)] {
            check_policy(&policy, attempt, hint, random);
        }
    }
}

fn check_policy(policy: &RetryPolicy, attempt: u32, hint: Option<Hint>, random: f64) {
    let RetryPolicy {
        max_attempts,
        base_delay,
        max_delay,
        jitter,
        max_retry_after,
    } = *policy;
    let is_too_long = hint.is_some_and(|hint| hint.duration() > max_retry_after);
    let Some(wait) = policy.wait_after(attempt, hint, random) else {
        assert!(attempt >= max_attempts || (is_too_long && matches!(hint, Some(Hint::RateLimit(_)))));
        return;
    };
    assert!(attempt < max_attempts);
    let asked = if is_too_long {
        Duration::ZERO
    } else {
        hint.map(Hint::duration).unwrap_or_default()
    };
    assert!(asked <= wait && wait <= max_delay.max(asked));
    // Only the cap and the jitter make it shorter than the first wait, and only the jitter longer than the doubled one.
    let shortest = base_delay.as_secs_f64() * (1.0 - jitter);
    let doublings = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
    let longest = base_delay.as_secs_f64() * 2f64.powi(doublings) * (1.0 + jitter);
    let seconds = wait.as_secs_f64();
    assert!(seconds >= max_delay.as_secs_f64().min(shortest) * (1.0 - 1e-9) - 1e-9);
    assert!(wait == asked || seconds <= longest * (1.0 + 1e-9) + 1e-9);
    if base_delay.is_zero() {
        assert_eq!(wait, asked);
    }
    let steady = RetryPolicy {
        jitter: 0.0,
        ..policy.clone()
    };
    let next = steady.wait_after(attempt.saturating_add(1), hint, random);
    assert!(next.is_none() || next >= steady.wait_after(attempt, hint, random));
}

/// The name of the verdict.
fn kind(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Delivered { .. } => "delivered",
        Verdict::Transient { .. } => "transient",
        Verdict::Permanent(_) => "permanent",
        Verdict::Unauthorized(_) => "unauthorized",
        Verdict::Resend(_) => "resend",
    }
}

/// The status and body that a verdict keeps of a response, and its error's text with and without the body.
fn kept(verdict: &Verdict) -> Option<(u16, &str, String, String)> {
    match verdict {
        Verdict::Delivered { .. } | Verdict::Resend(_) => None,
        Verdict::Permanent(error) | Verdict::Unauthorized(error) => {
            let mut without_body = error.clone();
            without_body.body.clear();
            Some((
                error.status_code,
                &error.body,
                error.to_string(),
                without_body.to_string(),
            ))
        }
        Verdict::Transient { error, .. } => {
            let (AttemptError::RetryableResponse { status_code, body }
            | AttemptError::UnexpectedResponse { status_code, body, .. }) = error
            else {
                return None;
            };
            Some((*status_code, body, error.to_string(), without_body(error)))
        }
    }
}

/// The body is short and trimmed, and the error's text is its own words and the body, on one line.
fn check_error(verdict: &Verdict, status: u16) {
    let Some((status_code, body, shown, without_body)) = kept(verdict) else {
        assert!(
            matches!(verdict, Verdict::Delivered { .. }),
            "there was an answer: {verdict:?}"
        );
        return;
    };
    assert_eq!(status_code, status);
    assert!(body.len() <= 4 * 1024);
    assert_eq!(body, body.trim());
    assert!(!shown.chars().any(char::is_control));
    let separator = if body.is_empty() { "" } else { ": " };
    assert_eq!(shown, format!("{without_body}{separator}{}", printable(body)));
}

/// The token as it is sent and as JSON may escape it; none if it overlaps with `[REDACTED]`.
fn forms(token: &str) -> Vec<String> {
    if token.contains(['[', ']']) || "REDACTED".contains(token) {
        return Vec::new();
    }
    vec![token.to_owned(), token.replace('/', r"\/")]
}

fn check_scrubbed(verdict: &Verdict, token: &str) {
    if let Some((_, body, ..)) = kept(verdict) {
        assert!(!forms(token).iter().any(|form| body.contains(form)));
    }
}

/// If a response ends within the token, the kept body does not. (It may if it was shortened or trimmed.)
fn check_cut_short(verdict: &Verdict, token: &str, body: &[u8]) {
    let text = String::from_utf8_lossy(body);
    if text.len() > 400 || text != text.trim_end() {
        return;
    }
    if let Some((_, body, ..)) = kept(verdict) {
        for form in forms(token) {
            assert!(!(4..form.len()).any(|length| form.get(..length).is_some_and(|start| body.ends_with(start))));
        }
    }
}

#[cfg(test)]
#[test]
fn the_oracles_hold_for_every_kept_input() {
    type Target = (&'static str, fn(&[u8]));
    let targets: [Target; 8] = [
        ("envelope", envelope),
        ("classify", classify),
        ("head", head),
        ("jwt", jwt),
        ("token_file", token_file),
        ("retry_after", retry_after),
        ("result_json", result_json),
        ("row", row),
    ];
    for (name, target) in targets {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/data/fuzz")
            .join(name);
        let mut replayed = 0;
        for file in std::fs::read_dir(&folder).unwrap() {
            let path = file.unwrap().path();
            println!("{}", path.display()); // Shown with a failure.
            target(&std::fs::read(path).unwrap());
            replayed += 1;
        }
        assert!(replayed > 0, "{} is empty", folder.display());
    }
}
