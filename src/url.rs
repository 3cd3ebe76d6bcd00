//! Addresses of the three servers, as given by flag or environment.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where a port is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerUrl {
    /// `sqlite:PATH`: a file of the embedded server.
    Sqlite(PathBuf),
}

impl ServerUrl {
    /// The file, for the embedded server.
    pub fn path(&self) -> &Path {
        match self {
            ServerUrl::Sqlite(path) => path,
        }
    }
}

impl FromStr for ServerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("sqlite", "")) => {
                Err("`sqlite:` needs the path of a file, as in sqlite:.rtp/log.db".into())
            }
            Some(("sqlite", path)) => Ok(ServerUrl::Sqlite(path.into())),
            Some((scheme, _)) => Err(format!(
                "unknown scheme `{scheme}`, allowed is: sqlite:PATH"
            )),
            None => Err(format!("`{text}` is no address, allowed is: sqlite:PATH")),
        }
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerUrl::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
        }
    }
}

/// `--event-log`.
#[derive(Clone, Debug, clap::Args)]
pub struct EventLogArg {
    /// Event log
    #[arg(
        long,
        env = "RTP_EVENT_LOG",
        value_name = "URL",
        default_value = "sqlite:.rtp/log.db"
    )]
    pub event_log: ServerUrl,
}

/// `--realtime-store`.
#[derive(Clone, Debug, clap::Args)]
pub struct RealtimeStoreArg {
    /// Real-time store
    #[arg(
        long,
        env = "RTP_REALTIME_STORE",
        value_name = "URL",
        default_value = "sqlite:.rtp/realtime.db"
    )]
    pub realtime_store: ServerUrl,
}

/// `--batch-store`.
#[derive(Clone, Debug, clap::Args)]
pub struct BatchStoreArg {
    /// Batch store
    #[arg(
        long,
        env = "RTP_BATCH_STORE",
        value_name = "URL",
        default_value = "sqlite:.rtp/batch.db"
    )]
    pub batch_store: ServerUrl,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip_and_bad_ones_say_what_is_allowed() {
        let url: ServerUrl = "sqlite:.rtp/log.db".parse().unwrap();
        assert_eq!(url.to_string(), "sqlite:.rtp/log.db");
        for (bad, message) in [
            ("sqlite:", "needs the path"),
            ("mysql://h", "unknown scheme `mysql`"),
            ("log.db", "is no address"),
        ] {
            assert!(
                bad.parse::<ServerUrl>().unwrap_err().contains(message),
                "{bad}"
            );
        }
    }
}
