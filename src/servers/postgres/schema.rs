//! A dataset's table as the server has it, compared with what the dataset needs.

use ::postgres::Client;

use crate::dataset::ddl::quoted;
use crate::dataset::{AS_OF, Dataset};
use crate::error::{Context, Result};
use crate::ports::table_schema::{ColumnSchema, TableSchema};
use crate::servers::postgres::types::column_type;
use crate::servers::postgres::{Session, Target};

/// A time with more digits than milliseconds keeps them all, so it counts as the type that rtp creates.
const COLUMNS: &str = "SELECT attname::text,
    format_type(atttypid, CASE WHEN atttypid = 'timestamptz'::regtype AND atttypmod NOT BETWEEN 0 AND 2 THEN 3 ELSE atttypmod END),
    attnotnull AND NOT atthasdef AND attidentity = ''
  FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum";

/// Only what ON CONFLICT can use: it needs an index on columns, of all rows, that is checked at once.
const KEYS: &str = "SELECT array(
    SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n)
    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE k.n <= i.indnkeyatts ORDER BY k.n)
  FROM pg_index AS i WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indimmediate
    AND i.indpred IS NULL AND i.indexprs IS NULL ORDER BY i.indexrelid";

/// An error if the batch table cannot take the dataset's rows, or its history not their versions.
pub(super) async fn check(session: &mut Session, target: &Target, dataset: &Dataset) -> Result<()> {
    check_table(session, target, dataset, None).await?;
    match dataset.history() {
        Some(history) => check_table(session, target, &history, Some(AS_OF)).await,
        None => Ok(()),
    }
}

async fn check_table(
    session: &mut Session,
    target: &Target,
    dataset: &Dataset,
    also_by: Option<&str>,
) -> Result<()> {
    let (table, address) = (dataset.batch.table.clone(), target.address());
    let there = session.run(move |client| read(client, &table)).await;
    let there = there.context(format_args!("cannot read the tables of {address}"))?;
    there.check(&needed(dataset, also_by), &dataset.batch.table, &address)
}

fn needed(dataset: &Dataset, also_by: Option<&str>) -> TableSchema {
    let key = std::iter::once(dataset.key().name.as_str()).chain(also_by);
    let fields = dataset.fields.iter();
    let fields = fields.map(|f| ColumnSchema::new(&f.name, column_type(f.kind), f.required));
    TableSchema {
        columns: fields
            .chain([ColumnSchema::new("rtp_digest", "bytea", true)])
            .collect(),
        keys: vec![key.map(String::from).collect()],
    }
}

fn read(client: &mut Client, table: &str) -> Result<TableSchema, ::postgres::Error> {
    let table = quoted(table);
    let columns = client.query(COLUMNS, &[&table])?;
    let columns = columns.iter().map(|row| {
        Ok(ColumnSchema {
            name: row.try_get(0)?,
            kind: row.try_get(1)?,
            required: row.try_get(2)?,
        })
    });
    let keys = client.query(KEYS, &[&table])?;
    Ok(TableSchema {
        columns: columns.collect::<Result<_, ::postgres::Error>>()?,
        keys: keys
            .iter()
            .map(|row| row.try_get(0))
            .collect::<Result<_, _>>()?,
    })
}
