//! The event log port: topics of partitions of events, consumer groups with committed offsets.

#[doc(hidden)]
pub mod conformance;
pub mod kafka;
pub mod sqlite;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::event::MicroBatch;

/// What a topic looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Number of partitions, from 0.
    pub partitions: u32,
    /// On how many brokers each partition is kept, where the log has brokers.
    pub replication: u16,
    /// How long an event is kept, where the log deletes old ones; none leaves it to the log.
    pub retention: Option<Duration>,
}

impl Topic {
    /// A topic on one broker, that keeps events as long as the log does by itself.
    pub fn new(name: impl Into<String>, partitions: u32) -> Topic {
        Topic {
            name: name.into(),
            partitions,
            replication: 1,
            retention: None,
        }
    }
}

/// The position of a reader in each partition it reads: (partition, offset of the next event).
pub type Offsets = Vec<(i32, i64)>;

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// The offsets are committed.
    Done,
    /// Another member of the group has moved them since; this reader's batch is void, and its next
    /// poll starts from the committed offsets.
    Superseded,
}

/// Bounds of one poll.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most events.
    pub events: usize,
    /// Bytes of keys, values and headers: the event that reaches them is the last of its batch.
    pub bytes: usize,
}

/// Appends events to one topic.
///
/// Guarantees: the key chooses the partition, by [`partition_of`], and events of one key keep their
/// order; what [`Producer::settle`] has counted survives a crash of any process; keys, values and headers
/// are kept byte for byte, an empty key or value told from none, headers in their order and repeated;
/// an event's timestamp is the time at which it was taken; several producers may append to one topic at once; a missing topic is an
/// error (`Invalid`), never made.
#[async_trait]
pub trait Producer: Send {
    /// Most bytes of key, value and headers that the topic takes in one event; none if it takes all that
    /// rtp does.
    fn max_size(&self) -> Option<usize> {
        None
    }

    /// Takes a batch, and may keep a share of it until it is settled. It is acknowledged only by `settle`.
    /// After `Unavailable`, the next call must be with the same batch, and goes on where this one stopped:
    /// no event is taken twice.
    async fn send(&mut self, batch: &Arc<MicroBatch>) -> Result<()>;

    /// Waits until all but the last `behind` batches that were sent are acknowledged; returns the number
    /// of events that are since the last call, in whole batches, in the order they were sent. After
    /// `Unavailable` everything sent is still on its way: settle again, and do not send it again.
    async fn settle(&mut self, behind: usize) -> Result<u64>;

    /// Waits until everything sent is acknowledged; returns as [`Producer::settle`].
    async fn flush(&mut self) -> Result<u64> {
        self.settle(0).await
    }
}

/// Reads one topic as a member of a consumer group.
///
/// Guarantees: a group without committed offsets starts at the oldest event; each partition is read
/// in order, without gaps unless the log reports the range as lost; no partition starves the others;
/// an offset is committed only by [`Consumer::commit`], which outlives a crash, and never moves back;
/// each group has its own; of members whose batches overlap, the commit of one only is done. A
/// missing topic is an error (`Invalid`), never made.
#[async_trait]
pub trait Consumer: Send {
    /// The next events; an empty batch when there are none now.
    async fn poll(&mut self, limits: Limits) -> Result<MicroBatch>;

    /// Commits these offsets, none of them past what was polled: a reader may be ahead of what is stored.
    async fn commit(&mut self, offsets: &Offsets) -> Result<Commit>;

    /// The position of the next poll in each partition that this member reads, all that was polled
    /// counted as done. Each poll may change which partitions these are.
    fn position(&self) -> Offsets;

    /// Goes on from these offsets, from the oldest event in a partition without any, also in those that
    /// this member is given later: a store that keeps offsets with its rows knows best, also when it
    /// was made anew.
    async fn seek(&mut self, offsets: &Offsets) -> Result<()>;

    /// What the group has committed in every partition, whoever did it; the offset of the oldest event
    /// in a partition without any.
    async fn committed(&mut self) -> Result<Offsets>;

    /// Leaves the group: what this member has not committed goes to the others at once. Polls are
    /// empty from then on.
    async fn leave(&mut self) -> Result<()>;

    /// The end of each partition now: the offset that the next event will get.
    async fn end(&mut self) -> Result<Offsets>;
}

/// The partition of a key: Kafka's own rule (murmur2, sign bit cleared), so that an event lands in
/// the same partition on every log. Events without a key go to partition 0.
pub fn partition_of(key: Option<&[u8]>, partitions: u32) -> i32 {
    let hash = key.map_or(0, |key| murmur2(key) & 0x7fff_ffff);
    i32::try_from(hash % partitions.max(1)).unwrap_or(0)
}

/// 32-bit MurmurHash2 as in Kafka's `Utils.murmur2`.
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
