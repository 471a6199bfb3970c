//! Each call gets its own response: hundreds of concurrent calls to a platform that names the issue in each response,
//! and provokes every known mix-up of responses.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::sleep,
    time::Duration,
};

use futures_util::future::join_all;
use result_poster::{CallError, OptionsBuilder};

use crate::support::{
    options,
    raw_server::{RawServer, read_request, response, serve, unsized_response},
    start, status_update,
    tls::{Authority, TLS_VERSIONS, accept_tls, certificate_for, server_config},
};

const CALLS: usize = 600;

#[actix_rt::test]
async fn every_call_gets_its_own_response_over_http() {
    let (server, requests) = start_platform(|stream| stream);
    assert_own_responses(options(server.url()), requests).await;
}

#[actix_rt::test]
async fn every_call_gets_its_own_response_over_tls() {
    let authority = Authority::new();
    let config = server_config(authority.issue(certificate_for("localhost")), TLS_VERSIONS, None);
    let (server, requests) = start_platform(move |stream| accept_tls(&config, stream));
    let options = options(server.https_url("localhost")).add_root_certificates_pem(authority.pem());
    assert_own_responses(options, requests).await;
}

/// Makes all calls, and compares the issue in each answer with the issue of the call.
async fn assert_own_responses(options: OptionsBuilder, requests: RequestCounts) {
    let options = options
        .max_attempts(1)
        .max_in_flight(24)
        .timeout(Duration::from_secs(1));
    let poster = start(options);
    let issue_ids = || (0..CALLS).map(|number| format!("issue-{number}"));
    let calls = issue_ids().map(|issue_id| poster.send(status_update(issue_id)));
    let mut answered = 0;
    for (issue_id, reply) in issue_ids().zip(join_all(calls).await) {
        match reply.unwrap() {
            Err(CallError::Permanent(refusal)) => {
                assert_eq!(refusal.body, issue_id);
                answered += 1;
            }
            Err(CallError::Transient(_)) => {}
            other => panic!("{issue_id}: {other:?}"),
        }
    }
    assert!(answered > CALLS / 2, "{answered}");
    // With one attempt per call, none was received twice.
    assert!(requests.lock().unwrap().values().all(|&count| count == 1));
}

/// The number of requests about each issue.
type RequestCounts = Arc<Mutex<BTreeMap<String, usize>>>;

/// A platform that speaks through this wrapper of a connection.
fn start_platform<S: Read + Write>(
    wrap: impl Fn(TcpStream) -> S + Send + Sync + 'static,
) -> (RawServer, RequestCounts) {
    let requests = RequestCounts::default();
    let (counts, numbers) = (Arc::clone(&requests), AtomicUsize::new(0));
    let server = serve(move |stream| {
        let mut stream = wrap(stream);
        while let Some(request) = read_request(&mut stream) {
            let body = request.json();
            let issue_id = body["args"][0].as_str().unwrap();
            *counts.lock().unwrap().entry(issue_id.to_owned()).or_default() += 1;
            let number = numbers.fetch_add(1, Ordering::Relaxed);
            if !answer(&mut stream, number, issue_id).is_ok_and(|goes_on| goes_on) {
                return;
            }
        }
    });
    (server, requests)
}

/// The body of an answer that names an issue.
fn refusal_body(issue_id: &str) -> String {
    format!(r#"{{"success":false,"error":{{"message":"{issue_id}"}}}}"#)
}

/// Answers the request with this number, about this issue, in one of many ways. Returns whether the connection goes on.
fn answer(stream: &mut (impl Read + Write), number: usize, issue_id: &str) -> io::Result<bool> {
    let body = refusal_body(issue_id);
    let sized = response(200, "", &body);
    let stray = response(200, "", &refusal_body("stray"));
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let chunks = unsized_response(200, "transfer-encoding: chunked\r\n", &chunks);
    let mut write = |text: &str| {
        stream.write_all(text.as_bytes())?;
        stream.flush()
    };
    match number % 13 {
        0 => write(&("HTTP/1.1 103 Early Hints\r\n\r\n".to_owned() + &sized))?,
        1 => {
            write("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n")?;
            sleep(Duration::from_millis(3));
            write(&sized)?;
        }
        2 => write(&(sized + &stray))?,
        3 => write(&(chunks + &stray))?,
        4 => write(&chunks)?,
        5 => {
            write(&unsized_response(200, "", &body))?;
            return Ok(false);
        }
        6 => {
            // The second half follows after other calls were answered.
            let (start, rest) = sized.split_at(number % sized.len());
            write(start)?;
            sleep(Duration::from_millis(5));
            write(rest)?;
        }
        7 if number.is_multiple_of(5) => {
            // The answer follows only when the poster has closed the connection.
            let _ = stream.read(&mut [0]);
            let _ = stream.write_all(sized.as_bytes());
            return Ok(false);
        }
        8 => write(&sized.replace("HTTP/1.1", "HTTP/1.0"))?,
        9 => {
            write(sized.split_at(sized.len() / 2).0)?;
            return Ok(false);
        }
        10 => return Ok(false),
        11 => {
            // The close comes while the connection is idle, or together with the next request.
            write(&sized)?;
            sleep(Duration::from_millis(1));
            return Ok(false);
        }
        _ => write(&sized)?,
    }
    Ok(true)
}
