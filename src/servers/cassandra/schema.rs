//! A dataset's tables as the cluster has them, compared with what the dataset needs.

use scylla::frame::types::Consistency;
use scylla::serialize::row::SerializeRow;
use scylla::statement::unprepared::Statement;

use crate::dataset::{Dataset, Series};
use crate::error::{Error, Result};
use crate::ports::table_schema::{ColumnSchema, TableSchema, does_not_fit};
use crate::servers::cassandra::Cluster;
use crate::servers::cassandra::types::column_type;

const COLUMNS: &str = "SELECT column_name, kind, position, type FROM system_schema.columns
  WHERE keyspace_name = ? AND table_name = ?";

const TTL: &str = "SELECT default_time_to_live FROM system_schema.tables
  WHERE keyspace_name = ? AND table_name = ?";

/// An error if one of the dataset's tables cannot take its rows. One that is missing is not an error here.
pub(super) async fn check(cluster: &Cluster, dataset: &Dataset) -> Result<()> {
    let keyspace = &dataset.realtime.keyspace;
    for (table, needed) in tables(dataset) {
        let columns: Vec<(String, String, i32, String)> =
            select(cluster, COLUMNS, (keyspace, table)).await?;
        if !columns.is_empty() {
            let name = format!("{keyspace}.{table}");
            schema(columns).check(&needed, &name, &cluster.address())?;
        }
    }
    Ok(())
}

/// After how many seconds rows of a table expire, 0 for never.
pub(super) async fn time_to_live(cluster: &Cluster, keyspace: &str, table: &str) -> Result<u64> {
    let there: Vec<(Option<i32>,)> = select(cluster, TTL, (keyspace, table)).await?;
    let there = there.first().and_then(|(ttl,)| *ttl);
    Ok(there.map_or(0, |ttl| ttl.unsigned_abs().into()))
}

/// An error if rows expire in another time than the dataset says.
pub(super) async fn check_ttl(cluster: &Cluster, dataset: &Dataset) -> Result<()> {
    let keyspace = &dataset.realtime.keyspace;
    let needed = dataset.realtime.ttl.map_or(0, |ttl| ttl.as_secs());
    for (table, _) in tables(dataset) {
        let there = time_to_live(cluster, keyspace, table).await?;
        if there != needed {
            let why = format!(
                "its default_time_to_live is {there} s, but the dataset's ttl is {needed} s"
            );
            return Err(does_not_fit(
                &format!("{keyspace}.{table}"),
                &cluster.address(),
                &why,
            ));
        }
    }
    Ok(())
}

/// Each node answers for itself, because every node has the whole schema.
async fn select<R>(cluster: &Cluster, text: &str, values: impl SerializeRow) -> Result<Vec<R>>
where
    R: for<'f, 'm> scylla::deserialize::row::DeserializeRow<'f, 'm>,
{
    let mut statement = Statement::new(text);
    statement.set_consistency(Consistency::One);
    statement.set_is_idempotent(true);
    let answer = cluster.session.query_unpaged(statement, values).await;
    let answer = answer.map_err(|e| cluster.error(&e))?;
    let malformed = |e: &dyn std::fmt::Display| {
        Error::refused(format!("malformed schema from {}: {e}", cluster.address()))
    };
    let rows = answer.into_rows_result().map_err(|e| malformed(&e))?;
    let rows = rows.rows::<R>().map_err(|e| malformed(&e))?;
    rows.map(|row| row.map_err(|e| malformed(&e))).collect()
}

/// The dataset's tables and what they need.
fn tables(dataset: &Dataset) -> impl Iterator<Item = (&str, TableSchema)> {
    let main = (&*dataset.realtime.table, needed(dataset, None));
    let series = dataset.realtime.series.iter();
    std::iter::once(main).chain(series.map(|s| (&*s.table, needed(dataset, Some(s)))))
}

fn needed(dataset: &Dataset, series: Option<&Series>) -> TableSchema {
    let column = |name: &str, kind: &str| ColumnSchema::new(name, kind, false);
    let mut columns = Vec::new();
    let mut key = vec![dataset.key().name.clone()];
    if let Some(series) = series {
        let bucket = series.bucket.name();
        columns.extend([column(bucket, "timestamp"), column("shard", "int")]);
        let partition = partition_key(&[bucket.into(), "shard".into()]);
        key.splice(0..0, [partition, dataset.time().name.clone()]);
    }
    let fields = dataset.fields.iter();
    columns.extend(fields.map(|f| column(&f.name, column_type(f.kind))));
    columns.extend([
        column("rtp_partition", "int"),
        column("rtp_offset", "bigint"),
    ]);
    TableSchema {
        columns,
        keys: vec![key],
    }
}

fn schema(columns: Vec<(String, String, i32, String)>) -> TableSchema {
    let of_kind = |wanted: &str| {
        let mut names: Vec<(i32, String)> = columns
            .iter()
            .filter(|(_, kind, ..)| kind == wanted)
            .map(|(name, _, position, _)| (*position, name.clone()))
            .collect();
        names.sort_unstable();
        names.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
    };
    let mut key = vec![partition_key(&of_kind("partition_key"))];
    key.extend(of_kind("clustering"));
    TableSchema {
        keys: vec![key],
        columns: columns
            .iter()
            .map(|(name, _, _, kind)| ColumnSchema::new(name, kind, false))
            .collect(),
    }
}

/// The columns of a partition key as CQL writes them.
fn partition_key(columns: &[String]) -> String {
    match columns {
        [one] => one.clone(),
        several => format!("({})", several.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_cql_writes_them() {
        let dataset = Dataset::load(None).unwrap();
        let rows = |columns: &[(&str, &str, i32, &str)]| {
            let owned = columns.iter().map(|(name, kind, position, typed)| {
                let [name, kind, typed] = [name, kind, typed].map(|text| (*text).to_string());
                (name, kind, *position, typed)
            });
            schema(owned.collect())
        };
        let there = rows(&[
            ("id", "clustering", 1, "uuid"),
            ("fetched_at", "clustering", 0, "timestamp"),
            ("shard", "partition_key", 1, "int"),
            ("hour", "partition_key", 0, "timestamp"),
            ("email", "regular", -1, "text"),
        ]);
        let series = needed(&dataset, Some(&dataset.realtime.series[0]));
        assert_eq!(there.keys, series.keys);
        assert_eq!(needed(&dataset, None).keys, [["id"]]);
    }
}
