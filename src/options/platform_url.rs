//! The rules for the platform's URL.

use url::{ParseError, Url};

use crate::{error::OptionsError, transport::can_reach};

pub(super) fn parse(text: &str) -> Result<Url, OptionsError> {
    parse_url(text).map_err(|reason| OptionsError::new("platform_url", reason))
}

fn parse_url(text: &str) -> Result<Url, String> {
    let refuse = |reason: &str| Err(reason.to_owned());
    if text.trim().is_empty() {
        return refuse("is empty");
    }
    // The parser, which is made for browsers, would silently repair these.
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
        return refuse("contains whitespace, a control character or a backslash");
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return refuse("has no scheme: begin it with `https://`");
    };
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return refuse("has a scheme other than http and https");
    }
    if rest.starts_with('/') {
        return refuse("has no host");
    }
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(ParseError::EmptyHost) => return refuse("has no host"),
        Err(ParseError::InvalidPort) => return refuse("has a port out of range"),
        Err(error) => return Err(format!("is not a URL: {error}")),
    };
    if url.port() == Some(0) {
        return refuse("has a port out of range");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refuse("contains credentials: pass the token as `auth_token`");
    }
    if url.query().is_some() {
        return refuse("has a query");
    }
    if url.fragment().is_some() {
        return refuse("has a fragment");
    }
    if !can_reach(url.as_str()) {
        return refuse("has a host that can't be reached by HTTP");
    }
    Ok(url)
}
