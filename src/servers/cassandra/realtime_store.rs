//! The real-time store in Cassandra: upserts whose write timestamps follow the order of versions, so that
//! rows converge even if events arrive twice, late, or out of order.

use std::collections::HashSet;
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

use crate::dataset::ddl::quoted;
use crate::dataset::{Dataset, FieldType, Nulls, Series};
use crate::error::{Error, Result};
use crate::ports::INIT_FIRST;
use crate::ports::event_log::{Offsets, Span};
use crate::ports::realtime_store::{RealtimeStore, Upsert, Upserted};
use crate::record::row::{self, Origin, Rows};
use crate::record::value::Value;
use crate::servers::address::Address;
use crate::servers::cassandra::{self, Cluster, Fate, TIMEOUT, schema, types};

/// Maximum number of requests in flight.
const IN_FLIGHT: usize = 256;

/// Maximum rows in a batch.
const MAX_BATCH_ROWS: usize = 32;

/// The bytes that Cassandra adds to each value of a write when it measures a batch: write time, time to live
/// and time of deletion.
const CELL_BYTES: usize = 20;

/// The other bytes that it counts per row: rtp's own columns, and the row itself.
const ROW_BYTES: usize = 128;

/// How often the time of the last write is recorded.
const PROGRESS: Duration = Duration::from_secs(1);

/// A connected store. It keeps no offsets, and rows are durable once they are acknowledged: an upsert
/// returns when all of them are, and a commit has nothing left to do. Whether a row was newer than the
/// stored one is not known.
#[derive(Debug)]
pub struct CassandraStore {
    cluster: Cluster,
    key: usize,
    /// The table of the newest rows, followed by those for reads by time.
    targets: Vec<TargetTable>,
    limits: BatchLimits,
    progress: PreparedStatement,
    table: String,
    noted: Option<Instant>,
}

impl CassandraStore {
    /// Connects, and prepares what it writes.
    pub async fn open(server: &Address, dataset: &Dataset) -> Result<Self> {
        let cluster = Cluster::connect(server, &dataset.realtime.keyspace).await?;
        schema::check(&cluster, dataset).await?;
        let mut targets = vec![TargetTable::prepare(&cluster, dataset, None).await?];
        for series in &dataset.realtime.series {
            targets.push(TargetTable::prepare(&cluster, dataset, Some(series)).await?);
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
        target: &TargetTable,
        rows: &Rows,
        order: &[usize],
        refused: &mut Vec<(usize, String)>,
    ) -> Result<()> {
        let mut parts = self.limits.parts(target, rows, order);
        let mut again: Vec<Range<usize>> = Vec::new();
        let mut requests = FuturesUnordered::new();
        let mut is_checked = false;
        // One timer for all requests, because one for each would cost more than the request itself:
        // a cluster that acknowledges nothing for that long is down.
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
                // One of them is bad, or they are too large together.
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
        target: &TargetTable,
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

    /// Writes the newest row of each key, or the next one if the server refuses it, as if they had come one by one;
    /// returns those that were written.
    async fn write_newest(
        &self,
        target: &TargetTable,
        rows: &Rows,
        refused: &mut Vec<(usize, String)>,
    ) -> Result<Vec<usize>> {
        let order = rows.versions_by_key(self.key);
        let same_key = |a: &usize, b: &usize| rows.have_same_key(self.key, *a, *b);
        let mut left: Vec<&[usize]> = order.chunk_by(same_key).collect();
        let mut stored = Vec::with_capacity(left.len());
        while !left.is_empty() {
            let known = refused.len();
            let newest: Vec<usize> = left.iter().map(|versions| versions[0]).collect();
            self.write(target, rows, &newest, refused).await?;
            stored.extend(newest);
            if refused.len() == known {
                break;
            }
            let bad: HashSet<usize> = refused[known..].iter().map(|(i, _)| *i).collect();
            left.retain(|versions| bad.contains(&versions[0]));
            left = left.into_iter().map(|versions| &versions[1..]).collect();
            left.retain(|versions| !versions.is_empty());
        }
        remove(&mut stored, refused);
        Ok(stored)
    }

    /// Records when rows were last written, for whoever watches.
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

/// Removes the rows that were refused.
fn remove(rows: &mut Vec<usize>, refused: &[(usize, String)]) {
    if !refused.is_empty() {
        let refused: HashSet<usize> = refused.iter().map(|(i, _)| *i).collect();
        rows.retain(|i| !refused.contains(i));
    }
}

#[async_trait]
impl RealtimeStore for CassandraStore {
    async fn offsets(&mut self) -> Result<Option<Offsets>> {
        Ok(None)
    }

    async fn upsert(&mut self, _span: &Span, rows: &Rows) -> Result<Upsert> {
        let mut refused = Vec::new();
        let mut stored = Vec::new();
        for target in &self.targets {
            let Some(series) = &target.series else {
                stored = self.write_newest(target, rows, &mut refused).await?;
                continue;
            };
            // Every version has its own timestamp, so the result does not depend on the batches.
            let mut order: Vec<usize> = (0..rows.len()).collect();
            remove(&mut order, &refused);
            order.sort_by_cached_key(|i| series.partition(rows, *i));
            self.write(target, rows, &order, &mut refused).await?;
        }
        remove(&mut stored, &refused);
        let written = stored.len();
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
struct TargetTable {
    statement: String,
    insert: PreparedStatement,
    /// Batches, indexed by the number of their inserts.
    batches: Vec<Batch>,
    kinds: Vec<FieldType>,
    nulls: Nulls,
    series: Option<Partitioning>,
}

impl TargetTable {
    /// The dataset's table, or one of its additional tables.
    async fn prepare(
        cluster: &Cluster,
        dataset: &Dataset,
        series: Option<&Series>,
    ) -> Result<Self> {
        let partitioning = series.map(|series| Partitioning {
            series: series.clone(),
            key: dataset.event.key,
        });
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
        types::check_types(&table, &dataset.fields, specs.iter().skip(before))?;
        let batch = |size| {
            let inserts = vec![insert.clone().into(); size];
            let mut batch = Batch::new_with_statements(BatchType::Unlogged, inserts);
            batch.set_is_idempotent(true);
            batch.set_execution_profile_handle(Some(cluster.untimed()));
            batch
        };
        Ok(TargetTable {
            batches: (0..=MAX_BATCH_ROWS).map(batch).collect(),
            kinds: dataset.fields.iter().map(|f| f.kind).collect(),
            nulls: dataset.nulls,
            series: partitioning,
            statement,
            insert,
        })
    }

    /// Distinguishes a missing table from a bad row: if the table is missing, the server does not even accept the
    /// statement.
    async fn check(&self, cluster: &Cluster) -> Result<()> {
        match cluster.prepare(&self.statement).await {
            Err(gone) if !gone.is_retriable() => {
                Err(Error::refused(gone.to_string()).hint(INIT_FIRST))
            }
            other => other.map(|_| ()),
        }
    }

    /// Approximately how many bytes Cassandra counts for a row when it measures a batch.
    fn size(&self, rows: &Rows, row: usize) -> usize {
        let texts = rows.values(row).map(|value| match value {
            Value::Text(text) | Value::Decimal(text) => text.len(),
            _ => size_of::<u128>(),
        });
        ROW_BYTES + texts.map(|bytes| bytes + CELL_BYTES).sum::<usize>()
    }
}

impl std::fmt::Debug for TargetTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.statement)
    }
}

/// How rows are distributed over the partitions of a table for reads by time.
#[derive(Debug)]
struct Partitioning {
    series: Series,
    key: usize,
}

impl Partitioning {
    /// Start of the bucket, in milliseconds since 1970 UTC, and shard.
    fn partition(&self, rows: &Rows, row: usize) -> (i64, i32) {
        let time = rows.meta(row).event_time;
        row::bucket(&self.series, time, &rows.value(row, self.key))
    }
}

/// A row bound to the insert of a table.
struct Bound<'a> {
    target: &'a TargetTable,
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
            &meta.write_timestamp().to_be_bytes(),
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
            _ => types::write(value, kind, cell),
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

/// How large a batch may be without a warning in the server's log.
#[derive(Clone, Copy, Debug)]
struct BatchLimits {
    rows: usize,
    bytes: usize,
}

impl BatchLimits {
    /// The server's own settings, if it lets us read them.
    async fn of(cluster: &Cluster) -> BatchLimits {
        let bytes = setting(cluster, "batch_size_warn_threshold").await;
        let partitions = setting(cluster, "unlogged_batch_across_partitions_warn_threshold").await;
        BatchLimits {
            bytes: bytes.unwrap_or(4 << 10),
            rows: partitions.unwrap_or(10).clamp(1, MAX_BATCH_ROWS),
        }
    }

    /// Splits rows into requests: of one row each if all of them can be in flight at once, otherwise of small
    /// batches.
    fn parts<'a>(
        self,
        target: &'a TargetTable,
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

/// A number from the server's settings, in bytes if it has a unit.
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
