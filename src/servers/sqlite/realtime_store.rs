//! The embedded real-time store: one SQLite file, rows and offsets in one transaction.
//!
//! The members of one group on one machine may share it: each upsert compares the stored offsets of the partitions
//! that it writes, and a member that was overtaken goes back to the offsets of the store. A backlog is set aside in a
//! temporary file and merged in key order, because with random keys every micro-batch would touch nearly as many pages
//! of the index as it has rows. The age of the store is that of its last commit, kept besides the offsets: an event
//! time would say how old the data is, not whether the pipeline is moving.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::ports::event_log::{Offsets, Position, Span};
use crate::ports::realtime_store::{Backlog, RealtimeStore, Upsert, Upserted, Upstream};
use crate::record::event::Mark;
use crate::record::row::Rows;
use crate::servers::sqlite::ddl;
use crate::servers::sqlite::file::OpenFile;
use crate::servers::sqlite::monitor::PROBES;
use crate::servers::sqlite::schema::DatasetTable;
use crate::servers::sqlite::{self, OWN_COLUMNS, OnConflict};

/// Page cache, for the table and for the sort each. Rows pass through the index once, in the order of
/// their keys, so the cache need not hold the whole index.
const CACHE_KIB: u32 = 4_096;

const OFFSETS: &str = "CREATE TABLE IF NOT EXISTS rtp_offsets (
  consumer_group TEXT NOT NULL,
  topic TEXT NOT NULL,
  partition INTEGER NOT NULL,
  offset INTEGER NOT NULL,
  written_at INTEGER NOT NULL,
  identity TEXT NOT NULL,
  mark INTEGER,
  PRIMARY KEY (consumer_group, topic, partition)
) WITHOUT ROWID";

/// Creates the file and the tables where they are missing.
pub fn create(path: &Path, dataset: &Dataset) -> Result<()> {
    let mut statements = ddl::realtime(dataset);
    statements.extend([OFFSETS.into(), PROBES.into()]);
    table(dataset).create(path, &statements)?;
    // For a store that was created before offsets had them: the next commit of each partition sets both.
    let columns = ["identity TEXT NOT NULL DEFAULT ''", "mark INTEGER"];
    sqlite::add_columns(path, "rtp_offsets", &columns)
}

fn table(dataset: &Dataset) -> DatasetTable<'_> {
    DatasetTable {
        dataset,
        name: &dataset.realtime.table,
        own: OWN_COLUMNS.len(),
        also_by: None,
    }
}

/// An error if the offsets lack what this version keeps with them.
pub(super) fn must_be_current(db: &Connection, path: &Path) -> Result<()> {
    must_have(db, path, "rtp_offsets", "mark")
}

/// An error if a table of rtp's own lacks a column that older versions of rtp did not create.
pub(super) fn must_have(db: &Connection, path: &Path, table: &str, column: &str) -> Result<()> {
    let is_current = sqlite::has_column(db, table, column);
    match sqlite::fail(is_current, "read", path)? {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "{} was created by an older version of rtp",
            path.display()
        ))
        .hint("run `rtp init` to upgrade it; that does not change the rows")),
    }
}

/// What a group has stored of a topic: partition, position, and the topic's identity, which is empty in offsets that are
/// older than identities.
pub(super) fn offsets_of(
    db: &Connection,
    path: &Path,
    topic: &str,
    group: &str,
) -> Result<Vec<(i32, Position, String)>> {
    let read = || -> rusqlite::Result<Vec<(i32, Position, String)>> {
        let mut select = db.prepare_cached(
            "SELECT partition, offset, mark, identity FROM rtp_offsets WHERE consumer_group = ?1 AND topic = ?2",
        )?;
        let rows = select.query_map(params![group, topic], |r| {
            let position = Position {
                offset: r.get(1)?,
                before: r.get::<_, Option<i64>>(2)?.map(Mark),
            };
            Ok((r.get(0)?, position, r.get(3)?))
        })?;
        rows.collect()
    };
    sqlite::fail(read(), "read the offsets in", path)
}

/// An open store.
#[derive(Debug)]
pub struct SqliteRealtimeStore {
    db: Connection,
    path: PathBuf,
    file: OpenFile,
    group: String,
    /// Identity of the topic.
    identity: String,
    dataset: Dataset,
    table: String,
    upsert: String,
    has_staged: bool,
}

impl SqliteRealtimeStore {
    /// Opens the store for a consumer group of the dataset's topic.
    pub fn open(path: &Path, dataset: &Dataset, upstream: Upstream<'_>) -> Result<Self> {
        let rows = ddl::rows_of(&dataset.realtime.table);
        let db = sqlite::open_tables(path, &[&rows, "rtp_offsets"], CACHE_KIB)?;
        must_be_current(&db, path)?;
        table(dataset).check(&db, path)?;
        let upsert = sqlite::upsert(dataset, &rows, &OWN_COLUMNS, OnConflict::KeepNewest);
        let store = SqliteRealtimeStore {
            db,
            path: path.into(),
            file: OpenFile::at(path)?,
            group: upstream.group.into(),
            identity: upstream.topic.into(),
            dataset: dataset.clone(),
            table: rows,
            upsert,
            has_staged: false,
        };
        sqlite::fail(
            sqlite::create_stage(&store.db, dataset),
            "stage rows for",
            path,
        )?;
        Ok(store)
    }

    fn write(&self, span: &Span, rows: &Rows) -> rusqlite::Result<Upsert> {
        if !self.begin(span)? {
            return Ok(Upsert::Superseded);
        }
        let key = self.dataset.event.key;
        let order = rows.versions_by_key(key);
        let mut outcome = Upserted::default();
        let mut statement = self.db.prepare_cached(&self.upsert)?;
        for versions in order.chunk_by(|a, b| rows.have_same_key(key, *a, *b)) {
            // If the newest is refused, the row is that of the next one, as if they had come one by one.
            for (older, &i) in (0..versions.len()).rev().zip(versions) {
                sqlite::bind_row(&mut statement, rows, i, OWN_COLUMNS.len())?;
                match statement.raw_execute() {
                    Ok(0) => outcome.skipped += 1,
                    Ok(_) => outcome.written += 1,
                    Err(e) if sqlite::is_bad_row(&e) => {
                        outcome.refused.push((i, e.to_string()));
                        continue;
                    }
                    Err(e) => return Err(e),
                }
                outcome.deduplicated += older as u64;
                break;
            }
        }
        self.store_offsets(span)?;
        Ok(Upsert::Done(outcome))
    }

    fn write_staged(&self, span: &Span) -> rusqlite::Result<Upsert> {
        if !self.begin(span)? {
            return Ok(Upsert::Superseded);
        }
        let (own, newest) = (OWN_COLUMNS.len(), OnConflict::KeepNewest);
        let merged = sqlite::merge_stage(&self.db, &self.dataset, &self.table, own, newest, None);
        let merged = merged.map_err(|e| e.error)?;
        self.store_offsets(span)?;
        Ok(Upsert::Done(Upserted {
            written: merged.written,
            deduplicated: merged.deduplicated,
            skipped: merged.skipped,
            refused: Vec::new(),
        }))
    }

    /// Opens the transaction; false, and nothing open, if another member has written past the span's start.
    fn begin(&self, span: &Span) -> rusqlite::Result<bool> {
        sqlite::rollback_open(&self.db)?;
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        for (partition, range) in span.ranges() {
            let stored = self.stored_offset(partition)?;
            if stored.is_some_and(|(offset, of)| offset != range.start || !self.is_ours(&of)) {
                self.db.execute_batch("ROLLBACK")?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn store_offsets(&self, span: &Span) -> rusqlite::Result<()> {
        let mut update = self.db.prepare_cached(
            "INSERT OR REPLACE INTO rtp_offsets (consumer_group, topic, partition, offset, written_at, identity, mark)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        let (topic, now) = (&self.dataset.event.topic, crate::time::now_ms());
        for (partition, range) in span.ranges() {
            let (of, to) = (&self.identity, span.to.position(partition));
            let mark = to.and_then(|to| to.before).map(|mark| mark.0);
            update.execute(params![
                self.group, topic, partition, range.end, now, of, mark
            ])?;
        }
        Ok(())
    }

    /// The stored offset of a partition, and its topic.
    fn stored_offset(&self, partition: i32) -> rusqlite::Result<Option<(i64, String)>> {
        self.db
            .prepare_cached(
                "SELECT offset, identity FROM rtp_offsets WHERE consumer_group = ?1 AND topic = ?2 AND partition = ?3",
            )?
            .query_row(params![self.group, self.dataset.event.topic, partition], |r| {
                Ok((r.get(0)?, r.get(1)?))
            })
            .optional()
    }

    /// Whether offsets belong to our topic, by its identity.
    fn is_ours(&self, identity: &str) -> bool {
        identity.is_empty() || identity == self.identity
    }

    /// Rolls back what an error left open; the first error is the one to report.
    fn written(&self, result: rusqlite::Result<Upsert>) -> Result<Upsert> {
        if result.is_err() {
            sqlite::rollback_open(&self.db).ok();
        }
        sqlite::fail(result, "write to", &self.path)
    }

    fn clear(&mut self) -> rusqlite::Result<()> {
        match std::mem::take(&mut self.has_staged) {
            true => sqlite::clear_stage(&self.db),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl RealtimeStore for SqliteRealtimeStore {
    async fn offsets(&mut self) -> Result<Option<Offsets>> {
        let topic = &self.dataset.event.topic;
        let stored =
            tokio::task::block_in_place(|| offsets_of(&self.db, &self.path, topic, &self.group))?;
        if let Some((partition, _, of)) = stored.iter().find(|(_, _, of)| !self.is_ours(of)) {
            let (path, group) = (self.path.display(), &self.group);
            return Err(Error::missing(format!(
                "{path} has offsets of group {group} for another topic {topic}: that of partition {partition} belongs to `{of}`, but this log's topic is `{}`",
                self.identity
            ))
            .hint("the log was deleted, restored or replaced; --group NEW reads this one from its oldest event, and the newest event of each key wins"));
        }
        let offsets = stored
            .into_iter()
            .map(|(partition, position, _)| (partition, position));
        Ok(Some(offsets.collect()))
    }

    async fn upsert(&mut self, span: &Span, rows: &Rows) -> Result<Upsert> {
        let written = tokio::task::block_in_place(|| self.write(span, rows));
        self.written(written)
    }

    fn backlog(&mut self) -> Option<&mut dyn Backlog> {
        Some(self)
    }

    async fn commit(&mut self) -> Result<()> {
        let committed = tokio::task::block_in_place(|| {
            self.db.execute_batch("COMMIT")?;
            self.clear()
        });
        sqlite::fail(committed, "commit to", &self.path)?;
        // Not before: what is committed is in the file that was there then, or nobody will find it.
        self.file.check("the real-time store")
    }
}

#[async_trait]
impl Backlog for SqliteRealtimeStore {
    async fn stage(&mut self, rows: &Rows) -> Result<()> {
        let staged = tokio::task::block_in_place(|| sqlite::stage(&self.db, rows));
        sqlite::fail(staged, "stage rows for", &self.path)?;
        self.has_staged = true;
        Ok(())
    }

    async fn merge(&mut self, span: &Span) -> Result<Upsert> {
        let written = tokio::task::block_in_place(|| self.write_staged(span));
        self.written(written)
    }

    async fn discard(&mut self) -> Result<()> {
        let cleared = sqlite::rollback_open(&self.db).and_then(|()| self.clear());
        sqlite::fail(cleared, "forget the rows staged for", &self.path)
    }
}
