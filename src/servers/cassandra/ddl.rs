//! The keyspace and the tables of a dataset in Cassandra.

use crate::dataset::Dataset;
use crate::dataset::ddl::quoted;
use crate::servers::cassandra::types::column_type;

/// Statements for Cassandra: keyspace, table, and the additional time-series tables.
pub fn keyspace_and_tables(dataset: &Dataset) -> Vec<String> {
    let keyspace = quoted(&dataset.realtime.keyspace);
    let columns: Vec<String> = dataset
        .fields
        .iter()
        .map(|f| format!("{} {}", quoted(&f.name), column_type(f.kind)))
        .collect();
    let ttl = dataset.realtime.ttl.map_or(String::new(), |ttl| {
        format!(" AND default_time_to_live = {}", ttl.as_secs())
    });
    let key = quoted(&dataset.key().name);
    let time = quoted(&dataset.time().name);
    let origin = "\"rtp_partition\" int,\n  \"rtp_offset\" bigint";
    let mut statements = vec![
        format!(
            "CREATE KEYSPACE IF NOT EXISTS {keyspace}\n  WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': {}}}",
            dataset.event.replication
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {keyspace}.{} (\n  {},\n  {origin},\n  PRIMARY KEY ({key})\n) WITH comment = 'dataset {}'{ttl}",
            quoted(&dataset.realtime.table),
            columns.join(",\n  "),
            dataset.name,
        ),
    ];
    for series in &dataset.realtime.series {
        let bucket = quoted(series.bucket.name());
        statements.push(format!(
            "CREATE TABLE IF NOT EXISTS {keyspace}.{} (\n  {bucket} timestamp,\n  \"shard\" int,\n  {},\n  {origin},\n  PRIMARY KEY (({bucket}, \"shard\"), {time}, {key})\n) WITH CLUSTERING ORDER BY ({time} DESC, {key} ASC) AND comment = 'dataset {}'{ttl}",
            quoted(&series.table),
            columns.join(",\n  "),
            dataset.name,
        ));
    }
    statements
}
