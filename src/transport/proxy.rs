//! The forward proxy between this host and the platform, selected by the rules of curl; exemptions by those of Go. Pure.

use std::{fmt, net::IpAddr};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret as _, SecretString};
use url::{Host, Url};

use crate::error::OptionsError;

/// The port of a proxy whose URL has none, as in curl.
const DEFAULT_PORT: u16 = 1080;

/// A forward proxy and its credentials.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) host: Host<String>,
    pub(crate) port: u16,
    /// Whether the proxy is itself reached by TLS.
    pub(crate) secure: bool,
    /// The value of `Proxy-Authorization`.
    pub(crate) authorization: Option<SecretString>,
}

/// The proxy of the options.
#[derive(Clone)]
pub(crate) enum ProxyChoice {
    /// The proxy that the environment names, if any.
    Environment,
    /// None.
    Direct,
    Url(SecretString),
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Proxy {
    /// The proxy for `platform`: that of the options, else that of the environment. `None` if the platform is exempt.
    ///
    /// `variable` reads the environment, and returns an empty string for a variable that is not set.
    ///
    /// # Errors
    ///
    /// If the URL of the proxy is not valid. The error names the option, and its reason the variable.
    pub(crate) fn choose(
        platform: &Url,
        choice: &ProxyChoice,
        exemptions: Option<&str>,
        variable: impl Fn(&str) -> String,
    ) -> Result<Option<Self>, OptionsError> {
        let set = |names: &[&'static str]| {
            let set = names.iter().map(|name| (*name, variable(name)));
            set.into_iter().find(|(_, value)| !value.is_empty())
        };
        let exemptions = match exemptions {
            Some(list) => list.to_owned(),
            None => set(&["no_proxy", "NO_PROXY"]).unwrap_or_default().1,
        };
        if platform
            .host()
            .is_none_or(|host| is_exempt(&host, platform.port_or_known_default(), &exemptions))
        {
            return Ok(None);
        }
        match choice {
            ProxyChoice::Environment => {}
            ProxyChoice::Direct => return Ok(None),
            ProxyChoice::Url(url) => {
                let proxy = Self::parse(url.expose_secret());
                return proxy.map(Some).map_err(|reason| OptionsError::new("proxy", reason));
            }
        }
        let names: &[_] = match platform.scheme() {
            "https" => &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
            // In a CGI program, `HTTP_PROXY` is the `Proxy` header of the client's request.
            _ if variable("REQUEST_METHOD").is_empty() => &["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"],
            _ => &["http_proxy", "all_proxy", "ALL_PROXY"],
        };
        let Some((name, text)) = set(names) else {
            return Ok(None);
        };
        let refuse = |reason| {
            let reason = format!("{reason}, in the environment's `{name}`");
            OptionsError::new("proxy", reason)
        };
        Self::parse(&text).map(Some).map_err(refuse)
    }

    /// `[http[s]://][user:password@]host[:port]`. An error does not quote the text, since it may contain a password.
    fn parse(text: &str) -> Result<Self, &'static str> {
        // The parser, which is made for browsers, would take the backslash of a domain user for the end of the host, and
        // leave out the other characters.
        if text.contains('\\') {
            return Err("contains a backslash: write the user as `DOMAIN%5Cuser`");
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err("contains whitespace or a control character");
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err("has a scheme other than http and https"),
        };
        let (authority, after) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if after.contains('@') {
            return Err("has a user or password with `/`, `?` or `#`, which must be percent-encoded");
        }
        let host_and_port = authority.rsplit('@').next().unwrap_or_default();
        if host_and_port.is_empty() || host_and_port.starts_with(':') {
            return Err("has no host");
        }
        let url = Url::parse(&format!("{scheme}://{rest}")).map_err(|_| "is not a URL")?;
        let host = url.host().ok_or("has no host")?.to_owned();
        let port = match url.port() {
            Some(0) => return Err("has a port out of range"),
            Some(port) => port,
            None if secure => 443,
            // The parser drops the scheme's default port.
            None if authority.ends_with(":80") => 80,
            None => DEFAULT_PORT,
        };
        let password = url.password().unwrap_or_default();
        let authorization = (!url.username().is_empty() || !password.is_empty()).then(|| {
            let mut pair: Vec<u8> = percent_decode_str(url.username()).collect();
            pair.push(b':');
            pair.extend(percent_decode_str(password));
            format!("Basic {}", BASE64_STANDARD.encode(pair)).into()
        });
        Ok(Self {
            host,
            port,
            secure,
            authorization,
        })
    }
}

/// Whether `host` is on loopback or matches an entry of the list, by the rules of Go's `httpproxy`:
///
/// | entry | matches |
/// |---|---|
/// | `*` | every host |
/// | `example.com` | the name and its subdomains |
/// | `.example.com`, `*.example.com` | the subdomains alone |
/// | `10.1.2.3`, `2001:db8::1`, `[2001:db8::1]` | the address |
/// | `10.0.0.0/8`, `2001:db8::/32` | the addresses of the network |
///
/// An entry other than `*` and a network may have a port. Unlike Go, an entry may also end with whitespace, and a
/// name with a dot.
fn is_exempt(host: &Host<&str>, port: Option<u16>, list: &str) -> bool {
    if is_loopback(host) {
        return true;
    }
    let entries = list.split(|c: char| c == ',' || c.is_whitespace());
    let mut entries = entries.filter(|entry| !entry.is_empty());
    entries.any(|entry| entry == "*" || matches_entry(host, port, entry))
}

fn matches_entry(host: &Host<&str>, port: Option<u16>, entry: &str) -> bool {
    let address = match host {
        Host::Domain(name) => {
            let (entry, entry_port) = split_port(entry);
            return is_port(entry_port, port) && matches_name(name, entry);
        }
        Host::Ipv4(address) => IpAddr::V4(*address),
        Host::Ipv6(address) => address.to_canonical(),
    };
    if let Some((network, bits)) = entry.split_once('/') {
        return contains_address(network, bits, address);
    }
    let (entry, entry_port) = split_port(entry);
    let entry = entry
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(entry);
    let is_same = entry.parse().is_ok_and(|entry: IpAddr| entry.to_canonical() == address);
    is_same && is_port(entry_port, port)
}

/// An entry without its port, and the port, which may be empty. An IPv6 address with a port is in brackets.
fn split_port(entry: &str) -> (&str, &str) {
    match entry.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port),
        Some(_) | None => (entry, ""),
    }
}

/// Whether the port of an entry, where it has one, is this port.
fn is_port(entry: &str, port: Option<u16>) -> bool {
    entry.is_empty() || entry.parse().ok() == port
}

fn matches_name(name: &str, entry: &str) -> bool {
    let (entry, is_included) = match entry.strip_prefix('*').unwrap_or(entry).strip_prefix('.') {
        Some(domain) => (domain, false),
        None => (entry, true),
    };
    let entry = entry.trim_end_matches('.');
    let entry = match Host::parse(entry) {
        // The platform's name is in ASCII, where it has other characters.
        Ok(Host::Domain(ascii)) if !entry.is_ascii() => ascii,
        Ok(_) | Err(_) => entry.to_owned(),
    };
    let name = name.trim_end_matches('.');
    is_same_or_subdomain(name, &entry) && (is_included || name.len() > entry.len())
}

fn is_same_or_subdomain(name: &str, entry: &str) -> bool {
    let Some(start) = name.len().checked_sub(entry.len()) else {
        return false;
    };
    let (Some(rest), Some(end)) = (name.get(..start), name.get(start..)) else {
        return false;
    };
    !entry.is_empty() && end.eq_ignore_ascii_case(entry) && (rest.is_empty() || rest.ends_with('.'))
}

/// Whether a network, such as `10.0.0.0/8`, contains this address.
fn contains_address(network: &str, bits: &str, address: IpAddr) -> bool {
    let (network, address, width) = match (network.parse(), address) {
        (Ok(IpAddr::V4(network)), IpAddr::V4(address)) => {
            (u128::from(network.to_bits()), u128::from(address.to_bits()), 32)
        }
        (Ok(IpAddr::V6(network)), IpAddr::V6(address)) => (network.to_bits(), address.to_bits(), 128_u32),
        (Ok(_) | Err(_), _) => return false,
    };
    let Some(host_bits) = bits.parse().ok().and_then(|bits| width.checked_sub(bits)) else {
        return false;
    };
    network.checked_shr(host_bits) == address.checked_shr(host_bits)
}

/// Whether `host` is on loopback, by its name or address alone: DNS can't change the result.
pub(crate) fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.to_canonical().is_loopback(),
        Host::Domain(name) => *name == "localhost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `proxy` is `Some("")` for no proxy.
    fn choose(platform: &str, proxy: Option<&str>, exemptions: Option<&str>, environment: &[(&str, &str)]) -> String {
        let choice = match proxy {
            None => ProxyChoice::Environment,
            Some("") => ProxyChoice::Direct,
            Some(url) => ProxyChoice::Url(url.into()),
        };
        let variable = |name: &str| {
            let value = environment.iter().find(|(key, _)| *key == name);
            value.map(|(_, value)| (*value).to_owned()).unwrap_or_default()
        };
        match Proxy::choose(&platform.parse().unwrap(), &choice, exemptions, variable) {
            Ok(None) => "none".into(),
            Ok(Some(proxy)) => format!("{}:{}", proxy.host, proxy.port),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_environment_names_a_proxy_for_each_scheme() {
        let all = [
            ("https_proxy", "a:1"),
            ("HTTPS_PROXY", "b:1"),
            ("http_proxy", "c:1"),
            ("HTTP_PROXY", "d:1"),
            ("all_proxy", "e:1"),
            ("ALL_PROXY", "f:1"),
        ];
        for (platform, expected) in [
            ("https://app.example.com", ["a:1", "b:1", "e:1", "e:1", "e:1", "f:1"]),
            ("http://app.example.com", ["c:1", "c:1", "c:1", "d:1", "e:1", "f:1"]),
        ] {
            for (set, expected) in expected.into_iter().enumerate() {
                assert_eq!(choose(platform, None, None, &all[set..]), expected, "{platform} {set}");
            }
            assert_eq!(choose(platform, None, None, &[]), "none");
        }
    }

    #[test]
    fn an_empty_variable_counts_as_not_set() {
        let environment = [("https_proxy", ""), ("HTTPS_PROXY", "b:1")];
        assert_eq!(choose("https://h", None, None, &environment), "b:1");
    }

    #[test]
    fn a_cgi_program_ignores_the_proxy_header_of_its_client() {
        let environment = [("HTTP_PROXY", "d:1"), ("REQUEST_METHOD", "GET")];
        assert_eq!(choose("http://h", None, None, &environment), "none");
    }

    #[test]
    fn options_take_precedence_over_the_environment() {
        let environment = [("https_proxy", "a:1"), ("no_proxy", "h")];
        for (proxy, no_proxy, expected) in [
            (None, None, "none"),
            (None, Some(""), "a:1"),
            (Some("b:2"), Some(""), "b:2"),
            (Some("b:2"), None, "none"),
            (Some(""), Some(""), "none"),
            (Some("b:2"), Some("h"), "none"),
        ] {
            assert_eq!(
                choose("https://h", proxy, no_proxy, &environment),
                expected,
                "{proxy:?} {no_proxy:?}"
            );
        }
    }

    #[test]
    fn a_platform_on_loopback_has_no_proxy() {
        for platform in [
            "http://127.0.0.1:1",
            "https://localhost",
            "http://[::1]",
            "http://[::ffff:127.0.0.1]",
        ] {
            assert_eq!(choose(platform, Some("b:2"), Some(""), &[("all_proxy", "a:1")]), "none");
        }
    }

    #[test]
    fn a_platform_is_exempt_by_name_address_or_network() {
        for (platform, list, exempt) in [
            ("https://example.com", "example.com", true),
            ("https://example.com", ".example.com", false),
            ("https://a.example.com", ".example.com", true),
            ("https://Example.com", "EXAMPLE.COM", true),
            ("https://example.com", "example.com.", true),
            ("https://example.com.", "example.com", true),
            ("https://app.example.com", "example.com", true),
            ("https://app.example.com", "other.org, .example.com", true),
            ("https://app.example.com", "other.org example.com", true),
            ("https://badexample.com", "example.com", false),
            ("https://example.com", "app.example.com", false),
            ("https://example.com", "com.example", false),
            ("https://example.com", "", false),
            ("https://example.com", ".", false),
            ("https://example.com", "*", true),
            ("https://example.com", " * ", true),
            ("https://example.com", "other.org,*", true),
            ("https://example.com", "*.example.com", false),
            ("https://a.example.com", "*.example.com", true),
            ("https://a.b.example.com", "*.EXAMPLE.com.", true),
            ("https://badexample.com", "*.example.com", false),
            ("https://example.com", "*.", false),
            ("https://example.com", "*example.com", false),
            ("https://a.example.com", "*example.com", false),
            ("https://a.example.com", "a.*.com", false),
            ("https://a.example.com", "..example.com", false),
            ("https://example.com", "*:443", false),
            ("https://bücher.example", "bücher.example", true),
            ("https://bücher.example", "BÜCHER.example:443", true),
            ("https://bücher.example", "xn--bcher-kva.example", true),
            ("https://a.bücher.example", ".bücher.example", true),
            ("https://a.bücher.example", "*.bücher.example", true),
            ("https://bücher.example", "*.bücher.example", false),
            ("https://bücher.example", "bucher.example", false),
            ("https://example.com", "example.com:443", true),
            ("https://a.example.com", "*.example.com:443", true),
            ("https://a.example.com", ".example.com:443", true),
            ("https://example.com:8443", "example.com:8443", true),
            ("https://example.com", "example.com:8443", false),
            ("http://example.com", "example.com:443", false),
            ("https://example.com", "example.com:", true),
            ("https://example.com", "example.com:x", false),
            ("https://example.com", "example.com:99999", false),
            ("https://example.com", ":443", false),
            ("https://example.com", ":", false),
            ("https://10.1.2.3", "10.1.2.3", true),
            ("https://10.1.2.3", "10.1.2", false),
            ("https://10.1.2.3", "10.0.0.0/8", true),
            ("https://10.1.2.3", "10.1.2.2/31", true),
            ("https://10.1.2.3", "10.1.2.4/31", false),
            ("https://10.1.2.3", "0.0.0.0/0", true),
            ("https://10.1.2.3", "10.1.2.3/32", true),
            ("https://10.1.2.3", "10.1.2.3/33", false),
            ("https://10.1.2.3", "10.0.0.0/x", false),
            ("https://10.1.2.3", "::/0", false),
            ("https://10.1.2.3", "10.0.0.0/8:443", false),
            ("https://10.1.2.3", "10.0.0.0/", false),
            ("https://10.1.2.3", ".1.2.3", false),
            ("https://10.1.2.3", "*.2.3", false),
            ("https://10.1.2.3", "10.1.2.3:", true),
            ("https://10.1.2.3", "10.1.2.3:443", true),
            ("https://10.1.2.3", "10.1.2.3:80", false),
            ("https://10.1.2.3", "::ffff:10.1.2.3", true),
            ("https://[::ffff:10.1.2.3]", "10.1.2.3", true),
            ("https://[::ffff:10.1.2.3]", "10.0.0.0/8", true),
            ("https://[2001:db8::1]", "[2001:db8::1]:443", true),
            ("https://[2001:db8::1]", "[2001:db8::1]:80", false),
            ("https://[2001:db8::1]", "2001:db8::1", true),
            ("https://[2001:db8::1]", "[2001:db8::1]", true),
            ("https://[2001:db8::1]", "2001:db8::/32", true),
            ("https://[2001:db8::1]", "2001:db9::/32", false),
            ("https://[2001:db8::1]", "[2001:db8::1]:", true),
            ("https://[2001:db8::1]", "[2001:db8::2]", false),
            ("https://[2001:db8::1]", "[2001:db8::]/32", false),
            ("https://[2001:db8::1]", "2001:DB8:0::1", true),
            ("https://[2001:db8::1]", "::/0", true),
            ("https://[2001:db8::1]", "::/129", false),
        ] {
            let expected = if exempt { "none" } else { "p:1" };
            assert_eq!(
                choose(platform, Some("p:1"), Some(list), &[]),
                expected,
                "{platform} {list:?}"
            );
        }
    }

    #[test]
    fn a_proxy_url_is_parsed_with_its_defaults_and_credentials() {
        for (text, expected) in [
            ("proxy", ("proxy", 1080, false, None)),
            ("http://proxy", ("proxy", 1080, false, None)),
            ("http://proxy:80", ("proxy", 80, false, None)),
            ("http://proxy:80/", ("proxy", 80, false, None)),
            ("HTTPS://proxy", ("proxy", 443, true, None)),
            ("https://proxy:8443", ("proxy", 8443, true, None)),
            ("[2001:db8::1]:3128", ("[2001:db8::1]", 3128, false, None)),
            // printf 'me:s3cret' | base64
            (
                "http://me:s3cret@proxy:3128",
                ("proxy", 3128, false, Some("Basic bWU6czNjcmV0")),
            ),
            // printf 'a@b:c:/d' | base64
            (
                "http://a%40b:c%3A%2Fd@proxy:3128",
                ("proxy", 3128, false, Some("Basic YUBiOmM6L2Q=")),
            ),
            ("me@proxy:3128", ("proxy", 3128, false, Some("Basic bWU6"))),
        ] {
            let proxy = Proxy::parse(text).unwrap();
            let authorization = proxy.authorization.as_ref().map(|value| value.expose_secret());
            assert_eq!(
                (proxy.host.to_string().as_str(), proxy.port, proxy.secure, authorization),
                expected,
                "{text}"
            );
            assert!(!format!("{proxy:?}").contains("Basic"));
        }
    }

    #[test]
    fn an_invalid_proxy_url_is_rejected_without_being_quoted() {
        for (text, reason) in [
            ("socks5://s3cret@proxy", "has a scheme other than http and https"),
            ("http://s3cret@", "has no host"),
            ("http://:3128", "has no host"),
            ("http://user:s3cret@:3128", "has no host"),
            ("http:///proxy:3128", "has no host"),
            ("http://", "has no host"),
            (
                r"http://CORP\user:s3cret@proxy:3128",
                r"contains a backslash: write the user as `DOMAIN%5Cuser`",
            ),
            (
                r"http:\\proxy:3128",
                r"contains a backslash: write the user as `DOMAIN%5Cuser`",
            ),
            (
                "http://user:s3 cret@proxy",
                "contains whitespace or a control character",
            ),
            (
                "http://user:s3\ncret@proxy",
                "contains whitespace or a control character",
            ),
            (
                "http://user:80/s3cret@proxy:3128",
                "has a user or password with `/`, `?` or `#`, which must be percent-encoded",
            ),
            (
                "http://user:8#s3cret@proxy:3128",
                "has a user or password with `/`, `?` or `#`, which must be percent-encoded",
            ),
            ("http://s3cret@proxy:99999", "is not a URL"),
            ("s3cret@proxy:0", "has a port out of range"),
        ] {
            assert_eq!(
                choose("https://h", Some(text), None, &[]),
                format!("option `proxy` {reason}")
            );
            assert_eq!(
                choose("https://h", None, None, &[("ALL_PROXY", text)]),
                format!("option `proxy` {reason}, in the environment's `ALL_PROXY`")
            );
        }
    }
}
