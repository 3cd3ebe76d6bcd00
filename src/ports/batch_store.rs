//! The batch store port: a table loaded in one transaction.

use std::fmt::{Debug, Display};
use std::path::Path;

use async_trait::async_trait;

use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::ports::aggregates::Aggregates;
use crate::ports::ledger::{Ledger, LoadInfo};
use crate::ports::monitor::StoreMonitor;
use crate::ports::table_reader::TableReader;
use crate::record::row::Rows;

/// A server in the role of the batch store.
#[async_trait]
pub trait BatchStores: Debug + Display + Send + Sync {
    /// Creates a dataset's tables where they are missing. One that is there but cannot take the dataset's rows is an
    /// error (`Invalid`) that lists the differences, here and whenever the store is opened.
    async fn create(&self, dataset: &Dataset) -> Result<()>;

    /// The statements that create them.
    fn statements(&self, dataset: &Dataset) -> Vec<String>;

    /// The file that the store is, if it is one.
    fn file(&self) -> Option<&Path> {
        None
    }

    /// A store for one load.
    async fn open(&self, dataset: &Dataset) -> Result<Box<dyn BatchStore>>;

    /// The dataset's table, for reading.
    async fn table(&self, dataset: &Dataset) -> Result<Box<dyn TableReader>>;

    /// What rtp itself keeps about the dataset in the store.
    async fn ledger(&self, _dataset: &Dataset) -> Result<Box<dyn Ledger>> {
        Err(Error::internal("this store has no ledger yet"))
    }

    /// The dataset's figures.
    async fn aggregates(&self, _dataset: &Dataset) -> Result<Box<dyn Aggregates>> {
        Err(Error::internal("this store has no figures yet"))
    }

    /// Watches the store.
    async fn monitor(&self, dataset: &Dataset) -> Result<Box<dyn StoreMonitor>>;
}

/// What a load does with a record whose key is already in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// The load fails and keeps nothing.
    Insert,
    /// The loaded row replaces the stored one.
    Upsert,
    /// The stored row stays.
    Ignore,
    /// The newer row by (event time, canonical digest) stays.
    #[default]
    UpdateIfNewer,
    /// The loaded rows replace all stored rows; the load fails if there are none.
    Replace,
    /// Like [`Mode::Replace`], but also without any loaded rows, if the user accepts an empty table.
    #[value(skip)]
    ReplaceOrEmpty,
}

impl Mode {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Insert => "insert",
            Mode::Upsert => "upsert",
            Mode::Ignore => "ignore",
            Mode::UpdateIfNewer => "update-if-newer",
            Mode::Replace | Mode::ReplaceOrEmpty => "replace",
        }
    }

    /// Whether the stored rows are deleted first.
    pub(crate) fn clears(self) -> bool {
        matches!(self, Mode::Replace | Mode::ReplaceOrEmpty)
    }

    /// The error of a load whose record `record`, by its number among the staged ones, is refused by the table; `other` is
    /// the record of the same load that it conflicts with, if it is that and not the table.
    pub(crate) fn refused(
        self,
        table: &str,
        objection: Error,
        record: i64,
        other: Option<i64>,
    ) -> Error {
        if let Some(other) = other {
            let (first, second) = (record.min(other), record.max(other));
            return objection.context(format_args!(
                "records {first} and {second} exclude each other in {table}, nothing was kept"
            ));
        }
        let error = objection.context(format_args!(
            "record {record} is refused by {table}, nothing was kept"
        ));
        match self {
            Mode::Insert => {
                error.hint("--mode update-if-newer accepts keys that are already in the table")
            }
            _ => error,
        }
    }

    /// An error if this many rows cannot replace the stored ones. Every adapter asks before it commits, with the
    /// number of rows written, not the number staged.
    pub(crate) fn check_written(self, written: u64, table: &str) -> Result<()> {
        match (self, written) {
            (Mode::Replace, 0) => Err(Error::missing(format!(
                "there are no rows to replace those in {table}, which are kept"
            ))),
            _ => Ok(()),
        }
    }
}

/// Loads rows of one dataset.
///
/// Guarantees: nothing that is staged is visible before [`BatchStore::merge`], which makes all of it
/// visible and durable at once or nothing; of several rows with one key in one load the newest by
/// (event time, canonical digest) counts, in every mode; staging does not lock the table; values come
/// back as they were given, an absent field is NULL even where there was a value, and keys are equal
/// only if their bytes are; a row that the store refuses fails the load as `Data` and is named by its
/// number among the staged ones, with the other one if two rows of the load exclude each other; a load by
/// [`Mode::Replace`] that writes no row fails as `Missing` and leaves the stored ones. If the dataset keeps a history,
/// every load records in the same transaction the newest staged row of each key and UTC day, and treats the recorded one as
/// its mode treats the stored one: an upsert, a replacement and an insert replace it, an update if the staged row is newer,
/// and to ignore means to record only days without a row, and nothing newer than the stored row. So the stored row of each
/// loaded key is the recorded one of its day, whatever the mode, also if an older load had left another one there. Nothing
/// is ever deleted from the history. After an error the staged rows are still there, so that a merge can be
/// retried, unless [`BatchStore::has_lost_stage`]; after a merge none are.
#[async_trait]
pub trait BatchStore: Send {
    /// Adds rows for the next merge to load.
    async fn stage(&mut self, rows: &Rows) -> Result<()>;

    /// Loads the staged rows, in one transaction with the entry of this load in the store's ledger.
    async fn merge(&mut self, mode: Mode, load: &LoadInfo) -> Result<Merged>;

    /// Number of rows in the table now, not including staged ones.
    async fn count(&mut self) -> Result<u64>;

    /// Whether the staged rows were lost with the connection to a server. The call that finds out fails
    /// as `Refused`, because a retry cannot help: the load starts over with another store.
    fn has_lost_stage(&self) -> bool {
        false
    }
}

/// The rows of a load, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Rows inserted or replaced.
    pub written: u64,
    /// Rows superseded by a newer one with the same key in the same load.
    pub deduplicated: u64,
    /// Rows that did not replace the stored one.
    pub skipped: u64,
}
