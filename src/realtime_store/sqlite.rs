//! The embedded real-time store: one SQLite file, rows and offsets in one transaction.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::{RealtimeStore, Upsert, Upserted};
use crate::dataset::{Dataset, ddl};
use crate::error::{Context, Result};
use crate::event_log::Offsets;
use crate::monitor::sqlite::PROBES;
use crate::row::Rows;
use crate::sqlite::{self, OWN_COLUMNS, OnConflict};

/// Page cache, of the table and of the sort each. Rows go through the index once, in the order of
/// their keys, so the cache need not hold the whole index.
const CACHE_KIB: u32 = 4_096;

const OFFSETS: &str = "CREATE TABLE IF NOT EXISTS rtp_offsets (
  consumer_group TEXT NOT NULL,
  topic TEXT NOT NULL,
  partition INTEGER NOT NULL,
  offset INTEGER NOT NULL,
  written_at INTEGER NOT NULL,
  PRIMARY KEY (consumer_group, topic, partition)
) WITHOUT ROWID";

/// Creates the file and the tables, where they are missing.
pub fn create(path: &Path, dataset: &Dataset) -> Result<()> {
    let mut statements = ddl::sqlite_realtime(dataset);
    statements.extend([OFFSETS.into(), PROBES.into()]);
    sqlite::create_tables(path, &statements)
}

/// An open store.
#[derive(Debug)]
pub struct SqliteRealtimeStore {
    db: Connection,
    path: PathBuf,
    group: String,
    dataset: Dataset,
    table: String,
    upsert: String,
    has_staged: bool,
}

impl SqliteRealtimeStore {
    /// Opens the store for a consumer group of the dataset's topic.
    pub fn open(path: &Path, dataset: &Dataset, group: &str) -> Result<Self> {
        let rows = ddl::sqlite_rows(&dataset.realtime.table);
        let db = sqlite::open_tables(path, &[&rows, "rtp_offsets"], CACHE_KIB)?;
        let upsert = sqlite::upsert(dataset, &rows, &OWN_COLUMNS, OnConflict::KeepNewest);
        let store = SqliteRealtimeStore {
            db,
            path: path.into(),
            group: group.into(),
            dataset: dataset.clone(),
            table: rows,
            upsert,
            has_staged: false,
        };
        store.fail(sqlite::create_stage(&store.db, dataset), "stage rows for")?;
        Ok(store)
    }

    fn write(&self, from: &Offsets, to: &Offsets, rows: &Rows) -> rusqlite::Result<Upsert> {
        if !self.begin(from)? {
            return Ok(Upsert::Superseded);
        }
        let newest = rows.newest_by_key(self.dataset.event.key);
        let mut outcome = Upserted {
            deduplicated: (rows.len() - newest.len()) as u64,
            ..Upserted::default()
        };
        let mut statement = self.db.prepare_cached(&self.upsert)?;
        for i in newest {
            sqlite::bind_row(&mut statement, rows, i, OWN_COLUMNS.len())?;
            match statement.raw_execute() {
                Ok(0) => outcome.skipped += 1,
                Ok(_) => outcome.written += 1,
                Err(e) if sqlite::is_bad_row(&e) => outcome.refused.push((i, e.to_string())),
                Err(e) => return Err(e),
            }
        }
        self.store_offsets(to)?;
        Ok(Upsert::Done(outcome))
    }

    fn write_staged(&self, from: &Offsets, to: &Offsets) -> rusqlite::Result<Upsert> {
        if !self.begin(from)? {
            return Ok(Upsert::Superseded);
        }
        let (own, newest) = (OWN_COLUMNS.len(), OnConflict::KeepNewest);
        let merged = sqlite::merge_stage(&self.db, &self.dataset, &self.table, own, newest);
        let merged = merged.map_err(|e| e.error)?;
        self.store_offsets(to)?;
        Ok(Upsert::Done(Upserted {
            written: merged.written,
            deduplicated: merged.deduplicated,
            skipped: merged.skipped,
            refused: Vec::new(),
        }))
    }

    /// Opens the transaction; false, and nothing open, if another member has written past `from`.
    fn begin(&self, from: &Offsets) -> rusqlite::Result<bool> {
        sqlite::rollback_open(&self.db)?;
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        for (partition, offset) in from {
            if self
                .stored_offset(*partition)?
                .is_some_and(|stored| stored != *offset)
            {
                self.db.execute_batch("ROLLBACK")?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn store_offsets(&self, to: &Offsets) -> rusqlite::Result<()> {
        let mut update = self
            .db
            .prepare_cached("INSERT OR REPLACE INTO rtp_offsets VALUES (?1, ?2, ?3, ?4, ?5)")?;
        let (topic, now) = (&self.dataset.event.topic, crate::time::now_ms());
        for (partition, offset) in to {
            update.execute(params![self.group, topic, partition, offset, now])?;
        }
        Ok(())
    }

    fn stored_offset(&self, partition: i32) -> rusqlite::Result<Option<i64>> {
        self.db
            .prepare_cached(
                "SELECT offset FROM rtp_offsets WHERE consumer_group = ?1 AND topic = ?2 AND partition = ?3",
            )?
            .query_row(params![self.group, self.dataset.event.topic, partition], |r| r.get(0))
            .optional()
    }

    fn all_offsets(&self) -> rusqlite::Result<Offsets> {
        let mut select = self.db.prepare_cached(
            "SELECT partition, offset FROM rtp_offsets WHERE consumer_group = ?1 AND topic = ?2",
        )?;
        let rows = select.query_map(params![self.group, self.dataset.event.topic], |r| {
            Ok((r.get(0)?, r.get(1)?))
        })?;
        rows.collect()
    }

    /// Ends what an error left open: the first error is the one to report.
    fn written(&self, result: rusqlite::Result<Upsert>) -> Result<Upsert> {
        if result.is_err() {
            sqlite::rollback_open(&self.db).ok();
        }
        self.fail(result, "write to")
    }

    fn clear(&mut self) -> rusqlite::Result<()> {
        match std::mem::take(&mut self.has_staged) {
            true => sqlite::clear_stage(&self.db),
            false => Ok(()),
        }
    }

    fn fail<T>(&self, result: rusqlite::Result<T>, doing: &str) -> Result<T> {
        result
            .map_err(|e| sqlite::error(&e))
            .context(format_args!("cannot {doing} {}", self.path.display()))
    }
}

#[async_trait]
impl RealtimeStore for SqliteRealtimeStore {
    async fn offsets(&mut self) -> Result<Option<Offsets>> {
        let offsets = tokio::task::block_in_place(|| self.all_offsets());
        self.fail(offsets, "read the offsets in").map(Some)
    }

    async fn upsert(&mut self, from: &Offsets, to: &Offsets, rows: &Rows) -> Result<Upsert> {
        let written = tokio::task::block_in_place(|| self.write(from, to, rows));
        self.written(written)
    }

    async fn stage(&mut self, rows: &Rows) -> Result<bool> {
        let staged = tokio::task::block_in_place(|| sqlite::stage(&self.db, rows));
        self.fail(staged, "stage rows for")?;
        self.has_staged = true;
        Ok(true)
    }

    async fn merge(&mut self, from: &Offsets, to: &Offsets) -> Result<Upsert> {
        let written = tokio::task::block_in_place(|| self.write_staged(from, to));
        self.written(written)
    }

    async fn discard(&mut self) -> Result<()> {
        let cleared = sqlite::rollback_open(&self.db).and_then(|()| self.clear());
        self.fail(cleared, "forget the rows staged for")
    }

    async fn commit(&mut self) -> Result<()> {
        let committed = tokio::task::block_in_place(|| {
            self.db.execute_batch("COMMIT")?;
            self.clear()
        });
        self.fail(committed, "commit to")
    }
}
