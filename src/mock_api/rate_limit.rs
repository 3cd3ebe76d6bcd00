//! The limit of randomuser.me: a number of users per period, for each client.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::lock;

/// A number of users per period, for each client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateLimit {
    users: u64,
    window: Duration,
}

impl RateLimit {
    /// Parses `USERS/DURATION`.
    pub(crate) fn parse(text: &str) -> Result<RateLimit, String> {
        let wrong =
            || format!("invalid limit `{text}`; expected USERS/DURATION, for example 20000/300s");
        let (users, window) = text.split_once('/').ok_or_else(wrong)?;
        let users = users.trim().parse().map_err(|_| wrong())?;
        let window = crate::time::parse_duration(window)?;
        if window.is_zero() {
            return Err(wrong());
        }
        Ok(RateLimit { users, window })
    }
}

/// The number of users that each client has received in the current window.
#[derive(Debug)]
pub(super) struct Given(Mutex<ClientWindow>);

#[derive(Debug)]
struct ClientWindow {
    since: Instant,
    users: HashMap<IpAddr, u64>,
}

impl Given {
    /// None yet.
    pub(super) fn new() -> Self {
        Given(Mutex::new(ClientWindow {
            since: Instant::now(),
            users: HashMap::new(),
        }))
    }

    /// Counts the users about to be served, or returns how many the client has received if that exceeds the limit.
    pub(super) fn admit(&self, limit: RateLimit, client: IpAddr, users: u64) -> Result<(), u64> {
        let mut window = lock(&self.0);
        if window.since.elapsed() >= limit.window {
            window.since = Instant::now();
            window.users.clear();
        }
        let had = window.users.entry(client).or_default();
        if *had >= limit.users {
            return Err(*had);
        }
        *had += users;
        Ok(())
    }
}
