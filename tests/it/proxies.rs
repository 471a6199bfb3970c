//! Forward proxies: how a platform is reached through one, what it learns, and what it can do wrong.

use std::{
    env,
    error::Error,
    io::{Read, Write},
    iter::successors,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use result_poster::{
    AttemptError, CallError, CallReceipt, CreateComment, Options, OptionsBuilder, ResultPoster, testing::FakePlatform,
};
use rustls::version::{TLS12, TLS13};
use socket2::{Domain, Socket, Type};
use tokio::io::copy_bidirectional;
use tokio_rustls::TlsAcceptor;

use crate::{
    secrets::show,
    support::{RawPlatform, Step, TOKEN, keep_log, logged, options, outcome, read_head, start},
    tls::{Authority, params, server_config},
};

/// A platform that no name service knows: only a proxy leads there.
const PLATFORM: &str = "https://platform.test";

const BODY: &str = "for the platform's eyes";

const ESTABLISHED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

#[actix_rt::test]
async fn an_https_platform_is_reached_through_one_tunnel_that_hides_what_is_said() {
    for (host, authority, base, target) in [
        ("platform.test", "platform.test", "", "platform.test:443"),
        ("platform.test", "platform.test:8443", "/base", "platform.test:8443"),
        ("2001:db8::1", "[2001:db8::1]", "", "[2001:db8::1]:443"),
    ] {
        let platform = HttpsPlatform::start(host);
        let proxy = ForwardProxy::start(platform.address);
        let poster = start(
            platform
                .options(&format!("https://{authority}{base}"))
                .proxy(proxy.url()),
        );
        for _ in 0..2 {
            poster.send(comment()).await.unwrap().unwrap();
        }
        assert_eq!(
            proxy.heads(),
            [format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")]
        );
        assert!(!proxy.saw(TOKEN) && !proxy.saw(BODY));
        let requests = platform.http.requests();
        assert_eq!(requests.len(), 2);
        for request in requests {
            assert_eq!(request.path, format!("{base}/api/issue-tracker-proxy"));
            assert_eq!(request.header("host"), Some(authority));
            assert_eq!(
                request.header("authorization"),
                Some(format!("Bearer {TOKEN}").as_str())
            );
            assert!(String::from_utf8(request.body).unwrap().contains(BODY));
        }
    }
}

#[actix_rt::test]
async fn an_http_platform_is_asked_for_by_its_whole_url() {
    let platform = FakePlatform::start().unwrap();
    let proxy = ForwardProxy::start(address(&platform.url()));
    let options = options("http://platform.test/base").allow_plaintext_http(true);
    let poster = start(options.proxy(with_credentials(&proxy.url(), "me", "s3cret")));
    poster.send(comment()).await.unwrap().unwrap();

    let heads = proxy.heads();
    let [head] = heads.as_slice() else {
        panic!("{heads:?}");
    };
    assert!(head.starts_with("POST http://platform.test/base/api/issue-tracker-proxy HTTP/1.1\r\n"));
    assert_eq!(values(head, "host"), ["platform.test"]);
    assert_eq!(values(head, "authorization"), [format!("Bearer {TOKEN}")]);
    assert_eq!(values(head, "proxy-authorization"), [basic("me", "s3cret")]);
    assert!(proxy.saw(BODY));
    let body = platform.requests().remove(0).body;
    assert!(String::from_utf8(body).unwrap().contains(BODY));
}

#[actix_rt::test]
async fn a_proxy_is_no_excuse_for_a_token_in_clear_text_or_for_none() {
    let proxy = RawPlatform::start([]);
    let options = options("http://platform.test").proxy(proxy.url.as_str());
    let error = options.clone().build().unwrap_err();
    assert_eq!(error.option, "platform_url");
    let reply = start(options.auth_token("")).send(comment()).await.unwrap();
    assert_eq!(outcome(&reply), "no credentials");
    assert!(proxy.requests().is_empty());
}

#[actix_rt::test]
async fn a_platform_on_loopback_is_reached_directly() {
    let proxy = RawPlatform::start([]);
    let through = |options: OptionsBuilder| options.proxy(proxy.url.as_str()).no_proxy("");

    let platform = FakePlatform::start().unwrap();
    let poster = start(through(options(platform.url())));
    poster.send(comment()).await.unwrap().unwrap();

    let platform = HttpsPlatform::start("localhost");
    let url = format!("https://localhost:{}", platform.address.port());
    let poster = start(through(platform.options(&url)));
    poster.send(comment()).await.unwrap().unwrap();

    assert!(proxy.requests().is_empty());
}

#[actix_rt::test]
async fn an_exempt_platform_is_reached_directly_and_so_is_any_by_an_empty_proxy() {
    let proxy = RawPlatform::start([]);
    for options in [
        options(PLATFORM).proxy(proxy.url.as_str()).no_proxy("platform.test"),
        options(PLATFORM).proxy(proxy.url.as_str()).no_proxy("other.test, test"),
        options(PLATFORM).proxy(proxy.url.as_str()).no_proxy("*"),
        options(PLATFORM).proxy(""),
    ] {
        let causes = refusal(options).await;
        assert!(causes.starts_with("resolving the name: "), "{causes}");
    }
    assert!(proxy.requests().is_empty());
}

#[actix_rt::test]
async fn credentials_are_for_the_proxy_alone_and_never_shown() {
    keep_log();
    let (user, password) = ("w@rker", "pr0xy:s3cret");
    let mut shown = Vec::new();

    // In a tunnel: what it asks for, and nothing of that inside it.
    let platform = HttpsPlatform::start("platform.test");
    let relay = ForwardProxy::start(platform.address);
    let refusing = RawPlatform::start(vec![refuse("407 Proxy Authentication Required"); 3]);
    for (proxy, expected) in [(relay.url(), "ok"), (refusing.url.clone(), "transient:3")] {
        let options = platform
            .options(PLATFORM)
            .proxy(with_credentials(&proxy, user, password));
        shown.extend([
            format!("{options:?}"),
            format!("{:?}", options.clone().build().unwrap()),
        ]);
        let reply = start(options).send(comment()).await.unwrap();
        assert_eq!(outcome(&reply), expected);
        show(&mut shown, reply);
    }
    assert_eq!(
        relay.heads(),
        [format!(
            "CONNECT platform.test:443 HTTP/1.1\r\nHost: platform.test:443\r\nProxy-Authorization: {}\r\n\r\n",
            basic(user, password)
        )]
    );
    let requests = platform.http.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].header("proxy-authorization"), None);

    // In plain requests, to a proxy that repeats whatever it is sent.
    let echo = RawPlatform::start([200, 400, 401, 404, 407, 500, 503].map(Step::Echo));
    let options = options("http://platform.test")
        .allow_plaintext_http(true)
        .max_attempts(1);
    let poster = start(options.proxy(with_credentials(&echo.url, user, password)));
    for _ in 0..7 {
        show(&mut shown, poster.send(comment()).await.unwrap());
    }
    assert!(
        shown
            .iter()
            .any(|line| line.contains("proxy-authorization: Basic [REDACTED]"))
    );

    let lines = logged();
    assert!(lines.iter().any(|line| line.contains("the proxy answered 407")));
    let secrets = [percent_encoded(password), password.to_owned(), basic(user, password)];
    for line in shown.iter().chain(&lines) {
        assert!(!secrets.iter().any(|secret| line.contains(secret)), "{line}");
    }
}

#[actix_rt::test]
async fn a_proxy_that_gives_no_tunnel_is_transient_and_says_why() {
    let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(1024 * 1024));
    for (step, cause) in [
        (refuse("407 Proxy Authentication Required"), "the proxy answered 407"),
        (refuse("403 Forbidden"), "the proxy answered 403"),
        (refuse("502 Bad Gateway"), "the proxy answered 502"),
        (refuse("302 Found"), "the proxy answered 302"),
        (
            Step::Write("SSH-2.0-OpenSSH\r\n".into()),
            "the proxy's answer is not HTTP",
        ),
        (
            Step::Write(format!("{ESTABLISHED}more").into()),
            "the proxy sent more than its answer",
        ),
        (Step::Write(endless.into()), "the proxy's answer has no end"),
        (Step::WriteAndClose(Vec::new()), "the proxy closed the connection"),
        (
            Step::WriteAndClose("HTTP/1.1 200 OK\r\n".into()),
            "the proxy closed the connection",
        ),
    ] {
        let proxy = RawPlatform::start(vec![step; 3]);
        let causes = refusal(options(PLATFORM).proxy(proxy.url.as_str())).await;
        assert_eq!(causes, format!("asking the proxy for a tunnel: {cause}"));
        assert_eq!(proxy.requests().len(), 3);
    }
}

#[actix_rt::test]
async fn a_proxy_that_hangs_is_given_up_by_the_limit_on_connections() {
    let proxy = RawPlatform::start(vec![Step::Silence; 3]);
    for (url, stage) in [
        (proxy.url.clone(), "asking the proxy for a tunnel"),
        (
            proxy.url.replace("http:", "https:"),
            "in the TLS handshake with the proxy",
        ),
    ] {
        let options = options(PLATFORM).connect_timeout(Duration::from_millis(200));
        assert_eq!(refusal(options.proxy(url)).await, format!("{stage}: timed out"));
    }
}

#[actix_rt::test]
async fn a_proxy_that_can_not_be_reached_is_told_from_the_platform() {
    // Bound, so that nobody else gets the port, and not listening.
    let closed = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    closed
        .bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())
        .unwrap();
    let closed = closed.local_addr().unwrap().as_socket().unwrap();
    for platform in [PLATFORM, "http://platform.test"] {
        let options = options(platform).allow_plaintext_http(true);
        for (proxy, cause) in [
            (
                format!("http://{closed}"),
                format!("connecting to the proxy at {closed}: "),
            ),
            ("http://proxy.invalid".into(), "resolving the proxy's name: ".into()),
        ] {
            let causes = refusal(options.clone().proxy(proxy)).await;
            assert!(causes.starts_with(&cause), "{causes}");
        }
    }
}

#[actix_rt::test]
async fn an_interim_answer_to_the_request_for_a_tunnel_is_not_the_answer() {
    for interim in [
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n",
    ] {
        let platform = HttpsPlatform::start("platform.test");
        let proxy = ForwardProxy::answering(interim.repeat(2) + ESTABLISHED, platform.address);
        let poster = start(platform.options(PLATFORM).proxy(proxy.url()));
        poster.send(comment()).await.unwrap().unwrap();
    }
}

#[actix_rt::test]
async fn a_platform_that_is_not_trusted_is_refused_in_the_tunnel() {
    let platform = HttpsPlatform::start("other.test");
    let proxy = ForwardProxy::start(platform.address);
    for (options, cause) in [
        (platform.options(PLATFORM), "not valid for name"),
        (options("https://other.test"), "UnknownIssuer"),
    ] {
        let causes = refusal(options.proxy(proxy.url())).await;
        assert!(
            causes.starts_with("in the TLS handshake: invalid peer certificate: ") && causes.contains(cause),
            "{causes}"
        );
    }
    assert!(platform.http.requests().is_empty());
}

#[actix_rt::test]
async fn a_proxy_may_itself_be_reached_by_tls() {
    let platform = HttpsPlatform::start("platform.test");
    let proxy = ForwardProxy::start(platform.address);
    let authority = Authority::new();
    let url = format!(
        "https://localhost:{}",
        behind_tls(&authority, "localhost", proxy.address).port()
    );
    let options = platform.options(PLATFORM).proxy(with_credentials(&url, "me", "s3cret"));

    let causes = refusal(options.clone()).await;
    assert!(
        causes.starts_with("in the TLS handshake with the proxy: invalid peer certificate: "),
        "{causes}"
    );
    assert!(proxy.heads().is_empty());

    let poster = start(options.add_root_certificates_pem(authority.pem()));
    for _ in 0..2 {
        poster.send(comment()).await.unwrap().unwrap();
    }
    let heads = proxy.heads();
    assert_eq!(heads.len(), 1);
    assert_eq!(values(&heads[0], "proxy-authorization"), [basic("me", "s3cret")]);
    assert!(!proxy.saw(TOKEN) && !proxy.saw(BODY));
    assert_eq!(platform.http.requests().len(), 2);
}

#[actix_rt::test]
async fn a_plain_request_goes_to_a_proxy_by_tls_too() {
    let platform = FakePlatform::start().unwrap();
    let proxy = ForwardProxy::start(address(&platform.url()));
    let authority = Authority::new();
    let port = behind_tls(&authority, "localhost", proxy.address).port();
    let options = options("http://platform.test")
        .allow_plaintext_http(true)
        .proxy(format!("https://localhost:{port}"))
        .add_root_certificates_pem(authority.pem());
    start(options).send(comment()).await.unwrap().unwrap();
    assert!(proxy.heads()[0].starts_with("POST http://platform.test/api/"));
    assert_eq!(platform.requests().len(), 1);
}

#[test]
fn the_environment_names_a_proxy() {
    let platform = HttpsPlatform::start("platform.test");
    let proxy = ForwardProxy::start(platform.address);
    let reply = reply_in_environment(&[
        ("HTTPS_PROXY", &proxy.url()),
        ("RESULT_POSTER_TEST_ROOTS", &platform.roots),
    ]);
    assert_eq!(reply, "delivered");
    assert_eq!(proxy.heads().len(), 1);
    assert_eq!(platform.http.requests().len(), 1);
}

#[test]
fn the_environment_names_exemptions() {
    let proxy = RawPlatform::start([]);
    let reply = reply_in_environment(&[("HTTPS_PROXY", &proxy.url), ("NO_PROXY", "other.test,platform.test")]);
    assert!(reply.starts_with("resolving the name: "), "{reply}");
    assert!(proxy.requests().is_empty());
}

#[test]
fn the_options_come_before_the_environment() {
    let platform = HttpsPlatform::start("platform.test");
    let (other, proxy) = (RawPlatform::start([]), ForwardProxy::start(platform.address));
    let reply = reply_in_environment(&[
        ("HTTPS_PROXY", &other.url),
        ("RESULT_POSTER_TEST_PROXY", &proxy.url()),
        ("RESULT_POSTER_TEST_ROOTS", &platform.roots),
    ]);
    assert_eq!(reply, "delivered");
    assert_eq!(proxy.heads().len(), 1);

    let reply = reply_in_environment(&[("HTTPS_PROXY", &other.url), ("RESULT_POSTER_TEST_PROXY", "")]);
    assert!(reply.starts_with("resolving the name: "), "{reply}");

    let exempt = [("NO_PROXY", "platform.test"), ("RESULT_POSTER_TEST_NO_PROXY", "")];
    let reply = reply_in_environment(&[&exempt[..], &[("HTTPS_PROXY", "http://proxy.invalid")]].concat());
    assert!(reply.starts_with("resolving the proxy's name: "), "{reply}");
    assert!(other.requests().is_empty());
}

#[test]
fn a_bad_variable_is_refused_by_its_name_and_only_where_it_counts() {
    let reply = reply_in_environment(&[("HTTPS_PROXY", "socks5://me:s3cret@proxy.invalid")]);
    assert_eq!(
        reply,
        "option `proxy` has a scheme other than http and https, in the environment's `HTTPS_PROXY` \
         (`proxy(\"\")` ignores it)"
    );
    let reply = reply_in_environment(&[("HTTP_PROXY", "socks5://proxy.invalid")]);
    assert!(reply.starts_with("resolving the name: "), "{reply}");
}

/// Not a test by itself: the others run it as a process of its own, in an environment of their making.
#[actix_rt::test]
async fn in_an_environment_of_its_own() {
    let Ok(url) = env::var("RESULT_POSTER_TEST_PLATFORM") else {
        return;
    };
    let mut options = Options::builder(url).auth_token(TOKEN).max_attempts(1);
    if let Ok(proxy) = env::var("RESULT_POSTER_TEST_PROXY") {
        options = options.proxy(proxy);
    }
    if let Ok(no_proxy) = env::var("RESULT_POSTER_TEST_NO_PROXY") {
        options = options.no_proxy(no_proxy);
    }
    if let Ok(roots) = env::var("RESULT_POSTER_TEST_ROOTS") {
        options = options.add_root_certificates_pem(roots);
    }
    let reply = match options.build() {
        Err(error) => error.to_string(),
        Ok(options) => match ResultPoster::start_supervised(options).send(comment()).await.unwrap() {
            Ok(_) => "delivered".into(),
            Err(error) => no_connection(&error),
        },
    };
    eprintln!("reply: {reply}");
}

/// The reply to a call to [`PLATFORM`] in a process that has of these variables only what is given.
fn reply_in_environment(variables: &[(&str, &str)]) -> String {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["proxies::in_an_environment_of_its_own", "--exact", "--nocapture"]);
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy", "request_method"] {
        child.env_remove(name).env_remove(name.to_uppercase());
    }
    child
        .env("RESULT_POSTER_TEST_PLATFORM", PLATFORM)
        .envs(variables.iter().copied());
    let output = child.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    let reply = text.lines().find_map(|line| line.strip_prefix("reply: "));
    reply.expect("a reply").to_owned()
}

fn comment() -> CreateComment {
    CreateComment::new("issue-1", BODY)
}

/// Why there was no connection, in three attempts.
async fn refusal(options: OptionsBuilder) -> String {
    let reply: Result<CallReceipt, _> = start(options).send(comment()).await.unwrap();
    assert_eq!(outcome(&reply), "transient:3");
    no_connection(&reply.unwrap_err())
}

/// Why there was no connection: how far it got, and what then happened.
fn no_connection(error: &CallError) -> String {
    assert!(!error.may_have_been_delivered());
    let AttemptError::Connect(cause) = &error.transient().unwrap().last else {
        panic!("{error:?}");
    };
    let causes = successors(Some(cause as &dyn Error), |&cause| cause.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn refuse(status: &str) -> Step {
    Step::Write(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").into())
}

fn address(url: &str) -> SocketAddr {
    url.rsplit('/').next().unwrap().parse().unwrap()
}

fn with_credentials(url: &str, user: &str, password: &str) -> String {
    let pair = format!("{}:{}", percent_encoded(user), percent_encoded(password));
    url.replace("://", &format!("://{pair}@"))
}

fn percent_encoded(text: &str) -> String {
    text.replace('@', "%40").replace(':', "%3A")
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

/// The values of a header, whose name is in lower case.
fn values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let headers = head.lines().filter_map(|line| line.split_once(": "));
    headers
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .collect()
}

/// A platform that shows a certificate for a name of which nobody knows that it is here.
struct HttpsPlatform {
    http: FakePlatform,
    address: SocketAddr,
    roots: String,
}

impl HttpsPlatform {
    fn start(name: &str) -> Self {
        let http = FakePlatform::start().unwrap();
        let authority = Authority::new();
        Self {
            address: behind_tls(&authority, name, address(&http.url())),
            roots: authority.pem(),
            http,
        }
    }

    fn options(&self, url: &str) -> OptionsBuilder {
        options(url).add_root_certificates_pem(self.roots.as_str())
    }
}

/// Where a connection by TLS leads to `address`. It ends with the test's process.
fn behind_tls(authority: &Authority, name: &str, address: SocketAddr) -> SocketAddr {
    let config = server_config(authority.issue(params(name)), &[&TLS12, &TLS13], None);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let outside = listener.local_addr().unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = TlsAcceptor::from(Arc::clone(&config));
                tokio::spawn(async move {
                    let mut outer = acceptor.accept(stream).await?;
                    let mut inner = tokio::net::TcpStream::connect(address).await?;
                    copy_bidirectional(&mut outer, &mut inner).await
                });
            }
        });
    });
    outside
}

/// A forward proxy that leads to one address, whatever it is asked for.
struct ForwardProxy {
    address: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    /// The first of each connection.
    heads: Mutex<Vec<String>>,
    /// All that was said through it, from either side.
    bytes: Mutex<Vec<u8>>,
}

impl ForwardProxy {
    fn start(to: SocketAddr) -> Self {
        Self::answering(ESTABLISHED.to_owned(), to)
    }

    /// Answers the request for a tunnel by these bytes.
    fn answering(answer: String, to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
        };
        let seen = Arc::clone(&proxy.seen);
        // It ends with the test's process.
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, platform) = (client.unwrap(), TcpStream::connect(to).unwrap());
                let (answer, seen) = (answer.clone(), Arc::clone(&seen));
                thread::spawn(move || relay(&client, &platform, &answer, &seen));
            }
        });
        proxy
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn heads(&self) -> Vec<String> {
        self.seen.heads.lock().unwrap().clone()
    }

    fn saw(&self, text: &str) -> bool {
        let bytes = self.seen.bytes.lock().unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

fn relay(mut client: &TcpStream, mut platform: &TcpStream, answer: &str, seen: &Seen) {
    let Some(head) = read_head(&mut client) else { return };
    let is_tunnel = head.starts_with("CONNECT ");
    seen.bytes.lock().unwrap().extend(head.as_bytes());
    seen.heads.lock().unwrap().push(head.clone());
    let written = if is_tunnel {
        client.write_all(answer.as_bytes())
    } else {
        platform.write_all(head.as_bytes())
    };
    if written.is_ok() {
        thread::scope(|scope| {
            scope.spawn(|| copy(client, platform, seen));
            copy(platform, client, seen);
        });
    }
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, seen: &Seen) {
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut chunk) {
        seen.bytes.lock().unwrap().extend(&chunk[..length]);
        if to.write_all(&chunk[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
