//! Addresses of the three servers, as given by flag or environment.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use crate::error::Error;

/// Where a port is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerUrl {
    /// `sqlite:PATH`: a file of the embedded server.
    Sqlite(PathBuf),
    /// `kafka://HOST:PORT[,HOST:PORT]`.
    Kafka(Server),
    /// `cassandra://HOST:PORT[,HOST:PORT]`.
    Cassandra(Server),
    /// `postgres://USER@HOST:PORT/DATABASE`.
    Postgres(Server),
}

/// What the address of a server says. It never holds a password: that comes from a file or the
/// environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// User to connect as.
    pub user: Option<String>,
    /// Hosts and ports, at least one; an IPv6 address has no brackets here.
    pub hosts: Vec<(String, u16)>,
    /// What follows the hosts, without its slash: the database of PostgreSQL.
    pub path: Option<String>,
    /// Parameters, in their order.
    pub parameters: Vec<(String, String)>,
    /// Settings of the client library, from options beside the address.
    pub settings: Vec<(String, String)>,
}

impl Server {
    /// `HOST:PORT,HOST:PORT`, as in the address.
    pub fn authority(&self) -> String {
        let host = |(host, port): &(String, u16)| match host.parse::<Ipv6Addr>() {
            Ok(_) => format!("[{host}]:{port}"),
            Err(_) => format!("{host}:{port}"),
        };
        self.hosts.iter().map(host).collect::<Vec<_>>().join(",")
    }

    /// The value of a parameter; of a repeated one the last.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().rev().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// A kind of address.
#[derive(Clone, Copy, Debug)]
struct Scheme {
    name: &'static str,
    form: &'static str,
    port: u16,
    parameters: &'static [&'static str],
    make: fn(Server) -> ServerUrl,
}

const KAFKA: Scheme = Scheme {
    name: "kafka",
    form: "kafka://HOST:PORT[,HOST:PORT]",
    port: 9092,
    parameters: &["tls", "ca", "sasl"],
    make: ServerUrl::Kafka,
};
const CASSANDRA: Scheme = Scheme {
    name: "cassandra",
    form: "cassandra://HOST:PORT[,HOST:PORT]",
    port: 9042,
    parameters: &["tls", "ca", "consistency"],
    make: ServerUrl::Cassandra,
};
const POSTGRES: Scheme = Scheme {
    name: "postgres",
    form: "postgres://USER@HOST:PORT/DATABASE",
    port: 5432,
    parameters: &["sslmode", "sslrootcert"],
    make: ServerUrl::Postgres,
};

impl ServerUrl {
    fn parse(text: &str, server: &Scheme) -> Result<ServerUrl, String> {
        let allowed = format!("allowed are: sqlite:PATH and {}", server.form);
        let (scheme, rest) = text
            .split_once(':')
            .ok_or_else(|| format!("`{text}` is no address, {allowed}"))?;
        match scheme {
            "sqlite" if rest.is_empty() => {
                Err("`sqlite:` needs the path of a file, as in sqlite:.rtp/log.db".into())
            }
            "sqlite" => Ok(ServerUrl::Sqlite(rest.into())),
            name if name == server.name => {
                let rest = rest
                    .strip_prefix("//")
                    .ok_or_else(|| format!("after `{name}:` comes `//`, as in {}", server.form))?;
                parse_server(rest, server)
                    .map(server.make)
                    .map_err(|e| format!("{e}; the form is {}", server.form))
            }
            other => Err(format!("unknown scheme `{other}`, {allowed}")),
        }
    }
}

/// `[USER@]HOST[:PORT][,HOST[:PORT]][/PATH][?NAME=VALUE[&NAME=VALUE]]`
fn parse_server(text: &str, scheme: &Scheme) -> Result<Server, String> {
    let (text, query) = text.split_once('?').unwrap_or((text, ""));
    let (authority, path) = match text.split_once('/') {
        Some((authority, path)) => (authority, (!path.is_empty()).then(|| path.to_string())),
        None => (text, None),
    };
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (Some(user), hosts),
        None => (None, authority),
    };
    if user.is_some_and(|user| user.contains(':')) {
        let upper = scheme.name.to_ascii_uppercase();
        // Not repeated in the message: everybody on the machine could read it.
        return Err(format!(
            "a password does not belong in an address; give it by RTP_{upper}_PASSWORD_FILE or RTP_{upper}_PASSWORD"
        ));
    }
    let hosts = hosts
        .split(',')
        .map(|host| parse_host(host, scheme.port))
        .collect::<Result<Vec<_>, _>>()?;
    let mut parameters = Vec::new();
    for (name, value) in ::url::form_urlencoded::parse(query.as_bytes()) {
        if !scheme.parameters.contains(&&*name) {
            return Err(format!(
                "unknown parameter `{name}`, allowed are: {}",
                scheme.parameters.join(", ")
            ));
        }
        parameters.push((name.into_owned(), value.into_owned()));
    }
    Ok(Server {
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
                .ok_or_else(|| format!("`{text}` has a `[` without its `]`"))?;
            host.parse::<Ipv6Addr>()
                .map_err(|_| format!("`{host}` is no IPv6 address"))?;
            (host, port.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err("a host is missing".into());
    }
    let port = match port {
        None => default_port,
        Some(port) => match port.parse() {
            Ok(port) if port > 0 => port,
            _ => return Err(format!("`{port}` is no port, allowed is 1 to 65535")),
        },
    };
    Ok((host.to_string(), port))
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, server) = match self {
            ServerUrl::Sqlite(path) => return write!(f, "sqlite:{}", path.display()),
            ServerUrl::Kafka(server) => ("kafka", server),
            ServerUrl::Cassandra(server) => ("cassandra", server),
            ServerUrl::Postgres(server) => ("postgres", server),
        };
        write!(f, "{scheme}://")?;
        if let Some(user) = &server.user {
            write!(f, "{user}@")?;
        }
        f.write_str(&server.authority())?;
        match &server.path {
            Some(path) => write!(f, "/{path}"),
            None => Ok(()),
        }
    }
}

/// `--event-log`.
#[derive(Clone, Debug, clap::Args)]
pub struct EventLogArg {
    /// Event log: sqlite:PATH or kafka://HOST:PORT[,HOST:PORT]
    #[arg(
        long,
        env = "RTP_EVENT_LOG",
        value_name = "URL",
        default_value = "sqlite:.rtp/log.db",
        value_parser = |text: &str| ServerUrl::parse(text, &KAFKA)
    )]
    pub event_log: ServerUrl,
}

/// `-X`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct SettingArgs {
    /// Set a property of the client, librdkafka, such as linger.ms=1; may be repeated (Kafka only)
    #[arg(short = 'X', value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_string(), value.to_string())),
        _ => Err("the form is NAME=VALUE".into()),
    }
}

impl EventLogArg {
    /// The address with the settings of the client: those of `-X`, and `more` of the command's own
    /// options, each with the option's name.
    pub fn with(
        &self,
        settings: &SettingArgs,
        more: &[(&str, &str, Option<&str>)],
    ) -> crate::error::Result<ServerUrl> {
        let mut all = Vec::new();
        let mut option = None;
        for (from, name, value) in more {
            if let Some(value) = value {
                option = Some(*from);
                all.push((name.to_string(), value.to_string()));
            }
        }
        if !settings.settings.is_empty() {
            option = Some("-X");
            all.extend_from_slice(&settings.settings);
        }
        match (&self.event_log, option) {
            (ServerUrl::Kafka(server), _) => Ok(ServerUrl::Kafka(Server {
                settings: all,
                ..server.clone()
            })),
            (other, None) => Ok(other.clone()),
            (other, Some(option)) => Err(Error::invalid(format!(
                "{option} is for Kafka, and the event log is {other}"
            ))),
        }
    }
}

/// `--realtime-store`.
#[derive(Clone, Debug, clap::Args)]
pub struct RealtimeStoreArg {
    /// Real-time store: sqlite:PATH or cassandra://HOST:PORT[,HOST:PORT]
    #[arg(
        long,
        env = "RTP_REALTIME_STORE",
        value_name = "URL",
        default_value = "sqlite:.rtp/realtime.db",
        value_parser = |text: &str| ServerUrl::parse(text, &CASSANDRA)
    )]
    pub realtime_store: ServerUrl,
}

/// `--batch-store`.
#[derive(Clone, Debug, clap::Args)]
pub struct BatchStoreArg {
    /// Batch store: sqlite:PATH or postgres://USER@HOST:PORT/DATABASE
    #[arg(
        long,
        env = "RTP_BATCH_STORE",
        value_name = "URL",
        default_value = "sqlite:.rtp/batch.db",
        value_parser = |text: &str| ServerUrl::parse(text, &POSTGRES)
    )]
    pub batch_store: ServerUrl,
}

/// All three servers.
#[derive(Clone, Debug, clap::Args)]
pub struct ServerArgs {
    #[command(flatten)]
    log: EventLogArg,
    #[command(flatten)]
    settings: SettingArgs,
    /// Real-time store.
    #[command(flatten)]
    pub realtime: RealtimeStoreArg,
    /// Batch store.
    #[command(flatten)]
    pub batch: BatchStoreArg,
}

impl ServerArgs {
    /// The event log, with the settings of its client.
    pub fn event_log(&self) -> crate::error::Result<ServerUrl> {
        self.log.with(&self.settings, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for (text, scheme) in [
            ("sqlite:.rtp/log.db", &KAFKA),
            ("kafka://a:9092,b:9093", &KAFKA),
            ("kafka://[::1]:9092", &KAFKA),
            ("cassandra://me@h:9042", &CASSANDRA),
            ("postgres://me@h:5433/db", &POSTGRES),
        ] {
            let url = ServerUrl::parse(text, scheme).unwrap();
            assert_eq!(url.to_string(), text);
        }
        let ServerUrl::Kafka(server) =
            ServerUrl::parse("kafka://me@h?tls=true&ca=%2Fa%20b&sasl=plain", &KAFKA).unwrap()
        else {
            panic!("no server of Kafka");
        };
        assert_eq!(server.hosts, [("h".to_string(), 9092)]);
        assert_eq!(server.user.as_deref(), Some("me"));
        assert_eq!(server.parameter("ca"), Some("/a b"));
        assert_eq!(server.parameter("x"), None);
    }

    #[test]
    fn bad_addresses_say_what_is_allowed_and_show_no_password() {
        for (bad, message) in [
            ("sqlite:", "needs the path"),
            ("mysql://h", "unknown scheme `mysql`"),
            ("cassandra://h", "allowed are: sqlite:PATH and kafka://"),
            ("log.db", "is no address"),
            ("kafka:h:1", "comes `//`"),
            ("kafka://", "a host is missing"),
            ("kafka://h:0", "allowed is 1 to 65535"),
            ("kafka://h:70000", "allowed is 1 to 65535"),
            ("kafka://[::1", "without its `]`"),
            ("kafka://[x]:1", "no IPv6 address"),
            ("kafka://h?acks=1", "unknown parameter `acks`"),
            ("kafka://me:hunter2@h", "RTP_KAFKA_PASSWORD_FILE"),
        ] {
            let error = ServerUrl::parse(bad, &KAFKA).unwrap_err();
            assert!(error.contains(message), "{bad}: {error}");
            assert!(!error.contains("hunter2"));
        }
    }
}
