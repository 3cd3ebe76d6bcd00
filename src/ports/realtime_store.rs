//! The real-time store port: the newest row of each key.

use std::fmt::{Debug, Display};
use std::path::Path;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use crate::dataset::{Dataset, Series};
use crate::error::Result;
use crate::ports::event_log::{Offsets, Span};
use crate::ports::log_reader::LogReader;
use crate::ports::monitor::{StoreMonitor, Stored, set_back};
use crate::ports::series_reader::SeriesReader;
use crate::ports::table_reader::TableReader;
use crate::record::row::Rows;

/// A server in the role of the real-time store.
#[async_trait]
pub trait RealtimeStores: Debug + Display + Send + Sync {
    /// Creates a dataset's tables where they are missing. One that is there but cannot take the dataset's rows is an
    /// error (`Invalid`) that lists the differences, here and whenever the store is opened.
    async fn create(&self, dataset: &Dataset) -> Result<()>;

    /// The statements that create them.
    fn statements(&self, dataset: &Dataset) -> Vec<String>;

    /// What the dataset asks for that has no effect in this store, as sentences for people.
    fn without_effect(&self, _dataset: &Dataset) -> Vec<&'static str> {
        Vec::new()
    }

    /// The file that the store is, if it is one.
    fn file(&self) -> Option<&Path> {
        None
    }

    /// The store for what a consumer group reads from the dataset's topic.
    async fn open(
        &self,
        dataset: &Dataset,
        upstream: Upstream<'_>,
    ) -> Result<Box<dyn RealtimeStore>>;

    /// The dataset's table, for reading.
    async fn table(&self, dataset: &Dataset) -> Result<Box<dyn TableReader>>;

    /// Opens one of the dataset's series for reading; none if it has no rows of its own, but shows those of the table.
    fn series<'a>(
        &'a self,
        _dataset: &'a Dataset,
        _series: &'a Series,
    ) -> Option<BoxFuture<'a, Result<Box<dyn SeriesReader>>>> {
        None
    }

    /// Watches the store.
    async fn monitor(&self, dataset: &Dataset) -> Result<Box<dyn StoreMonitor>>;

    /// The offsets that the store keeps of a group: a stream continues there, wherever the log says that the group is.
    /// Only a store that is a file keeps any, so that none on a server is waited for; and none are told by one that
    /// cannot be asked, whose own check or look says so.
    async fn kept_offsets(&self, dataset: &Dataset, group: &str) -> Option<Stored> {
        self.file()?;
        let store = self.monitor(dataset).await;
        store.ok()?.stored(group).await.ok()?
    }
}

/// Where a group continues in each partition of which the log or the store knows: what it has committed, taken back to where
/// the store stands, if there is one that keeps offsets of this topic.
pub async fn continues(
    log: &mut dyn LogReader,
    store: Option<&dyn RealtimeStores>,
    dataset: &Dataset,
    group: &str,
) -> Result<Offsets> {
    let mut committed = log.committed(group).await?;
    let Some(store) = store else {
        return Ok(committed);
    };
    if let Some(stored) = store.kept_offsets(dataset, group).await
        && let Some(offsets) = stored.of_topic(log.identity().await?.as_deref())
    {
        set_back(&mut committed, offsets, &log.bounds().await?.from);
    }
    Ok(committed)
}

/// Whose offsets a store keeps.
#[derive(Clone, Copy, Debug)]
pub struct Upstream<'a> {
    /// The consumer group.
    pub group: &'a str,
    /// The topic's [identity](crate::ports::event_log::Consumer::identity): offsets of another topic with the same
    /// name say nothing about this one.
    pub topic: &'a str,
}

/// Upserts rows of one dataset, and keeps the offsets of one consumer group if it can.
///
/// Guarantees: whatever is replayed or reordered, the row of a key is the newest by (event time,
/// canonical digest); values come back as they were given, an absent field is NULL even where there
/// was a value, and keys are equal only if their bytes are; rows count as stored only after
/// [`RealtimeStore::commit`], and then survive a crash; a store that keeps offsets commits them with
/// the rows, all or nothing, separately for each group, with the marks of the span's positions; a row that the store itself refuses does not
/// prevent the others from being stored, and an older version of its key in the same upsert takes its place; a
/// series has the newest row of each key, in the bucket of its event time, and may have older ones in theirs: a store
/// that only shows its current rows by time has none.
#[async_trait]
pub trait RealtimeStore: Send {
    /// The offsets kept with the rows, 0 for a partition without one; none from a store that keeps none. `Missing` if
    /// they belong to a different topic than the one that the store was opened for.
    async fn offsets(&mut self) -> Result<Option<Offsets>>;

    /// Writes the rows of the events in a span; without rows it only moves the offsets.
    /// In a store that keeps offsets nothing is durable or visible to others before `commit`, an error
    /// leaves nothing behind, and an upsert replaces one that was not committed.
    async fn upsert(&mut self, span: &Span, rows: &Rows) -> Result<Upsert>;

    /// Makes the last upsert or merge durable, rows and offsets together.
    async fn commit(&mut self) -> Result<()>;

    /// The ability to set rows aside, if the store keeps offsets and benefits from it.
    fn backlog(&mut self) -> Option<&mut dyn Backlog> {
        None
    }
}

/// Sets the rows of micro-batches aside until they are written as one upsert.
#[async_trait]
pub trait Backlog: Send {
    /// Sets rows aside for the next `merge`. They are neither durable nor visible to anybody.
    async fn stage(&mut self, rows: &Rows) -> Result<()>;

    /// Writes all rows set aside as one upsert of a span, with the same guarantees, except that a row that the store
    /// refuses fails it as `Data`. The rows are kept until the next commit or `discard`.
    async fn merge(&mut self, span: &Span) -> Result<Upsert>;

    /// Forgets the rows set aside.
    async fn discard(&mut self) -> Result<()>;
}

/// The outcome of an upsert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upsert {
    /// The rows are written.
    Done(Upserted),
    /// Another member of the group has already written past the start of the span; nothing was written.
    Superseded,
}

/// The rows of an upsert, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upserted {
    /// Rows inserted or replaced.
    pub written: u64,
    /// Rows superseded by a newer one with the same key in the same batch.
    pub deduplicated: u64,
    /// Rows not newer than the stored one, if the store can tell.
    pub skipped: u64,
    /// Rows that the store refused: index and reason.
    pub refused: Vec<(usize, String)>,
}
