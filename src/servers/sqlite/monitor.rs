//! Watches the embedded log and stores.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use crate::dataset::Dataset;
use crate::dataset::ddl::quoted;
use crate::error::{Error, Result};
use crate::ports::INIT_FIRST;
use crate::ports::event_log::Offsets;
use crate::ports::monitor::{
    Lag, LogMonitor, OutOfRange, RowCount, StoreMonitor, Stored, continues_at, probe_topic,
    round_trip,
};
use crate::servers::sqlite::ddl::rows_of;
use crate::servers::sqlite::event_log::{
    SqliteConsumer, SqliteProducer, events_table, out_of_range,
};
use crate::servers::sqlite::realtime_store::{must_be_current, offsets_of};
use crate::servers::sqlite::{self, Missing};

/// Page cache; a probe needs next to nothing.
const CACHE_KIB: u32 = 256;

/// How long a probe waits for a lock before it reports the log or the store as busy.
const BUSY_TIMEOUT: Duration = Duration::from_millis(100);

/// Rows up to which a table is counted.
const COUNTED: u64 = 100_000;

/// Probe events that stay in the log.
const KEPT_PROBES: i64 = 100;

/// The table of the stores' probes.
pub const PROBES: &str = "CREATE TABLE IF NOT EXISTS rtp_heartbeat (
  writer TEXT PRIMARY KEY,
  id TEXT NOT NULL,
  probed_at INTEGER NOT NULL
) WITHOUT ROWID";

/// A topic of the embedded log.
#[derive(Debug)]
pub struct SqliteLogMonitor {
    db: Connection,
    path: PathBuf,
    topic: String,
    producer: SqliteProducer,
    consumer: SqliteConsumer,
}

impl SqliteLogMonitor {
    /// Opens a topic and its heartbeat topic.
    pub fn open(path: &Path, topic: &str) -> Result<Self> {
        let probes = probe_topic(topic);
        let db = sqlite::open(path, Missing::Refuse, CACHE_KIB)?;
        sqlite::fail(db.busy_timeout(BUSY_TIMEOUT), "watch", path)?;
        Ok(SqliteLogMonitor {
            producer: SqliteProducer::open(path, &probes)?.with_busy_timeout(BUSY_TIMEOUT)?,
            consumer: SqliteConsumer::open(path, &probes, "rtp-heartbeat")?
                .with_busy_timeout(BUSY_TIMEOUT)?,
            db,
            path: path.into(),
            topic: topic.into(),
        })
    }

    /// The number and the identity of a topic.
    fn known(&self, topic: &str) -> rusqlite::Result<Option<(i64, String)>> {
        let select = "SELECT id, identity FROM topics WHERE name = ?1";
        self.db
            .query_row(select, [topic], |r| Ok((r.get(0)?, r.get(1)?)))
            .optional()
    }

    /// Deletes all but the newest probe events, because nobody reads the others again.
    fn trim(&self, end: i64) -> rusqlite::Result<()> {
        let Some((id, _)) = self.known(&probe_topic(&self.topic))? else {
            return Ok(());
        };
        let delete = format!("DELETE FROM {} WHERE offset < ?1", events_table(id, 0));
        self.db.execute(&delete, [end - KEPT_PROBES]).map(|_| ())
    }

    fn read_lag(&self, group: &str, stored: Option<&Stored>) -> rusqlite::Result<Option<Lag>> {
        let Some((id, identity)) = self.known(&self.topic)? else {
            return Ok(None);
        };
        let tx = self.db.unchecked_transaction()?; // offsets and ends at the same moment
        let mut select = tx.prepare(
            "SELECT p.partition, p.next_offset, g.offset FROM partitions AS p
             LEFT JOIN group_offsets AS g
               ON g.topic = p.topic AND g.partition = p.partition AND g.consumer_group = ?2
             WHERE p.topic = ?1",
        )?;
        let partitions = select
            .query_map(params![id, group], |r| {
                Ok((r.get(0)?, r.get(1)?, r.get(2)?))
            })?
            .collect::<rusqlite::Result<Vec<(i64, i64, Option<i64>)>>>()?;
        let stored = stored.and_then(|stored| stored.of_topic(Some(&identity)));
        let mut lag = Lag {
            topic: Some(identity.clone()),
            started: partitions
                .iter()
                .any(|(_, _, committed)| committed.is_some()),
            ..Lag::default()
        };
        for (partition, end, committed) in partitions {
            let number = i32::try_from(partition).unwrap_or(i32::MAX);
            // Nothing but somebody else deletes an event, the next one included.
            let next = match committed {
                Some(at) => first_event(&tx, id, partition, at)?.map_or(end, |(offset, _)| offset),
                None => end,
            };
            lag.out_of_range
                .extend(committed.and_then(|at| OutOfRange::find(number, at, next.min(end), end)));
            let at = continues_at(number, committed, stored, 0);
            let first = first_event(&tx, id, partition, at)?;
            let behind = end - first.map_or(end, |(offset, _)| offset);
            lag.partitions
                .push((number, u64::try_from(behind).unwrap_or(0)));
            if let Some((_, timestamp)) = first {
                lag.oldest = Some(lag.oldest.map_or(timestamp, |t| t.min(timestamp)));
            }
        }
        Ok(Some(lag))
    }

    fn compare(&self, offsets: &Offsets) -> rusqlite::Result<Option<Vec<OutOfRange>>> {
        let Some((id, _)) = self.known(&self.topic)? else {
            return Ok(None);
        };
        out_of_range(&self.db, id, offsets).map(Some)
    }

    fn no_topic(&self) -> Error {
        let (topic, path) = (&self.topic, self.path.display());
        Error::invalid(format!("there is no topic {topic} in {path}")).hint(INIT_FIRST)
    }
}

/// The offset and the timestamp of the first event at or after an offset.
fn first_event(
    db: &Connection,
    topic: i64,
    partition: i64,
    at: i64,
) -> rusqlite::Result<Option<(i64, i64)>> {
    let first = format!(
        "SELECT offset, timestamp FROM {} WHERE offset >= ?1 ORDER BY offset LIMIT 1",
        events_table(topic, partition)
    );
    let first = db.query_row(&first, [at], |r| Ok((r.get(0)?, r.get(1)?)));
    first.optional()
}

#[async_trait]
impl LogMonitor for SqliteLogMonitor {
    async fn probe(&mut self, id: &str) -> Result<()> {
        let position = round_trip(&mut self.producer, &mut self.consumer, id).await?;
        let end = position.get(0).unwrap_or(0);
        let trimmed = tokio::task::block_in_place(|| self.trim(end));
        sqlite::fail(trimmed, "watch", &self.path)
    }

    async fn lag(&mut self, group: &str, stored: Option<&Stored>) -> Result<Lag> {
        let lag = tokio::task::block_in_place(|| self.read_lag(group, stored));
        sqlite::fail(lag, "watch", &self.path)?.ok_or_else(|| self.no_topic())
    }

    async fn out_of_range(&mut self, offsets: &Offsets) -> Result<Vec<OutOfRange>> {
        let found = tokio::task::block_in_place(|| self.compare(offsets));
        sqlite::fail(found, "watch", &self.path)?.ok_or_else(|| self.no_topic())
    }
}

/// One of the embedded stores.
#[derive(Debug)]
pub struct SqliteStoreMonitor {
    db: Connection,
    path: PathBuf,
    rows: String,
    last_write: &'static str,
    of: String,
    /// Whether it is the real-time store.
    keeps_offsets: bool,
}

impl SqliteStoreMonitor {
    /// Opens the real-time store.
    pub fn realtime(path: &Path, dataset: &Dataset) -> Result<Self> {
        let store = Self::open(
            path,
            [&rows_of(&dataset.realtime.table), "rtp_offsets"],
            "SELECT max(written_at) FROM rtp_offsets WHERE topic = ?1",
            &dataset.event.topic,
        )?;
        must_be_current(&store.db, path)?;
        Ok(SqliteStoreMonitor {
            keeps_offsets: true,
            ..store
        })
    }

    /// Opens the batch store.
    pub fn batch(path: &Path, dataset: &Dataset) -> Result<Self> {
        Self::open(
            path,
            [&rows_of(&dataset.batch.table), "rtp_loads"],
            "SELECT max(loaded_at) FROM rtp_loads WHERE target = ?1",
            &dataset.batch.table,
        )
    }

    fn open(
        path: &Path,
        [rows, writes]: [&str; 2],
        last_write: &'static str,
        of: &str,
    ) -> Result<Self> {
        let db = sqlite::open_tables(path, &[rows, "rtp_heartbeat", writes], CACHE_KIB)?;
        db.busy_timeout(BUSY_TIMEOUT)
            .map_err(|e| sqlite::error(&e))?;
        Ok(SqliteStoreMonitor {
            db,
            path: path.into(),
            rows: rows.into(),
            last_write,
            of: of.into(),
            keeps_offsets: false,
        })
    }

    /// Counted if the numbers of the rows show that there are not many; otherwise those numbers, some of which may have
    /// been deleted.
    fn count(&self) -> rusqlite::Result<RowCount> {
        let rows = quoted(&self.rows);
        let ends = format!("SELECT max(rowid) - (SELECT min(rowid) FROM {rows}) + 1 FROM {rows}");
        let most: Option<u64> = self.db.query_row(&ends, [], |r| r.get(0))?;
        if let Some(count) = most.filter(|most| *most > COUNTED) {
            return Ok(RowCount {
                count,
                exact: false,
            });
        }
        let count = format!("SELECT count(*) FROM {rows}");
        Ok(RowCount {
            count: self.db.query_row(&count, [], |r| r.get(0))?,
            exact: true,
        })
    }

    /// Whether the row is there; another heartbeat with the same name may have written after us.
    fn write_and_read(&self, writer: &str, id: &str) -> rusqlite::Result<bool> {
        let now = crate::time::now_ms();
        self.db.execute(
            "INSERT OR REPLACE INTO rtp_heartbeat VALUES (?1, ?2, ?3)",
            params![writer, id, now],
        )?;
        self.db.query_row(
            "SELECT count(*) FROM rtp_heartbeat WHERE writer = ?1 AND (id = ?2 OR probed_at >= ?3)",
            params![writer, id, now],
            |r| r.get::<_, i64>(0).map(|n| n == 1),
        )
    }
}

/// The groups that have stored something of a topic.
fn groups_of(db: &Connection, topic: &str) -> rusqlite::Result<Vec<String>> {
    let mut select = db.prepare(
        "SELECT DISTINCT consumer_group FROM rtp_offsets WHERE topic = ?1 ORDER BY consumer_group",
    )?;
    let names = select.query_map([topic], |r| r.get(0))?;
    names.collect()
}

#[async_trait]
impl StoreMonitor for SqliteStoreMonitor {
    async fn probe(&mut self, writer: &str, id: &str) -> Result<()> {
        let found = tokio::task::block_in_place(|| self.write_and_read(writer, id));
        match sqlite::fail(found, "watch", &self.path)? {
            true => Ok(()),
            false => Err(Error::refused(format!(
                "a probe row written to {} cannot be read back",
                self.path.display()
            ))),
        }
    }

    async fn stored(&mut self, group: &str) -> Result<Option<Stored>> {
        if !self.keeps_offsets {
            return Ok(None);
        }
        let read = || offsets_of(&self.db, &self.path, &self.of, group);
        let mut stored = Stored::default();
        for (partition, position, topic) in tokio::task::block_in_place(read)? {
            stored.offsets.set(partition, position);
            stored.topic = stored
                .topic
                .or(Some(topic).filter(|topic| !topic.is_empty()));
        }
        Ok(Some(stored))
    }

    async fn groups(&mut self) -> Result<Vec<(String, Stored)>> {
        if !self.keeps_offsets {
            return Ok(Vec::new());
        }
        let names = tokio::task::block_in_place(|| groups_of(&self.db, &self.of));
        let mut groups = Vec::new();
        for name in sqlite::fail(names, "read the offsets in", &self.path)? {
            if let Some(stored) = self.stored(&name).await? {
                groups.push((name, stored));
            }
        }
        Ok(groups)
    }

    async fn rows(&mut self) -> Result<Option<RowCount>> {
        let count = tokio::task::block_in_place(|| self.count());
        sqlite::fail(count, "watch", &self.path).map(Some)
    }

    async fn last_write(&mut self) -> Result<Option<i64>> {
        let time = tokio::task::block_in_place(|| {
            self.db.query_row(self.last_write, [&self.of], |r| r.get(0))
        });
        sqlite::fail(time, "watch", &self.path)
    }
}
