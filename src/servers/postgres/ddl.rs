//! The tables of a dataset in PostgreSQL.

use crate::dataset::ddl::{column, quoted};
use crate::dataset::{AS_OF, Dataset};
use crate::servers::postgres::types::column_type;

/// Statements for PostgreSQL.
pub fn tables(dataset: &Dataset) -> Vec<String> {
    let mut statements = vec![table(dataset, &[])];
    statements.extend(dataset.history().map(|history| table(&history, &[AS_OF])));
    statements
}

/// The batch table, whose rows the key identifies together with further columns.
fn table(dataset: &Dataset, also_by: &[&str]) -> String {
    let key = std::iter::once(dataset.key().name.as_str()).chain(also_by.iter().copied());
    let key: Vec<String> = key.map(quoted).collect();
    let mut columns: Vec<String> = dataset
        .fields
        .iter()
        .map(|f| column(f, column_type(f.kind)))
        .collect();
    columns.push("\"rtp_digest\" bytea NOT NULL".into());
    columns.push(format!("PRIMARY KEY ({})", key.join(", ")));
    format!(
        "CREATE TABLE IF NOT EXISTS {} (\n  {}\n)",
        quoted(&dataset.batch.table),
        columns.join(",\n  ")
    )
}
