//! The tables of a dataset in SQLite: rows are stored in a compact table `<table>_rows` (UUIDs as 16 bytes, times as
//! integers) with a unique index on the key, and are shown through a view `<table>` with readable values. A time-series
//! table is a view of it.

use crate::dataset::ddl::{column, quoted};
use crate::dataset::{AS_OF, Dataset, Series};
use crate::servers::sqlite::types::{column_type, readable};

/// The name of the table behind a view of the SQLite stores, which keep rows in a compact form (UUIDs
/// as 16 bytes, times as integers) and show them in a readable form through a view.
pub fn rows_of(table: &str) -> String {
    format!("{table}_rows")
}

/// Statements for the SQLite real-time store.
pub fn realtime(dataset: &Dataset) -> Vec<String> {
    let table = &dataset.realtime.table;
    let mut statements = table_and_view(
        dataset,
        table,
        &[
            "\"rtp_digest\" BLOB NOT NULL",
            "\"rtp_partition\" INTEGER NOT NULL",
            "\"rtp_offset\" INTEGER NOT NULL",
        ],
        None,
    );
    statements.extend(dataset.realtime.series.iter().map(|s| series(dataset, s)));
    statements
}

/// Statements for the SQLite batch store.
pub fn batch(dataset: &Dataset) -> Vec<String> {
    let history = dataset.history();
    let mut statements = batch_table(dataset, None);
    statements.extend(history.iter().flat_map(history_table));
    statements
}

/// Statements for the batch table, whose rows the key identifies, or the key and a further column.
pub(super) fn batch_table(dataset: &Dataset, also_by: Option<&str>) -> Vec<String> {
    let own = ["\"rtp_digest\" BLOB NOT NULL"];
    table_and_view(dataset, &dataset.batch.table, &own, also_by)
}

/// Statements for the history table as [`Dataset::history`] describes it.
pub(super) fn history_table(history: &Dataset) -> Vec<String> {
    batch_table(history, Some(AS_OF))
}

/// A rowid table with a unique index on the key: random keys rewrite the narrow index, not wide rows
/// (measured against a WITHOUT ROWID table: about twice the rows a second at a million random keys).
fn table_and_view(
    dataset: &Dataset,
    table: &str,
    own_columns: &[&str],
    also_by: Option<&str>,
) -> Vec<String> {
    let rows = quoted(&rows_of(table));
    let mut columns: Vec<String> = dataset
        .fields
        .iter()
        .map(|f| column(f, column_type(f.kind)))
        .collect();
    columns.extend(own_columns.iter().map(|c| (*c).to_string()));
    let key = std::iter::once(dataset.key().name.as_str()).chain(also_by);
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
            key.map(quoted).collect::<Vec<_>>().join(", ")
        ),
        format!(
            "CREATE VIEW IF NOT EXISTS {} AS SELECT\n  {}\nFROM {rows}",
            quoted(table),
            shown.join(",\n  ")
        ),
    ]
}

/// In SQLite a time-series table is a view of the current rows: one file serves both reads.
fn series(dataset: &Dataset, series: &Series) -> String {
    let time = quoted(&dataset.time().name);
    let width = series.bucket.millis();
    // SQLite's division rounds toward zero, which is later than the time itself before 1970.
    let start = format!("({time} - ({time} % {width} + {width}) % {width}) / 1000");
    format!(
        "CREATE VIEW IF NOT EXISTS {} AS SELECT\n  strftime('%Y-%m-%dT%H:%M:%SZ', {start}, 'unixepoch') AS {},\n  {}\nFROM {} ORDER BY {time}",
        quoted(&series.table),
        quoted(series.bucket.name()),
        dataset
            .fields
            .iter()
            .map(|f| readable(&quoted(&f.name), f.kind))
            .collect::<Vec<_>>()
            .join(",\n  "),
        quoted(&rows_of(&dataset.realtime.table)),
    )
}
