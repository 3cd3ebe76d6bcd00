//! The embedded batch store: rows are staged in a temporary file of their own, then merged in key
//! order, which appends to the index instead of writing all over it.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rusqlite::types::{ToSqlOutput, Value as Stored};
use rusqlite::{Connection, params};

use super::{BatchStore, Merged, Mode};
use crate::dataset::ddl::quoted;
use crate::dataset::{Dataset, ddl};
use crate::error::{Context, Error, Result};
use crate::monitor::sqlite::PROBES;
use crate::row::Rows;
use crate::sqlite::{self, OnConflict};

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
        let columns: Vec<String> = dataset
            .fields
            .iter()
            .map(|f| quoted(&f.name))
            .chain(["rtp_digest".into()])
            .collect();
        let script = format!(
            "CREATE TEMP TABLE rtp_stage (rtp_line INTEGER PRIMARY KEY, {});",
            columns.join(", ")
        );
        let store = SqliteBatchStore {
            db,
            path: path.into(),
            dataset: dataset.clone(),
            table,
        };
        store.fail(store.db.execute_batch(&script), "stage rows for")?;
        Ok(store)
    }

    fn write_stage(&mut self, rows: &Rows) -> rusqlite::Result<()> {
        sqlite::rollback_open(&self.db)?;
        self.db.execute_batch("BEGIN")?;
        let width = self.dataset.fields.len();
        let places = vec!["?"; width + 1].join(", ");
        let mut insert = self
            .db
            .prepare_cached(&format!("INSERT INTO rtp_stage VALUES (NULL, {places})"))?;
        for i in 0..rows.len() {
            sqlite::bind(&mut insert, rows.values(i))?;
            insert.raw_bind_parameter(width + 1, rows.meta(i).digest.0.as_slice())?;
            insert.raw_execute()?;
        }
        drop(insert);
        self.db.execute_batch("COMMIT")
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
                    .execute_batch("COMMIT; DELETE FROM temp.rtp_stage")
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
        let upsert = sqlite::upsert(&self.dataset, &self.table, &["rtp_digest"], conflict);
        let mut upsert = self.db.prepare(&upsert).map_err(plain)?;
        let (key, time) = (
            quoted(&self.dataset.key().name),
            quoted(&self.dataset.time().name),
        );
        let mut select = self
            .db
            .prepare(&format!(
                "SELECT * FROM rtp_stage ORDER BY {key}, {time} DESC, rtp_digest DESC"
            ))
            .map_err(plain)?;
        let key_column = 1 + self.dataset.event.key;
        let columns = select.column_count();
        let mut last_key: Option<Stored> = None;
        let mut merged = Merged::default();
        let mut rows = select.query([]).map_err(plain)?;
        while let Some(row) = rows.next().map_err(plain)? {
            let this_key: Stored = row.get(key_column).map_err(plain)?;
            if last_key.as_ref() == Some(&this_key) {
                merged.deduplicated += 1;
                continue;
            }
            for column in 1..columns {
                upsert
                    .raw_bind_parameter(
                        column,
                        ToSqlOutput::Borrowed(row.get_ref(column).map_err(plain)?),
                    )
                    .map_err(plain)?;
            }
            match upsert.raw_execute() {
                Ok(0) => merged.skipped += 1,
                Ok(_) => merged.written += 1,
                Err(e) => return Err(self.refused(&e, row, mode)),
            }
            last_key = Some(this_key);
        }
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

    /// Names the record, by its number among the good ones, that the table objects to.
    fn refused(&self, e: &rusqlite::Error, row: &rusqlite::Row<'_>, mode: Mode) -> Error {
        let number: i64 = row.get(0).unwrap_or_default();
        let error = sqlite::error(e).context(format_args!(
            "record {number} is refused by {}, nothing is kept",
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
        let staged = tokio::task::block_in_place(|| self.write_stage(rows));
        self.fail(staged, "stage rows for")
    }

    async fn merge(&mut self, mode: Mode, run_id: &str) -> Result<Merged> {
        tokio::task::block_in_place(|| self.load(mode, run_id))
            .context(format_args!("cannot load {}", self.path.display()))
    }
}
