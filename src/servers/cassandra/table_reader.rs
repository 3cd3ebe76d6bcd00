//! Reads the tables of the real-time store in Cassandra, by concurrent ranges of tokens.

use std::ops::ControlFlow;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use scylla::deserialize::row::ColumnIterator;
use scylla::errors::ExecutionError;
use scylla::response::query_result::QueryResult;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::statement::prepared::PreparedStatement;

use crate::dataset::ddl::quoted;
use crate::dataset::{Dataset, Field, FieldType, Series};
use crate::error::{Error, Result};
use crate::ports::page_reader::{FirstKeys, Page, PageQuery};
use crate::ports::series_reader::{Place, SeriesReader};
use crate::ports::table_reader::{Foreign, Provenance, StoredRow, TableReader, Visitor};
use crate::record::row::Origin;
use crate::record::value::Value;
use crate::servers::address::Address;
use crate::servers::cassandra::pages::Recent;
use crate::servers::cassandra::types::{self, Parameters};
use crate::servers::cassandra::{self, Cluster, schema};

/// Number of token ranges in a scan: many more than are read at once, so that no single long one delays the end.
const RANGES: u64 = 256;

/// Maximum requests in flight for a scan.
const SCANS: usize = 8;

/// Maximum requests in flight for single rows.
const READS: usize = 64;

/// Maximum rows in a page.
const PAGE: usize = 2_000;

/// Maximum values in a page. A null is a tombstone, and Cassandra fails a read that meets 100,000 of them.
const PAGE_VALUES: usize = 50_000;

/// The columns that say where a row's event stands in the log.
const ORIGIN: [&str; 2] = ["rtp_partition", "rtp_offset"];

/// One table, open for reading.
#[derive(Debug)]
pub struct CassandraTable {
    cluster: Cluster,
    fields: Vec<Field>,
    key: usize,
    scan: PreparedStatement,
    read: PreparedStatement,
    /// The types of what `read` is asked for.
    read_by: Vec<FieldType>,
    /// By which new rows are found, once that was asked for.
    recent: Option<Recent>,
    table: String,
    /// Keyspace and table, as the schema has them.
    name: [String; 2],
    /// Prepared when it is first needed.
    provenance: Option<PreparedStatement>,
}

impl CassandraTable {
    /// Opens a table of the dataset's keyspace, which must have a column of the right type for every
    /// field.
    pub async fn open(server: &Address, dataset: &Dataset, table: &str) -> Result<Self> {
        let key = dataset.event.key;
        Self::prepare(
            server,
            dataset,
            table,
            dataset.fields.clone(),
            &[key],
            &[key],
        )
        .await
    }

    /// Opens a series, whose rows have two more columns: bucket and shard.
    pub async fn open_series(server: &Address, dataset: &Dataset, series: &Series) -> Result<Self> {
        let (key, time) = (dataset.event.key, dataset.event.time);
        let column = |name: &str, kind| Field {
            name: name.into(),
            kind,
            ..dataset.time().clone()
        };
        let bucket = dataset.fields.len();
        let mut fields = dataset.fields.clone();
        fields.push(column(series.bucket.name(), FieldType::Timestamp));
        fields.push(column("shard", FieldType::Int));
        let (partition, row) = ([bucket, bucket + 1], [bucket, bucket + 1, time, key]);
        Self::prepare(server, dataset, &series.table, fields, &partition, &row).await
    }

    /// Prepares the statements for a table with these columns, some of which are its partition key, and some identify
    /// a row.
    async fn prepare(
        server: &Address,
        dataset: &Dataset,
        table: &str,
        fields: Vec<Field>,
        partition: &[usize],
        row: &[usize],
    ) -> Result<Self> {
        let cluster = Cluster::connect(server, &dataset.realtime.keyspace).await?;
        let name = [&*dataset.realtime.keyspace, table].map(str::to_string);
        let table = cassandra::table(dataset, table);
        let names: Vec<String> = fields.iter().map(|f| quoted(&f.name)).collect();
        let select = format!("SELECT {} FROM {table}", names.join(", "));
        let partition: Vec<&str> = partition.iter().map(|i| names[*i].as_str()).collect();
        let token = format!("token({})", partition.join(", "));
        let scan = format!("{select} WHERE {token} >= ? AND {token} <= ?");
        let mut scan = cluster.prepare(&scan).await?;
        scan.set_page_size(page_size(names.len()));
        let columns = scan.get_current_result_set_col_specs();
        types::check_types(&table, &fields, columns.get().iter())?;
        let row_is: Vec<String> = row.iter().map(|i| format!("{} = ?", names[*i])).collect();
        let read = format!("{select} WHERE {}", row_is.join(" AND "));
        Ok(CassandraTable {
            read: cluster.prepare(&read).await?,
            read_by: row.iter().map(|i| fields[*i].kind).collect(),
            scan,
            fields,
            key: dataset.event.key,
            cluster,
            recent: None,
            table,
            name,
            provenance: None,
        })
    }

    async fn range_page(&self, range: [i64; 2], from: PagingState) -> Fetched {
        let [first, last] = range;
        let session = &self.cluster.session;
        let answer = session.execute_single_page(&self.scan, (first, last), from);
        Fetched {
            range,
            answer: answer.await,
        }
    }

    fn lend(&self, answer: QueryResult, visitor: &mut dyn Visitor) -> Result<ControlFlow<()>> {
        let malformed = |e: &dyn std::fmt::Display| {
            Error::refused(format!(
                "malformed row from {}: {e}",
                self.cluster.address()
            ))
        };
        let page = answer.into_rows_result().map_err(|e| malformed(&e))?;
        let rows = page.rows::<ColumnIterator<'_, '_>>();
        let rows = rows.map_err(|e| malformed(&e))?;
        let mut stored: Vec<Option<&[u8]>> = Vec::with_capacity(self.fields.len());
        let mut values = Vec::with_capacity(self.fields.len());
        let mut foreign = Vec::new();
        for row in rows {
            stored.clear();
            for column in row.map_err(|e| malformed(&e))? {
                let column = column.map_err(|e| malformed(&e))?;
                stored.push(column.slice.map(|slice| slice.as_slice()));
            }
            let key = types::read(&self.fields[self.key], stored[self.key]);
            if key.is_some_and(|key| !visitor.wants(&key)) {
                continue;
            }
            values.clear();
            foreign.clear();
            for (i, (field, stored)) in self.fields.iter().zip(&stored).enumerate() {
                values.push(types::read(field, *stored).unwrap_or_else(|| {
                    foreign.push(Foreign {
                        field: i,
                        found: format!("{} bytes", stored.map_or(0, <[u8]>::len)),
                        between: None,
                    });
                    Value::Null
                }));
            }
            let row = StoredRow {
                values: &values,
                foreign: &foreign,
            };
            if visitor.row(row).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn scan_rows(&self, visitor: &mut dyn Visitor) -> Result<()> {
        let mut ranges = ranges();
        let first = ranges.by_ref().take(SCANS);
        let mut pages: FuturesUnordered<_> = first
            .map(|range| self.range_page(range, PagingState::start()))
            .collect();
        while let Some(Fetched { range, answer }) = pages.next().await {
            let (rows, more) = answer.map_err(|e| self.cluster.error(&e))?;
            // The next page is requested while this one is processed.
            match more.into_paging_control_flow() {
                ControlFlow::Continue(next) => pages.push(self.range_page(range, next)),
                ControlFlow::Break(()) => pages.extend(
                    ranges
                        .next()
                        .map(|range| self.range_page(range, PagingState::start())),
                ),
            }
            // A visitor may take its time; the connections continue meanwhile.
            let lent = tokio::task::block_in_place(|| self.lend(rows, visitor));
            if lent?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Lends the rows that are newer than the query asks for, by a series; false if that cannot be done.
    async fn read_recent(
        &mut self,
        query: &PageQuery<'_>,
        visitor: &mut dyn Visitor,
    ) -> Result<bool> {
        let series = query.dataset.realtime.series.first();
        let (Some(boundary), Some(series)) = (query.newer_than, series) else {
            return Ok(false);
        };
        let recent = match self.recent.take() {
            Some(recent) => recent,
            None => Recent::prepare(&self.cluster, query.dataset, series).await?,
        };
        let lend = |rows| self.lend(rows, visitor);
        let read = recent.read(&self.cluster, boundary, lend).await;
        self.recent = Some(recent);
        read
    }

    /// Selects key, origin, and the write timestamps of all columns but the key, which has none.
    async fn prepare_provenance(&mut self) -> Result<PreparedStatement> {
        if let Some(known) = &self.provenance {
            return Ok(known.clone());
        }
        let key = quoted(&self.fields[self.key].name);
        let origin = ORIGIN.map(quoted);
        let names = self.fields.iter().map(|f| quoted(&f.name));
        let written: Vec<String> = names
            .chain(origin.clone())
            .filter(|name| *name != key)
            .map(|name| format!("writetime({name})"))
            .collect();
        let select = format!(
            "SELECT {key}, {}, {} FROM {} WHERE {key} = ?",
            origin.join(", "),
            written.join(", "),
            self.table
        );
        let prepared = self.cluster.prepare(&select).await?;
        self.provenance = Some(prepared.clone());
        Ok(prepared)
    }

    /// What an answer tells about one row, if it is there.
    fn told(&self, answer: QueryResult) -> Result<Option<Provenance>> {
        let malformed = |e: &dyn std::fmt::Display| {
            let address = self.cluster.address();
            Error::refused(format!("malformed row from {address}: {e}"))
        };
        let page = answer.into_rows_result().map_err(|e| malformed(&e))?;
        let row = page.maybe_first_row::<ColumnIterator<'_, '_>>();
        let Some(row) = row.map_err(|e| malformed(&e))? else {
            return Ok(None);
        };
        let mut cells: Vec<Option<&[u8]>> = Vec::new();
        for column in row {
            let column = column.map_err(|e| malformed(&e))?;
            cells.push(column.slice.map(|slice| slice.as_slice()));
        }
        let [key, partition, offset, written @ ..] = cells.as_slice() else {
            return Err(malformed(&"columns are missing"));
        };
        let Some(key) = types::read(&self.fields[self.key], *key) else {
            return Err(malformed(&"its key has another type"));
        };
        let written = || written.iter().flatten().filter_map(|cell| number(cell));
        let write_timestamps = written().min().zip(written().max());
        Ok(Some(Provenance {
            key: key.owned(),
            origin: Origin::of(
                partition.and_then(|p| p.try_into().ok().map(i32::from_be_bytes)),
                offset.and_then(number),
            ),
            digest: None,
            write_timestamps: write_timestamps.map(|(oldest, newest)| [oldest, newest]),
        }))
    }

    /// Reads the rows that are identified by these values.
    async fn read_rows(
        &self,
        rows: impl Iterator<Item = Vec<Value<'_>>>,
        visitor: &mut dyn Visitor,
    ) -> Result<()> {
        let session = &self.cluster.session;
        let mut rows = rows;
        let mut reads = FuturesUnordered::new();
        loop {
            while reads.len() < READS
                && let Some(values) = rows.next()
            {
                let row = Parameters {
                    values,
                    kinds: &self.read_by,
                };
                reads.push(session.execute_unpaged(&self.read, row));
            }
            let Some(answer) = reads.next().await else {
                break;
            };
            let rows = answer.map_err(|e| self.cluster.error(&e))?;
            let lent = tokio::task::block_in_place(|| self.lend(rows, &mut AlreadyAsked(visitor)));
            if lent?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Rows of a page of a table with so many columns.
pub(super) fn page_size(columns: usize) -> i32 {
    let page = (PAGE_VALUES / columns.max(1)).clamp(1, PAGE);
    page.try_into().unwrap_or(i32::MAX)
}

/// A page of a range of tokens.
struct Fetched {
    range: [i64; 2],
    answer: std::result::Result<(QueryResult, PagingStateResponse), ExecutionError>,
}

#[async_trait]
impl TableReader for CassandraTable {
    fn has_unique_keys(&self) -> bool {
        true
    }

    async fn scan(&mut self, visitor: &mut dyn Visitor) -> Result<()> {
        self.scan_rows(visitor).await
    }

    async fn time_to_live(&mut self) -> Result<Option<Duration>> {
        let [keyspace, table] = &self.name;
        let seconds = schema::time_to_live(&self.cluster, keyspace, table).await?;
        Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
    }

    async fn read(&mut self, keys: &[Value<'_>], visitor: &mut dyn Visitor) -> Result<()> {
        let keys = keys.iter().map(|key| vec![key.clone()]);
        self.read_rows(keys, visitor).await
    }

    async fn page(&mut self, query: &PageQuery<'_>) -> Result<Page> {
        let mut first = FirstKeys::new(query);
        if !self.read_recent(query, &mut first).await? {
            self.scan_rows(&mut first).await?;
        }
        Ok(first.into_page())
    }

    async fn provenance(&mut self, keys: &[Value<'_>]) -> Result<Vec<Provenance>> {
        let select = self.prepare_provenance().await?;
        let session = &self.cluster.session;
        let mut keys = keys.iter();
        let mut asked = FuturesUnordered::new();
        let mut found = Vec::new();
        loop {
            while asked.len() < READS
                && let Some(key) = keys.next()
            {
                let key = Parameters {
                    values: vec![key.clone()],
                    kinds: &self.read_by,
                };
                asked.push(session.execute_unpaged(&select, key));
            }
            let Some(answer) = asked.next().await else {
                break;
            };
            let answer = answer.map_err(|e| self.cluster.error(&e))?;
            found.extend(self.told(answer)?);
        }
        Ok(found)
    }
}

/// A number of eight bytes.
fn number(cell: &[u8]) -> Option<i64> {
    cell.try_into().ok().map(i64::from_be_bytes)
}

#[async_trait]
impl SeriesReader for CassandraTable {
    async fn scan(&mut self, visitor: &mut dyn Visitor) -> Result<()> {
        self.scan_rows(visitor).await
    }

    async fn read(&mut self, places: &[Place], visitor: &mut dyn Visitor) -> Result<()> {
        let rows = places.iter().map(|place| {
            let (bucket, shard) = place.partition;
            vec![
                Value::Timestamp(bucket),
                Value::Int(shard.into()),
                Value::Timestamp(place.time),
                place.key.clone(),
            ]
        });
        self.read_rows(rows, visitor).await
    }
}

/// A visitor that has already been asked.
struct AlreadyAsked<'a>(&'a mut dyn Visitor);

impl Visitor for AlreadyAsked<'_> {
    fn wants(&mut self, _: &Value<'_>) -> bool {
        true
    }

    fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()> {
        self.0.row(row)
    }
}

/// All tokens, in ranges of about the same length; the lowest number is not a token.
fn ranges() -> impl Iterator<Item = [i64; 2]> {
    let width = u64::MAX / RANGES;
    let token = |n: u64| (n ^ 1 << 63).cast_signed();
    (0..RANGES).map(move |i| {
        let last = if i + 1 == RANGES {
            u64::MAX
        } else {
            (i + 1) * width
        };
        [token(i * width + 1), token(last)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_every_token_once() {
        let ranges: Vec<[i64; 2]> = ranges().collect();
        assert_eq!(ranges[0][0], i64::MIN + 1);
        assert_eq!(ranges[ranges.len() - 1][1], i64::MAX);
        assert!(ranges.iter().all(|[first, last]| first < last));
        assert!(ranges.windows(2).all(|pair| pair[0][1] + 1 == pair[1][0]));
    }
}
