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
use crate::sqlite::{self, OnConflict};

/// Page cache. A batch goes through the index once, in the order of its keys, so the cache need not
/// hold the whole index.
const CACHE_KIB: u32 = 16_384;

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
    topic: String,
    key: usize,
    upsert: String,
}

impl SqliteRealtimeStore {
    /// Opens the store for a consumer group of the dataset's topic.
    pub fn open(path: &Path, dataset: &Dataset, group: &str) -> Result<Self> {
        let rows = ddl::sqlite_rows(&dataset.realtime.table);
        let db = sqlite::open_tables(path, &[&rows, "rtp_offsets"], CACHE_KIB)?;
        let own = ["rtp_digest", "rtp_partition", "rtp_offset"];
        let upsert = sqlite::upsert(dataset, &rows, &own, OnConflict::KeepNewest);
        Ok(SqliteRealtimeStore {
            db,
            path: path.into(),
            group: group.into(),
            topic: dataset.event.topic.clone(),
            key: dataset.event.key,
            upsert,
        })
    }

    fn write(&mut self, from: &Offsets, to: &Offsets, rows: &Rows) -> rusqlite::Result<Upsert> {
        sqlite::rollback_open(&self.db)?;
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        for (partition, offset) in from {
            if self
                .stored_offset(*partition)?
                .is_some_and(|stored| stored != *offset)
            {
                self.db.execute_batch("ROLLBACK")?;
                return Ok(Upsert::Superseded);
            }
        }
        let newest = rows.newest_by_key(self.key);
        let mut outcome = Upserted {
            deduplicated: (rows.len() - newest.len()) as u64,
            ..Upserted::default()
        };
        let mut statement = self.db.prepare_cached(&self.upsert)?;
        for i in newest {
            let meta = rows.meta(i);
            sqlite::bind(&mut statement, rows.values(i))?;
            let after = rows.width() + 1;
            statement.raw_bind_parameter(after, meta.digest.0.as_slice())?;
            statement.raw_bind_parameter(after + 1, meta.origin.partition)?;
            statement.raw_bind_parameter(after + 2, meta.origin.offset)?;
            match statement.raw_execute() {
                Ok(0) => outcome.skipped += 1,
                Ok(_) => outcome.written += 1,
                Err(e) if sqlite::is_bad_row(&e) => outcome.refused.push((i, e.to_string())),
                Err(e) => return Err(e),
            }
        }
        drop(statement);
        let mut update = self
            .db
            .prepare_cached("INSERT OR REPLACE INTO rtp_offsets VALUES (?1, ?2, ?3, ?4, ?5)")?;
        let now = crate::time::now_ms();
        for (partition, offset) in to {
            update.execute(params![self.group, self.topic, partition, offset, now])?;
        }
        Ok(Upsert::Done(outcome))
    }

    fn stored_offset(&self, partition: i32) -> rusqlite::Result<Option<i64>> {
        self.db
            .prepare_cached(
                "SELECT offset FROM rtp_offsets WHERE consumer_group = ?1 AND topic = ?2 AND partition = ?3",
            )?
            .query_row(params![self.group, self.topic, partition], |r| r.get(0))
            .optional()
    }

    fn all_offsets(&self) -> rusqlite::Result<Offsets> {
        let mut select = self.db.prepare_cached(
            "SELECT partition, offset FROM rtp_offsets WHERE consumer_group = ?1 AND topic = ?2",
        )?;
        let rows = select.query_map(params![self.group, self.topic], |r| {
            Ok((r.get(0)?, r.get(1)?))
        })?;
        rows.collect()
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
        let written = tokio::task::block_in_place(|| {
            self.write(from, to, rows).inspect_err(|_| {
                // The first error is the one to report; the next write rolls back what is open.
                sqlite::rollback_open(&self.db).ok();
            })
        });
        self.fail(written, "write to")
    }

    async fn commit(&mut self) -> Result<()> {
        let committed = tokio::task::block_in_place(|| self.db.execute_batch("COMMIT"));
        self.fail(committed, "commit to")
    }
}
