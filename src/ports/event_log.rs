//! The event log port: topics of partitions of events, consumer groups with committed offsets.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::ports::log_reader::LogReader;
use crate::ports::monitor::{LogMonitor, PROBES_KEPT, probe_topic};
use crate::record::event::{EventBatch, Mark};

/// The settings of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Number of partitions, from 0.
    pub partitions: u32,
    /// On how many brokers each partition is kept, if the log has brokers.
    pub replication: u16,
    /// How long an event is kept, if the log deletes old ones.
    pub retention: Retention,
}

/// How long a log keeps the events of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// As long as it keeps those of any topic, by its own default.
    LogDefault,
    /// For this long.
    For(Duration),
    /// For ever.
    Forever,
}

impl Topic {
    /// A topic on one broker, which keeps events for the log's default time.
    pub fn new(name: impl Into<String>, partitions: u32) -> Topic {
        Topic {
            name: name.into(),
            partitions,
            replication: 1,
            retention: Retention::LogDefault,
        }
    }
}

impl Topic {
    /// An error if the topic is there with fewer partitions than this. More are how a topic grows, if the log can add
    /// some; `adding` is how.
    pub(crate) fn check_partitions(
        &self,
        there: u32,
        log: &dyn Display,
        adding: &str,
    ) -> Result<()> {
        let Topic {
            name, partitions, ..
        } = self;
        if there >= *partitions {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "topic {name} in {log} does not fit the dataset: it has {there} partition{}, but the dataset needs {partitions}",
            if there == 1 { "" } else { "s" }
        ))
        .hint(format!(
            "rtp changes no topic that exists: set `partitions = {there}` in the dataset, or {adding}"
        )))
    }
}

/// A place in a partition, and what was read before it.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    /// The offset of the next event.
    pub offset: i64,
    /// The mark of the event before it, if it is known.
    pub before: Option<Mark>,
}

impl From<i64> for Position {
    fn from(offset: i64) -> Self {
        Position {
            offset,
            before: None,
        }
    }
}

/// An offset for each of some partitions, some with the mark of the event before. The marks are evidence that the
/// offsets still mean the same events; those that have the same offsets are equal.
#[derive(Clone, Debug, Default)]
pub struct Offsets(BTreeMap<i32, Position>);

impl Offsets {
    /// The offset in a partition, if there is one.
    pub fn get(&self, partition: i32) -> Option<i64> {
        self.position(partition).map(|at| at.offset)
    }

    /// The position in a partition, if there is one.
    pub fn position(&self, partition: i32) -> Option<Position> {
        self.0.get(&partition).copied()
    }

    /// Sets the offset in a partition, or the position.
    pub fn set(&mut self, partition: i32, to: impl Into<Position>) {
        self.0.insert(partition, to.into());
    }

    /// Partitions and offsets, by partition.
    pub fn iter(&self) -> impl Iterator<Item = (i32, i64)> {
        self.positions()
            .map(|(partition, at)| (partition, at.offset))
    }

    /// Partitions and positions, by partition.
    pub fn positions(&self) -> impl Iterator<Item = (i32, Position)> {
        self.0.iter().map(|(partition, at)| (*partition, *at))
    }

    /// Number of partitions.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no partitions.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether each partition with an end is here, and not before its end.
    pub fn cover(&self, end: &Offsets) -> bool {
        end.iter()
            .all(|(partition, end)| self.get(partition).is_some_and(|at| at >= end))
    }

    /// Sets each partition to the larger of its offset here and there.
    pub fn raise_to(&mut self, other: &Offsets) {
        for (partition, offset) in other.iter() {
            let known = self.get(partition).unwrap_or(offset);
            self.set(partition, known.max(offset));
        }
    }

    /// Takes the offsets of the partitions that have none here.
    pub fn set_missing(&mut self, other: &Offsets) {
        for (partition, offset) in other.iter() {
            self.0.entry(partition).or_insert(offset.into());
        }
    }

    /// Whether none of these partitions is before its end; true for those without an end.
    pub fn have_reached(&self, end: &Offsets) -> bool {
        self.iter()
            .all(|(partition, at)| end.get(partition).is_none_or(|end| at >= end))
    }
}

impl PartialEq for Offsets {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Offsets {}

impl<P: Into<Position>> FromIterator<(i32, P)> for Offsets {
    fn from_iter<I: IntoIterator<Item = (i32, P)>>(pairs: I) -> Self {
        let pairs = pairs.into_iter();
        Offsets(
            pairs
                .map(|(partition, at)| (partition, at.into()))
                .collect(),
        )
    }
}

impl<const N: usize> From<[(i32, i64); N]> for Offsets {
    fn from(pairs: [(i32, i64); N]) -> Self {
        pairs.into_iter().collect()
    }
}

/// The range between two positions of a reader, in each partition that it reads: from the offset of the
/// first event to the one after the last, even if no event is left of what was written there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The position before.
    pub from: Offsets,
    /// The position after, in the same partitions.
    pub to: Offsets,
}

impl Span {
    /// The ranges of the partitions in which it is not empty.
    pub fn ranges(&self) -> impl Iterator<Item = (i32, Range<i64>)> {
        let range = |(partition, from)| Some((partition, from..self.to.get(partition)?));
        self.from
            .iter()
            .filter_map(range)
            .filter(|(_, range)| !range.is_empty())
    }

    /// Whether nothing lies between the positions.
    pub fn is_empty(&self) -> bool {
        self.ranges().next().is_none()
    }

    /// Extends to the end of a later span, which may be of other partitions: one that was no longer read
    /// stays where it was. It begins earlier if a partition came back from another member, to be read again.
    pub fn extend(&mut self, later: &Span) {
        for (partition, from) in later.from.iter() {
            let first = match self.from.get(partition) {
                Some(known) => known.min(from),
                None => from,
            };
            self.from.set(partition, first);
        }
        for (partition, to) in later.to.positions() {
            self.to.set(partition, to);
        }
    }
}

/// Counts how often a reader was reset. What it polled in an earlier epoch is void, and is polled again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(u64);

impl Epoch {
    /// The next epoch.
    #[must_use]
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

/// The result of a poll.
#[derive(Debug, Default)]
pub struct Polled {
    /// When it was polled.
    pub epoch: Epoch,
    /// The range between the positions before and after, in every partition that this member reads. The later ones have
    /// marks if the log compares them.
    pub span: Span,
    /// The events in that range; empty if there are none now.
    pub events: EventBatch,
    /// Why something is not being read at the moment that should be: some partitions, or all that a group would assign.
    /// The rest goes on; each poll says it again while it lasts.
    pub trouble: Option<Error>,
}

/// A server in the role of the event log.
#[async_trait]
pub trait EventLog: Debug + Display + Send + Sync {
    /// Creates topics where they are missing. One that is there with fewer partitions is an error (`Invalid`); more do no
    /// harm, because adding partitions is how a topic grows. Returns what else is not as asked for, or could not be found
    /// out, as sentences for people.
    async fn create(&self, topics: &[Topic]) -> Result<Vec<String>>;

    /// How topics are created there, for people: statements, or comments if there are no statements.
    fn statements(&self, topics: &[Topic]) -> Vec<String>;

    /// A producer to a topic.
    async fn producer(&self, topic: &str) -> Result<Box<dyn Producer>>;

    /// A member of a consumer group of a topic.
    async fn consumer(&self, topic: &str, group: &str) -> Result<Box<dyn Consumer>>;

    /// Watches a topic from outside its groups, until this time.
    async fn monitor(&self, topic: &str, until: Instant) -> Result<Box<dyn LogMonitor>>;

    /// A reader of a topic from outside its groups.
    async fn reader(&self, _topic: &str) -> Result<Box<dyn LogReader>> {
        Err(Error::internal("this log has no reader yet"))
    }

    /// What the dataset asks for that has no effect in this log, as sentences for people.
    fn without_effect(&self, _dataset: &Dataset) -> Vec<&'static str> {
        Vec::new()
    }

    /// The file that the log is, if it is one.
    fn file(&self) -> Option<&Path> {
        None
    }

    /// The same log, used with these settings of its client library; none if it has no such settings.
    fn with_settings(&self, _settings: &[Setting]) -> Option<Arc<dyn EventLog>> {
        None
    }
}

/// A setting of a log's client library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The option that it comes from, for messages.
    pub option: &'static str,
    /// The property.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl Setting {
    /// A property and its value, and the option that they come from.
    pub fn new(option: &'static str, name: &str, value: &str) -> Self {
        Setting {
            option,
            name: name.into(),
            value: value.into(),
        }
    }
}

/// The topics of a dataset: its own, its dead letters, and the heartbeat's probes. Dead letters do not expire with the
/// events, because nothing else has those records.
pub fn topics(dataset: &Dataset) -> [Topic; 3] {
    let event = &dataset.event;
    let kept = |retention: Option<Duration>| retention.map_or(Retention::Forever, Retention::For);
    let (dead_letters, probes) = (event.dead_letter_topic(), probe_topic(&event.topic));
    let topic = |name: String, partitions, retention| Topic {
        name,
        partitions,
        replication: event.replication,
        retention,
    };
    [
        topic(event.topic.clone(), event.partitions, kept(event.retention)),
        topic(dead_letters, 1, kept(event.dead_letter_retention)),
        topic(probes, 1, Retention::For(PROBES_KEPT)),
    ]
}

/// How long a poll that has nothing better to do waits for its first event.
pub const FIRST_EVENT_WAIT: Duration = Duration::from_millis(20);

/// Bounds of one poll.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of events.
    pub events: usize,
    /// Bytes of keys, values and headers: the event that reaches them is the last of its batch.
    pub bytes: usize,
    /// Maximum wait for the first event; a log without a server returns at once.
    pub wait: Duration,
}

/// Appends events to one topic.
///
/// Guarantees: the key chooses the partition, by [`partition_of`], and events of one key keep their
/// order; what [`Producer::settle`] has counted survives a crash of any process; keys, values and headers
/// are kept byte for byte, an empty key or value is distinct from none, and headers keep their order and
/// repetitions; an event's timestamp is the time at which it was accepted; several producers may append to one
/// topic at once; a missing topic is an error (`Invalid`), and is never created.
#[async_trait]
pub trait Producer: Send {
    /// Maximum bytes of key, value and headers that the topic accepts in one event; none if it accepts everything
    /// that rtp does.
    fn max_size(&self) -> Option<usize> {
        None
    }

    /// What it could not find out about its topic and assumes instead, as a sentence for people.
    fn assumed(&self) -> Option<&str> {
        None
    }

    /// Accepts a batch, and may keep a reference to it until it is settled. Only `settle` acknowledges it.
    /// After `Unavailable`, the next call must pass the same batch, and continues where this one stopped:
    /// no event is accepted twice.
    async fn send(&mut self, batch: &Arc<EventBatch>) -> Result<()>;

    /// Waits until all but the last `behind` batches that were sent are acknowledged; returns the number
    /// of events acknowledged since the last call, in whole batches, in the order sent. After
    /// `Unavailable` everything sent is still in flight: settle again, and do not send it again.
    async fn settle(&mut self, behind: usize) -> Result<u64>;

    /// Waits until everything sent is acknowledged; returns the same as [`Producer::settle`].
    async fn flush(&mut self) -> Result<u64> {
        self.settle(0).await
    }
}

/// Reads one topic as a member of a consumer group.
///
/// Guarantees: a group without committed offsets starts at the oldest event; each partition is read
/// in order, without gaps unless the log reports the range as lost; no partition starves the others;
/// an offset is committed only by [`Consumer::commit`], which survives a crash, never moves back and
/// never skips an event that was not named in a commit; each group has its own offsets; if the batches of
/// members overlap, only one of their commits takes effect. A reader is reset only by its own calls, together
/// with the epoch that they return: what was polled in an earlier epoch and not committed is polled again.
/// A missing topic is an error (`Invalid`), and is never created.
///
/// A log whose offsets can come to stand for other events without a new identity, because it can be restored from a
/// backup, sets the mark of the event before each position that it returns, and compares it before it reads on from
/// there: `Missing` if another event is in its place, or the partition ends before it. A position without a mark is
/// trusted.
#[async_trait]
pub trait Consumer: Send {
    /// Identifies this topic among all that have or had its name: the identity changes if the topic is deleted and
    /// recreated, or belongs to another log. Offsets are meaningful only together with it.
    async fn identity(&mut self) -> Result<String>;

    /// The next events. Each poll may change which partitions this member reads.
    async fn poll(&mut self, limits: Limits) -> Result<Polled>;

    /// Commits a span that was polled, or several consecutive ones, in the partitions that this member still
    /// has; in the others, their new readers read it again. If another member has moved the group's offsets
    /// since, or there is a gap before the span, nothing is committed and the reader is reset to the committed
    /// offsets. Returns the current epoch, which differs from that of the poll after a reset.
    async fn commit(&mut self, span: &Span) -> Result<Epoch>;

    /// Continues from the offsets of a store that keeps them with its rows, which take precedence even if the
    /// store was recreated: from the oldest event in a partition without an offset, and also in partitions that
    /// are assigned to this member later. Without offsets, it continues from what is committed. Returns the new
    /// epoch.
    async fn seek(&mut self, offsets: Option<&Offsets>) -> Result<Epoch>;

    /// What the group has committed in every partition, by whichever member; the offset of the oldest event
    /// in a partition without a commit.
    async fn committed(&mut self) -> Result<Offsets>;

    /// Leaves the group: the others take over at once what this member has not committed. Polls are
    /// empty from then on.
    async fn leave(&mut self) -> Result<()>;

    /// The offset of the oldest event in each partition now, or of the next one if it is empty.
    async fn start(&mut self) -> Result<Offsets>;

    /// The end of each partition now: the offset that the next event will get, or the first event of
    /// a transaction that is still open.
    async fn end(&mut self) -> Result<Offsets>;
}

/// The partition of a key: Kafka's own rule (murmur2, sign bit cleared), so that an event lands in
/// the same partition on every log. Events without a key go to partition 0.
pub fn partition_of(key: Option<&[u8]>, partitions: u32) -> i32 {
    let hash = key.map_or(0, |key| murmur2(key) & 0x7fff_ffff);
    i32::try_from(hash % partitions.max(1)).unwrap_or(0)
}

/// 32-bit MurmurHash2, as in Kafka's `Utils.murmur2`.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c_u32 ^ (data.len() as u32);
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        h = h.wrapping_mul(M) ^ k;
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        for (i, b) in rest.iter().enumerate() {
            h ^= u32::from(*b) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h = (h ^ (h >> 13)).wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected hashes are those of Kafka's own UtilsTest.testMurmur2.
    #[test]
    fn keys_hash_as_in_kafka() {
        let table: [(&str, i32); 7] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
            ("", 275_646_681),
        ];
        for (key, hash) in table {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }
}
