//! Reads a topic of the embedded log.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::{OpenTopic, RESTORED, events_table, next_event, next_offset};
use crate::error::{Error, Result};
use crate::ports::event_log::{Consumer, Epoch, Limits, Offsets, Polled, Position, Span};
use crate::record::event::{Event, EventBatch};

/// Maximum bytes that a poll reserves before it knows how many events there are.
const MOST_RESERVED: usize = 16 << 20;

/// What to do about events that somebody has deleted.
const DELETED: &str = "restore the log from a backup; to go on without them, delete the events before them, too, and read the rest with --group NEW";

/// What a partition has from a position on.
enum Read {
    /// Events, up to this position.
    To(Position),
    /// Another event before it than the one that was read there.
    Other,
    /// Not the event at it, but later ones.
    Gap,
}

/// Reads as a member of a group. There is no assignment protocol: each member reads every partition,
/// and a commit succeeds only if no other member has moved the group's offsets since.
#[derive(Debug)]
pub struct SqliteConsumer {
    topic: OpenTopic,
    group: String,
    epoch: Epoch,
    /// Committed offset of each partition, as this member last saw it.
    committed: Vec<i64>,
    /// Everything before this is committed; or this is where this member started because a store said so.
    done: Vec<i64>,
    position: Vec<Position>,
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
            epoch: Epoch::default(),
            committed: Vec::new(),
            done: Vec::new(),
            position: Vec::new(),
            turn: 0,
        };
        consumer.rewind()?;
        Ok(consumer)
    }

    /// The same, waiting no longer than this for another process's lock.
    pub(crate) fn with_busy_timeout(self, longest: Duration) -> Result<Self> {
        self.topic.set_busy_timeout(longest)?;
        Ok(self)
    }

    /// Goes to the committed offsets, or to the oldest event.
    fn rewind(&mut self) -> Result<Epoch> {
        let stored = self.stored_offsets()?;
        let position = self.or_oldest(&stored)?;
        self.committed = stored.into_iter().map(Option::unwrap_or_default).collect();
        Ok(self.set_back(position.into_iter().map(Position::from).collect()))
    }

    /// The offset of the oldest event in the partitions that have none.
    fn or_oldest(&self, offsets: &[Option<i64>]) -> Result<Vec<i64>> {
        let or_oldest = |(partition, at): (u32, &Option<i64>)| match at {
            Some(at) => Ok(*at),
            None => next_event(&self.topic.db, self.topic.id, partition, 0),
        };
        let found: rusqlite::Result<_> = (0..).zip(offsets).map(or_oldest).collect();
        self.topic.fail(found, "read the oldest events of")
    }

    fn set_back(&mut self, position: Vec<Position>) -> Epoch {
        self.done = position.iter().map(|at| at.offset).collect();
        self.position = position;
        self.epoch = self.epoch.next();
        self.epoch
    }

    fn stored_offsets(&self) -> Result<Vec<Option<i64>>> {
        let read = (0..self.topic.partitions)
            .map(|p| stored_offset(&self.topic.db, &self.group, self.topic.id, p))
            .collect::<rusqlite::Result<Vec<_>>>();
        self.topic.fail(read, "read the group's offsets of")
    }

    /// Each partition contributes its share, then those that have more fill the rest. The first one rotates,
    /// so that small polls also reach all of them.
    fn read(&mut self, limits: Limits) -> Result<EventBatch> {
        let mut batch = EventBatch::default();
        let room = limits.bytes.min(MOST_RESERVED);
        batch.reserve(limits.events.min(room / 400), room);
        let mut positions = self.position.clone(); // a failed read must not move
        let count = self.topic.partitions as usize;
        let shares = [count, 1].map(|parts| Limits {
            events: limits.events.div_ceil(parts),
            bytes: limits.bytes.div_ceil(parts),
            ..limits
        });
        for share in shares {
            for i in 0..count {
                let room = Limits {
                    events: share.events.min(limits.events - batch.len()),
                    bytes: share.bytes.min(limits.bytes.saturating_sub(batch.size())),
                    ..limits
                };
                let p = (self.turn + i) % count;
                let read = self.read_partition(p, positions[p], room, &mut batch);
                let at = positions[p].offset;
                match self.topic.fail(read, "read")? {
                    Read::To(next) => positions[p] = next,
                    Read::Other => return Err(self.restored(p, at)),
                    // What was read before it comes first.
                    Read::Gap if at > self.position[p].offset => {}
                    Read::Gap => self.check_next(p as u32, at)?,
                }
            }
        }
        self.check_ends(&positions)?;
        self.position = positions;
        self.turn = (self.turn + 1) % count.max(1);
        Ok(batch)
    }

    /// Adds events of one partition from a position on, up to the first one that is missing: rtp deletes none. The same
    /// statement shows whether another event is before the position than the one that was read there: the file may be
    /// restored at any time.
    fn read_partition(
        &self,
        partition: usize,
        from: Position,
        room: Limits,
        batch: &mut EventBatch,
    ) -> rusqlite::Result<Read> {
        let Ok(number) = i32::try_from(partition) else {
            return Ok(Read::To(from));
        };
        let mut select = self.topic.db.prepare_cached(&format!(
            "SELECT offset, timestamp, key, value, headers FROM {} WHERE offset >= ?1 ORDER BY offset LIMIT ?2",
            events_table(self.topic.id, i64::from(number))
        ))?;
        let overlap = usize::from(from.before.is_some());
        let first = from.offset.saturating_sub(overlap as i64);
        let mut rows = select.query(params![first, room.events + overlap])?;
        let known = batch.len();
        let full = batch.size() + room.bytes;
        let mut next = from;
        while batch.size() < full && batch.len() - known < room.events {
            let Some(row) = rows.next()? else { break };
            let event = event(row, number)?;
            match from.before {
                Some(before) if event.offset < from.offset => {
                    if event.mark() != before {
                        return Ok(Read::Other);
                    }
                }
                _ if event.offset != next.offset => {
                    return Ok(match batch.len() > known {
                        true => Read::To(after(batch, next)),
                        false => Read::Gap,
                    });
                }
                _ => {
                    batch.push(event);
                    next.offset += 1;
                }
            }
        }
        Ok(Read::To(match batch.len() > known {
            true => after(batch, next),
            false => from,
        }))
    }

    /// An error if the event at this offset is missing although there are later ones, or were.
    fn check_next(&self, partition: u32, at: i64) -> Result<()> {
        let next = next_event(&self.topic.db, self.topic.id, partition, at);
        let next = self.topic.fail(next, "read")?;
        if next <= at {
            return Ok(());
        }
        let (name, path) = (&self.topic.name, self.topic.path.display());
        Err(Error::missing(format!(
            "topic {name} partition {partition} in {path}: the events from offset {at} to {} are missing, because somebody has deleted them",
            next - 1
        ))
        .hint(DELETED))
    }

    fn restored(&self, partition: usize, offset: i64) -> Error {
        let (name, path) = (&self.topic.name, self.topic.path.display());
        Error::missing(format!(
            "topic {name} partition {partition} in {path}: the event before offset {offset} is not the one that was read there"
        ))
        .hint(RESTORED)
    }

    /// Whether a commit of this span would skip events after what is done.
    fn leaves_a_gap(&self, span: &Span) -> bool {
        span.ranges().any(|(partition, range)| {
            let done = usize::try_from(partition)
                .ok()
                .and_then(|p| self.done.get(p));
            done.is_some_and(|done| range.start > *done)
        })
    }

    /// An error if a partition ends before this member's position, because then it is not the log that was read. Only of
    /// those that had nothing after it, whatever the others had: they may go on for long, or to the end of the run.
    fn check_ends(&self, after: &[Position]) -> Result<()> {
        let at = self.position.iter().zip(after);
        for (partition, (position, _)) in (0..).zip(at).filter(|(_, (a, b))| a.offset == b.offset) {
            let end = next_offset(&self.topic.db, self.topic.id, partition);
            let end = self.topic.fail(end, "read the end of")?;
            if end < position.offset {
                let (name, path) = (&self.topic.name, self.topic.path.display());
                return Err(Error::missing(format!(
                    "topic {name} partition {partition} in {path}: the next event should have offset {}, but it ends at {end}",
                    position.offset
                ))
                .hint(RESTORED));
            }
            // Not if it is only this poll that had no room for it.
            self.check_next(partition, position.offset)?;
        }
        Ok(())
    }

    /// False, and nothing committed, if another member has moved the group's offsets.
    fn try_commit(&mut self, span: &Span) -> rusqlite::Result<bool> {
        let tx = self
            .topic
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        for p in 0..self.topic.partitions {
            let stored = stored_offset(&tx, &self.group, self.topic.id, p)?;
            if stored.unwrap_or_default() != self.committed[p as usize] {
                return Ok(false);
            }
        }
        let now = crate::time::now_ms();
        let mut done = self.done.clone();
        for (partition, range) in span.ranges() {
            if let Some(to) = known(&mut done, partition) {
                *to = range.end.max(*to);
            }
        }
        // What a store reports as done is committed, too; nothing moves back.
        let moved = done
            .iter()
            .zip(&self.committed)
            .map(|(done, known)| *done.max(known));
        let moved: Vec<i64> = moved.collect();
        for (p, offset) in moved.iter().enumerate() {
            tx.prepare_cached("INSERT OR REPLACE INTO group_offsets VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![self.group, self.topic.id, p, offset, now])?;
        }
        tx.commit()?;
        self.committed = moved;
        self.done = done;
        Ok(true)
    }
}

/// The event in a row of offset, timestamp, key, value and headers.
pub(super) fn event<'r>(row: &'r rusqlite::Row<'_>, partition: i32) -> rusqlite::Result<Event<'r>> {
    Ok(Event {
        partition,
        offset: row.get(0)?,
        timestamp: row.get(1)?,
        key: bytes(row, 2)?,
        value: bytes(row, 3)?,
        headers: bytes(row, 4)?.unwrap_or_default(),
    })
}

/// The offset of an existing partition.
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
) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached(
        "SELECT offset FROM group_offsets WHERE consumer_group = ?1 AND topic = ?2 AND partition = ?3",
    )?
    .query_row(params![group, topic, partition], |r| r.get(0))
    .optional()
}

/// The position after the last event of a batch.
fn after(batch: &EventBatch, next: Position) -> Position {
    Position {
        before: batch.last().map(|last| last.mark()),
        ..next
    }
}

fn numbered<P: Copy + Into<Position>>(positions: &[P]) -> Offsets {
    (0..).zip(positions.iter().copied()).collect()
}

#[async_trait]
impl Consumer for SqliteConsumer {
    async fn identity(&mut self) -> Result<String> {
        Ok(self.topic.identity.clone())
    }

    async fn poll(&mut self, limits: Limits) -> Result<Polled> {
        let from = numbered(&self.position);
        let events = tokio::task::block_in_place(|| self.read(limits))?;
        if events.is_empty() {
            self.topic.check_file()?;
        }
        let to = numbered(&self.position);
        Ok(Polled {
            epoch: self.epoch,
            span: Span { from, to },
            events,
            trouble: None,
        })
    }

    async fn commit(&mut self, span: &Span) -> Result<Epoch> {
        self.topic.check_file()?;
        if self.leaves_a_gap(span) {
            return self.rewind();
        }
        let committed = tokio::task::block_in_place(|| self.try_commit(span));
        match self.topic.fail(committed, "commit the offsets of")? {
            true => Ok(self.epoch),
            false => self.rewind(),
        }
    }

    async fn seek(&mut self, offsets: Option<&Offsets>) -> Result<Epoch> {
        let Some(offsets) = offsets else {
            return self.rewind();
        };
        let partitions = (0..).take(self.position.len());
        let known: Vec<_> = partitions.map(|p| offsets.position(p)).collect();
        let starts: Vec<_> = known.iter().map(|at| at.map(|at| at.offset)).collect();
        let starts = tokio::task::block_in_place(|| self.or_oldest(&starts))?;
        let position = known.iter().zip(starts);
        let position = position.map(|(known, start)| known.unwrap_or(start.into()));
        Ok(self.set_back(position.collect()))
    }

    async fn committed(&mut self) -> Result<Offsets> {
        let read = tokio::task::block_in_place(|| self.or_oldest(&self.stored_offsets()?));
        Ok(numbered(&read?))
    }

    async fn leave(&mut self) -> Result<()> {
        Ok(()) // nobody waits for a member, because each one reads every partition
    }

    async fn start(&mut self) -> Result<Offsets> {
        let none = vec![None; self.position.len()];
        let oldest = tokio::task::block_in_place(|| self.or_oldest(&none));
        Ok(numbered(&oldest?))
    }

    async fn end(&mut self) -> Result<Offsets> {
        let ends = (0..self.topic.partitions)
            .map(|p| next_offset(&self.topic.db, self.topic.id, p))
            .collect::<rusqlite::Result<Vec<i64>>>();
        Ok(numbered(&self.topic.fail(ends, "read the end of")?))
    }
}
