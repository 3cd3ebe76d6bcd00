//! The practice API of `rtp mock-api`. A request goes through `router`, which checks the credentials (`auth`) and the
//! limit (`rate_limit`), takes records from `users`, `products` or `recorded` pages, and lets `faults` and the
//! `connection` spoil the reply.

pub(crate) mod auth;
pub(crate) mod connection;
pub(crate) mod faults;
mod products;
mod query;
mod rate_limit;
mod recorded;
mod reply;
mod rng;
mod router;
mod users;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::auth::Login;
use self::faults::Faults;
pub(crate) use self::rate_limit::RateLimit;
pub(crate) use self::router::router;

/// The settings from the command line.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) rate_limit: Option<RateLimit>,
    pub(crate) products: u64,
    pub(crate) auth: Option<Login>,
    pub(crate) serve: Option<PathBuf>,
    pub(crate) faults: Faults,
    pub(crate) latency: Duration,
}

/// How many of the requested records a reply holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Amount {
    All,
    Half,
    None,
}

impl Amount {
    fn of(self, due: u64) -> u64 {
        match self {
            Amount::All => due,
            Amount::Half => due / 2,
            Amount::None => 0,
        }
    }
}

/// The content of the lock, even after a panic of another holder.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
