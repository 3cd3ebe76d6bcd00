//! The batch store port: a table loaded in one transaction.

#[doc(hidden)]
pub mod conformance;
pub mod postgres;
pub mod sqlite;

use async_trait::async_trait;

use crate::error::Result;
use crate::row::Rows;

/// What a load does with a key that is already there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// The load fails and keeps nothing.
    Insert,
    /// The loaded row replaces the stored one.
    Upsert,
    /// The stored row stays.
    Ignore,
    /// The newer one by (event time, canonical digest) stays.
    #[default]
    UpdateIfNewer,
    /// All stored rows go, the loaded ones take their place.
    Replace,
}

impl Mode {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Insert => "insert",
            Mode::Upsert => "upsert",
            Mode::Ignore => "ignore",
            Mode::UpdateIfNewer => "update-if-newer",
            Mode::Replace => "replace",
        }
    }
}

/// Loads rows of one dataset.
///
/// Guarantees: nothing that is staged is visible before [`BatchStore::merge`], which makes all of it
/// visible and durable at once or nothing; of several rows with one key in one load the newest by
/// (event time, canonical digest) counts, in every mode; staging does not lock the table; values come
/// back as they were given, an absent field is NULL also where there was a value, and keys are equal
/// only if their bytes are; a row that the store refuses fails the load as `Data` and is named by its
/// number among the staged ones. After an error what was staged is still there, so that a merge can
/// be tried again, unless [`BatchStore::has_lost_stage`]; after a merge nothing is.
#[async_trait]
pub trait BatchStore: Send {
    /// Adds rows to what the next merge will load.
    async fn stage(&mut self, rows: &Rows) -> Result<()>;

    /// Loads what was staged, in one transaction with the entry of `run_id` in the store's record of loads.
    async fn merge(&mut self, mode: Mode, run_id: &str) -> Result<Merged>;

    /// Whether what was staged went with the connection to a server. The call that finds out fails
    /// as `Refused`, for another one cannot help: the load starts over with another store.
    fn has_lost_stage(&self) -> bool {
        false
    }
}

/// The rows of a load, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Rows inserted or replaced.
    pub written: u64,
    /// Rows superseded by a newer one of the same key in the same load.
    pub deduplicated: u64,
    /// Rows that left the stored one in place.
    pub skipped: u64,
}
