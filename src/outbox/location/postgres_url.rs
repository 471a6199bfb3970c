//! The URL of a PostgreSQL server. Its errors quote nothing that may be a part of a password.

use std::fmt;

use tokio_postgres::config::{Config, Host, SslMode, TargetSessionAttrs};

/// The parameters of libpq that an operator may have in a URL, and that are not supported.
const UNSUPPORTED: [(&str, &str); 8] = [
    ("sslrootcert", "use `add_root_certificates_pem`"),
    ("sslcert", "client certificates are not supported"),
    ("sslkey", "client certificates are not supported"),
    ("sslpassword", "client certificates are not supported"),
    ("passfile", "use `password_file`"),
    ("service", "name the server in the URL"),
    ("gssencmode", "GSS encryption is not supported"),
    ("require_auth", "leave it out"),
];

/// A URL that was read.
#[derive(Clone)]
pub(super) struct PostgresUrl {
    pub(super) config: Config,
}

impl PostgresUrl {
    /// # Errors
    ///
    /// The fault of a URL, and what to do about it.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let rest = ["postgres://", "postgresql://"]
            .into_iter()
            .find_map(|scheme| url.strip_prefix(scheme));
        let Some(rest) = rest else {
            return Err("does not begin with `postgres://`".into());
        };
        let (login, after_login) = rest.split_once('@').unwrap_or(("", rest));
        let (hosts, query) = after_login.split_once('?').unwrap_or((after_login, ""));
        // Otherwise a part of the password would be taken for a host.
        if login.contains(['/', '?']) || hosts.contains('@') {
            return Err("has a password with `@`, `/` or `?`: write them as `%40`, `%2F` and `%3F`".into());
        }
        let (mode, others) = split_ssl_mode(query)?;
        let without_query = url
            .strip_suffix(query)
            .map_or(url, |start| start.strip_suffix('?').unwrap_or(start));
        let url = match others.as_str() {
            "" => without_query.to_owned(),
            others => format!("{without_query}?{others}"),
        };
        let mut config: Config = url.parse().map_err(|error| reason(&error))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err("names no host".into());
        }
        if config.get_user().is_none_or(str::is_empty) {
            return Err("names no user".into());
        }
        if config.get_hosts().len() > 1 && config.get_target_session_attrs() == TargetSessionAttrs::Any {
            // Not a replica that only reads.
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let mut url = Self { config };
        let mode = match (mode, url.is_local()) {
            (Some(Mode::Disable), _) | (None, true) => SslMode::Disable,
            (Some(Mode::Require), _) | (None, false) => SslMode::Require,
            (Some(Mode::Prefer), true) => SslMode::Prefer,
            (Some(Mode::Prefer), false) => {
                return Err("may send calls in plaintext: use `sslmode=require`, or `sslmode=disable`".into());
            }
        };
        url.config.ssl_mode(mode);
        Ok(url)
    }

    /// Whether all hosts are on loopback or Unix sockets.
    fn is_local(&self) -> bool {
        let hosts = self.config.get_hosts().iter().all(|host| match host {
            Host::Tcp(name) => is_loopback(name),
            Host::Unix(_) => true,
        });
        hosts && self.config.get_hostaddrs().iter().all(|address| address.is_loopback())
    }
}

fn is_loopback(name: &str) -> bool {
    name == "localhost"
        || name
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

#[derive(Clone, Copy)]
enum Mode {
    Disable,
    Prefer,
    Require,
}

/// The mode of TLS in a query, and the other parameters.
fn split_ssl_mode(query: &str) -> Result<(Option<Mode>, String), String> {
    let mut mode = None;
    let mut others = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if let Some((key, advice)) = UNSUPPORTED.into_iter().find(|(unsupported, _)| *unsupported == key) {
            return Err(format!("has the parameter `{key}`: {advice}"));
        }
        if key != "sslmode" {
            others.push(parameter);
            continue;
        }
        mode = Some(match value {
            "disable" => Mode::Disable,
            "allow" | "prefer" => Mode::Prefer,
            "require" | "verify-ca" | "verify-full" => Mode::Require,
            _ => return Err("has an unknown `sslmode`: use `require` or `disable`".into()),
        });
    }
    Ok((mode, others.join("&")))
}

/// The reason of the parser, without the text of the URL.
fn reason(error: &tokio_postgres::Error) -> String {
    let cause = std::error::Error::source(error)
        .map(ToString::to_string)
        .unwrap_or_default();
    // These name a parameter that the parser knows.
    match cause
        .strip_prefix("invalid value for option `")
        .and_then(|rest| rest.strip_suffix('`'))
    {
        Some(option) => format!("has an invalid `{option}`"),
        None if cause.starts_with("unknown option") => "has an unknown parameter".into(),
        None => "is not a valid URL of a PostgreSQL server".into(),
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        if let Some(user) = self.config.get_user() {
            write!(f, "{user}@")?;
        }
        let ports = self.config.get_ports();
        let mut separator = "";
        for (at, host) in self.config.get_hosts().iter().enumerate() {
            let port = ports.get(at).or_else(|| ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) if name.contains(':') => write!(f, "{separator}[{name}]:{port}")?,
                Host::Tcp(name) => write!(f, "{separator}{name}:{port}")?,
                Host::Unix(path) => write!(f, "{separator}{}", path.display())?,
            }
            separator = ",";
        }
        if self.config.get_hosts().is_empty() {
            for address in self.config.get_hostaddrs() {
                write!(f, "{separator}{address}")?;
                separator = ",";
            }
        }
        write!(
            f,
            "/{}",
            self.config.get_dbname().or(self.config.get_user()).unwrap_or_default()
        )
    }
}
