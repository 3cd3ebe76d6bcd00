//! The real-time store in Cassandra: upserts whose write timestamp is the order of versions, so that
//! they converge whatever arrives twice, late, or in another order.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use scylla::errors::ExecutionError;
use scylla::serialize::SerializationError;
use scylla::serialize::row::{RowSerializationContext, SerializeRow};
use scylla::serialize::writers::{CellOverflowError, CellWriter, RowWriter, WrittenCellProof};
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use super::{RealtimeStore, Upsert, Upserted};
use crate::cassandra::{self, Cluster, Fate, TIMEOUT};
use crate::dataset::ddl::quoted;
use crate::dataset::{Dataset, FieldType, Nulls, Series};
use crate::error::{Error, Result};
use crate::event_log::Offsets;
use crate::row::{Digest, Origin, RowMeta, Rows};
use crate::url::Server;
use crate::value::Value;

/// Requests in flight at once.
const IN_FLIGHT: usize = 256;

/// Most rows of a batch.
const MAX_BATCH_ROWS: usize = 32;

/// What Cassandra adds to each value of a write when it measures a batch: write time, time to live
/// and time of deletion.
const CELL_BYTES: usize = 20;

/// What else it counts of a row: the columns of our own, and the row itself.
const ROW_BYTES: usize = 128;

/// How often the time of the last write is noted.
const PROGRESS: Duration = Duration::from_secs(1);

/// Creates the keyspace and the tables, where they are missing.
pub async fn create(server: &Server, dataset: &Dataset) -> Result<()> {
    cassandra::create(server, dataset).await
}

/// A connected store. It keeps no offsets, and rows are durable once they are acknowledged: an upsert
/// returns when all are, and a commit has nothing left to do. Whether a row was newer than the stored
/// one is not known.
#[derive(Debug)]
pub struct CassandraStore {
    cluster: Cluster,
    key: usize,
    /// The table of the newest rows, then those for reads by time.
    targets: Vec<Target>,
    limits: BatchLimits,
    progress: PreparedStatement,
    table: String,
    noted: Option<Instant>,
}

impl CassandraStore {
    /// Connects, and prepares what it writes.
    pub async fn open(server: &Server, dataset: &Dataset) -> Result<Self> {
        let cluster = Cluster::connect(server, &dataset.realtime.keyspace).await?;
        let mut targets = vec![Target::prepare(&cluster, dataset, None).await?];
        for series in &dataset.realtime.series {
            targets.push(Target::prepare(&cluster, dataset, Some(series)).await?);
        }
        let progress = format!(
            "INSERT INTO {} (\"target\", \"written_at\") VALUES (?, ?)",
            cassandra::table(dataset, "rtp_progress")
        );
        Ok(CassandraStore {
            progress: cluster.prepare(&progress).await?,
            limits: BatchLimits::of(&cluster).await,
            key: dataset.event.key,
            table: dataset.realtime.table.clone(),
            noted: None,
            targets,
            cluster,
        })
    }

    /// Writes these rows, and returns when all are acknowledged or refused.
    async fn write(
        &self,
        target: &Target,
        rows: &Rows,
        order: &[usize],
        refused: &mut Vec<(usize, String)>,
    ) -> Result<()> {
        let mut parts = self.limits.parts(target, rows, order);
        let mut again: Vec<Range<usize>> = Vec::new();
        let mut requests = FuturesUnordered::new();
        let mut is_checked = false;
        // One watch over all requests, for a timer of each would cost more than the request itself:
        // a cluster that acknowledges nothing for so long is not there.
        let mut watch = std::pin::pin!(tokio::time::sleep(TIMEOUT));
        let mut last_answer = Instant::now();
        loop {
            while requests.len() < IN_FLIGHT
                && let Some(part) = again.pop().or_else(|| parts.next())
            {
                requests.push(self.send(target, rows, order, part));
            }
            let (part, answer) = tokio::select! {
                biased;
                answered = requests.next() => match answered {
                    Some(answered) => answered,
                    None => return Ok(()),
                },
                () = watch.as_mut() => {
                    let deadline = last_answer + TIMEOUT;
                    if deadline <= Instant::now() {
                        let address = self.cluster.address();
                        let silent = format!("{address} has acknowledged nothing for {TIMEOUT:?}");
                        return Err(Error::unavailable(silent));
                    }
                    watch.as_mut().reset(deadline);
                    continue;
                }
            };
            last_answer = Instant::now();
            let Err(error) = answer else { continue };
            if cassandra::fate(&error) != Fate::NotTaken {
                return Err(self.cluster.error(&error));
            }
            if part.len() > 1 {
                // One of them is bad, or all together are too large.
                let middle = part.start + part.len() / 2;
                again.extend([part.start..middle, middle..part.end]);
                continue;
            }
            if !is_checked {
                target.check(&self.cluster).await?;
                is_checked = true;
            }
            refused.push((order[part.start], self.cluster.error(&error).to_string()));
        }
    }

    async fn send(
        &self,
        target: &Target,
        rows: &Rows,
        order: &[usize],
        part: Range<usize>,
    ) -> (Range<usize>, std::result::Result<(), ExecutionError>) {
        let bound = |i: &usize| Bound {
            target,
            rows,
            row: *i,
        };
        let session = &self.cluster.session;
        let sent = match &order[part.clone()] {
            [i] => session.execute_unpaged(&target.insert, bound(i)).await,
            many => {
                let values: Vec<Bound<'_>> = many.iter().map(bound).collect();
                session.batch(&target.batches[many.len()], values).await
            }
        };
        (part, sent.map(|_| ()))
    }

    /// Notes when rows were last written, for whoever watches.
    async fn note_progress(&mut self) -> Result<()> {
        if self.noted.is_some_and(|noted| noted.elapsed() < PROGRESS) {
            return Ok(());
        }
        let values = (
            &self.table,
            scylla::value::CqlTimestamp(crate::time::now_ms()),
        );
        let session = &self.cluster.session;
        let noted = session.execute_unpaged(&self.progress, values).await;
        noted.map_err(|e| self.cluster.error(&e))?;
        self.noted = Some(Instant::now());
        Ok(())
    }
}

#[async_trait]
impl RealtimeStore for CassandraStore {
    async fn offsets(&mut self) -> Result<Option<Offsets>> {
        Ok(None)
    }

    async fn upsert(&mut self, _from: &Offsets, _to: &Offsets, rows: &Rows) -> Result<Upsert> {
        let newest = rows.newest_by_key(self.key);
        let mut refused = Vec::new();
        for target in &self.targets {
            let is_refused = |i: &usize| refused.iter().any(|(refused, _)| refused == i);
            let order = match &target.series {
                None => newest.clone(),
                // Every version has its own time, so that what is there is no matter of batches.
                Some(series) => {
                    let mut order: Vec<usize> = (0..rows.len()).collect();
                    order.retain(|i| !is_refused(i));
                    order.sort_by_cached_key(|i| series.partition(rows, *i));
                    order
                }
            };
            self.write(target, rows, &order, &mut refused).await?;
        }
        let is_written = |i: &&usize| !refused.iter().any(|(refused, _)| refused == *i);
        let written = newest.iter().filter(is_written).count();
        if written > 0 {
            self.note_progress().await?;
        }
        Ok(Upsert::Done(Upserted {
            written: written as u64,
            deduplicated: (rows.len() - written - refused.len()) as u64,
            skipped: 0,
            refused,
        }))
    }

    async fn commit(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A table to write to.
struct Target {
    statement: String,
    insert: PreparedStatement,
    /// Batches of so many inserts, by their number.
    batches: Vec<Batch>,
    kinds: Vec<FieldType>,
    nulls: Nulls,
    series: Option<Partitioning>,
}

impl Target {
    /// The dataset's table, or one of its further tables.
    async fn prepare(
        cluster: &Cluster,
        dataset: &Dataset,
        series: Option<&Series>,
    ) -> Result<Self> {
        let partitioning = series.map(|series| Partitioning::new(dataset, series));
        let table = series.map_or(&dataset.realtime.table, |series| &series.table);
        let table = cassandra::table(dataset, table);
        let mut columns = Vec::new();
        if let Some(series) = series {
            columns.extend([quoted(series.bucket.name()), quoted("shard")]);
        }
        let before = columns.len();
        columns.extend(dataset.fields.iter().map(|f| quoted(&f.name)));
        columns.extend([quoted("rtp_partition"), quoted("rtp_offset")]);
        let statement = format!(
            "INSERT INTO {table} ({}) VALUES ({}) USING TIMESTAMP ?",
            columns.join(", "),
            vec!["?"; columns.len()].join(", ")
        );
        let insert = cluster.prepare_untimed(&statement).await?;
        let specs = insert.get_variable_col_specs();
        cassandra::check_types(&table, &dataset.fields, specs.iter().skip(before))?;
        let batch = |size| {
            let inserts = vec![insert.clone().into(); size];
            let mut batch = Batch::new_with_statements(BatchType::Unlogged, inserts);
            batch.set_is_idempotent(true);
            batch.set_execution_profile_handle(Some(cluster.untimed()));
            batch
        };
        Ok(Target {
            batches: (0..=MAX_BATCH_ROWS).map(batch).collect(),
            kinds: dataset.fields.iter().map(|f| f.kind).collect(),
            nulls: dataset.nulls,
            series: partitioning,
            statement,
            insert,
        })
    }

    /// Tells a table that is gone from a row that is bad: then the server does not even take the
    /// statement.
    async fn check(&self, cluster: &Cluster) -> Result<()> {
        match cluster.prepare(&self.statement).await {
            Err(gone) if !gone.is_retriable() => Err(Error::refused(gone.to_string())),
            other => other.map(|_| ()),
        }
    }

    /// About how many bytes Cassandra takes a row for when it measures a batch.
    fn size(&self, rows: &Rows, row: usize) -> usize {
        let texts = rows.values(row).map(|value| match value {
            Value::Text(text) | Value::Decimal(text) => text.len(),
            _ => size_of::<u128>(),
        });
        ROW_BYTES + texts.map(|bytes| bytes + CELL_BYTES).sum::<usize>()
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.statement)
    }
}

/// How rows are spread over the partitions of a table for reads by time.
#[derive(Debug)]
struct Partitioning {
    width: i64,
    shards: u64,
    key: usize,
}

impl Partitioning {
    fn new(dataset: &Dataset, series: &Series) -> Self {
        Partitioning {
            width: series.bucket.millis(),
            shards: u64::from(series.shards),
            key: dataset.event.key,
        }
    }

    /// Start of the bucket, in milliseconds since 1970 UTC, and shard: XXH3 of the key's canonical
    /// encoding.
    fn partition(&self, rows: &Rows, row: usize) -> (i64, i32) {
        let time = rows.meta(row).event_time;
        let mut key = Vec::with_capacity(64);
        rows.value(row, self.key).encode(&mut key);
        let shard = xxh3_64(&key) % self.shards;
        (
            time.div_euclid(self.width) * self.width,
            shard.try_into().unwrap_or(i32::MAX), // a dataset's shards are 65,535 at most
        )
    }
}

/// A row bound to the insert of a table.
struct Bound<'a> {
    target: &'a Target,
    rows: &'a Rows,
    row: usize,
}

impl Bound<'_> {
    fn write(&self, writer: &mut RowWriter<'_>) -> std::result::Result<(), CellOverflowError> {
        let (rows, row) = (self.rows, self.row);
        let meta = rows.meta(row);
        if let Some(series) = &self.target.series {
            let (bucket, shard) = series.partition(rows, row);
            writer.make_cell_writer().set_value(&bucket.to_be_bytes())?;
            writer.make_cell_writer().set_value(&shard.to_be_bytes())?;
        }
        for (value, kind) in rows.values(row).zip(&self.target.kinds) {
            let cell = writer.make_cell_writer();
            self.cell(&value, *kind, cell)?;
        }
        let Origin { partition, offset } = meta.origin;
        for bytes in [
            &partition.to_be_bytes()[..],
            &offset.to_be_bytes(),
            &write_timestamp(meta).to_be_bytes(),
        ] {
            writer.make_cell_writer().set_value(bytes)?;
        }
        Ok(())
    }

    fn cell<'b>(
        &self,
        value: &Value<'_>,
        kind: FieldType,
        cell: CellWriter<'b>,
    ) -> std::result::Result<WrittenCellProof<'b>, CellOverflowError> {
        match (value, self.target.nulls) {
            (Value::Null, Nulls::Unset) => Ok(cell.set_unset()),
            _ => cassandra::write(value, kind, cell),
        }
    }
}

impl SerializeRow for Bound<'_> {
    fn serialize(
        &self,
        _: &RowSerializationContext<'_>,
        writer: &mut RowWriter<'_>,
    ) -> std::result::Result<(), SerializationError> {
        self.write(writer).map_err(SerializationError::new)
    }

    fn is_empty(&self) -> bool {
        false
    }
}

/// The version of a row as Cassandra's write timestamp, in microseconds: event time, and in place of
/// the microseconds in which thousandth of all digests the row's lies. That keeps the order of
/// versions but for two digests in one thousandth.
fn write_timestamp(meta: &RowMeta) -> i64 {
    let Digest(digest) = meta.digest;
    let first = u16::from_be_bytes([digest[0], digest[1]]);
    meta.event_time * 1_000 + i64::from((u32::from(first) * 1_000) >> 16)
}

/// How large a batch may be without a complaint in the server's log.
#[derive(Clone, Copy, Debug)]
struct BatchLimits {
    rows: usize,
    bytes: usize,
}

impl BatchLimits {
    /// What the server itself says, where it lets us read it.
    async fn of(cluster: &Cluster) -> BatchLimits {
        let bytes = setting(cluster, "batch_size_warn_threshold").await;
        let partitions = setting(cluster, "unlogged_batch_across_partitions_warn_threshold").await;
        BatchLimits {
            bytes: bytes.unwrap_or(4 << 10),
            rows: partitions.unwrap_or(10).clamp(1, MAX_BATCH_ROWS),
        }
    }

    /// Cuts rows into requests: of one row each where all of them can be under way at once, of small
    /// batches where there are more.
    fn parts<'a>(
        self,
        target: &'a Target,
        rows: &'a Rows,
        order: &'a [usize],
    ) -> impl Iterator<Item = Range<usize>> + 'a {
        let most = match order.len() {
            0..=IN_FLIGHT => 1,
            _ => self.rows,
        };
        let mut start = 0;
        std::iter::from_fn(move || {
            let left = order.get(start..).filter(|left| !left.is_empty())?;
            let mut bytes = 0;
            let fitting = left.iter().take(most).take_while(|i| {
                bytes += target.size(rows, **i);
                bytes <= self.bytes
            });
            let part = start..start + fitting.count().max(1);
            start = part.end;
            Some(part)
        })
    }
}

/// A number among the server's settings, in bytes if it has a unit.
async fn setting(cluster: &Cluster, name: &str) -> Option<usize> {
    let select = "SELECT value FROM system_views.settings WHERE name = ?";
    let answer = cluster.session.query_unpaged(select, (name,)).await.ok()?;
    let rows = answer.into_rows_result().ok()?;
    let (value,) = rows.first_row::<(String,)>().ok()?;
    let digits = value.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = value.split_at(digits.unwrap_or(value.len()));
    let unit = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_timestamps_are_in_the_order_of_versions() {
        let at = |event_time, first: u8| {
            write_timestamp(&RowMeta {
                event_time,
                digest: Digest([first; 16]),
                origin: Origin::default(),
            })
        };
        assert_eq!(at(1, 0), 1_000);
        assert_eq!(at(1, 0xff), 1_999);
        assert_eq!(at(-1, 0xff), -1);
        let all: Vec<i64> = (0..=0xff).map(|first| at(7, first)).collect();
        assert!(all.is_sorted_by(|a, b| a < b));
    }
}
