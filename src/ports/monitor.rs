//! The monitoring port of the event log and the stores: whether they accept a write and return it, and
//! how far they lag.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::ports::event_log::{Consumer, FIRST_EVENT_WAIT, Limits, Offsets, Producer};
use crate::record::event::{Event, EventBatch};

/// Watches one topic of an event log.
///
/// Guarantees: nothing is written to the topic itself, to its dead letters or to its groups' offsets;
/// probes leave a bounded number of events behind; a missing topic is an error (`Invalid`). What is known about a
/// failure is told before the time limit that the monitor was opened with, after which nobody listens.
#[async_trait]
pub trait LogMonitor: Send {
    /// Appends a probe event to the topic's heartbeat topic, waits for its acknowledgement and reads
    /// it back. May wait longer than the time limit, which the caller enforces.
    async fn probe(&mut self, id: &str) -> Result<()>;

    /// How far a consumer group lags behind the current end of the topic: from what it has committed or, in a partition
    /// where a store has less of it, from what the store has. Offsets of another topic do not count.
    async fn lag(&mut self, group: &str, stored: Option<&Stored>) -> Result<Lag>;

    /// Those of a store's offsets from which a reader could not continue.
    async fn out_of_range(&mut self, offsets: &Offsets) -> Result<Vec<OutOfRange>>;
}

/// How far a consumer group lags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// The topic's identity, as [`Consumer::identity`] tells it; none if the log does not tell it.
    pub topic: Option<String>,
    /// Whether the group has ever committed an offset. A group that has not starts at the oldest event.
    pub started: bool,
    /// Events not yet committed, for each partition.
    pub partitions: Vec<(i32, u64)>,
    /// When the oldest of them was produced, by its own timestamp, in milliseconds since 1970 UTC;
    /// none if there is none.
    pub oldest: Option<i64>,
    /// Committed offsets that are not in the topic.
    pub out_of_range: Vec<OutOfRange>,
}

/// An offset from which a group cannot continue, as committed in the log or kept by a store: the topic was recreated,
/// restored, or has lost events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// Why nobody can continue there.
    pub why: Why,
}

/// Why an offset is out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The events there were deleted.
    Deleted {
        /// Offset of the oldest event that is left.
        low: i64,
    },
    /// It is beyond the end.
    Beyond {
        /// Offset that the next event will get.
        end: i64,
    },
    /// The event before it is not the one that was read.
    OtherEvents,
}

impl OutOfRange {
    /// The offset, if it is outside of a partition that begins and ends at these.
    pub fn find(partition: i32, offset: i64, low: i64, end: i64) -> Option<Self> {
        let why = match offset {
            _ if offset < low => Why::Deleted { low },
            _ if offset > end => Why::Beyond { end },
            _ => return None,
        };
        Some(OutOfRange {
            partition,
            offset,
            why,
        })
    }
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OutOfRange {
            partition,
            offset,
            why,
        } = self;
        write!(f, "its offset in partition {partition} is {offset}, but ")?;
        match why {
            Why::Deleted { low } => {
                write!(
                    f,
                    "the events from there to offset {} were deleted",
                    low - 1
                )
            }
            Why::Beyond { end } => write!(f, "the topic ends at {end}"),
            Why::OtherEvents => f.write_str("the event before that is not the one that was read"),
        }
    }
}

impl Lag {
    /// Events not yet committed, over all partitions.
    pub fn records(&self) -> u64 {
        self.partitions.iter().map(|(_, events)| events).sum()
    }
}

/// What a store keeps of the group whose events it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The identity of the topic that the offsets belong to, as [`Consumer::identity`] tells it; none if it is not known.
    pub topic: Option<String>,
    /// Where the group continues.
    pub offsets: Offsets,
}

impl Stored {
    /// The offsets, unless they are known to belong to another topic than this.
    pub fn of_topic(&self, topic: Option<&str>) -> Option<&Offsets> {
        let is_other = |stored: &str| topic.is_some_and(|topic| topic != stored);
        let is_other = self.topic.as_deref().is_some_and(is_other);
        (!is_other).then_some(&self.offsets)
    }
}

/// Where the events of a partition that begins at `low` begin to be new: to the group, by what it has committed, or to a
/// store that keeps its offsets, and continues at the oldest event where it has none; whichever is less.
pub fn continues_at(
    partition: i32,
    committed: Option<i64>,
    stored: Option<&Offsets>,
    low: i64,
) -> i64 {
    match (committed, stored) {
        (committed, None) => committed.unwrap_or(low),
        (committed, Some(stored)) => {
            let stored = stored.get(partition).unwrap_or(low);
            committed.map_or(stored, |at| at.min(stored))
        }
    }
}

/// Takes what a group has committed back to where its store stands, in partitions that have one of both: a store that was
/// restored or emptied is behind, and the stream continues where the store stands. `lows` is where the partitions begin.
pub fn set_back(committed: &mut Offsets, stored: &Offsets, lows: &Offsets) {
    for (partition, low) in lows.iter() {
        let at = committed.get(partition);
        if at.is_some() || stored.get(partition).is_some() {
            let next = continues_at(partition, at, Some(stored), low);
            committed.set(partition, next);
        }
    }
}

/// Watches one of the stores.
///
/// Guarantees: nothing is written to the dataset's tables; probes leave one row per writer; a missing
/// table is an error (`Invalid`).
#[async_trait]
pub trait StoreMonitor: Send {
    /// Writes a probe row to a separate table, replacing `writer`'s last one, and reads it back. `Unavailable`
    /// if the store is busy.
    async fn probe(&mut self, writer: &str, id: &str) -> Result<()>;

    /// The group's offsets that the store keeps with its rows; none if it keeps none.
    async fn stored(&mut self, _group: &str) -> Result<Option<Stored>> {
        Ok(None)
    }

    /// The groups whose offsets the store keeps with its rows: what was read by one of them is in the store, or among
    /// the dead letters. None in a store that keeps none.
    async fn groups(&mut self) -> Result<Vec<(String, Stored)>> {
        Ok(Vec::new())
    }

    /// When rows of the dataset were last committed by `stream` or `load-batch`, in milliseconds
    /// since 1970 UTC; none if never.
    async fn last_write(&mut self) -> Result<Option<i64>>;

    /// Number of rows in the dataset's table, without reading all of it: exact only where that costs little. None if the
    /// store does not tell.
    async fn rows(&mut self) -> Result<Option<RowCount>> {
        Ok(None)
    }

    /// Anything else worth knowing about the store, for people: who blocks writers of the table, which nodes
    /// are up.
    async fn remark(&mut self) -> Result<Option<String>> {
        Ok(None)
    }
}

/// A number of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RowCount {
    /// The number.
    pub count: u64,
    /// Whether it was counted, not estimated.
    pub exact: bool,
}

/// The topic for the probes of a topic.
pub fn probe_topic(topic: &str) -> String {
    format!("{topic}.heartbeat")
}

/// How long a log that deletes by age keeps probes.
pub const PROBES_KEPT: Duration = Duration::from_secs(3600);

/// Pause between two attempts to read a probe event.
const PAUSE: Duration = Duration::from_millis(20);

/// The event of a probe.
pub(crate) fn probe_event(id: &str) -> Arc<EventBatch> {
    let mut batch = EventBatch::default();
    batch.push(Event::new(None, Some(id.as_bytes()), &[]));
    Arc::new(batch)
}

/// Appends a probe event and reads until it comes back; returns the position after it, without a commit.
pub(crate) async fn round_trip(
    producer: &mut dyn Producer,
    consumer: &mut dyn Consumer,
    id: &str,
) -> Result<Offsets> {
    let end = consumer.end().await?;
    producer.send(&probe_event(id)).await?;
    producer.flush().await?;
    consumer.seek(Some(&end)).await?;
    let limits = Limits {
        events: 1_000,
        bytes: 1 << 20,
        wait: FIRST_EVENT_WAIT,
    };
    loop {
        let read = consumer.poll(limits).await?;
        if read.events.iter().any(|e| e.value == Some(id.as_bytes())) {
            return Ok(read.span.to);
        }
        if read.events.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}
