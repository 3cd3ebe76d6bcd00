//! The embedded batch store: rows are staged in a temporary file of their own, then merged in key
//! order, which appends to the index instead of writing all over it.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rusqlite::{Connection, params};

use super::{BatchStore, Merged, Mode};
use crate::dataset::ddl::quoted;
use crate::dataset::{Dataset, ddl};
use crate::error::{Context, Error, Result};
use crate::monitor::sqlite::PROBES;
use crate::row::Rows;
use crate::sqlite::{self, MergeError, OnConflict};

/// Page cache, of the table and of the sort each.
const CACHE_KIB: u32 = 16_384;

const LOADS: &str = "CREATE TABLE IF NOT EXISTS rtp_loads (
  id INTEGER PRIMARY KEY,
  run_id TEXT NOT NULL,
  target TEXT NOT NULL,
  mode TEXT NOT NULL,
  loaded_at INTEGER NOT NULL,
  written INTEGER NOT NULL
)";

/// Creates the file and the tables, where they are missing.
pub fn create(path: &Path, dataset: &Dataset) -> Result<()> {
    let mut statements = ddl::sqlite_batch(dataset);
    statements.extend([LOADS.into(), PROBES.into()]);
    sqlite::create_tables(path, &statements)
}

/// An open store.
#[derive(Debug)]
pub struct SqliteBatchStore {
    db: Connection,
    path: PathBuf,
    dataset: Dataset,
    table: String,
}

impl SqliteBatchStore {
    /// Opens the store with an empty staging table.
    pub fn open(path: &Path, dataset: &Dataset) -> Result<Self> {
        let table = ddl::sqlite_rows(&dataset.batch.table);
        let db = sqlite::open_tables(path, &[&table, "rtp_loads"], CACHE_KIB)?;
        let store = SqliteBatchStore {
            db,
            path: path.into(),
            dataset: dataset.clone(),
            table,
        };
        store.fail(sqlite::create_stage(&store.db, dataset), "stage rows for")?;
        Ok(store)
    }

    fn load(&mut self, mode: Mode, run_id: &str) -> Result<Merged> {
        sqlite::rollback_open(&self.db).map_err(|e| sqlite::error(&e))?;
        self.db
            .execute_batch("BEGIN IMMEDIATE")
            .map_err(|e| sqlite::error(&e))?;
        let merged = self.load_open(mode, run_id);
        match merged {
            Ok(merged) => {
                self.db
                    .execute_batch("COMMIT")
                    .and_then(|()| sqlite::clear_stage(&self.db))
                    .map_err(|e| sqlite::error(&e))?;
                Ok(merged)
            }
            Err(e) => {
                sqlite::rollback_open(&self.db).map_err(|e| sqlite::error(&e))?;
                Err(e)
            }
        }
    }

    fn load_open(&self, mode: Mode, run_id: &str) -> Result<Merged> {
        let plain = |e: rusqlite::Error| sqlite::error(&e);
        let table = quoted(&self.table);
        if mode == Mode::Replace {
            self.db
                .execute_batch(&format!("DELETE FROM {table}"))
                .map_err(plain)?;
        }
        let conflict = match mode {
            Mode::Insert | Mode::Replace => OnConflict::Fail,
            Mode::Upsert => OnConflict::Overwrite,
            Mode::Ignore => OnConflict::Keep,
            Mode::UpdateIfNewer => OnConflict::KeepNewest,
        };
        let merged = sqlite::merge_stage(&self.db, &self.dataset, &self.table, 1, conflict);
        let merged = merged.map_err(|e| self.refused(&e, mode))?;
        let record = "INSERT INTO rtp_loads (run_id, target, mode, loaded_at, written) VALUES (?1, ?2, ?3, ?4, ?5)";
        self.db
            .execute(
                record,
                params![
                    run_id,
                    self.dataset.batch.table,
                    mode.name(),
                    crate::time::now_ms(),
                    merged.written
                ],
            )
            .map_err(plain)?;
        Ok(Merged {
            written: merged.written,
            deduplicated: merged.deduplicated,
            skipped: merged.skipped,
        })
    }

    /// Names the record, by its number among the good ones, that the table objects to.
    fn refused(&self, e: &MergeError, mode: Mode) -> Error {
        let error = sqlite::error(&e.error);
        let Some(record) = e.record else { return error };
        let error = error.context(format_args!(
            "record {record} is refused by {}, nothing is kept",
            self.dataset.batch.table
        ));
        match mode {
            Mode::Insert => error.hint("--mode update-if-newer takes keys that are already there"),
            _ => error,
        }
    }

    fn fail<T>(&self, result: rusqlite::Result<T>, doing: &str) -> Result<T> {
        result
            .map_err(|e| sqlite::error(&e))
            .context(format_args!("cannot {doing} {}", self.path.display()))
    }
}

#[async_trait]
impl BatchStore for SqliteBatchStore {
    async fn stage(&mut self, rows: &Rows) -> Result<()> {
        let staged = tokio::task::block_in_place(|| sqlite::stage(&self.db, rows));
        self.fail(staged, "stage rows for")
    }

    async fn merge(&mut self, mode: Mode, run_id: &str) -> Result<Merged> {
        tokio::task::block_in_place(|| self.load(mode, run_id))
            .context(format_args!("cannot load {}", self.path.display()))
    }
}
