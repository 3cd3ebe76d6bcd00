//! The tables of a dataset, derived for each kind of store.

use super::{Dataset, FieldType, Series};

/// Quotes an identifier for CQL and SQL.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The name of the table behind a view of the SQLite stores: they keep rows in a compact form (UUIDs
/// as 16 bytes, times as integers) and show them through a view in a readable one.
pub fn sqlite_rows(table: &str) -> String {
    format!("{table}_rows")
}

/// Statements for the SQLite real-time store.
pub fn sqlite_realtime(dataset: &Dataset) -> Vec<String> {
    let table = &dataset.realtime.table;
    let mut statements = sqlite_table(
        dataset,
        table,
        &[
            "\"rtp_digest\" BLOB NOT NULL",
            "\"rtp_partition\" INTEGER NOT NULL",
            "\"rtp_offset\" INTEGER NOT NULL",
        ],
    );
    statements.extend(
        dataset
            .realtime
            .series
            .iter()
            .map(|s| sqlite_series(dataset, s)),
    );
    statements
}

/// Statements for the SQLite batch store.
pub fn sqlite_batch(dataset: &Dataset) -> Vec<String> {
    sqlite_table(
        dataset,
        &dataset.batch.table,
        &["\"rtp_digest\" BLOB NOT NULL"],
    )
}

/// A rowid table with a unique index on the key: random keys rewrite the narrow index, not wide rows
/// (measured against a WITHOUT ROWID table: about twice the rows a second at a million random keys).
fn sqlite_table(dataset: &Dataset, table: &str, own_columns: &[&str]) -> Vec<String> {
    let rows = quoted(&sqlite_rows(table));
    let mut columns: Vec<String> = dataset
        .fields
        .iter()
        .map(|f| {
            let null = if f.required { " NOT NULL" } else { "" };
            format!("{} {}{null}", quoted(&f.name), sqlite_type(f.kind))
        })
        .collect();
    columns.extend(own_columns.iter().map(|c| (*c).to_string()));
    let shown: Vec<String> = dataset
        .fields
        .iter()
        .map(|f| readable(&quoted(&f.name), f.kind))
        .collect();
    vec![
        format!(
            "CREATE TABLE IF NOT EXISTS {rows} (\n  {}\n)",
            columns.join(",\n  ")
        ),
        format!(
            "CREATE UNIQUE INDEX IF NOT EXISTS {} ON {rows} ({})",
            quoted(&format!("{table}_key")),
            quoted(&dataset.key().name)
        ),
        format!(
            "CREATE VIEW IF NOT EXISTS {} AS SELECT\n  {}\nFROM {rows}",
            quoted(table),
            shown.join(",\n  ")
        ),
    ]
}

/// In SQLite a time-series table is a view of the current rows: one file serves both reads.
fn sqlite_series(dataset: &Dataset, series: &Series) -> String {
    let time = quoted(&dataset.time().name);
    let width = series.bucket.millis();
    format!(
        "CREATE VIEW IF NOT EXISTS {} AS SELECT\n  strftime('%Y-%m-%dT%H:%M:%SZ', {time} / {width} * {}, 'unixepoch') AS {},\n  {}\nFROM {} ORDER BY {time}",
        quoted(&series.table),
        width / 1000,
        quoted(series.bucket.name()),
        dataset
            .fields
            .iter()
            .map(|f| readable(&quoted(&f.name), f.kind))
            .collect::<Vec<_>>()
            .join(",\n  "),
        quoted(&sqlite_rows(&dataset.realtime.table)),
    )
}

fn sqlite_type(kind: FieldType) -> &'static str {
    match kind {
        FieldType::Text | FieldType::Decimal => "TEXT",
        FieldType::Uuid => "BLOB",
        FieldType::Int
        | FieldType::BigInt
        | FieldType::Boolean
        | FieldType::Timestamp
        | FieldType::Date => "INTEGER",
        FieldType::Double => "REAL",
    }
}

fn readable(column: &str, kind: FieldType) -> String {
    match kind {
        FieldType::Uuid => {
            let part = |from: u8, n: u8| format!("substr(hex({column}), {from}, {n})");
            format!(
                "nullif(lower({} || '-' || {} || '-' || {} || '-' || {} || '-' || {}), '----') AS {column}",
                part(1, 8),
                part(9, 4),
                part(13, 4),
                part(17, 4),
                part(21, 12)
            )
        }
        FieldType::Timestamp => {
            format!("strftime('%Y-%m-%dT%H:%M:%fZ', {column} / 1000.0, 'unixepoch') AS {column}")
        }
        FieldType::Date => format!("date({column} * 86400, 'unixepoch') AS {column}"),
        _ => column.to_string(),
    }
}

/// Statements for Cassandra: keyspace, table, and the further time-series tables.
pub fn cassandra(dataset: &Dataset) -> Vec<String> {
    let keyspace = quoted(&dataset.realtime.keyspace);
    let columns: Vec<String> = dataset
        .fields
        .iter()
        .map(|f| format!("{} {}", quoted(&f.name), cassandra_type(f.kind)))
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

fn cassandra_type(kind: FieldType) -> &'static str {
    match kind {
        FieldType::Text => "text",
        FieldType::Uuid => "uuid",
        FieldType::Int => "int",
        FieldType::BigInt => "bigint",
        FieldType::Double => "double",
        FieldType::Decimal => "decimal",
        FieldType::Boolean => "boolean",
        FieldType::Timestamp => "timestamp",
        FieldType::Date => "date",
    }
}

/// Statements for PostgreSQL.
pub fn postgres(dataset: &Dataset) -> Vec<String> {
    let mut columns: Vec<String> = dataset
        .fields
        .iter()
        .map(|f| {
            let null = if f.required { " NOT NULL" } else { "" };
            format!("{} {}{null}", quoted(&f.name), postgres_type(f.kind))
        })
        .collect();
    columns.push("\"rtp_digest\" bytea NOT NULL".into());
    columns.push(format!("PRIMARY KEY ({})", quoted(&dataset.key().name)));
    vec![format!(
        "CREATE TABLE IF NOT EXISTS {} (\n  {}\n)",
        quoted(&dataset.batch.table),
        columns.join(",\n  ")
    )]
}

/// The type of a column of PostgreSQL.
pub fn postgres_type(kind: FieldType) -> &'static str {
    match kind {
        FieldType::Text => "text",
        FieldType::Uuid => "uuid",
        FieldType::Int => "integer",
        FieldType::BigInt => "bigint",
        FieldType::Double => "double precision",
        FieldType::Decimal => "numeric",
        FieldType::Boolean => "boolean",
        FieldType::Timestamp => "timestamp(3) with time zone",
        FieldType::Date => "date",
    }
}

/// The statements as one script, with a line on where it comes from; what is a comment stays one.
pub fn script(dataset: &Dataset, statements: &[String]) -> String {
    let mut out = format!(
        "-- Derived from the dataset {} by `rtp init --dry-run`; do not edit.\n",
        dataset.name
    );
    for statement in statements {
        out.push('\n');
        out.push_str(statement);
        out.push_str(match statement.starts_with("--") {
            true => "\n",
            false => ";\n",
        });
    }
    out
}
