//! The embedded event log: one SQLite file with a table for each partition, so that appends go to the
//! end of a B-tree and reads are ranges of its integer key.

mod consumer;
mod reader;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

pub use consumer::SqliteConsumer;
pub use reader::SqliteLogReader;

use crate::error::{Error, Result};
use crate::ports::INIT_FIRST;
use crate::ports::event_log::{Offsets, Position, Producer, Topic, partition_of};
use crate::ports::monitor::{OutOfRange, Why};
use crate::record::event::EventBatch;
use crate::servers::sqlite::file::OpenFile;
use crate::servers::sqlite::{self, Missing};

/// What to do about a log that does not continue where it was read.
pub(super) const RESTORED: &str = "the log was restored from a backup, changed or replaced; --group NEW reads it from its oldest event, and the newest event of each key wins";

/// Page cache of a writer or reader: appends and range reads need little.
const CACHE_KIB: u32 = 2_048;

/// How to get more partitions.
const ADDING: &str = "choose another topic or another file for the log, because the embedded log adds no partitions to a topic";

const CATALOG: &str = "
CREATE TABLE IF NOT EXISTS topics (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  partitions INTEGER NOT NULL,
  identity TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS partitions (
  topic INTEGER NOT NULL,
  partition INTEGER NOT NULL,
  next_offset INTEGER NOT NULL,
  PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS group_offsets (
  consumer_group TEXT NOT NULL,
  topic INTEGER NOT NULL,
  partition INTEGER NOT NULL,
  offset INTEGER NOT NULL,
  committed_at INTEGER NOT NULL,
  PRIMARY KEY (consumer_group, topic, partition)
) WITHOUT ROWID;";

/// Creates the file and the topics where they are missing. A view named after each topic shows its events.
pub fn create(path: &Path, topics: &[Topic]) -> Result<()> {
    let db = sqlite::open(path, Missing::Create, CACHE_KIB)?;
    let script = || -> rusqlite::Result<()> {
        db.execute_batch("BEGIN IMMEDIATE")?;
        db.execute_batch(CATALOG)?;
        name_old_topics(&db)?;
        for topic in topics {
            create_topic(&db, topic)?;
        }
        db.execute_batch("COMMIT")
    };
    sqlite::fail(script(), "create topics in", path)?;
    for topic in topics {
        let there = "SELECT partitions FROM topics WHERE name = ?1";
        let there = db.query_row(there, [&topic.name], |row| row.get(0));
        let there = sqlite::fail(there, "read the topics in", path)?;
        topic.check_partitions(there, &path.display(), ADDING)?;
    }
    Ok(())
}

/// Gives an identity to the topics of a log that was created before topics had one.
fn name_old_topics(db: &Connection) -> rusqlite::Result<()> {
    let named = "SELECT 1 FROM pragma_table_info('topics') WHERE name = 'identity'";
    if db.query_row(named, [], |_| Ok(())).optional()?.is_some() {
        return Ok(());
    }
    db.execute_batch("ALTER TABLE topics ADD COLUMN identity TEXT NOT NULL DEFAULT ''")?;
    let ids: Vec<i64> = db
        .prepare("SELECT id FROM topics")?
        .query_map([], |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for id in ids {
        let named = "UPDATE topics SET identity = ?2 WHERE id = ?1";
        db.execute(named, params![id, identity()])?;
    }
    Ok(())
}

/// A new identity, which no other topic has.
fn identity() -> String {
    format!("sqlite topic {}", uuid::Uuid::now_v7())
}

fn create_topic(db: &Connection, topic: &Topic) -> rusqlite::Result<()> {
    let known = "SELECT id FROM topics WHERE name = ?1";
    if db
        .query_row(known, [&topic.name], |_| Ok(()))
        .optional()?
        .is_some()
    {
        return Ok(());
    }
    db.execute(
        "INSERT INTO topics (name, partitions, identity) VALUES (?1, ?2, ?3)",
        params![topic.name, topic.partitions, identity()],
    )?;
    let id = db.last_insert_rowid();
    let mut shown = Vec::new();
    for partition in 0..topic.partitions {
        let table = events_table(id, i64::from(partition));
        db.execute_batch(&format!(
            "CREATE TABLE {table} (
               offset INTEGER PRIMARY KEY,
               timestamp INTEGER NOT NULL,
               key BLOB,
               value BLOB,
               headers BLOB
             );"
        ))?;
        db.execute(
            "INSERT INTO partitions VALUES (?1, ?2, 0)",
            params![id, partition],
        )?;
        shown.push(format!(
            "SELECT {partition} AS partition, offset, timestamp, CAST(key AS TEXT) AS key, CAST(value AS TEXT) AS value FROM {table}"
        ));
    }
    let view = crate::dataset::ddl::quoted(&topic.name);
    db.execute_batch(&format!(
        "CREATE VIEW {view} AS {};",
        shown.join(" UNION ALL ")
    ))
}

/// The table of one partition's events.
pub(crate) fn events_table(topic: i64, partition: i64) -> String {
    format!("events_{topic}_{partition}")
}

/// The offset of the first event at or after another one, or of the next event if there is none.
pub(super) fn next_event(
    db: &Connection,
    topic: i64,
    partition: u32,
    at: i64,
) -> rusqlite::Result<i64> {
    // In this order, because what is appended meanwhile comes after the end.
    let end = next_offset(db, topic, partition)?;
    let first = format!(
        "SELECT min(offset) FROM {} WHERE offset >= ?1",
        events_table(topic, i64::from(partition))
    );
    let first: Option<i64> = db.prepare_cached(&first)?.query_row([at], |r| r.get(0))?;
    Ok(first.unwrap_or(end))
}

/// Whether the event before a position is the one that was read there; true if that is not known, or if somebody has
/// deleted the event.
pub(super) fn continues(
    db: &Connection,
    topic: i64,
    partition: i64,
    at: Position,
) -> rusqlite::Result<bool> {
    let Some(before) = at.before else {
        return Ok(true);
    };
    let select = format!(
        "SELECT offset, timestamp, key, value, headers FROM {} WHERE offset = ?1",
        events_table(topic, partition)
    );
    let mut select = db.prepare_cached(&select)?;
    let mut rows = select.query([at.offset - 1])?;
    match rows.next()? {
        Some(row) => Ok(consumer::event(row, 0)?.mark() == before),
        None => Ok(true),
    }
}

/// Those of these offsets from which a member of a group could not continue.
pub(super) fn out_of_range(
    db: &Connection,
    topic: i64,
    offsets: &Offsets,
) -> rusqlite::Result<Vec<OutOfRange>> {
    let tx = db.unchecked_transaction()?; // ends and events at the same moment
    let mut select = tx
        .prepare_cached("SELECT next_offset FROM partitions WHERE topic = ?1 AND partition = ?2")?;
    let mut found = Vec::new();
    for (partition, at) in offsets.positions() {
        let end = select.query_row(params![topic, partition], |r| r.get(0));
        // A partition that the topic lacks ends before its first event.
        let end = end.optional()?.unwrap_or(0);
        let next = match u32::try_from(partition) {
            Ok(number) if at.offset < end => next_event(&tx, topic, number, at.offset)?,
            _ => 0,
        };
        found.extend(match OutOfRange::find(partition, at.offset, next, end) {
            None if !continues(&tx, topic, partition.into(), at)? => Some(OutOfRange {
                partition,
                offset: at.offset,
                why: Why::OtherEvents,
            }),
            out => out,
        });
    }
    Ok(found)
}

/// One topic of an open log.
#[derive(Debug)]
struct OpenTopic {
    db: Connection,
    path: PathBuf,
    name: String,
    id: i64,
    partitions: u32,
    identity: String,
    file: OpenFile,
}

impl OpenTopic {
    fn open(path: &Path, name: &str) -> Result<OpenTopic> {
        Self::of(sqlite::open(path, Missing::Refuse, CACHE_KIB)?, path, name)
    }

    /// The topic of a file that is open already.
    fn of(db: Connection, path: &Path, name: &str) -> Result<OpenTopic> {
        let no_topic = || {
            Error::invalid(format!("there is no topic {name} in {}", path.display()))
                .hint(INIT_FIRST)
        };
        let found = db
            .query_row(
                "SELECT id, partitions, identity FROM topics WHERE name = ?1",
                [name],
                |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)),
            )
            .optional();
        match found {
            Ok(Some((id, partitions, identity))) => Ok(OpenTopic {
                db,
                path: path.into(),
                name: name.into(),
                id,
                partitions,
                identity,
                file: OpenFile::at(path)?,
            }),
            Ok(None) => Err(no_topic()),
            Err(e) if e.to_string().contains("no such table") => Err(no_topic()),
            Err(e) if e.to_string().contains("no such column") => {
                let old = format!("{} was created by an older version of rtp", path.display());
                Err(Error::invalid(old)
                    .hint("run `rtp init` to upgrade it; that does not change the events"))
            }
            Err(e) => Err(sqlite::error(&e).context(path.display())),
        }
    }

    /// An error if another file has taken the path, which would otherwise go unnoticed here.
    fn check_file(&self) -> Result<()> {
        self.file.check(&format!("topic {}", self.name))
    }

    /// Sets how long a statement waits for another process's lock.
    fn set_busy_timeout(&self, longest: Duration) -> Result<()> {
        self.fail(self.db.busy_timeout(longest), "use")
    }

    fn fail<T>(&self, result: rusqlite::Result<T>, doing: &str) -> Result<T> {
        let doing = format!("{doing} topic {} in", self.name);
        sqlite::fail(result, &doing, &self.path)
    }
}

/// Appends; each batch is one transaction, acknowledged by its commit.
#[derive(Debug)]
pub struct SqliteProducer {
    topic: OpenTopic,
    acknowledged: u64,
}

impl SqliteProducer {
    /// Opens a topic for appending.
    pub fn open(path: &Path, topic: &str) -> Result<Self> {
        Ok(SqliteProducer {
            topic: OpenTopic::open(path, topic)?,
            acknowledged: 0,
        })
    }

    /// The same, waiting no longer than this for another process's lock.
    pub(crate) fn with_busy_timeout(self, longest: Duration) -> Result<Self> {
        self.topic.set_busy_timeout(longest)?;
        Ok(self)
    }

    fn append(&mut self, batch: &EventBatch) -> rusqlite::Result<()> {
        let (id, partitions) = (self.topic.id, self.topic.partitions);
        let tx = self
            .topic
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut next = Vec::with_capacity(partitions as usize);
            let mut inserts = Vec::with_capacity(partitions as usize);
            for partition in 0..partitions {
                next.push(next_offset(&tx, id, partition)?);
                inserts.push(tx.prepare_cached(&format!(
                    "INSERT INTO {} VALUES (?1, ?2, ?3, ?4, ?5)",
                    events_table(id, i64::from(partition))
                ))?);
            }
            let now = crate::time::now_ms();
            for event in batch.iter() {
                let p = partition_of(event.key, partitions) as usize;
                let headers = (!event.headers.is_empty()).then_some(event.headers);
                inserts[p].execute(params![next[p], now, event.key, event.value, headers])?;
                next[p] += 1;
            }
            let mut update = tx.prepare_cached(
                "UPDATE partitions SET next_offset = ?3 WHERE topic = ?1 AND partition = ?2",
            )?;
            for (partition, next) in next.iter().enumerate() {
                update.execute(params![id, partition, next])?;
            }
        }
        tx.commit()
    }
}

fn next_offset(db: &Connection, topic: i64, partition: u32) -> rusqlite::Result<i64> {
    db.prepare_cached("SELECT next_offset FROM partitions WHERE topic = ?1 AND partition = ?2")?
        .query_row(params![topic, partition], |r| r.get(0))
}

#[async_trait]
impl Producer for SqliteProducer {
    async fn send(&mut self, batch: &Arc<EventBatch>) -> Result<()> {
        self.topic.check_file()?;
        let appended = tokio::task::block_in_place(|| self.append(batch));
        self.topic.fail(appended, "append to")?;
        // Again: it may have waited for a lock, and whoever had that may have put another file there.
        self.topic.check_file()?;
        self.acknowledged += batch.len() as u64;
        Ok(())
    }

    async fn settle(&mut self, _behind: usize) -> Result<u64> {
        Ok(std::mem::take(&mut self.acknowledged))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::error::Kind;
    use crate::record::event::Event;

    /// Somebody who holds the lock of a log, and puts another file there before it is released.
    static OTHER: Mutex<Option<(Connection, PathBuf)>> = Mutex::new(None);

    fn replace(_: i32) -> bool {
        OTHER.lock().unwrap().take().is_some_and(|(other, path)| {
            std::fs::rename(&path, path.with_extension("old")).unwrap();
            std::fs::write(&path, "").unwrap();
            other.execute_batch("COMMIT").is_ok()
        })
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_appended_to_a_file_that_was_replaced_is_not_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.db");
        create(&path, &[Topic::new("events", 1)]).unwrap();
        let mut producer = SqliteProducer::open(&path, "events").unwrap();
        let mut batch = EventBatch::default();
        batch.push(Event::new(Some(b"k"), Some(b"v"), b""));
        let batch = Arc::new(batch);
        producer.send(&batch).await.unwrap();
        assert_eq!(producer.settle(0).await.unwrap(), 1);
        let other = sqlite::open(&path, Missing::Refuse, CACHE_KIB).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        *OTHER.lock().unwrap() = Some((other, path));
        producer.topic.db.busy_handler(Some(replace)).unwrap();
        let told = producer.send(&batch).await.unwrap_err();
        assert_eq!(told.kind(), Kind::Missing, "{told}");
        assert_eq!(producer.settle(0).await.unwrap(), 0);
    }
}
