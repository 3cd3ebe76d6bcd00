//! The embedded batch store: rows are staged in a temporary file, then merged in key order, which appends to the
//! index instead of writing all over it.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rusqlite::{Connection, params};

use crate::dataset::Dataset;
use crate::dataset::ddl::quoted;
use crate::error::{Context, Error, Result};
use crate::ports::batch_store::{BatchStore, Merged, Mode};
use crate::record::row::Rows;
use crate::servers::sqlite::monitor::PROBES;
use crate::servers::sqlite::{self, MergeError, OnConflict, ddl};

/// Page cache, for the table and for the sort each.
const CACHE_KIB: u32 = 16_384;

const LOADS: &str = "CREATE TABLE IF NOT EXISTS rtp_loads (
  id INTEGER PRIMARY KEY,
  run_id TEXT NOT NULL,
  target TEXT NOT NULL,
  mode TEXT NOT NULL,
  loaded_at INTEGER NOT NULL,
  written INTEGER NOT NULL
)";

/// Creates the file and the tables where they are missing.
pub fn create(path: &Path, dataset: &Dataset) -> Result<()> {
    let mut statements = ddl::batch(dataset);
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
        let table = ddl::rows_of(&dataset.batch.table);
        let db = sqlite::open_tables(path, &[&table, "rtp_loads"], CACHE_KIB)?;
        let store = SqliteBatchStore {
            db,
            path: path.into(),
            dataset: dataset.clone(),
            table,
        };
        sqlite::fail(
            sqlite::create_stage(&store.db, dataset),
            "stage rows for",
            path,
        )?;
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
        if mode.clears() {
            self.db
                .execute_batch(&format!("DELETE FROM {table}"))
                .map_err(plain)?;
        }
        let conflict = match mode {
            Mode::Insert | Mode::Replace | Mode::ReplaceOrEmpty => OnConflict::Fail,
            Mode::Upsert => OnConflict::Overwrite,
            Mode::Ignore => OnConflict::Keep,
            Mode::UpdateIfNewer => OnConflict::KeepNewest,
        };
        let merged = sqlite::merge_stage(&self.db, &self.dataset, &self.table, 1, conflict);
        let merged = merged.map_err(|e| self.refused(&e, mode))?;
        mode.check_written(merged.written, &self.dataset.batch.table)?;
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
        Ok(merged)
    }

    /// Names the record that the table rejects, by its number among the good ones.
    fn refused(&self, e: &MergeError, mode: Mode) -> Error {
        let error = sqlite::error(&e.error);
        let Some(record) = e.record else { return error };
        let error = error.context(format_args!(
            "record {record} is refused by {}, nothing was kept",
            self.dataset.batch.table
        ));
        match mode {
            Mode::Insert => {
                error.hint("--mode update-if-newer accepts keys that are already in the table")
            }
            _ => error,
        }
    }
}

#[async_trait]
impl BatchStore for SqliteBatchStore {
    async fn stage(&mut self, rows: &Rows) -> Result<()> {
        let staged = tokio::task::block_in_place(|| sqlite::stage(&self.db, rows));
        sqlite::fail(staged, "stage rows for", &self.path)
    }

    async fn merge(&mut self, mode: Mode, run_id: &str) -> Result<Merged> {
        tokio::task::block_in_place(|| self.load(mode, run_id))
            .context(format_args!("cannot load {}", self.path.display()))
    }

    async fn count(&mut self) -> Result<u64> {
        let count = format!("SELECT count(*) FROM {}", quoted(&self.table));
        let counted =
            tokio::task::block_in_place(|| self.db.query_row(&count, [], |row| row.get(0)));
        sqlite::fail(counted, "count the rows of", &self.path)
    }
}
