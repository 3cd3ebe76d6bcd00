//! The address of a server, as given by a flag or the environment.

use std::fmt;
use std::net::Ipv6Addr;

/// A parsed address of a server. It never holds a password, which comes from a file or the environment instead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// User to connect as.
    pub user: Option<String>,
    /// Hosts and ports, at least one; an IPv6 address has no brackets here.
    pub hosts: Vec<(String, u16)>,
    /// What follows the hosts, without the slash: the database, for PostgreSQL.
    pub path: Option<String>,
    /// Parameters, in the order given.
    pub parameters: Vec<(String, String)>,
    /// Settings of the client library, from options other than the address.
    pub settings: Vec<(String, String)>,
}

impl Address {
    /// `HOST:PORT,HOST:PORT`, as in the address.
    pub fn authority(&self) -> String {
        let host = |(host, port): &(String, u16)| match host.parse::<Ipv6Addr>() {
            Ok(_) => format!("[{host}]:{port}"),
            Err(_) => format!("{host}:{port}"),
        };
        self.hosts.iter().map(host).collect::<Vec<_>>().join(",")
    }

    /// The value of a parameter; the last one if it is repeated.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().rev().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// The form of the addresses of one kind of server.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// The part before the colon.
    pub scheme: &'static str,
    /// The whole form, for messages.
    pub shown: &'static str,
    /// The port if none is given.
    pub port: u16,
    /// The supported parameters.
    pub parameters: &'static [&'static str],
}

/// Parses what follows the scheme and its colon. An error says what is wrong, and repeats nothing that could belong to
/// a password, wherever the typing error is: only names that are known or plain.
pub fn parse(rest: &str, form: &Form) -> Result<Address, String> {
    let (scheme, shown) = (form.scheme, form.shown);
    let rest = rest
        .strip_prefix("//")
        .ok_or_else(|| format!("expected `//` after `{scheme}:`, as in {shown}"))?;
    parse_server(rest, form).map_err(|e| format!("{e}; expected {shown}"))
}

/// `[USER@]HOST[:PORT][,HOST[:PORT]][/PATH][?NAME=VALUE[&NAME=VALUE]]`
fn parse_server(text: &str, form: &Form) -> Result<Address, String> {
    let (text, query) = text.split_once('?').unwrap_or((text, ""));
    let (authority, path) = match text.split_once('/') {
        Some((authority, path)) => (authority, (!path.is_empty()).then(|| path.to_string())),
        None => (text, None),
    };
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (Some(user), hosts),
        None => (None, authority),
    };
    let has_password = |user: &str| user.contains(':') || user.to_ascii_lowercase().contains("%3a");
    if user.is_some_and(has_password) {
        let upper = form.scheme.to_ascii_uppercase();
        // Not repeated in the message, which everybody on the machine could read.
        return Err(format!(
            "an address must not contain a password; set RTP_{upper}_PASSWORD_FILE or RTP_{upper}_PASSWORD instead"
        ));
    }
    if path.as_ref().is_some_and(|path| path.contains('@')) {
        return Err("there is an `@` after the `/`, but a user stands before the host".into());
    }
    let hosts = hosts
        .split(',')
        .map(|host| parse_host(host, form.port))
        .collect::<Result<Vec<_>, _>>()?;
    let mut parameters = Vec::new();
    for (name, value) in ::url::form_urlencoded::parse(query.as_bytes()) {
        if !form.parameters.contains(&&*name) {
            let shown = match name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            {
                true => format!(" `{name}`"),
                false => String::new(),
            };
            return Err(format!(
                "unknown parameter{shown}; supported: {}",
                form.parameters.join(", ")
            ));
        }
        parameters.push((name.into_owned(), value.into_owned()));
    }
    Ok(Address {
        user: user.filter(|u| !u.is_empty()).map(str::to_string),
        hosts,
        path,
        parameters,
        settings: Vec::new(),
    })
}

fn parse_host(text: &str, default_port: u16) -> Result<(String, u16), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest
                .split_once(']')
                .ok_or("the host has a `[` without a `]`")?;
            host.parse::<Ipv6Addr>()
                .map_err(|_| "what is between `[` and `]` is not an IPv6 address")?;
            (host, port.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err("missing host".into());
    }
    let port = match port {
        None => default_port,
        Some(port) => match port.parse() {
            Ok(port) if port > 0 => port,
            _ => return Err("the port must be a number from 1 to 65535".into()),
        },
    };
    Ok((host.to_string(), port))
}

/// The address without its parameters, for messages.
pub fn show(f: &mut fmt::Formatter<'_>, form: &Form, address: &Address) -> fmt::Result {
    write!(f, "{}://", form.scheme)?;
    if let Some(user) = &address.user {
        write!(f, "{user}@")?;
    }
    f.write_str(&address.authority())?;
    match &address.path {
        Some(path) => write!(f, "/{path}"),
        None => Ok(()),
    }
}
