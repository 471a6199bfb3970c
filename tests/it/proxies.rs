//! Forward proxies: requests through them, what they can see, and their faults.

use std::{env, net::SocketAddr, process::Command, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use result_poster::{
    AttemptError, CallError, CreateComment, Options, OptionsBuilder, ResultPoster, testing::FakePlatform,
};
use socket2::{Domain, Socket, Type};

use crate::support::{
    TOKEN, actor_without_token, builder,
    cases::input,
    errors::{printed, texts},
    log::{keep_log, logged},
    options, outcome,
    proxy::{ESTABLISHED, ForwardProxy},
    raw_server::{RawStep, ScriptedServer, headers, response},
    start,
    tls::{Authority, terminate_tls},
};

/// A platform whose name does not resolve: only a proxy leads to it.
const PLATFORM: &str = "https://platform.test";

/// A text that only the platform may see.
const BODY: &str = "for the platform's eyes";

/// Proxy credentials that need percent-encoding.
const USER: &str = "w@rker";
const PASSWORD: &str = "pr0xy:s3cret";

#[actix_rt::test]
async fn an_https_platform_is_reached_through_one_opaque_tunnel() {
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
async fn an_http_platform_is_requested_by_its_absolute_url() {
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
async fn a_token_over_plaintext_http_is_refused_with_a_proxy_too() {
    let options = options("http://platform.test").proxy("http://proxy.test");
    assert_eq!(options.build().unwrap_err().option, "platform_url");
}

#[test]
fn a_token_is_required_with_a_proxy_too() {
    for platform in [PLATFORM, "http://platform.test"] {
        let options = builder(platform).allow_plaintext_http(true).proxy("http://proxy.test");
        for options in [options.clone(), options.auth_token("")] {
            assert_eq!(options.build().unwrap_err().option, "auth_token");
        }
    }
}

#[actix_rt::test]
async fn a_call_without_a_token_does_not_reach_the_proxy() {
    let proxy = ScriptedServer::start([]);
    let options = builder("http://platform.test")
        .allow_plaintext_http(true)
        .credential_actor(actor_without_token().await);
    let reply = start(options.proxy(proxy.url())).send(comment()).await.unwrap();
    assert_eq!(outcome(&reply), "no credentials");
    assert!(proxy.requests().is_empty());
}

#[actix_rt::test]
async fn a_loopback_platform_bypasses_the_proxy() {
    let proxy = ScriptedServer::start([]);
    let through = |options: OptionsBuilder| options.proxy(proxy.url()).proxy_exemptions("");

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
async fn an_exempt_platform_bypasses_the_proxy() {
    let proxy = ScriptedServer::start([]);
    for no_proxy in ["platform.test", "other.test, test", "*"] {
        let options = options(PLATFORM).proxy(proxy.url()).proxy_exemptions(no_proxy);
        let causes = connection_failure(options).await;
        assert!(causes.starts_with("resolving the name: "), "{causes}");
    }
    assert!(proxy.requests().is_empty());
}

#[test]
fn an_empty_proxy_url_is_refused() {
    let error = options(PLATFORM).proxy("").build().unwrap_err();
    assert_eq!(error.to_string(), "option `proxy` has no host");
}

#[test]
fn a_domain_user_in_a_proxy_url_is_refused_by_its_backslash() {
    let url = input("proxy-url", "a domain user");
    let error = options(PLATFORM).proxy(url.clone()).build().unwrap_err();
    assert_eq!(
        error.to_string(),
        "option `proxy` contains a backslash: write the user as `DOMAIN%5Cuser`"
    );
    options(PLATFORM).proxy(url.replace('\\', "%5C")).build().unwrap();
}

#[actix_rt::test]
async fn a_platform_under_a_wild_card_is_reached_without_the_proxy() {
    let case = input("no-proxy", "a wild card");
    let (list, platform) = case.split_once(" with platform ").unwrap();
    for (platform, goes_through_proxy) in [(platform, false), ("example.com", true)] {
        let options = options(format!("https://{platform}.invalid"));
        // Nobody listens there.
        let options = options
            .proxy("http://127.0.0.1:1")
            .proxy_exemptions(format!("{list}.invalid"));
        let causes = connection_failure(options).await;
        assert_eq!(causes.contains("the proxy"), goes_through_proxy, "{platform}: {causes}");
    }
}

#[actix_rt::test]
async fn no_proxy_is_used_after_without_proxy() {
    let causes = connection_failure(options(PLATFORM).without_proxy()).await;
    assert!(causes.starts_with("resolving the name: "), "{causes}");
}

#[actix_rt::test]
async fn proxy_credentials_are_sent_to_the_proxy_only() {
    let platform = HttpsPlatform::start("platform.test");
    let proxy = ForwardProxy::start(platform.address);
    let proxy_url = with_credentials(&proxy.url(), USER, PASSWORD);
    let poster = start(platform.options(PLATFORM).proxy(proxy_url));
    poster.send(comment()).await.unwrap().unwrap();
    assert_eq!(
        proxy.heads(),
        [format!(
            "CONNECT platform.test:443 HTTP/1.1\r\nHost: platform.test:443\r\nProxy-Authorization: {}\r\n\r\n",
            basic(USER, PASSWORD)
        )]
    );
    let requests = platform.http.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].header("proxy-authorization"), None);
}

#[actix_rt::test]
async fn proxy_credentials_are_never_printed_or_logged() {
    keep_log();
    let mut shown = Vec::new();

    // For tunnels: a proxy that opens one, and a proxy that refuses.
    let platform = HttpsPlatform::start("platform.test");
    let relay = ForwardProxy::start(platform.address);
    let refusing = ScriptedServer::start(vec![refusal(407); 3]);
    for (proxy_url, expected) in [(relay.url(), "ok"), (refusing.url(), "transient:3")] {
        let proxy_url = with_credentials(&proxy_url, USER, PASSWORD);
        let options = platform.options(PLATFORM).proxy(proxy_url);
        shown.extend([
            format!("{options:?}"),
            format!("{:?}", options.clone().build().unwrap()),
        ]);
        let reply = start(options).send(comment()).await.unwrap();
        assert_eq!(outcome(&reply), expected);
        shown.extend(printed(&reply));
    }

    // For plain requests: a proxy that echoes each request.
    let echo = ScriptedServer::start([200, 400, 401, 404, 407, 500, 503].map(RawStep::Echo));
    let options = options("http://platform.test")
        .allow_plaintext_http(true)
        .max_attempts(1);
    let poster = start(options.proxy(with_credentials(&echo.url(), USER, PASSWORD)));
    for _ in 0..7 {
        shown.extend(printed(&poster.send(comment()).await.unwrap()));
    }
    assert!(
        shown
            .iter()
            .any(|line| line.contains("proxy-authorization: Basic [REDACTED]"))
    );

    let lines = logged();
    assert!(lines.iter().any(|line| line.contains("the proxy answered 407")));
    let secrets = [percent_encoded(PASSWORD), PASSWORD.to_owned(), basic(USER, PASSWORD)];
    for line in shown.iter().chain(&lines) {
        assert!(!secrets.iter().any(|secret| line.contains(secret)), "{line}");
    }
}

#[actix_rt::test]
async fn a_refused_tunnel_is_transient_with_its_cause() {
    let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(1024 * 1024));
    for (step, cause) in [
        (refusal(407), "the proxy answered 407"),
        (refusal(403), "the proxy answered 403"),
        (refusal(502), "the proxy answered 502"),
        (refusal(302), "the proxy answered 302"),
        (
            RawStep::write("SSH-2.0-OpenSSH\r\n"),
            "the proxy's response is not HTTP",
        ),
        (
            RawStep::write(format!("{ESTABLISHED}more")),
            "the proxy sent data after its response",
        ),
        (RawStep::write(endless), "the head of the proxy's response is too long"),
        (RawStep::write_and_close(""), "the proxy closed the connection"),
        (
            RawStep::write_and_close("HTTP/1.1 200 OK\r\n"),
            "the proxy closed the connection",
        ),
    ] {
        let proxy = ScriptedServer::start(vec![step; 3]);
        let causes = connection_failure(options(PLATFORM).proxy(proxy.url())).await;
        assert_eq!(causes, format!("asking the proxy for a tunnel: {cause}"));
        assert_eq!(proxy.requests().len(), 3);
    }
}

#[actix_rt::test]
async fn a_hanging_proxy_reaches_the_connect_timeout() {
    let proxy = ScriptedServer::start(vec![RawStep::Silence; 3]);
    for (url, phase) in [
        (proxy.url(), "asking the proxy for a tunnel"),
        (
            proxy.url().replace("http:", "https:"),
            "in the TLS handshake with the proxy",
        ),
    ] {
        let options = options(PLATFORM).connect_timeout(Duration::from_millis(200));
        assert_eq!(
            connection_failure(options.proxy(url)).await,
            format!("{phase}: timed out")
        );
    }
}

#[actix_rt::test]
async fn an_unreachable_proxy_is_named_in_the_error() {
    // Bound, so that no other test gets the port, but not listening.
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
            let causes = connection_failure(options.clone().proxy(proxy)).await;
            assert!(causes.starts_with(&cause), "{causes}");
        }
    }
}

#[actix_rt::test]
async fn interim_responses_to_connect_are_skipped() {
    for interim in [
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n",
    ] {
        let platform = HttpsPlatform::start("platform.test");
        let proxy = ForwardProxy::start_answering(interim.repeat(2) + ESTABLISHED, platform.address);
        let poster = start(platform.options(PLATFORM).proxy(proxy.url()));
        poster.send(comment()).await.unwrap().unwrap();
    }
}

#[actix_rt::test]
async fn an_untrusted_platform_is_refused_inside_the_tunnel() {
    let platform = HttpsPlatform::start("other.test");
    let proxy = ForwardProxy::start(platform.address);
    for (options, cause) in [
        (platform.options(PLATFORM), "not valid for name"),
        (options("https://other.test"), "UnknownIssuer"),
    ] {
        let causes = connection_failure(options.proxy(proxy.url())).await;
        assert!(
            causes.starts_with("in the TLS handshake: invalid peer certificate: ") && causes.contains(cause),
            "{causes}"
        );
    }
    assert!(platform.http.requests().is_empty());
}

#[actix_rt::test]
async fn a_tunnel_through_a_tls_proxy_is_supported() {
    let platform = HttpsPlatform::start("platform.test");
    let proxy = ForwardProxy::start(platform.address);
    let authority = Authority::new();
    let url = format!(
        "https://localhost:{}",
        terminate_tls(&authority, "localhost", proxy.address()).port()
    );
    let options = platform.options(PLATFORM).proxy(with_credentials(&url, "me", "s3cret"));

    let causes = connection_failure(options.clone()).await;
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
async fn a_plaintext_request_through_a_tls_proxy_is_supported() {
    let platform = FakePlatform::start().unwrap();
    let proxy = ForwardProxy::start(address(&platform.url()));
    let authority = Authority::new();
    let port = terminate_tls(&authority, "localhost", proxy.address()).port();
    let options = options("http://platform.test")
        .allow_plaintext_http(true)
        .proxy(format!("https://localhost:{port}"))
        .add_root_certificates_pem(authority.pem());
    start(options).send(comment()).await.unwrap().unwrap();
    assert!(proxy.heads()[0].starts_with("POST http://platform.test/api/"));
    assert_eq!(platform.requests().len(), 1);
}

#[test]
fn the_proxy_is_read_from_the_environment() {
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
fn exemptions_are_read_from_the_environment() {
    let proxy = ScriptedServer::start([]);
    let reply = reply_in_environment(&[("HTTPS_PROXY", &proxy.url()), ("NO_PROXY", "other.test,platform.test")]);
    assert!(reply.starts_with("resolving the name: "), "{reply}");
    assert!(proxy.requests().is_empty());
}

#[test]
fn options_take_precedence_over_the_environment() {
    let platform = HttpsPlatform::start("platform.test");
    let (other, proxy) = (ScriptedServer::start([]), ForwardProxy::start(platform.address));
    let reply = reply_in_environment(&[
        ("HTTPS_PROXY", &other.url()),
        ("RESULT_POSTER_TEST_PROXY", &proxy.url()),
        ("RESULT_POSTER_TEST_ROOTS", &platform.roots),
    ]);
    assert_eq!(reply, "delivered");
    assert_eq!(proxy.heads().len(), 1);

    let reply = reply_in_environment(&[("HTTPS_PROXY", &other.url()), ("RESULT_POSTER_TEST_WITHOUT_PROXY", "")]);
    assert!(reply.starts_with("resolving the name: "), "{reply}");

    let exempt = [("NO_PROXY", "platform.test"), ("RESULT_POSTER_TEST_NO_PROXY", "")];
    let reply = reply_in_environment(&[&exempt[..], &[("HTTPS_PROXY", "http://proxy.invalid")]].concat());
    assert!(reply.starts_with("resolving the proxy's name: "), "{reply}");
    assert!(other.requests().is_empty());
}

#[test]
fn an_invalid_variable_is_refused_by_its_name() {
    let reply = reply_in_environment(&[("HTTPS_PROXY", "socks5://me:s3cret@proxy.invalid")]);
    assert_eq!(
        reply,
        "option `proxy` has a scheme other than http and https, in the environment's `HTTPS_PROXY`"
    );
}

#[test]
fn an_invalid_variable_for_another_scheme_is_ignored() {
    let reply = reply_in_environment(&[("HTTP_PROXY", "socks5://proxy.invalid")]);
    assert!(reply.starts_with("resolving the name: "), "{reply}");
}

/// Not a test by itself, but a child process of others: it sends a call in the environment that they choose.
#[actix_rt::test]
async fn child_process_sends_a_call() {
    let Ok(url) = env::var("RESULT_POSTER_TEST_PLATFORM") else {
        return;
    };
    let mut options = Options::builder(url).auth_token(TOKEN).max_attempts(1);
    if let Ok(proxy) = env::var("RESULT_POSTER_TEST_PROXY") {
        options = options.proxy(proxy);
    }
    if env::var_os("RESULT_POSTER_TEST_WITHOUT_PROXY").is_some() {
        options = options.without_proxy();
    }
    if let Ok(no_proxy) = env::var("RESULT_POSTER_TEST_NO_PROXY") {
        options = options.proxy_exemptions(no_proxy);
    }
    if let Ok(roots) = env::var("RESULT_POSTER_TEST_ROOTS") {
        options = options.add_root_certificates_pem(roots);
    }
    let reply = match options.build() {
        Err(error) => error.to_string(),
        Ok(options) => match ResultPoster::start_supervised(options).send(comment()).await.unwrap() {
            Ok(_) => "delivered".into(),
            Err(error) => connect_error(&error),
        },
    };
    eprintln!("reply: {reply}");
}

/// The reply to a call to [`PLATFORM`] in a process with only these proxy variables.
fn reply_in_environment(variables: &[(&str, &str)]) -> String {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["proxies::child_process_sends_a_call", "--exact", "--nocapture"]);
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

/// Why none of three attempts got a connection.
async fn connection_failure(options: OptionsBuilder) -> String {
    let reply = start(options).send(comment()).await.unwrap();
    assert_eq!(outcome(&reply), "transient:3");
    connect_error(&reply.unwrap_err())
}

/// Why there was no connection: the phase and the cause.
fn connect_error(error: &CallError) -> String {
    assert!(!error.may_have_been_delivered());
    let AttemptError::Connect(cause) = &error.transient().unwrap().last else {
        panic!("{error:?}");
    };
    texts(&**cause).join(": ")
}

/// The proxy's answer to a call or to `CONNECT`.
fn refusal(status: u16) -> RawStep {
    RawStep::write(response(status, "", ""))
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

fn values<'a>(head: &'a str, name: &'a str) -> Vec<&'a str> {
    headers(head, name).collect()
}

/// A platform with a certificate for a name that does not resolve to it.
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
            address: terminate_tls(&authority, name, address(&http.url())),
            roots: authority.pem(),
            http,
        }
    }

    fn options(&self, url: &str) -> OptionsBuilder {
        options(url).add_root_certificates_pem(self.roots.as_str())
    }
}
