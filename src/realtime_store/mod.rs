//! The real-time store port: the newest row of each key.

pub mod cassandra;
#[doc(hidden)]
pub mod conformance;
pub mod sqlite;

use async_trait::async_trait;

use crate::error::Result;
use crate::event_log::Offsets;
use crate::row::Rows;

/// Upserts rows of one dataset, and keeps the offsets of one consumer group where it can.
///
/// Guarantees: whatever is replayed or reordered, the row of a key is the newest by (event time,
/// canonical digest); values come back as they were given, an absent field is NULL also where there
/// was a value, and keys are equal only if their bytes are; rows count as stored only after
/// [`RealtimeStore::commit`], and then survive a crash; a store that keeps offsets commits them with
/// the rows, all or nothing, each group's its own; a row that the store itself refuses does not keep
/// the others out.
#[async_trait]
pub trait RealtimeStore: Send {
    /// The offsets kept with the rows, a partition without any at 0; none from a store that keeps none.
    async fn offsets(&mut self) -> Result<Option<Offsets>>;

    /// Writes the rows of the events between two positions; without rows it moves the offsets only.
    /// In a store that keeps offsets nothing is durable or seen by others before `commit`, an error
    /// leaves nothing behind, and an upsert takes the place of one that was not committed.
    async fn upsert(&mut self, from: &Offsets, to: &Offsets, rows: &Rows) -> Result<Upsert>;

    /// Keeps the rows of a backlog aside for the next `merge`; false, and nothing kept, in a store that
    /// gains nothing by it or keeps no offsets. Rows kept aside are neither durable nor seen by anybody.
    async fn stage(&mut self, _rows: &Rows) -> Result<bool> {
        Ok(false)
    }

    /// Writes all rows kept aside as one upsert between two positions, with the same guarantees, but
    /// that a row which the store refuses fails it as `Data`. They are kept until the next commit or
    /// `discard`.
    async fn merge(&mut self, _from: &Offsets, _to: &Offsets) -> Result<Upsert> {
        Ok(Upsert::Done(Upserted::default()))
    }

    /// Forgets the rows kept aside.
    async fn discard(&mut self) -> Result<()> {
        Ok(())
    }

    /// Makes the last upsert or merge durable, rows and offsets together.
    async fn commit(&mut self) -> Result<()>;
}

/// What became of an upsert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upsert {
    /// The rows are written.
    Done(Upserted),
    /// Another member of the group has written past `from`; nothing was written.
    Superseded,
}

/// The rows of an upsert, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upserted {
    /// Rows inserted or replaced.
    pub written: u64,
    /// Rows superseded by a newer one of the same key in the same batch.
    pub deduplicated: u64,
    /// Rows not newer than the stored one, where the store can tell.
    pub skipped: u64,
    /// Rows that the store refused: index and reason.
    pub refused: Vec<(usize, String)>,
}
