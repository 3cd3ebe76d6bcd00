//! The tables of a dataset in PostgreSQL.

use crate::dataset::Dataset;
use crate::dataset::ddl::{column, quoted};
use crate::servers::postgres::types::column_type;

/// Statements for PostgreSQL.
pub fn tables(dataset: &Dataset) -> Vec<String> {
    let mut columns: Vec<String> = dataset
        .fields
        .iter()
        .map(|f| column(f, column_type(f.kind)))
        .collect();
    columns.push("\"rtp_digest\" bytea NOT NULL".into());
    columns.push(format!("PRIMARY KEY ({})", quoted(&dataset.key().name)));
    vec![format!(
        "CREATE TABLE IF NOT EXISTS {} (\n  {}\n)",
        quoted(&dataset.batch.table),
        columns.join(",\n  ")
    )]
}
