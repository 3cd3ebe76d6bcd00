//! From an address to a server. Each server has one folder: a new one takes a folder and a line in [`KINDS`].

pub mod address;
pub mod cassandra;
pub mod kafka;
pub mod postgres;
pub mod sqlite;

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::ports::batch_store::BatchStores;
use crate::ports::event_log::EventLog;
use crate::ports::realtime_store::RealtimeStores;
use crate::ports::sample_store::{SampleStore, Scope};

/// The dashboard's samples of one scope, in a file that is created if it is missing, or in memory.
pub fn samples(path: Option<&Path>, scope: &Scope) -> Result<Box<dyn SampleStore>> {
    Ok(Box::new(sqlite::samples::SqliteSamples::open(path, scope)?))
}

/// An error if a file that is there is no history of the dashboard (`Invalid`).
pub fn must_be_history(path: &Path) -> Result<()> {
    sqlite::samples::must_be_history(path)
}

/// Waits for what clients still do on threads of their own, before the process ends.
pub fn finish() {
    kafka::wait_until_closed();
}

/// Every kind of server.
const KINDS: &[ServerKind] = &[sqlite::KIND, kafka::KIND, cassandra::KIND, postgres::KIND];

/// A server named by its address. A role that it cannot play is `None`.
pub trait Server: Debug + Send + Sync {
    /// The server as the event log.
    fn event_log(self: Arc<Self>) -> Option<Arc<dyn EventLog>> {
        None
    }

    /// The server as the real-time store.
    fn realtime_store(self: Arc<Self>) -> Option<Arc<dyn RealtimeStores>> {
        None
    }

    /// The server as the batch store.
    fn batch_store(self: Arc<Self>) -> Option<Arc<dyn BatchStores>> {
        None
    }
}

/// A kind of server.
#[derive(Clone, Copy, Debug)]
pub struct ServerKind {
    /// The part of its addresses before the colon.
    pub scheme: &'static str,
    /// The form of its addresses, for messages.
    pub shown: &'static str,
    /// The roles that it can play.
    pub roles: &'static [Role],
    /// Makes one from the part after the colon; an error says what is wrong there.
    pub parse: fn(&str) -> Result<Arc<dyn Server>, String>,
}

/// What a server is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It keeps the events.
    EventLog,
    /// It keeps the newest row of each key, as events arrive.
    RealtimeStore,
    /// It keeps what batch loads wrote.
    BatchStore,
}

/// The event log at an address; an error lists the supported addresses, and shows no password.
pub fn event_log(address: &str) -> Result<Arc<dyn EventLog>, String> {
    play(address, Role::EventLog, Server::event_log)
}

/// Like [`event_log`], for the real-time store.
pub fn realtime_store(address: &str) -> Result<Arc<dyn RealtimeStores>, String> {
    play(address, Role::RealtimeStore, Server::realtime_store)
}

/// Like [`event_log`], for the batch store.
pub fn batch_store(address: &str) -> Result<Arc<dyn BatchStores>, String> {
    play(address, Role::BatchStore, Server::batch_store)
}

fn play<P>(
    address: &str,
    role: Role,
    take: impl FnOnce(Arc<dyn Server>) -> Option<P>,
) -> Result<P, String> {
    let kinds = || KINDS.iter().filter(|kind| kind.roles.contains(&role));
    let supported = || {
        let shown: Vec<&str> = kinds().map(|kind| kind.shown).collect();
        format!("supported: {}", shown.join(" and "))
    };
    let no_scheme = || format!("the address does not begin with a scheme; {}", supported());
    // What is no scheme is not shown, because it may be part of a password.
    let is_scheme = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+');
    let (scheme, rest) = address
        .split_once(':')
        .filter(|(scheme, _)| is_scheme(scheme))
        .ok_or_else(no_scheme)?;
    let unknown = || format!("unknown scheme `{scheme}`; {}", supported());
    let kind = kinds()
        .find(|kind| kind.scheme == scheme)
        .ok_or_else(unknown)?;
    take((kind.parse)(rest)?).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for text in [
            "sqlite:.rtp/log.db",
            "kafka://a:9092,b:9093",
            "kafka://[::1]:9092",
        ] {
            assert_eq!(event_log(text).unwrap().to_string(), text);
        }
        let text = "cassandra://me@h:9042";
        assert_eq!(realtime_store(text).unwrap().to_string(), text);
        let text = "postgres://me@h:5433/db";
        assert_eq!(batch_store(text).unwrap().to_string(), text);
    }

    #[test]
    fn every_kind_plays_the_roles_that_it_names() {
        for kind in KINDS {
            let server = || {
                (kind.parse)(if kind.scheme == "sqlite" {
                    "x.db"
                } else {
                    "//h/d"
                })
            };
            let plays = [
                (Role::EventLog, server().unwrap().event_log().is_some()),
                (
                    Role::RealtimeStore,
                    server().unwrap().realtime_store().is_some(),
                ),
                (Role::BatchStore, server().unwrap().batch_store().is_some()),
            ];
            for (role, plays) in plays {
                assert_eq!(kind.roles.contains(&role), plays, "{kind:?} {role:?}");
            }
        }
    }

    #[test]
    fn bad_addresses_say_what_is_supported_and_show_no_password() {
        for (bad, message) in [
            ("sqlite:", "needs the path"),
            (
                "mysql://h",
                "unknown scheme `mysql`; supported: sqlite:PATH and kafka://",
            ),
            (
                "cassandra://h",
                "unknown scheme `cassandra`; supported: sqlite:PATH",
            ),
            (
                "log.db",
                "does not begin with a scheme; supported: sqlite:PATH",
            ),
            ("kafka//me:hunter2@h", "does not begin with a scheme"),
            ("sqlite://me:hunter2@h/x", "path of a file, not"),
            ("sqlite:kafka://me:hunter2@h", "path of a file, not"),
            ("kafka://me%3Ahunter2@h", "RTP_KAFKA_PASSWORD_FILE"),
            ("kafka://me:hunter2/x@h", "`@` after the `/`"),
            ("kafka://me:x?hunter2@h", "must be a number"),
            ("kafka://h?hunter2@x", "unknown parameter; supported"),
            ("kafka://me:hunter2", "must be a number"),
            ("kafka:h:1", "expected `//`"),
            ("kafka://", "missing host"),
            ("kafka://h:0", "number from 1 to 65535"),
            ("kafka://h:70000", "number from 1 to 65535"),
            ("kafka://[::1", "without a `]`"),
            ("kafka://[x]:1", "not an IPv6 address"),
            ("kafka://h?acks=1", "unknown parameter `acks`"),
            ("kafka://me:hunter2@h", "RTP_KAFKA_PASSWORD_FILE"),
        ] {
            let error = event_log(bad).unwrap_err();
            assert!(error.contains(message), "{bad}: {error}");
            assert!(!error.contains("hunter2"), "{bad}: {error}");
        }
    }
}
