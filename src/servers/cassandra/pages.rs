//! Keys of rows that are newer than a time, by a series: Cassandra keeps no order of keys, and reading a whole table for
//! a few rows would cost the cluster what the stream needs.

use std::ops::ControlFlow;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use scylla::errors::ExecutionError;
use scylla::response::query_result::QueryResult;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimestamp;

use crate::dataset::ddl::quoted;
use crate::dataset::{Dataset, Series};
use crate::error::Result;
use crate::servers::cassandra::table_reader::page_size;
use crate::servers::cassandra::{self, Cluster};

/// Maximum partitions of a series that are read; beyond that, the table itself is read.
const MOST_PARTITIONS: i64 = 2_000;

/// Requests in flight: few, because a stream may be writing.
const READS: usize = 8;

/// How far after our clock an event time may be, in milliseconds.
const AHEAD: i64 = 3_600_000;

/// A series, by which new rows are found.
#[derive(Debug)]
pub(super) struct Recent {
    read: PreparedStatement,
    width: i64,
    shards: i32,
}

/// Bucket and shard.
type Partition = (i64, i32);

/// A page of a partition.
type Fetched = (
    Partition,
    std::result::Result<(QueryResult, PagingStateResponse), ExecutionError>,
);

impl Recent {
    /// Prepares the statement. It selects the dataset's columns.
    pub(super) async fn prepare(
        cluster: &Cluster,
        dataset: &Dataset,
        series: &Series,
    ) -> Result<Recent> {
        let columns: Vec<String> = dataset.fields.iter().map(|f| quoted(&f.name)).collect();
        let read = format!(
            "SELECT {} FROM {} WHERE {} = ? AND \"shard\" = ? AND {} > ?",
            columns.join(", "),
            cassandra::table(dataset, &series.table),
            quoted(series.bucket.name()),
            quoted(&dataset.time().name),
        );
        let mut read = cluster.prepare(&read).await?;
        read.set_page_size(page_size(columns.len()));
        Ok(Recent {
            read,
            width: series.bucket.millis(),
            shards: series.shards.into(),
        })
    }

    /// The partitions that can have rows newer than this; none if they are too many.
    fn partitions(&self, boundary: i64, now: i64) -> Option<Vec<Partition>> {
        let first = boundary.div_euclid(self.width);
        let last = now.saturating_add(AHEAD).div_euclid(self.width);
        let buckets = last.saturating_sub(first).saturating_add(1).max(0);
        if buckets.saturating_mul(self.shards.into()) > MOST_PARTITIONS {
            return None;
        }
        let shards = |bucket: i64| (0..self.shards).map(move |shard| (bucket * self.width, shard));
        Some((first..=last).flat_map(shards).collect())
    }

    /// Passes on the rows that are newer than this, a page at a time; false if the table must be read instead.
    pub(super) async fn read(
        &self,
        cluster: &Cluster,
        boundary: i64,
        mut lend: impl FnMut(QueryResult) -> Result<ControlFlow<()>>,
    ) -> Result<bool> {
        let Some(partitions) = self.partitions(boundary, crate::time::now_ms()) else {
            return Ok(false);
        };
        let mut partitions = partitions.into_iter();
        let page =
            |partition: Partition, from: PagingState| self.page(cluster, partition, boundary, from);
        let first = partitions.by_ref().take(READS);
        let mut pages: FuturesUnordered<_> = first.map(|p| page(p, PagingState::start())).collect();
        while let Some((partition, answer)) = pages.next().await {
            let (rows, more) = answer.map_err(|e| cluster.error(&e))?;
            match more.into_paging_control_flow() {
                ControlFlow::Continue(next) => pages.push(page(partition, next)),
                ControlFlow::Break(()) => {
                    pages.extend(partitions.next().map(|p| page(p, PagingState::start())));
                }
            }
            if tokio::task::block_in_place(|| lend(rows))?.is_break() {
                break;
            }
        }
        Ok(true)
    }

    async fn page(
        &self,
        cluster: &Cluster,
        partition: Partition,
        boundary: i64,
        from: PagingState,
    ) -> Fetched {
        let (bucket, shard) = partition;
        let values = (CqlTimestamp(bucket), shard, CqlTimestamp(boundary));
        let answer = cluster
            .session
            .execute_single_page(&self.read, values, from);
        (partition, answer.await)
    }
}
