//! The watching port of the event log and the stores: whether they take a write and give it back, and
//! how far behind they are.

pub mod cassandra;
#[doc(hidden)]
pub mod conformance;
pub mod kafka;
pub mod postgres;
pub mod sqlite;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::event::{Event, MicroBatch};
use crate::event_log::{Consumer, Limits, Producer};

/// Watches one topic of an event log.
///
/// Guarantees: nothing is written to the topic itself, to its dead letters or to its groups' offsets;
/// probes leave a bounded number of events behind; a missing topic is an error (`Invalid`).
#[async_trait]
pub trait LogMonitor: Send {
    /// Appends a probe event to the topic's heartbeat topic, waits for its acknowledgement and reads
    /// it back. May wait without end: the caller sets the limit.
    async fn probe(&mut self, id: &str) -> Result<()>;

    /// How far a consumer group is behind the end of the topic as it is now.
    async fn lag(&mut self, group: &str) -> Result<Lag>;
}

/// How far a consumer group is behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Whether the group has ever committed an offset. One that has not starts at the oldest event.
    pub started: bool,
    /// Events not yet committed, of each partition.
    pub partitions: Vec<(i32, u64)>,
    /// When the oldest of them was produced, by its own timestamp, in milliseconds since 1970 UTC;
    /// none if there is none.
    pub oldest: Option<i64>,
}

impl Lag {
    /// Events not yet committed, over all partitions.
    pub fn records(&self) -> u64 {
        self.partitions.iter().map(|(_, events)| events).sum()
    }
}

/// Watches one of the stores.
///
/// Guarantees: nothing is written to the dataset's tables; probes leave one row for each writer
/// behind; a missing table is an error (`Invalid`).
#[async_trait]
pub trait StoreMonitor: Send {
    /// Writes a probe row to a table of its own, in the place of `writer`'s last one, and reads it
    /// back. `Unavailable` if the store is busy.
    async fn probe(&mut self, writer: &str, id: &str) -> Result<()>;

    /// When rows of the dataset were last committed by `stream` or `load-batch`, in milliseconds
    /// since 1970 UTC; none if never.
    async fn last_write(&mut self) -> Result<Option<i64>>;

    /// What else there is to say of the store, for people: who keeps writers from the
    /// table, which nodes are up.
    async fn remark(&mut self) -> Result<Option<String>> {
        Ok(None)
    }
}

/// The topic for the probes of a topic.
pub fn probe_topic(topic: &str) -> String {
    format!("{topic}.heartbeat")
}

/// How long a log that deletes by age keeps probes.
pub const PROBES_KEPT: Duration = Duration::from_secs(3600);

/// Between two looks for a probe event.
const PAUSE: Duration = Duration::from_millis(20);

/// The event of a probe.
fn probe_event(id: &str) -> Arc<MicroBatch> {
    let mut batch = MicroBatch::default();
    batch.push(Event::new(None, Some(id.as_bytes()), &[]));
    Arc::new(batch)
}

/// Appends a probe event and reads until it comes back; returns without a commit.
async fn round_trip(
    producer: &mut dyn Producer,
    consumer: &mut dyn Consumer,
    id: &str,
) -> Result<()> {
    let end = consumer.end().await?;
    producer.send(&probe_event(id)).await?;
    producer.flush().await?;
    consumer.seek(&end).await?;
    let limits = Limits {
        events: 1_000,
        bytes: 1 << 20,
    };
    loop {
        let read = consumer.poll(limits).await?;
        if read.iter().any(|e| e.value == Some(id.as_bytes())) {
            return Ok(());
        }
        if read.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}
