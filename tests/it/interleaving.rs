//! No answer is ever taken for another call's: hundreds of calls at once, to a platform that answers each by its name and
//! does all that might let an answer go astray.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, sleep},
    time::Duration,
};

use futures_util::future::join_all;
use result_poster::{CallError, OptionsBuilder, UpdateIssueStatus};
use rustls::{
    ServerConnection, StreamOwned,
    version::{TLS12, TLS13},
};
use serde_json::Value;

use crate::{
    support::{options, read_body, read_head, start},
    tls::{Authority, params, server_config},
};

const CALLS: usize = 600;

/// An answer that names an issue.
fn sized(issue: &str) -> String {
    let body = body(issue);
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn body(issue: &str) -> String {
    format!(r#"{{"success":false,"error":{{"message":"{issue}"}}}}"#)
}

/// Answers the request about `issue`, the one with this number, in one way or another, and says whether it goes on.
fn answer(stream: &mut (impl Read + Write), number: usize, issue: &str) -> io::Result<bool> {
    let sized = sized(issue);
    let body = body(issue);
    let stray = self::sized("stray");
    let chunks = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
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
            write(&("HTTP/1.1 200 OK\r\n\r\n".to_owned() + &body))?;
            return Ok(false);
        }
        6 => {
            // The second half comes when others have long been answered.
            let (start, rest) = sized.split_at(number % sized.len());
            write(start)?;
            sleep(Duration::from_millis(5));
            write(rest)?;
        }
        7 if number.is_multiple_of(5) => {
            // Nothing until the poster hangs up, and then all the same.
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
            // While it is idle, or just as the next request comes.
            write(&sized)?;
            sleep(Duration::from_millis(1));
            return Ok(false);
        }
        _ => write(&sized)?,
    }
    Ok(true)
}

/// How often the platform was asked about each issue.
type Asked = Arc<Mutex<BTreeMap<String, usize>>>;

/// A platform of that kind, with what a connection is wrapped into.
fn platform<S: Read + Write>(wrap: impl Fn(std::net::TcpStream) -> S + Send + Sync + 'static) -> (u16, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Asked::default();
    let (counts, numbers, wrap) = (Arc::clone(&asked), Arc::new(AtomicUsize::new(0)), Arc::new(wrap));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (counts, numbers, wrap) = (Arc::clone(&counts), Arc::clone(&numbers), Arc::clone(&wrap));
            thread::spawn(move || {
                let mut stream = wrap(stream.unwrap());
                while let Some(head) = read_head(&mut stream) {
                    let Some(body) = read_body(&mut stream, &head) else {
                        return;
                    };
                    let body: Value = serde_json::from_slice(&body).unwrap();
                    let issue = body["args"][0].as_str().unwrap();
                    *counts.lock().unwrap().entry(issue.to_owned()).or_default() += 1;
                    let number = numbers.fetch_add(1, Ordering::Relaxed);
                    if !answer(&mut stream, number, issue).is_ok_and(|goes_on| goes_on) {
                        return;
                    }
                }
            });
        }
    });
    (port, asked)
}

async fn every_call_gets_its_own_answer(options: OptionsBuilder, asked: Asked) {
    let options = options
        .max_attempts(1)
        .max_in_flight(24)
        .timeout(Duration::from_secs(1));
    let poster = start(options);
    let issues = || (0..CALLS).map(|number| format!("issue-{number}"));
    let calls = issues().map(|issue| poster.send(UpdateIssueStatus::new(issue, "Finished")));
    let mut answered = 0;
    for (issue, reply) in issues().zip(join_all(calls).await) {
        match reply.unwrap() {
            Err(CallError::Permanent(refusal)) => {
                assert_eq!(refusal.body, issue);
                answered += 1;
            }
            Err(CallError::Transient(_)) => {}
            other => panic!("{issue}: {other:?}"),
        }
    }
    assert!(answered > CALLS / 2, "{answered}");
    // And what was sent anew had not been sent before.
    assert!(asked.lock().unwrap().values().all(|&times| times == 1));
}

#[actix_rt::test]
async fn every_call_gets_its_own_answer_in_plain_http() {
    let (port, asked) = platform(|stream| stream);
    every_call_gets_its_own_answer(options(format!("http://127.0.0.1:{port}")), asked).await;
}

#[actix_rt::test]
async fn every_call_gets_its_own_answer_in_tls() {
    let authority = Authority::new();
    let config = server_config(authority.issue(params("localhost")), &[&TLS12, &TLS13], None);
    let (port, asked) =
        platform(move |stream| StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream));
    let options = options(format!("https://localhost:{port}")).add_root_certificates_pem(authority.pem());
    every_call_gets_its_own_answer(options, asked).await;
}
