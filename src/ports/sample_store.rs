//! The port of the dashboard's memory: what the collector measured, thinned the more the older it is.

use async_trait::async_trait;

use crate::error::Result;

/// What was measured at one time. Counts grow as long as the topic is the same; what is not known is none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// When, in milliseconds since 1970 UTC.
    pub at: i64,
    /// Events that were ever appended to the topic.
    pub produced: Option<i64>,
    /// Events that the group has committed.
    pub committed: Option<i64>,
    /// Events that the group has not committed.
    pub lag_records: Option<i64>,
    /// Age of the oldest of them, in milliseconds.
    pub lag_ms: Option<i64>,
}

/// What samples are about. Those of another topic or group count something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Name of the dataset.
    pub dataset: String,
    /// Address of the event log.
    pub event_log: String,
    /// Its topic.
    pub topic: String,
    /// The consumer group.
    pub group: String,
}

/// Keeps the samples of one scope.
///
/// Guarantees: of the samples of a step (5 s for the last 2 hours, 1 minute for the last 8 days, 1 hour for ever) the last
/// one is kept, so that the store does not grow beyond a bound; samples of another scope in the same store are neither seen
/// nor changed; whatever was added survives the end of the process if
/// the store is a file.
#[async_trait]
pub trait SampleStore: Send {
    /// Adds a sample, which is newer than all others.
    async fn add(&mut self, sample: &Sample) -> Result<()>;

    /// When the oldest sample was taken.
    async fn oldest(&mut self) -> Result<Option<i64>>;

    /// The last sample of each step since a time, by time; steps without any are left out.
    async fn since(&mut self, from: i64, step_ms: i64) -> Result<Vec<Sample>>;
}
