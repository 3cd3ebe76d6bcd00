//! Reads a topic of the embedded log from outside its groups, through a connection that cannot write.

use std::ops::{ControlFlow, Range};
use std::path::Path;

use async_trait::async_trait;
use rusqlite::{OptionalExtension, params};

use super::consumer::event;
use super::{OpenTopic, events_table, next_offset, out_of_range};
use crate::error::{Error, Result};
use crate::ports::event_log::{Offsets, Span};
use crate::ports::log_reader::{EventVisitor, LogReader};
use crate::ports::monitor::OutOfRange;
use crate::servers::sqlite;

/// Number of events in one statement. As long as one runs, the write-ahead log of the file cannot start over.
const PAGE: usize = 10_000;

/// A topic, open for reading.
#[derive(Debug)]
pub struct SqliteLogReader {
    topic: OpenTopic,
}

impl SqliteLogReader {
    /// Opens a topic.
    pub fn open(path: &Path, topic: &str) -> Result<Self> {
        sqlite::must_exist(path)?;
        let db = sqlite::fail(sqlite::open_read_only(path), "open", path)?;
        let topic = OpenTopic::of(db, path, topic)?;
        Ok(SqliteLogReader { topic })
    }

    fn partitions(&self) -> impl Iterator<Item = (i32, u32)> + use<> {
        (0..).zip(0..self.topic.partitions)
    }

    fn table(&self, partition: i32) -> String {
        events_table(self.topic.id, partition.into())
    }

    /// The offset of the oldest event of a partition, or of the next one, which is the second.
    fn ends(&self, partition: i32, number: u32) -> rusqlite::Result<(i64, i64)> {
        let db = &self.topic.db;
        let oldest = format!("SELECT min(offset) FROM {}", self.table(partition));
        let oldest: Option<i64> = db.prepare_cached(&oldest)?.query_row([], |r| r.get(0))?;
        // In this order, because nothing that is appended meanwhile is the oldest.
        let next = next_offset(db, self.topic.id, number)?;
        Ok((oldest.unwrap_or(next), next))
    }

    fn read_bounds(&self) -> rusqlite::Result<Span> {
        let mut span = Span::default();
        for (partition, number) in self.partitions() {
            let (from, to) = self.ends(partition, number)?;
            span.from.set(partition, from);
            span.to.set(partition, to);
        }
        Ok(span)
    }

    fn read_committed(&self, group: &str) -> rusqlite::Result<Offsets> {
        let mut select = self.topic.db.prepare_cached(
            "SELECT partition, offset FROM group_offsets WHERE topic = ?1 AND consumer_group = ?2",
        )?;
        select
            .query_map(params![self.topic.id, group], |r| {
                Ok((r.get(0)?, r.get::<_, i64>(1)?))
            })?
            .collect()
    }

    /// Halves the range, because nothing but the order of the events tells their times; a clock that was set back
    /// makes that as inexact as it was itself.
    fn first_since(&self, time: i64, partition: i32, number: u32) -> rusqlite::Result<i64> {
        let first = format!(
            "SELECT offset, timestamp FROM {} WHERE offset >= ?1 ORDER BY offset LIMIT 1",
            self.table(partition)
        );
        let mut first = self.topic.db.prepare_cached(&first)?;
        let (mut low, mut high) = self.ends(partition, number)?;
        while low < high {
            let middle = low + (high - low) / 2;
            let found: Option<(i64, i64)> = first
                .query_row([middle], |r| Ok((r.get(0)?, r.get(1)?)))
                .optional()?;
            match found {
                Some((offset, at)) if at < time => low = offset + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    fn read_range(
        &self,
        partition: i32,
        mut range: Range<i64>,
        visitor: &mut dyn EventVisitor,
    ) -> rusqlite::Result<ControlFlow<()>> {
        let page = format!(
            "SELECT offset, timestamp, key, value, headers FROM {} WHERE offset >= ?1 AND offset < ?2 ORDER BY offset LIMIT ?3",
            self.table(partition)
        );
        let mut page = self.topic.db.prepare_cached(&page)?;
        loop {
            let mut rows = page.query(params![range.start, range.end, PAGE])?;
            let mut read = 0;
            while let Some(row) = rows.next()? {
                let event = event(row, partition)?;
                read += 1;
                range.start = event.offset + 1;
                if visitor.event(event).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if read < PAGE {
                return Ok(ControlFlow::Continue(()));
            }
        }
    }

    fn read_span(&self, span: &Span, visitor: &mut dyn EventVisitor) -> Result<()> {
        for (partition, range) in span.ranges() {
            if !self.partitions().any(|(known, _)| known == partition) {
                let (name, path) = (&self.topic.name, self.topic.path.display());
                return Err(Error::invalid(format!(
                    "topic {name} in {path} has no partition {partition}"
                )));
            }
            let read = self.read_range(partition, range, visitor);
            if self.topic.fail(read, "read")?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }
}

#[async_trait]
impl LogReader for SqliteLogReader {
    async fn bounds(&mut self) -> Result<Span> {
        self.topic.check_file()?;
        let bounds = tokio::task::block_in_place(|| self.read_bounds());
        self.topic.fail(bounds, "read the ends of")
    }

    async fn identity(&mut self) -> Result<Option<String>> {
        self.topic.check_file()?;
        Ok(Some(self.topic.identity.clone()))
    }

    async fn out_of_range(&mut self, offsets: &Offsets) -> Result<Vec<OutOfRange>> {
        self.topic.check_file()?;
        let compare = || out_of_range(&self.topic.db, self.topic.id, offsets);
        let found = tokio::task::block_in_place(compare);
        self.topic.fail(found, "compare offsets with")
    }

    async fn committed(&mut self, group: &str) -> Result<Offsets> {
        self.topic.check_file()?;
        let committed = tokio::task::block_in_place(|| self.read_committed(group));
        let doing = format!("read the offsets of group {group} in");
        self.topic.fail(committed, &doing)
    }

    async fn at_time(&mut self, time: i64) -> Result<Offsets> {
        self.topic.check_file()?;
        let since = |(partition, number)| {
            let first = self.first_since(time, partition, number)?;
            Ok((partition, first))
        };
        let found = tokio::task::block_in_place(|| self.partitions().map(since).collect());
        self.topic.fail(found, "find a time in")
    }

    async fn read(&mut self, span: &Span, visitor: &mut dyn EventVisitor) -> Result<()> {
        self.topic.check_file()?;
        tokio::task::block_in_place(|| self.read_span(span, visitor))
    }
}
