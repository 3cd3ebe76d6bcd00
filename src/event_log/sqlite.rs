//! The embedded event log: one SQLite file, a table for each partition, so that appends go to the
//! end of a B-tree and reads are ranges of its integer key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::{Commit, Consumer, Limits, Offsets, Producer, Topic, partition_of};
use crate::error::{Context, Error, Result};
use crate::event::{Event, MicroBatch};
use crate::sqlite::{self, Missing};

/// Page cache of a writer or reader: appends and range reads need little.
const CACHE_KIB: u32 = 2_048;

/// Most bytes that a poll makes room for before it knows how many events there are.
const MOST_RESERVED: usize = 16 << 20;

const CATALOG: &str = "
CREATE TABLE IF NOT EXISTS topics (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  partitions INTEGER NOT NULL
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

/// Creates the file and the topics, where they are missing. A view of each topic's name shows its events.
pub fn create(path: &Path, topics: &[Topic]) -> Result<()> {
    let db = sqlite::open(path, Missing::Create, CACHE_KIB)?;
    let script = || -> rusqlite::Result<()> {
        db.execute_batch("BEGIN IMMEDIATE")?;
        db.execute_batch(CATALOG)?;
        for topic in topics {
            create_topic(&db, topic)?;
        }
        db.execute_batch("COMMIT")
    };
    script()
        .map_err(|e| sqlite::error(&e))
        .context(format_args!("cannot create topics in {}", path.display()))
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
        "INSERT INTO topics (name, partitions) VALUES (?1, ?2)",
        params![topic.name, topic.partitions],
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

/// One topic of an open log.
#[derive(Debug)]
struct OpenTopic {
    db: Connection,
    path: PathBuf,
    name: String,
    id: i64,
    partitions: u32,
}

impl OpenTopic {
    fn open(path: &Path, name: &str) -> Result<OpenTopic> {
        let db = sqlite::open(path, Missing::Refuse, CACHE_KIB)?;
        let no_topic = || {
            Error::invalid(format!("no topic {name} in {}", path.display()))
                .hint("run `rtp init` first, with the same dataset and addresses")
        };
        let found = db
            .query_row(
                "SELECT id, partitions FROM topics WHERE name = ?1",
                [name],
                |r| Ok((r.get(0)?, r.get(1)?)),
            )
            .optional();
        match found {
            Ok(Some((id, partitions))) => Ok(OpenTopic {
                db,
                path: path.into(),
                name: name.into(),
                id,
                partitions,
            }),
            Ok(None) => Err(no_topic()),
            Err(e) if e.to_string().contains("no such table") => Err(no_topic()),
            Err(e) => Err(sqlite::error(&e).context(path.display())),
        }
    }

    fn fail<T>(&self, result: rusqlite::Result<T>, doing: &str) -> Result<T> {
        result.map_err(|e| {
            sqlite::error(&e).context(format_args!(
                "cannot {doing} topic {} in {}",
                self.name,
                self.path.display()
            ))
        })
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

    fn append(&mut self, batch: &MicroBatch) -> rusqlite::Result<()> {
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
    async fn send(&mut self, batch: &Arc<MicroBatch>) -> Result<()> {
        let appended = tokio::task::block_in_place(|| self.append(batch));
        self.topic.fail(appended, "append to")?;
        self.acknowledged += batch.len() as u64;
        Ok(())
    }

    async fn settle(&mut self, _behind: usize) -> Result<u64> {
        Ok(std::mem::take(&mut self.acknowledged))
    }
}

/// Reads as a member of a group. There is no assignment protocol: each member reads every partition,
/// and a commit succeeds only if nobody else has moved the group's offsets since.
#[derive(Debug)]
pub struct SqliteConsumer {
    topic: OpenTopic,
    group: String,
    /// Committed offset of each partition, as this member last saw it.
    committed: Vec<i64>,
    position: Vec<i64>,
    /// The partition that the next poll reads first.
    turn: usize,
}

impl SqliteConsumer {
    /// Joins a group at its committed offsets, or at the oldest event.
    pub fn open(path: &Path, topic: &str, group: &str) -> Result<Self> {
        let topic = OpenTopic::open(path, topic)?;
        let mut consumer = SqliteConsumer {
            topic,
            group: group.into(),
            committed: Vec::new(),
            position: Vec::new(),
            turn: 0,
        };
        consumer.rewind()?;
        Ok(consumer)
    }

    /// Goes to the committed offsets.
    fn rewind(&mut self) -> Result<()> {
        self.committed = self.stored_offsets()?;
        self.position.clone_from(&self.committed);
        Ok(())
    }

    fn stored_offsets(&self) -> Result<Vec<i64>> {
        let read = (0..self.topic.partitions)
            .map(|p| stored_offset(&self.topic.db, &self.group, self.topic.id, p))
            .collect::<rusqlite::Result<Vec<i64>>>();
        self.topic.fail(read, "read the group's offsets of")
    }

    /// Each partition gives its share, then those that have more fill the rest. Whose turn it is first
    /// moves on, so that small polls reach all of them too.
    fn read(&mut self, limits: Limits) -> rusqlite::Result<MicroBatch> {
        let mut batch = MicroBatch::default();
        let room = limits.bytes.min(MOST_RESERVED);
        batch.reserve(limits.events.min(room / 400), room);
        let mut positions = self.position.clone(); // a failed read must not move
        let count = self.topic.partitions as usize;
        let shares = [count, 1].map(|parts| Limits {
            events: limits.events.div_ceil(parts),
            bytes: limits.bytes.div_ceil(parts),
        });
        for share in shares {
            for i in 0..count {
                let room = Limits {
                    events: share.events.min(limits.events - batch.len()),
                    bytes: share.bytes.min(limits.bytes.saturating_sub(batch.size())),
                };
                let p = (self.turn + i) % count;
                positions[p] = self.read_partition(p, positions[p], room, &mut batch)?;
            }
        }
        self.position = positions;
        self.turn = (self.turn + 1) % count.max(1);
        Ok(batch)
    }

    /// Adds events of one partition from an offset on; yields the offset of the next one.
    fn read_partition(
        &self,
        partition: usize,
        from: i64,
        room: Limits,
        batch: &mut MicroBatch,
    ) -> rusqlite::Result<i64> {
        let Ok(number) = i32::try_from(partition) else {
            return Ok(from);
        };
        let mut select = self.topic.db.prepare_cached(&format!(
            "SELECT offset, timestamp, key, value, headers FROM {} WHERE offset >= ?1 ORDER BY offset LIMIT ?2",
            events_table(self.topic.id, i64::from(number))
        ))?;
        let mut rows = select.query(params![from, room.events])?;
        let full = batch.size() + room.bytes;
        let mut next = from;
        while batch.size() < full {
            let Some(row) = rows.next()? else { break };
            let offset = row.get(0)?;
            batch.push(Event {
                partition: number,
                offset,
                timestamp: row.get(1)?,
                key: bytes(row, 2)?,
                value: bytes(row, 3)?,
                headers: bytes(row, 4)?.unwrap_or_default(),
            });
            next = offset + 1;
        }
        Ok(next)
    }

    fn try_commit(&mut self, offsets: &Offsets) -> rusqlite::Result<Commit> {
        let tx = self
            .topic
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        for p in 0..self.topic.partitions {
            let stored = stored_offset(&tx, &self.group, self.topic.id, p)?;
            if stored != self.committed[p as usize] {
                return Ok(Commit::Superseded);
            }
        }
        let now = crate::time::now_ms();
        let mut moved = self.committed.clone();
        for (partition, offset) in offsets {
            if let Some(to) = known(&mut moved, *partition) {
                *to = *offset.max(to);
            }
        }
        for (p, offset) in moved.iter().enumerate() {
            tx.prepare_cached("INSERT OR REPLACE INTO group_offsets VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![self.group, self.topic.id, p, offset, now])?;
        }
        tx.commit()?;
        self.committed = moved;
        Ok(Commit::Done)
    }
}

/// The offset of a partition that there is.
fn known(offsets: &mut [i64], partition: i32) -> Option<&mut i64> {
    usize::try_from(partition)
        .ok()
        .and_then(|p| offsets.get_mut(p))
}

/// The bytes of a BLOB or TEXT column; none for NULL.
fn bytes<'r>(row: &'r rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Option<&'r [u8]>> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) => Ok(Some(bytes)),
        other => {
            let name = row.as_ref().column_name(column)?.to_string();
            Err(rusqlite::Error::InvalidColumnType(
                column,
                name,
                other.data_type(),
            ))
        }
    }
}

fn stored_offset(
    db: &Connection,
    group: &str,
    topic: i64,
    partition: u32,
) -> rusqlite::Result<i64> {
    db.prepare_cached(
        "SELECT offset FROM group_offsets WHERE consumer_group = ?1 AND topic = ?2 AND partition = ?3",
    )?
    .query_row(params![group, topic, partition], |r| r.get(0))
    .optional()
    .map(Option::unwrap_or_default)
}

fn numbered(offsets: &[i64]) -> Offsets {
    offsets
        .iter()
        .enumerate()
        .map(|(p, o)| (i32::try_from(p).unwrap_or(i32::MAX), *o))
        .collect()
}

#[async_trait]
impl Consumer for SqliteConsumer {
    async fn poll(&mut self, limits: Limits) -> Result<MicroBatch> {
        let read = tokio::task::block_in_place(|| self.read(limits));
        self.topic.fail(read, "read")
    }

    async fn commit(&mut self, offsets: &Offsets) -> Result<Commit> {
        let committed = tokio::task::block_in_place(|| self.try_commit(offsets));
        let committed = self.topic.fail(committed, "commit the offsets of")?;
        if committed == Commit::Superseded {
            self.rewind()?;
        }
        Ok(committed)
    }

    fn position(&self) -> Offsets {
        numbered(&self.position)
    }

    async fn seek(&mut self, offsets: &Offsets) -> Result<()> {
        self.position.fill(0);
        for (partition, offset) in offsets {
            if let Some(position) = known(&mut self.position, *partition) {
                *position = *offset;
            }
        }
        Ok(())
    }

    async fn committed(&mut self) -> Result<Offsets> {
        let read = tokio::task::block_in_place(|| self.stored_offsets());
        Ok(numbered(&read?))
    }

    async fn leave(&mut self) -> Result<()> {
        Ok(()) // nobody waits for a member: each one reads every partition
    }

    async fn end(&mut self) -> Result<Offsets> {
        let ends = (0..self.topic.partitions)
            .map(|p| next_offset(&self.topic.db, self.topic.id, p))
            .collect::<rusqlite::Result<Vec<i64>>>();
        Ok(numbered(&self.topic.fail(ends, "read the end of")?))
    }
}
